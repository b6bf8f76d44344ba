"""What a folder of recordings holds, with or without a table of labels, and what its files tell of themselves."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import written_atomically
from ..readers import ECGReadError
from ..readers.folder import search_folder
from ..readers.numpy_files import is_vector
from ..readers.row_reference import referenced_file
from ..record import ECGRecord
from .corpus_files import check_choice, map_files, report_missing
from .ecg_feature import ECG
from .table_rows import (
    PROBLEM_TYPES,
    UNLABELLED,
    Targets,
    choose_label_columns,
    columns_left,
    find_file,
    guess_problem_type,
    locate,
    names_within,
    read_table,
    rows_of_table,
    without_ending,
)

logger = logging.getLogger(__name__)

# The column that lists labels in a cell may do so with this between them, without being told.
_LIST_COLUMN, _LIST_SEPARATOR = "labels", ";"

# Files that may hold many recordings.
_CONTAINERS = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".hdf", ".parquet")


@dataclass
class FolderListing:
    """The recordings of a folder before any is opened.

    Args:
        folder (`Path`): the folder.
        rows (`list[dict]`): one per recording: `ecg` (its path) and the columns of a corpus as far as the table has
            them, `split` among them; sorted by path.
        targets (`Targets`): the labels; those of an unlabelled folder have no columns.
    """

    folder: Path
    rows: list[dict[str, Any]]
    targets: Targets


@dataclass
class FileFacts:
    """What a recording tells of itself, or why it cannot be read.

    Args:
        facts (`dict`): `patient_id`, `age`, `sex` and `report`, as far as the file tells them.
        fingerprint (`str`): the same for recordings with the same samples, rate and leads.
        kind (`str`): format, rate and number of leads.
        reason, remedy (`str`, *optional*): why the file cannot be read, and what to do.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    kind: str = ""
    reason: str | None = None
    remedy: str = ""


def list_folder(
    folder: Path,
    *,
    labels_csv: str | os.PathLike | None = None,
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    problem_type: str | None = None,
    patient_column: str | None = None,
    sex_codes: dict[Any, str] | None = None,
    skip_missing: bool = False,
) -> FolderListing:
    """List the recordings of a folder and bring them together with the rows of a table. No recording is opened.

    Files of arrays, HDF5 and Parquet are listed whatever they hold, but for NumPy files with one row of numbers.

    Args:
        folder (`Path`): the folder.
        labels_csv, label_columns, label_separator, problem_type, patient_column, sex_codes, skip_missing: see the
            corpus `folder`.

    Returns:
        `FolderListing`: the recordings, of those in a table if there is one.

    Raises:
        ValueError: if there are none, or the table does not fit.
    """
    if problem_type is not None:
        check_choice("problem_type", problem_type, PROBLEM_TYPES)
    folder = Path(os.path.abspath(folder))
    table_path = None if labels_csv is None else Path(os.path.abspath(locate(labels_csv, folder)))
    found, others = search_folder(folder)
    containers = [path for path in others if path.suffix.lower() in _CONTAINERS]
    vectors = {path for path in containers if path.suffix.lower() == ".npy" and is_vector(path)}
    # What holds many recordings is read to say how each is named.
    files = sorted(str(path) for path in {*found, *containers} - vectors - {table_path})
    if not files and table_path is None:
        raise ValueError(
            f"{folder} holds no file that looks like an ECG{f' ({len(others)} other files)' if others else ''}, and "
            "is no folder written by save_to_disk or with Parquet files, which load_corpus opens."
        )
    if vectors and table_path is None:
        logger.warning(
            "%d files of %s hold one row of numbers, or none, and are left out: %s%s. A table (`labels_csv`) names "
            "them where they are recordings.",
            len(vectors), folder, ", ".join(os.path.relpath(path, folder) for path in sorted(vectors)[:3]),
            ", …" if len(vectors) > 3 else "",
        )  # fmt: skip
    if table_path is None:
        # No label columns are what pretraining asks for
        if label_columns or any(option is not None for option in (label_separator, problem_type, patient_column)):
            raise ValueError(
                "`label_columns`, `label_separator`, `problem_type` and `patient_column` describe a table: name it "
                "with `labels_csv`."
            )
        rows = [{"ecg": path, "record_id": name} for path, name in names_within(files, folder).items()]
        return FolderListing(folder, rows, Targets(UNLABELLED, [], {}))

    table = read_table(table_path)
    wanted = columns_left(table, 0, patient_column) if label_columns is None else label_columns
    columns = choose_label_columns({"train": table}, 0, wanted, patient_column)
    if label_separator is None and columns == [_LIST_COLUMN] and problem_type in (None, PROBLEM_TYPES[0]):
        if any(_LIST_SEPARATOR in cell for cell in table[_LIST_COLUMN]):
            label_separator = _LIST_SEPARATOR
            logger.warning(
                "The column 'labels' of %s is taken as a list of labels with ';' between them; "
                "problem_type='single_label_classification' says otherwise.",
                table_path,
            )
    if not columns:
        kind = UNLABELLED
    elif label_separator is not None:
        kind = problem_type or "multi_label_classification"
    else:
        kind = problem_type or guess_problem_type({"train": table}, columns)
    targets = Targets(kind, columns, {"train": table}, label_separator)
    rows = rows_of_table(table, table_path, targets, patient_column, sex_codes or {})
    rows = _matched(rows, files, folder, table_path, skip_missing)
    return FolderListing(folder, sorted(rows, key=lambda row: row["ecg"]), targets)


def _matched(
    rows: list[dict[str, Any]], files: Sequence[str], folder: Path, table: Path, skip_missing: bool
) -> list[dict[str, Any]]:
    """Replace the names of a table by the files they mean.

    Raises:
        ValueError: if files are missing, a name fits several, or two rows are about the same file.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        name = os.path.basename(path)
        for key in {name, without_ending(name)}:
            by_name[key].append(path)
    matched, missing, seen = [], [], {}
    places = map_files(lambda row: find_file(row["ecg"], folder), rows, "Looking for records")
    for row, path in zip(rows, places, strict=True):
        name = row["ecg"]
        if path is None:
            candidates = by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1], [])
            if len(candidates) > 1:
                shown = ", ".join(os.path.relpath(candidate, folder) for candidate in candidates[:3])
                raise ValueError(
                    f"{table} names {name!r}, which fits {len(candidates)} files: {shown}. Name the folder."
                )
            path = candidates[0] if candidates else None
        if path is None:
            missing.append(name)
            continue
        path = _header_beside(path)
        if path in seen:
            raise ValueError(f"{table} has two rows for {path}: {seen[path]!r} and {name!r}. Leave one out.")
        seen[path] = name
        matched.append({**row, "ecg": path})
    report_missing(missing, len(rows), f"files of {table} in {folder}", skip_missing, "skip_missing")
    used = {*seen, *map(referenced_file, seen)}
    unlisted = [path for path in files if path not in used]
    if unlisted:
        shown = ", ".join(os.path.relpath(path, folder) for path in unlisted[:3])
        logger.warning(
            "%d recordings of %s have no row in %s and are left out: %s%s",
            len(unlisted), folder, table, shown, ", …" if len(unlisted) > 3 else "",
        )  # fmt: skip
    if not matched:
        raise ValueError(f"{table} gives no recording with a known target.")
    names = names_within([row["ecg"] for row in matched if not row["record_id"]], folder)
    return [{**row, "record_id": row["record_id"] or names[row["ecg"]]} for row in matched]


def _header_beside(path: str) -> str:
    """Return the header of a WFDB record that is named by its signal file."""
    stem, ending = os.path.splitext(path)
    return stem + ".hea" if ending.lower() in (".dat", ".mat") and os.path.isfile(stem + ".hea") else path


def facts_of_record(record: ECGRecord) -> FileFacts:
    """Return what a recording tells of itself."""
    facts = {name: record.metadata.get(name) for name in ("patient_id", "age", "sex", "report")}
    digest = hashlib.blake2b(record.signal.tobytes(), digest_size=12)
    digest.update(repr((record.sampling_rate, record.lead_names)).encode())
    plural = "s" * (record.num_leads > 1)
    kind = f"{record.metadata.get('format')}, {record.num_leads} lead{plural}, {record.sampling_rate:g} Hz"
    return FileFacts({name: value for name, value in facts.items() if value}, digest.hexdigest(), kind)


def read_record(path: str, feature: ECG) -> ECGRecord | FileFacts:
    """Read a recording, or say why it cannot be read."""
    try:
        return feature.decode_example({"bytes": None, "path": path})
    except ECGReadError as error:
        return FileFacts(reason=error.reason, remedy=error.remedy)
    except (ImportError, ValueError) as error:
        return FileFacts(reason=str(error))


def facts_of_file(path: str, feature: ECG) -> FileFacts:
    """Return what a file tells of itself, or why it cannot be read."""
    record = read_record(path, feature)
    return record if isinstance(record, FileFacts) else facts_of_record(record)


def completed(row: dict[str, Any], facts: FileFacts) -> dict[str, Any]:
    """Return a row with what the table leaves open taken from the file."""
    return {**row, **{name: value for name, value in facts.facts.items() if row.get(name) is None}}


def report_unreadable(
    bad: Sequence[tuple[str, FileFacts]], total: int, folder: Path, skip: bool, errors_csv: str | os.PathLike | None
) -> None:
    """Say which files cannot be read and why: in a warning if they may be skipped, otherwise in an error.

    Args:
        bad (sequence of pairs): path and facts of each; nothing happens if it is empty.
        total (`int`): how many files were read.
        folder (`Path`): where they are.
        skip (`bool`): whether the rest is to be used.
        errors_csv (path, *optional*): a table with all of them, to be written.

    Raises:
        ValueError: if files cannot be read and must not be skipped, or none can.
    """
    if errors_csv is not None:
        write_errors(((os.path.relpath(path, folder), facts.reason, facts.remedy) for path, facts in bad), errors_csv)
    if not bad:
        return
    shown = "; ".join(
        f"{os.path.relpath(path, folder)}: {facts.reason} {facts.remedy}".strip() for path, facts in bad[:3]
    )
    message = f"{len(bad)} of {total} files of {folder} cannot be read: {shown}{' …' if len(bad) > 3 else ''}"
    if errors_csv is not None:
        message += f" All are listed in {errors_csv}."
    if len(bad) == total:
        raise ValueError(message)
    if not skip:
        listing = "" if errors_csv is not None else ", `errors_csv` to list them all"
        raise ValueError(f"{message} Pass skip_unreadable=True to use the others{listing}.")
    logger.warning("%s They are left out.", message)


def write_errors(errors: Iterable[tuple[str, str | None, str]], path: str | os.PathLike) -> None:
    """Write the table of files that cannot be read: file, reason, remedy."""
    with written_atomically(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "reason", "remedy"])
        writer.writerows(errors)
