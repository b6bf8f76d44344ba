"""Tables of predictions and embeddings: CSV, JSON, JSON Lines, Parquet and NPZ, written a piece at a time."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .decisions import summarize_groups
from .files import written_atomically
from .inference import ECGInference, InferenceResult

if TYPE_CHECKING:
    import pyarrow as pa

# Rows in memory, and of a row group
_ROWS = 10_000


class PredictionColumns:
    """How predictions stand in a table.

    The columns are `path`, `record_id`, `num_windows`, `leads_without_signal`, of classifiers `labels` (those found)
    and `undecided` (those without a threshold), `group: NAME` (the largest probability of a group), then one column
    for each label with its probability, or value in a regression. A label that is called as one of the others gets
    the column `label: NAME`.

    Args:
        inference ([`ECGInference`]): the model.
        groups (`bool`, *optional*, defaults to `False`): with the model's groups of labels.
    """

    def __init__(self, inference: ECGInference, groups: bool = False):
        self.inference = inference
        self.names = inference.label_names
        self.groups = inference.label_groups if groups else {}
        self.decides = inference.model.config.problem_type != "regression"
        self.key = "probabilities" if self.decides else "values"
        self.undecided = inference.undecided_labels
        self.listed = ("leads_without_signal", *(("labels", "undecided") if self.decides else ()))
        columns = ["path", "record_id", "num_windows", *self.listed, *(f"group: {group}" for group in self.groups)]
        self.num_described = len(columns)
        for name in self.names:
            while name in columns:
                name = f"label: {name}"
            columns.append(name)
        self.header = columns

    def row(self, result: InferenceResult) -> dict[str, Any]:
        """Return a result as JSON."""
        row = {
            "path": result.path,
            "record_id": result.record_id,
            "num_windows": result.num_windows,
            "leads_without_signal": result.leads_without_signal,
        }
        if self.decides:
            row |= {"labels": self.inference.decide(result.values), "undecided": self.undecided}
        row[self.key] = {name: round(float(value), 6) for name, value in zip(self.names, result.values, strict=True)}
        if self.groups:
            row["groups"] = summarize_groups(self.groups, row[self.key], row["labels"])
        return row

    def cells(self, result: InferenceResult) -> list[Any]:
        """Return a result as a line of CSV."""
        row = self.row(result)
        lists = (";".join(row[name]) for name in self.listed)
        summary = (row["groups"][group]["probability"] for group in self.groups)
        return [row["path"], row["record_id"], row["num_windows"], *lists, *summary, *row[self.key].values()]

    def arrow(self, results: Sequence[InferenceResult]) -> pa.Table:
        """Return results as a piece of Parquet; probabilities are float32, not rounded."""
        import pyarrow as pa

        rows = [self.row(result) for result in results]
        arrays = [
            pa.array([row["path"] for row in rows], pa.string()),
            pa.array([row["record_id"] for row in rows], pa.string()),
            pa.array([row["num_windows"] for row in rows], pa.int32()),
            *(pa.array([row[name] for row in rows], pa.list_(pa.string())) for name in self.listed),
        ]
        values = np.array([result.values for result in results], dtype=np.float32).reshape(-1, len(self.names))
        for members in self.groups.values():
            places = [self.names.index(name) for name in members]
            arrays.append(pa.array(values[:, places].max(axis=1) if rows else [], pa.float32()))
        arrays += [pa.array(column) for column in values.T]
        return pa.table(arrays, names=self.header)


class EmbeddingColumns:
    """How embeddings stand in a table.

    CSV has the columns `path`, `record_id`, `feature_0`, `feature_1`, ...; Parquet `path`, `record_id`,
    `num_windows`, `leads_without_signal` and `embedding`, a list of float32 of fixed size.
    """

    def __init__(self, size: int = 0):
        self.size = size

    @property
    def header(self) -> list[str]:
        """The columns of CSV."""
        return ["path", "record_id", *(f"feature_{column}" for column in range(self.size))]

    def row(self, result: InferenceResult) -> dict[str, Any]:
        """Return a result as JSON."""
        values = [round(float(value), 7) for value in result.values]
        return {"path": result.path, "record_id": result.record_id, "embedding": values}

    def cells(self, result: InferenceResult) -> list[Any]:
        """Return a result as a line of CSV."""
        return [result.path, result.record_id, *(f"{value:.7g}" for value in result.values)]

    def arrow(self, results: Sequence[InferenceResult]) -> pa.Table:
        """Return results as a piece of Parquet."""
        import pyarrow as pa

        flat = np.array([result.values for result in results], dtype=np.float32).ravel()
        return pa.table(
            {
                "path": pa.array([result.path for result in results], pa.string()),
                "record_id": pa.array([result.record_id for result in results], pa.string()),
                "num_windows": pa.array([result.num_windows for result in results], pa.int32()),
                "leads_without_signal": pa.array(
                    [result.leads_without_signal for result in results], pa.list_(pa.string())
                ),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), self.size),
            }
        )


def write_table(
    path: Path, columns: PredictionColumns | EmbeddingColumns, results: Callable[[], Iterator[InferenceResult]]
) -> None:
    """Write a table in the format of its ending, whole or not at all.

    Args:
        path (`Path`): `.csv`, `.json`, `.jsonl`, `.parquet`, or of embeddings `.npz`.
        columns: how results stand in it.
        results (callable): goes through the results with values, as often as it is called.
    """
    binary = path.suffix in (".parquet", ".npz")
    with written_atomically(path, "wb" if binary else "w", **({} if binary else {"newline": ""})) as file:
        if path.suffix == ".parquet":
            _write_parquet(file, columns, results())
        elif path.suffix == ".npz":
            _write_npz(file, results, columns.size)
        elif path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(columns.header)
            writer.writerows(map(columns.cells, results()))
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(columns.row(result)) + "\n" for result in results())
        else:
            separator = "["
            for result in results():
                file.write(f"{separator}\n{json.dumps(columns.row(result))}")
                separator = ","
            file.write("[]\n" if separator == "[" else "\n]\n")


def write_errors(path: Path, errors: Iterable[tuple[str, str]]) -> None:
    """Write the table of files that could not be used, `path` and `reason`; without any, one of old is removed."""
    iterator = iter(errors)
    first = next(iterator, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    with written_atomically(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerow(first)
        writer.writerows(iterator)


def _pieces(results: Iterable[InferenceResult]) -> Iterator[list[InferenceResult]]:
    iterator = iter(results)
    return iter(lambda: list(islice(iterator, _ROWS)), [])


def _write_parquet(file: IO, columns: Any, results: Iterable[InferenceResult]) -> None:
    import pyarrow.parquet as pq

    # The same rows make the same groups of rows, whatever the parts were.
    with pq.ParquetWriter(file, columns.arrow([]).schema) as writer:
        for piece in _pieces(results):
            writer.write_table(columns.arrow(piece))


def _write_npz(file: IO, results: Callable[[], Iterator[InferenceResult]], size: int) -> None:
    count = longest_path = longest_id = 0
    for result in results():
        count += 1
        longest_path = max(longest_path, len(result.path))
        longest_id = max(longest_id, len(result.record_id or ""))
    arrays = {
        "embeddings": (np.dtype(np.float32), (count, size), lambda one: one.values),
        "paths": (np.dtype(f"U{max(longest_path, 1)}"), (count,), lambda one: one.path),
        "record_ids": (np.dtype(f"U{max(longest_id, 1)}"), (count,), lambda one: one.record_id or ""),
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, (dtype, shape, value) in arrays.items():
            # A date of now would make two equal runs differ.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for piece in _pieces(results()):
                    member.write(np.array([value(one) for one in piece], dtype=dtype).tobytes())
