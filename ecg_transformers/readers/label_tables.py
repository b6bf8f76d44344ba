"""The tables that data sets put beside their recordings: one row per file with labels, age and sex."""

from __future__ import annotations

import csv
import io
import os
import warnings
from functools import lru_cache
from pathlib import Path

from .wfdb_header import decode_text

MAX_TABLE_BYTES = 256 * 2**20


def table_row(folder: Path, table_name: str, columns: tuple[str, ...], file: Path) -> dict[str, str]:
    """Return the row of a table that is about a recording.

    Args:
        folder (`Path`): the folder of table and recording.
        table_name (`str`): the table's file name.
        columns (`tuple[str, ...]`): the columns that may name the file, with or without its extension.
        file (`Path`): the recording.

    Returns:
        `dict[str, str]`: the row; empty if there is no such table or row. A table that cannot be read is reported with
        a warning, since the recording itself is readable.
    """
    table = folder / table_name
    try:
        status = os.stat(table)
    except OSError:
        return {}
    try:
        if status.st_size > MAX_TABLE_BYTES:
            raise ValueError(f"it has {status.st_size} bytes")
        rows = _load(table, columns, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, csv.Error) as error:
        warnings.warn(f"ECG labels of {file} are left out, since {table} cannot be read: {error}.", stacklevel=2)
        return {}
    return rows.get(file.name) or rows.get(file.stem) or {}


@lru_cache(maxsize=4)
def _load(table: Path, columns: tuple[str, ...], modified: int, size: int) -> dict[str, dict[str, str]]:
    # Time and size of the file are part of the key, so a changed table is read again.
    rows: dict[str, dict[str, str]] = {}
    reader = csv.DictReader(io.StringIO(decode_text(table.read_bytes()), newline=""))
    names = [name for name in columns if name in (reader.fieldnames or ())]
    for row in reader:
        for name in names:
            if row.get(name):
                rows.setdefault(row[name].strip(), {key: value or "" for key, value in row.items() if key})
    return rows
