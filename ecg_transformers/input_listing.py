"""What `predict` and `embed` are given: files, parts of files, folders and tables of paths, listed lazily."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .files import printable
from .readers import list_readers
from .readers.folder import is_recording, search_folder, walk_folder
from .readers.parquet_files import count_recordings
from .readers.row_reference import RowReference, parse_reference, referenced_file


class Entry(NamedTuple):
    """One file that is to be read.

    Args:
        name (`str`): what results are listed under: the path, or the cell of a table, as `files.printable` gives it.
        path (`str`): the file, or the part of one.
        sure (`bool`): it is said to be a recording; the others of a folder are left out if they are none.
        error (`str`, *optional*): why it cannot be read, where listing has told: a subfolder that cannot be listed, a
            link that leads nowhere.
    """

    name: str
    path: str
    sure: bool = True
    error: str | None = None


class InputListing:
    """Recordings in a fixed order, listed anew whenever they are asked for: what is in memory does not grow with them.

    Args:
        inputs (sequence of `str` or `Path`): files, parts of files (`FILE#DATASET:ROW`, `FILE#samples:START-STOP`),
            Parquet files with a column `ecg` (each row is a recording), and folders of all these.
        path_column (`str`, *optional*): the inputs are tables (CSV, TSV, Parquet) with this column of paths; relative
            ones start at the folder of the table.
        leave_out (sequence of `Path`, *optional*): files and folders within a folder that are not looked at.

    Raises:
        FileNotFoundError: if a path does not exist or a folder holds no ECG.
        ValueError: if a table lacks the column, or a path in it.
    """

    def __init__(
        self, inputs: Sequence[str | Path], path_column: str | None = None, leave_out: Sequence[str | Path] = ()
    ):
        self.inputs = [str(Path(entry)) for entry in inputs]
        self.path_column = path_column
        self.left_out = tuple(os.path.abspath(path) for path in leave_out)
        for entry in self.inputs:
            if path_column is not None:
                _check_table(entry, path_column)
            elif not os.path.isdir(entry):
                _check_exists(entry)
            elif not any(one.sure or is_recording(one.path) for one in _with_bar(self._of_input(entry))):
                raise _no_recording(Path(entry), [])

    @property
    def folders(self) -> list[str]:
        """The folders among the inputs."""
        return [entry for entry in self.inputs if self.path_column is None and os.path.isdir(entry)]

    def __iter__(self) -> Iterator[Entry]:
        for entry in self.inputs:
            yield from self._of_input(entry)

    def survey(self, digest: bool = True) -> tuple[int, str]:
        """Go through the listing once without opening the files.

        Args:
            digest (`bool`, *optional*, defaults to `True`): look up sizes and times, too.

        Returns:
            `tuple`: the number of entries, and what tells this listing from others: names, sizes and times.
        """
        count, seen = 0, hashlib.blake2b(digest_size=16)
        last: tuple[str, str] = ("", "")
        for entry in _with_bar(self):
            count += 1
            if digest:
                file = referenced_file(entry.path)
                if file != last[0]:
                    last = (file, _stamp(file))
                seen.update(f"{entry.name}\0{last[1]}\n".encode())
        return count, seen.hexdigest()

    def _of_input(self, entry: str) -> Iterator[Entry]:
        if self.path_column is not None:
            folder = os.path.dirname(entry)
            for name in _cells(entry, self.path_column):
                yield Entry(printable(name), os.path.join(folder, name))
        elif os.path.isdir(entry):
            unusable: list[Entry] = []
            files = walk_folder(entry, on_error=lambda path, reason: unusable.append(_unusable(path, reason)))
            for file in files:
                # Told of before this file was found
                yield from unusable
                unusable.clear()
                if not self._is_left_out(file.path):
                    yield from _recordings_in(file.path.removeprefix(f".{os.sep}"), sure=False)
            yield from unusable
        else:
            yield from _recordings_in(entry, sure=True)

    def _is_left_out(self, path: str) -> bool:
        if not self.left_out:
            return False
        path = os.path.abspath(path)
        return any(path == one or path.startswith(one + os.sep) for one in self.left_out)


def is_recording_or_packed(path: Path) -> bool:
    """Tell whether a file is a recording, or holds some in rows; embeddings that `embed` wrote are none."""
    if not path.is_file() or not path.stat().st_size:
        return False
    if path.suffix.lower() == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "embeddings.npy" not in archive.namelist()
    return is_recording(path) or count_recordings(path) is not None


def list_ecg_files(
    inputs: Sequence[str | Path], on_left_out: Callable[[Path, list[Path]], None] | None = None
) -> list[Path]:
    """Expand files and folders to the ECG files among them; a folder without any is an error.

    Args:
        inputs (sequence of `str` or `Path`): files, parts of files (`FILE#DATASET:ROW`, `FILE#samples:START-STOP`) and
            folders.
        on_left_out (callable, *optional*): called with each folder that holds files that are no ECGs, and these files.

    Raises:
        FileNotFoundError: if a path does not exist or a folder holds no ECG file.
    """
    files: list[Path] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found, others = search_folder(entry)
            if not found:
                raise _no_recording(entry, others)
            if others and on_left_out is not None:
                on_left_out(entry, others)
            files += found
        else:
            _check_exists(entry)
            files.append(entry)
    return files


def _recordings_in(path: str, sure: bool) -> Iterator[Entry]:
    count = count_recordings(path) if path.lower().endswith(".parquet") and os.path.isfile(path) else None
    if count is None:
        yield Entry(printable(path), path, sure)
        return
    for row in range(count):
        name = str(RowReference(path, "ecg", row))
        yield Entry(printable(name), name)


def _unusable(path: str, reason: str) -> Entry:
    path = path.removeprefix(f".{os.sep}")
    return Entry(printable(path), path, error=printable(reason))


def _with_bar(entries: Iterable[Entry]) -> Iterator[Entry]:
    from tqdm.auto import tqdm

    # How many there are is not known before.
    return tqdm(entries, desc="Searching", unit=" files", delay=2)


def _check_exists(entry: str | Path) -> None:
    reference = parse_reference(entry)
    names_a_part = reference is not None and Path(reference.file).is_file()
    if not (Path(entry).exists() or names_a_part or Path(entry).with_suffix(".hea").exists()):
        raise FileNotFoundError(f"{entry} does not exist; expected an ECG file or a folder of them.")


def _no_recording(folder: Path, others: Sequence[Path]) -> FileNotFoundError:
    tables = [path.name for path in others if path.suffix.lower() == ".parquet"]
    if tables:
        return FileNotFoundError(
            f"{folder} holds no ECG file but Parquet files, which load_corpus opens in Python. Name one, such as "
            f"{folder / tables[0]}, or one of its rows: {folder / tables[0]}#ecg:0."
        )
    endings = sorted({ending for endings in list_readers().values() for ending in endings})
    return FileNotFoundError(f"{folder} holds no file that looks like an ECG ({', '.join(endings)}).")


def _stamp(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError:
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


def _check_table(path: str, column: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no table {path}; with a column of paths the inputs are CSV or Parquet.")
    row = -1
    for row, name in enumerate(_cells(path, column)):
        if not name:
            raise ValueError(f"Row {row + 1} of the table {path} has no path in the column {column!r}.")
    if row < 0:
        raise ValueError(f"The table {path} has no rows.")


def _cells(path: str, column: str) -> Iterator[str]:
    """Yield the cells of one column of a CSV, TSV or Parquet file, as text without blanks around it.

    Raises:
        ValueError: if it is no such table, or has no such column.
    """

    def check(header: Sequence[str]) -> None:
        if column not in header:
            raise ValueError(
                f"The table {path} has no column {column!r} (`path_column`); it has {', '.join(header[:10])}."
            )

    if path.lower().endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise ValueError(f"The table {path} is no Parquet file, or damaged: {error}") from error
        with file:
            check(file.schema_arrow.names)
            for batch in file.iter_batches(columns=[column]):
                yield from (("" if cell is None else str(cell)).strip() for cell in batch.column(0).to_pylist())
        return
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
            check(names)
            place = names.index(column)
            for row in csv.reader(file, delimiter=separator):
                if row:
                    yield row[place].strip() if place < len(row) else ""
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of comma-, semicolon- or tab-separated values: {error}") from error
