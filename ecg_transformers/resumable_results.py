"""Results of a long run, kept in parts beside the output, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .files import written_atomically
from .inference import InferenceResult

# In the folder of parts
_MANIFEST, _LOCK = "run.json", "lock"
_PART = re.compile(r"part-(\d{6,})-(\d{12,})\.parquet")

# A part is written when it has this many files, or after this many seconds.
FILES_PER_PART, _SECONDS_PER_PART = 1000, 60.0


class ResumableResults:
    """The results so far, in the folder `OUTPUT.parts`: Parquet files that take their names when they are complete.

    A part's name tells its number and how many entries of the input are done with it, so that a complete part is all
    that a restart needs; nothing else says what is done. The lock is one of the operating system: it is gone with the
    process that holds it, however that ends.

    Args:
        output (`Path`): the file that the results are for.
        description (`dict`): JSON of what the results depend on, by the name that it is called in messages.
        files_per_part (`int`, *optional*, defaults to 1000): entries after which a part is written. It is also
            written after a minute.
        overwrite (`bool`, *optional*, defaults to `False`): start over where there are parts, also of the same run.

    Raises:
        ValueError: if there are parts of another run, or another process is writing them.
    """

    def __init__(
        self,
        output: Path,
        description: dict[str, Any],
        files_per_part: int = FILES_PER_PART,
        overwrite: bool = False,
    ):
        if files_per_part < 1:
            raise ValueError(f"`files_per_part` must be at least 1; got {files_per_part}.")
        self.output, self.folder = output, parts_folder(output)
        self.files_per_part = files_per_part
        self._lock = _locked(self.folder, output)
        try:
            self._open(description, overwrite)
        except BaseException:
            self.close()
            raise
        self.num_resumed = self.done
        self._waiting: list[tuple[int, Sequence[InferenceResult]]] = []
        self._since = time.monotonic()

    def _open(self, description: dict[str, Any], overwrite: bool) -> None:
        manifest = self.folder / _MANIFEST
        description = json.loads(json.dumps({"format": 1, **description}))
        found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
        if found is not None and not overwrite:
            other = [name for name in {**description, **found} if description.get(name) != found.get(name)]
            if other:
                names = ", ".join(f"`{name}`" for name in other)
                raise ValueError(
                    f"{self.folder} holds the parts of an interrupted run that differs in {names}. Give the command "
                    "of that run to go on with it, name another output, or pass overwrite=True to start anew."
                )
        self.parts = sorted(path for path in self.folder.iterdir() if _PART.fullmatch(path.name))
        if found is None or overwrite:
            # From the end, so that what a kill leaves is still the beginning of a run
            while self.parts:
                self.parts.pop().unlink()
            with written_atomically(manifest) as file:
                json.dump(description, file, indent=1)
        # What a killed process was writing
        unfinished = self.output.parent.glob(f".{glob.escape(self.output.name)}.*.part")
        for path in (*self.folder.glob(".*.part"), *unfinished):
            path.unlink()
        shutil.rmtree(self._finished_folder, ignore_errors=True)

    @property
    def done(self) -> int:
        """Entries of the input whose results are in a part."""
        return int(_PART.fullmatch(self.parts[-1].name)[2]) if self.parts else 0

    @property
    def _finished_folder(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.done")

    def __enter__(self) -> ResumableResults:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        self._lock.close()

    def check_names(self, names: Iterator[str]) -> None:
        """Make sure that the parts are of the entries that the input begins with, and take these from it.

        Raises:
            ValueError: otherwise: the input has changed while the parts were written.
        """
        for number, kept in enumerate(self._paths(), 1):
            name = next(names, None)
            if name != kept:
                raise ValueError(
                    f"{self.folder} does not fit the input: entry {number} is {kept} there and {name} now, so files "
                    "came or went during the interrupted run. Pass overwrite=True to start anew, or name another "
                    "output."
                )

    def _paths(self) -> Iterator[str]:
        import pyarrow.parquet as pq

        for path in self.parts:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["path"]):
                    yield from batch.column(0).to_pylist()

    def check_complete(self, total: int) -> None:
        """Make sure that there are as many results as the input had entries.

        Raises:
            ValueError: otherwise: the input has changed during the run.
        """
        if self.done != total:
            raise ValueError(
                f"The input had {total} entries when the run began and {self.done} were found: files came or went "
                "during it. Nothing is written. When the folder is at rest, pass overwrite=True to start anew."
            )

    def add(self, results: Sequence[InferenceResult]) -> None:
        """Take the results of the next entries of the input."""
        done = self._waiting[-1][0] if self._waiting else self.done
        self._waiting.append((done + len(results), results))
        late = time.monotonic() - self._since > _SECONDS_PER_PART
        if late or self._waiting[-1][0] - self.done >= self.files_per_part:
            self.write_part()

    def write_part(self) -> None:
        """Write what has been taken since the last part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # An interruption may have come between the last part and forgetting what is in it.
        rows = [result for end, results in self._waiting if end > self.done for result in results]
        if not rows:
            return
        done = self._waiting[-1][0]
        widths = [0 if row.values is None else len(row.values) for row in rows]
        values = [np.asarray(row.values, dtype=np.float32) for row in rows if row.values is not None]
        flat = np.concatenate(values) if values else np.zeros(0, dtype=np.float32)
        offsets = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])
        table = pa.table(
            {
                "path": pa.array([row.path for row in rows], pa.string()),
                "record_id": pa.array([row.record_id for row in rows], pa.string()),
                "num_windows": pa.array([row.num_windows for row in rows], pa.int32()),
                "leads_without_signal": pa.array([row.leads_without_signal for row in rows], pa.list_(pa.string())),
                "values": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat)),
                "used": pa.array([row.values is not None for row in rows], pa.bool_()),
                "error": pa.array([row.error for row in rows], pa.string()),
            }
        )
        path = self.folder / f"part-{len(self.parts):06d}-{done:012d}.parquet"
        with written_atomically(path, "wb") as file:
            pq.write_table(table, file)
        self.parts.append(path)
        self._waiting, self._since = [], time.monotonic()

    def __iter__(self) -> Iterator[InferenceResult]:
        """Go through the parts written, a piece at a time."""
        import pyarrow.parquet as pq

        for path in self.parts:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(1000):
                    columns = [batch.column(name) for name in batch.schema.names]
                    *plain, values, used, errors = columns
                    offsets, flat = values.offsets.to_numpy(), values.values.to_numpy()
                    plain = [column.to_pylist() for column in (*plain, used, errors)]
                    for row, (name, record_id, windows, leads, is_used, error) in enumerate(zip(*plain, strict=True)):
                        found = flat[offsets[row] : offsets[row + 1]] if is_used else None
                        yield InferenceResult(name, record_id, found, windows, leads, error)

    def remove(self) -> None:
        """Take the parts away: the output is written."""
        # In one step, or a restart would find half of them
        os.replace(self.folder, self._finished_folder)
        self.close()
        shutil.rmtree(self._finished_folder, ignore_errors=True)


def parts_folder(output: Path) -> Path:
    """Return where the parts of an output are."""
    return output.with_name(f"{output.name}.parts")


def _locked(folder: Path, output: Path) -> IO:
    """Make the folder of parts and lock it; the lock lasts as long as the file that is returned is open."""
    while True:
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise ValueError(f"{folder} is a file; the parts of {output} go there. Name another output.") from None
        try:
            file = open(folder / _LOCK, "a")
        except FileNotFoundError:
            # Finished and taken away by another process in between
            continue
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            raise ValueError(
                f"Another process is writing {output} at this moment. Wait for it, end it, or name another output."
            ) from None
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error.strerror}): start no second run.", stacklevel=2)
            return file
        try:
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(folder / _LOCK))
        except FileNotFoundError:
            same = False
        if same:
            return file
        file.close()


def _lock(file: IO) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        # Not `flock`: worker processes would hold that on when this one is killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
