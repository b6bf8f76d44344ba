"""Tables of recordings: which columns are labels, what kind of task they pose, and the rows of a corpus from them."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..readers import list_readers
from ..readers.row_reference import parse_reference, referenced_file
from .columns import multi_label_feature, regression_feature
from .corpus_files import canonical_sex, plausible_age
from .ecg_feature import ECG

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

UNLABELLED = "unlabelled"
PROBLEM_TYPES = ("multi_label_classification", "single_label_classification", "regression")

# Columns that describe a record wherever they stand; never labels.
_DESCRIBING = ("filename", "age", "sex", "patient_id", "record_id", "fold", "report", "split", "memmap_idx")

# What else the column of file names may be called.
_FILE_COLUMNS = ("file", "path")

# Endings tried first for names without one: a header goes before its signal file, a recording that describes itself
# before a bare array of the same name.
_FIRST_ENDINGS = (".hea", ".npz")

# Files of one ending that are tried before the corpus is given up as unreadable.
_PROBES = 3


class Targets:
    """The label columns of all tables and what they become.

    Args:
        kind (`str`): a problem type, or `UNLABELLED`.
        columns (`list[str]`): the label columns.
        tables (`dict[str, DataFrame]`): by split.
        separator (`str`, *optional*): what stands between the labels of a cell, where one column lists them; blank
            cells are unknown.

    Raises:
        ValueError: if the columns do not fit the kind of task.
    """

    def __init__(self, kind: str, columns: list[str], tables: dict[str, pd.DataFrame], separator: str | None = None):
        self.kind = kind
        self.columns = columns
        self.classes: list[str] = []
        self.list_column: str | None = None
        self.separator = separator
        if separator is not None:
            if len(columns) != 1 or kind != "multi_label_classification":
                raise ValueError(
                    f"`label_separator` is for one column that lists the labels; the label columns are "
                    f"{', '.join(columns) or 'none'}, the task is {kind}."
                )
            self.list_column = columns[0]
            cells = [cell for table in tables.values() for cell in table[columns[0]]]
            self.columns = sorted({name for cell in cells for name in self._names_in(cell)})
            if not self.columns:
                raise ValueError(f"The label column {columns[0]!r} is blank in every row.")
        if kind == "single_label_classification":
            if len(columns) != 1:
                raise ValueError(f"Single-label classification has one label column; got {', '.join(columns)}.")
            values = {_class_name(value) for table in tables.values() for value in table[columns[0]] if _known(value)}
            self.classes = sorted(values, key=_class_order)

    def _names_in(self, cell: str) -> list[str]:
        return [name.strip() for name in cell.split(self.separator) if name.strip()]

    def feature(self) -> Any:
        """Return the feature of the column `labels`."""
        from datasets import ClassLabel

        if self.kind == "single_label_classification":
            return ClassLabel(names=self.classes)
        if self.kind == "multi_label_classification":
            return multi_label_feature(self.columns)
        return regression_feature(self.columns)

    def parse(self, row: dict[str, Any], where: str) -> Any:
        """Return the target of a row, or `None` if it is unknown; nothing, which is known, without label columns."""
        if self.kind == "single_label_classification":
            value = row[self.columns[0]]
            return _class_name(value) if _known(value) else None
        if self.list_column is not None:
            found = self._names_in(row[self.list_column])
            return {name: float(name in found) for name in self.columns} if found else dict.fromkeys(self.columns)
        numbers = {}
        for column in self.columns:
            value = row[column]
            try:
                numbers[column] = _number(value) if _known(value) else None
            except ValueError:
                raise ValueError(
                    f"{where}, column {column!r}: {value!r} is no number. `label_columns` says which columns are "
                    "labels."
                ) from None
            if self.kind == "multi_label_classification" and numbers[column] not in (0, 1, None):
                raise ValueError(
                    f"{where}, column {column!r}: labels are 0, 1 or blank (unknown), not {value!r}. "
                    "`label_start_index` and `label_columns` say where labels are; problem_type='regression' says "
                    "that this is a number to predict."
                )
        if self.kind == "regression" and all(number is None for number in numbers.values()):
            return None
        return numbers

    def strata(self, labels: list[Any]) -> np.ndarray | None:
        """Return what a split is balanced on: labels, classes, or the quarter of a number."""
        if not self.columns:
            return None
        if self.kind == "single_label_classification":
            return np.array(labels)
        if self.kind == "multi_label_classification":
            return np.array([[row[name] or 0.0 for name in self.columns] for row in labels])
        if len(self.columns) > 1:
            return None
        numbers = [row[self.columns[0]] for row in labels]
        return np.digitize(numbers, np.quantile(numbers, (0.25, 0.5, 0.75)))


def locate(path: str | os.PathLike, data_dir: str | os.PathLike | None) -> Path:
    """Return a path that starts from `data_dir`, or else from the current folder."""
    inside = Path(data_dir or "") / path
    return inside if inside.exists() or not Path(path).exists() else Path(path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of recordings, all cells as text; its column of files is `filename`.

    Raises:
        ValueError: if it cannot be read, names no files or has no rows.
    """
    import pandas as pd

    try:
        # "NA" and "None" may be names of classes or files; only empty cells are unknown, and words like nan in
        # numbers.
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"The table {path} cannot be read: {error}") from error
    except Exception as error:
        raise ValueError(f"{path} is no table of comma-, semicolon- or tab-separated values: {error}") from error
    table.columns = [str(column).strip() for column in table.columns]
    if "filename" not in table:
        other = next((name for name in _FILE_COLUMNS if name in table), None)
        if other is None:
            raise ValueError(
                f"The table {path} needs a column 'filename' (or 'file', 'path'); it has {', '.join(table.columns)}."
            )
        table = table.rename(columns={other: "filename"})
    if not len(table):
        raise ValueError(f"The table {path} has no rows.")
    return table


def columns_left(table: pd.DataFrame, start: int, patient_column: str | None) -> list[str]:
    """Return the columns from an index on that do not describe the recording."""
    return [name for name in list(table.columns)[start:] if name not in _DESCRIBING and name != patient_column]


def choose_label_columns(
    tables: dict[str, pd.DataFrame], start: int, chosen: Sequence[str] | None, patient_column: str | None
) -> list[str]:
    """Return the label columns: the chosen ones, else those from an index on that describe nothing else.

    Raises:
        ValueError: if there are none, or a table lacks one.
    """
    header = list(tables["train"].columns)
    if isinstance(chosen, str):
        chosen = [chosen]
    columns = list(chosen) if chosen is not None else columns_left(tables["train"], start, patient_column)
    if not columns and chosen is None:
        raise ValueError(
            f"There are no label columns from index {start} on; the columns are {', '.join(header)}. Give "
            "`label_start_index` (from 0) or `label_columns`; `label_columns=[]` makes a corpus without labels."
        )
    for name, table in tables.items():
        missing = [
            column for column in [*columns, *([patient_column] if patient_column else [])] if column not in table
        ]
        if missing:
            raise ValueError(f"The {name} table lacks the columns {', '.join(missing)}; it has {', '.join(table)}.")
    return columns


def guess_problem_type(tables: dict[str, pd.DataFrame], columns: list[str]) -> str:
    """Return the kind of task that label columns pose; what is no plain case is told."""
    if len(columns) > 1:
        return "multi_label_classification"
    values = [value for table in tables.values() for value in table[columns[0]] if _known(value)]
    try:
        whole = all(float(value).is_integer() for value in values)
    except ValueError:
        whole = True
    if whole and {value.strip() for value in values} <= {"0", "1", "0.0", "1.0"}:
        return "multi_label_classification"
    kind = "single_label_classification" if whole else "regression"
    logger.warning(
        "The only label column, %r, is taken as %s; the option problem_type=... says otherwise.", columns[0], kind
    )
    return kind


def rows_of_table(
    table: pd.DataFrame,
    path: Path,
    targets: Targets,
    patient_column: str | None,
    sex_codes: dict[Any, str],
) -> list[dict[str, Any]]:
    """Return the rows of a corpus, with the table's file names as `ecg`; rows without a target are left out, and told.

    Where the table has no `record_id`, it is `None`; see `names_within`.

    Raises:
        ValueError: for values that are no labels.
    """
    patient_column = patient_column or "patient_id"
    # JSON, from a command line, has text as keys.
    sexes = {_class_name(str(code)): sex for code, sex in sex_codes.items()}
    rows, untargeted, unknown_sex = [], 0, set()
    # Line 1 is the header.
    for line, cells in enumerate(table.to_dict("records"), start=2):
        labels = targets.parse(cells, f"{path}, line {line}")
        if labels is None:
            untargeted += 1
            continue
        cells = {name: value.strip() for name, value in cells.items()}
        sex = cells.get("sex", "")
        known_sex = canonical_sex(sexes.get(_class_name(sex), sex))
        if sex and known_sex is None:
            unknown_sex.add(sex)
        fold = cells.get("fold", "")
        rows.append(
            {
                "ecg": cells["filename"],
                "labels": labels,
                "record_id": cells.get("record_id") or None,
                "patient_id": _class_name(cells.get(patient_column, "")) or None,
                "age": plausible_age(cells.get("age")),
                "sex": known_sex,
                "fold": int(float(fold)) if fold.replace(".", "", 1).isdigit() else None,
                "report": cells.get("report") or None,
                "split": cells.get("split") or None,
            }
        )
    if untargeted:
        logger.warning("%d of %d rows of %s have no target and are left out.", untargeted, len(table), path)
    if unknown_sex:
        logger.warning(
            "%s writes the sex as %s, taken as unknown; say what it means with `sex_codes` (on the command line: "
            '--corpus_options \'sex_codes={"0": "male", "1": "female"}\').',
            path,
            ", ".join(sorted(unknown_sex)[:5]),
        )
    return rows


def file_endings() -> list[str]:
    """Return the endings of all formats, in the order in which they are tried for a name without one."""
    endings = dict.fromkeys(ending for endings in list_readers().values() for ending in endings)
    return [*_FIRST_ENDINGS, *(ending for ending in endings if ending not in _FIRST_ENDINGS)]


def without_ending(name: str) -> str:
    """Return a file's name without the ending of a format."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in file_endings() else name


def names_within(paths: Collection[str], folder: Path) -> dict[str, str]:
    """Return a name for each of several absolute paths, which tells nothing of the machine.

    It is the path within the folder, without the ending where that leaves the names different. Of files elsewhere it
    is the path within what these have in common.

    Raises:
        ValueError: if two files would get the same name.
    """
    outside = [os.path.dirname(referenced_file(path)) for path in paths if not Path(path).is_relative_to(folder)]
    elsewhere = os.path.commonpath(outside) if outside else folder
    names = {
        path: Path(path).relative_to(folder if Path(path).is_relative_to(folder) else elsewhere).as_posix()
        for path in dict.fromkeys(paths)
    }
    shorter = {path: without_ending(name) for path, name in names.items()}
    counts = Counter(shorter.values())
    names = {path: name if counts[shorter[path]] > 1 else shorter[path] for path, name in names.items()}
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = ", ".join([path for path in names if names[path] == name][:3])
            raise ValueError(f"{same} would all be called {name!r}. Give the table a column `record_id`.")
    return names


def find_file(name: str, folder: Path) -> str | None:
    """Return the file that a table means, whose ending may be left out, or the part of a file that it names."""
    path = folder / name
    reference = parse_reference(path)
    if reference is not None:
        return os.path.abspath(reference) if Path(reference.file).is_file() else None
    path = os.path.abspath(path)
    return next((path + ending for ending in ("", *file_endings()) if os.path.isfile(path + ending)), None)


def probe_files(rows_of_split: dict[str, list[dict[str, Any]]], feature: ECG) -> None:
    """Read a file of each kind, so that a missing rate is noticed now and not in the middle of training.

    Raises:
        ValueError: if the first files of a kind cannot be read.
    """
    of_ending: dict[str, list[str]] = {}
    for row in (row for rows in rows_of_split.values() for row in rows):
        of_ending.setdefault(Path(referenced_file(row["ecg"])).suffix.lower(), []).append(row["ecg"])
    for ending, files in of_ending.items():
        error = None
        for file in files[:_PROBES]:
            try:
                feature.decode_example({"bytes": None, "path": file})
                break
            except (ImportError, ValueError) as problem:
                error = error or problem
        else:
            raise ValueError(
                f"The {ending} files of the table cannot be read. Files that do not tell their rate, leads or unit "
                f"need the options `sampling_rate`, `lead_names` and `units`. {error}"
            ) from error


def _known(value: str) -> bool:
    return value.strip().lower() not in ("", "nan")


def _number(value: str) -> float:
    word = value.strip().lower()
    if word in ("true", "false"):
        return float(word == "true")
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _class_name(value: str) -> str:
    """Return a class as text; whole numbers that a table wrote as 3.0 are 3."""
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text


def _class_order(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return math.inf, name
