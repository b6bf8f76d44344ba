"""Rows of numbers that were once computed, kept as memory-mapped Arrow files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..files import written_atomically
from .run_record import to_plain, write_json

RECIPE_FILE, COMPLETE_FILE = "recipe.json", "complete.json"

# Batches in one file: what an interruption costs at most.
_BATCHES_PER_FILE = 50


class RowCache:
    """Batches of rows of equal width, in a folder of its own for each recipe.

    The folder holds `part-00000.arrow` and so on, each written beside and renamed, `recipe.json`, and at the end
    `complete.json`. An interrupted filling goes on after the last whole file. Reading maps the files into memory.

    Args:
        folder (`str` or path): holds the caches of any number of recipes.
        recipe (mapping): JSON: all that the rows follow from. Another recipe is another cache.
    """

    def __init__(self, folder: str | Path, recipe: Mapping[str, Any]):
        self.recipe = to_plain(dict(recipe))
        text = json.dumps(self.recipe, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._chunks: list[np.ndarray] | None = None
        self._starts: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself.
        return {**self.__dict__, "_chunks": None, "_starts": None}

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return (self.folder / COMPLETE_FILE).exists()

    def fill(self, batches: Callable[[int], Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
        """Write what is missing, and pass it on: first the batches that are there, then the new ones.

        Args:
            batches (callable): from a number of batches to skip to the others, each `(rows, values)`.

        Yields:
            `np.ndarray` of shape `(rows, values)`: every batch, in order.
        """
        if self.complete:
            yield from self.batches()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECIPE_FILE, self.recipe)
        done = 0
        for batch in self.batches():
            done += 1
            yield batch
        files = len(self._files())
        waiting: list[np.ndarray] = []
        for batch in batches(done):
            waiting.append(np.ascontiguousarray(batch))
            yield batch
            if len(waiting) == _BATCHES_PER_FILE:
                self._write(files, waiting)
                files, waiting = files + 1, []
        if waiting:
            self._write(files, waiting)
        write_json(self.folder / COMPLETE_FILE, {"format_version": 1, "rows": sum(map(len, self.batches()))})

    def batches(self) -> Iterator[np.ndarray]:
        """Read the batches that are there, without copying them."""
        for path in self._files():
            yield from _read(path)

    def __len__(self) -> int:
        self._open()
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        self._open()
        if not 0 <= row < self._starts[-1]:
            raise IndexError(f"{self.folder} holds {self._starts[-1]} rows; got {row}.")
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._chunks[chunk][row - self._starts[chunk]]

    def _open(self) -> None:
        if self._chunks is None:
            self._chunks = list(self.batches())
            self._starts = np.cumsum([0, *map(len, self._chunks)])

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.arrow"))

    def _write(self, number: int, batches: list[np.ndarray]) -> None:
        arrays = [pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]) for rows in batches]
        schema = pa.schema([("row", arrays[0].type)])
        with (
            written_atomically(self.folder / f"part-{number:05d}.arrow", "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            for array in arrays:
                writer.write_batch(pa.record_batch([array], schema=schema))


def _read(path: Path) -> Iterator[np.ndarray]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(reader.num_record_batches):
        column = reader.get_batch(number).column(0)
        yield column.flatten().to_numpy().reshape(len(column), column.type.list_size)
