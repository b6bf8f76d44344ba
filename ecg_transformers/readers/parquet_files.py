"""Parquet files with a column of recordings, as `save_parquet` and `convert-records` write them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from ..record import ECGRecord
from .content import unpacked_limit
from .errors import ECGReadError
from .numpy_files import record_from_npz_bytes
from .registry import ReadRequest, register_reader

_MAGIC = b"PAR1"
_COLUMN = "ecg"

# What a corpus knows of a recording goes before what the recording tells of itself.
_FACTS = ("record_id", "patient_id", "age", "sex", "report")

# The group of rows that was read last: who goes through a file reads the next row from it. `convert-records` makes
# groups of 32 MiB. Of a larger group a piece is in memory, and rows are quick in their order only.
_LAST_GROUP: dict[tuple, _RowGroup] = {}
_LARGEST_PIECE = 64 * 2**20


@register_reader(
    "parquet",
    extensions=(".parquet",),
    sniff=lambda path, head: head.startswith(_MAGIC),
    # A corpus, to be opened by load_corpus
    is_record=lambda path, head: False,
    rows=True,
)
def read_parquet(path: Path, request: ReadRequest) -> ECGRecord:
    """Read one recording of a Parquet file with an `ECG` column: `FILE#ecg:ROW`, or the only one of a file.

    Recordings are those that `save_parquet` and `convert-records` embed: float32 mV with lead names, rate and
    metadata. `record_id`, `patient_id`, `age`, `sex` and `report` come from the columns where these tell them.
    """
    import pyarrow.parquet as pq

    column = _COLUMN if request.row is None else request.row.dataset
    with pq.ParquetFile(path) as file:
        count, names = file.metadata.num_rows, file.schema_arrow.names
        if column not in names:
            found = ", ".join(names[:10])
            raise ECGReadError(path, f"it has no column {column!r}; its columns: {found}.", "Name that of recordings.")
        if request.row is None and count != 1:
            raise ECGReadError(
                path,
                f"it holds {count} recordings.",
                f"Name one, counted from 0: {path.name}#{column}:0, or load all: load_corpus({str(path.parent)!r}).",
            )
        number = 0 if request.row is None else request.row.row
        if number >= count:
            raise ECGReadError(path, f"it holds {count} recordings, no row {number}.", "Rows are counted from 0.")
        facts = [name for name in _FACTS if name in names and name != column]
        row = _row(file, path, number, [column, *facts])
    stored = row.pop(column)
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    if not isinstance(content, bytes) or not content.startswith(b"PK"):
        name = stored.get("path") if isinstance(stored, dict) else None
        raise ECGReadError(
            path,
            f"row {number} of its column {column!r} holds no embedded recording"
            f"{f' but names the file {name!r}' if name else ''}.",
            f"Load it with load_corpus({str(path.parent)!r}); save_parquet and convert-records embed recordings.",
        )
    record = record_from_npz_bytes(content)
    record.metadata.update({name: value for name, value in row.items() if value is not None})
    record.metadata["source"] = str(path if request.row is None else request.row)
    return record


def count_recordings(path: str | os.PathLike) -> int | None:
    """Return how many rows a Parquet file with a column `ecg` has; `None` of other files.

    Each row can be named: `FILE#ecg:0`, `FILE#ecg:1`, ...
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.metadata.num_rows if _COLUMN in file.schema_arrow.names else None
    except (OSError, pa.ArrowException):
        return None


def _row(file: Any, path: Path, number: int, columns: list[str]) -> dict[str, Any]:
    """Return some columns of one row; only its group of rows is read."""
    status = path.stat()
    limit = unpacked_limit(status.st_size)
    first = 0
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        if number < first + group.num_rows:
            break
        first += group.num_rows
    claimed = sum(group.column(one).total_uncompressed_size for one in range(group.num_columns))
    if not 0 <= claimed <= limit:
        raise ECGReadError(path, f"a group of its rows unpacks to {claimed} bytes.", "Write smaller groups of rows.")
    # What reads on is of one thread.
    reader = (os.getpid(), threading.get_ident())
    place = (str(path), status.st_size, status.st_mtime_ns, index, tuple(columns), reader)
    rows = _LAST_GROUP.get(place)
    if rows is None or number - first < rows.first:
        _LAST_GROUP.clear()
        _LAST_GROUP[place] = rows = _RowGroup(path, index, columns, claimed)
    return rows.row(number - first)


class _RowGroup:
    """Rows of one group in their order, with a piece of them in memory."""

    def __init__(self, path: Path, index: int, columns: list[str], num_bytes: int):
        import pyarrow.parquet as pq

        self.first, self.piece = 0, None
        self.file = pq.ParquetFile(path, buffer_size=2**20)
        self.count = self.file.metadata.row_group(index).num_rows
        size = self.count if num_bytes <= _LARGEST_PIECE else max(1, self.count * _LARGEST_PIECE // num_bytes)
        self.pieces = self.file.iter_batches(size, row_groups=[index], columns=columns)

    def row(self, number: int) -> dict[str, Any]:
        """Return a row, counted from the beginning of the group; not one before the piece in memory."""
        while self.piece is None or number >= self.first + len(self.piece):
            self.first += 0 if self.piece is None else len(self.piece)
            self.piece = next(self.pieces)
            if self.first + len(self.piece) == self.count:
                self.file.close()
        return self.piece.slice(number - self.first, 1).to_pylist()[0]
