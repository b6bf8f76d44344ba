"""Your own files: a CSV that names each file and its labels, as the HuBERT-ECG repository uses it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from . import register_corpus
from .columns import SPLITS, build_corpus, corpus_features, multi_label_feature, regression_feature
from .corpus_files import canonical_sex, check_choice, map_files, plausible_age, report_missing
from .ecg_feature import ECG
from .splits import DEFAULT_FRACTIONS, check_fractions, check_no_leak, split_by_group

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

_UNLABELLED = "unlabelled"
PROBLEM_TYPES = ("multi_label_classification", "single_label_classification", "regression")

# Columns that describe a record wherever they stand; never labels.
_DESCRIBING = ("filename", "age", "sex", "patient_id", "record_id", "fold", "report", "memmap_idx")

# Endings tried for names without one, those first that describe themselves.
_ENDINGS = (".hea", ".npz", ".npy", ".mat", ".h5", ".hdf5", ".xml", ".dcm", ".edf", ".scp", ".csv", ".txt")

# Files of one ending that are tried before the corpus is given up as unreadable.
_PROBES = 3


@register_corpus("table")
def load_table(
    data_dir: str | os.PathLike | None = None,
    *,
    train_csv: str | os.PathLike,
    validation_csv: str | os.PathLike | None = None,
    test_csv: str | os.PathLike | None = None,
    ecg_dir: str | os.PathLike | None = None,
    label_start_index: int = 3,
    label_columns: Sequence[str] | None = None,
    problem_type: str | None = None,
    patient_column: str | None = None,
    sex_codes: dict[Any, str] | None = None,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | str | None = None,
    units: str | None = None,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load files listed in CSV tables with the columns `filename`, `age`, `sex` and then one column per label.

    Files may be of any format that `read_ecg` reads, also mixed; their column may be called `file` too. Columns called
    `patient_id`, `record_id`, `fold`, `report` and `memmap_idx` are never labels.

    Args:
        data_dir (`str` or path, *optional*): folder that relative paths of the other options may start from.
        train_csv (`str` or path): table of the training records.
        validation_csv (`str` or path, *optional*): table of the validation records. Where this or `test_csv` is
            missing, its share is taken out of the training table, by patient where one is known.
        test_csv (`str` or path, *optional*): table of the test records.
        ecg_dir (`str` or path, *optional*): folder with the files; by default `data_dir`, else that of each table. A
            name's ending may be left out in the table, and a name may be an absolute path.
        label_start_index (`int`, *optional*, defaults to 3): index (from 0) of the first label column.
        label_columns (sequence of `str`, *optional*): the label columns by name instead; an empty sequence makes a
            corpus without labels, for pretraining.
        problem_type (`str`, *optional*): `"multi_label_classification"`, `"single_label_classification"` or
            `"regression"`. By default several columns, and one column of 0 and 1, are multi-label; one column
            is single-label if it holds words or other whole numbers, else regression.
        patient_column (`str`, *optional*): column with the patient; by default `patient_id` if there is one.
        sex_codes (`dict`, *optional*): what numbers in the column `sex` mean, for example `{0: "male", 1: "female"}`;
            without it numbers are unknown, words are understood.
        sampling_rate (`float`, *optional*): rate in Hz of files that do not tell theirs, such as `.npy`.
        lead_names (sequence of `str` or `"standard"`, *optional*): leads of files that do not name theirs;
            `"standard"` stands for I, II, III, aVR, aVL, aVF, V1 to V6.
        units (`str`, *optional*): unit of files that do not tell theirs.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test, where
            tables are missing.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): leave out records whose file is not there.

    Returns:
        `datasets.DatasetDict`: multi-label values are 0 or 1, blank cells are unknown (null). Records without their
        only
        target (a blank class or number) are left out.

    Raises:
        ValueError: for missing columns or files, values that are no labels, or a patient in two tables.
    """
    shares = check_fractions(split)
    if problem_type is not None:
        check_choice("problem_type", problem_type, PROBLEM_TYPES)
    if isinstance(lead_names, str):
        check_choice("lead_names", lead_names, ("standard",))
        lead_names = STANDARD_LEADS
    given = {"train": train_csv, "validation": validation_csv, "test": test_csv}
    paths = {name: _locate(path, data_dir) for name, path in given.items() if path is not None}
    tables = {name: _read_table(path) for name, path in paths.items()}

    columns = _label_columns(tables, label_start_index, label_columns, patient_column)
    kind = _UNLABELLED if not columns else problem_type or _guess_problem_type(tables, columns)
    targets = _Targets(kind, columns, tables)
    feature = ECG(file_sampling_rate=sampling_rate, file_lead_names=lead_names, file_units=units)

    rows_of_split: dict[str, list[dict[str, Any]]] = {}
    for name, table in tables.items():
        csv_path = paths[name]
        default = data_dir or csv_path.parent
        folder = Path(os.path.abspath(default if ecg_dir is None else _locate(ecg_dir, data_dir)))
        if not folder.is_dir():
            raise ValueError(f"`ecg_dir` is the folder with the ECG files; there is none at {folder}.")
        rows = _rows(table, csv_path, targets, patient_column, sex_codes or {})
        files = map_files(lambda row, folder=folder: _find_file(row["ecg"], folder), rows, "Looking for records")
        missing = [row["ecg"] for row, file in zip(rows, files, strict=True) if file is None]
        report_missing(
            missing, len(rows), f"files of {csv_path} in {folder} (`ecg_dir`)", skip_missing, "skip_missing"
        )
        rows_of_split[name] = [{**row, "ecg": file} for row, file in zip(rows, files, strict=True) if file is not None]
        if not rows_of_split[name]:
            raise ValueError(f"{csv_path} gives no records with a known target.")
    _probe(rows_of_split, feature)

    parts = ["train", *(name for name in SPLITS if name not in tables)]
    if len(parts) > 1:
        wanted = np.array([shares[SPLITS.index(name)] for name in parts])
        if not wanted.sum():
            raise ValueError(f"`split` {list(split)} leaves nothing for {', '.join(parts)}, which have one table.")
        rows = rows_of_split["train"]
        groups = [row["patient_id"] or ("record", row["record_id"]) for row in rows]
        strata = targets.strata([row["labels"] for row in rows])
        for name, indices in zip(parts, split_by_group(groups, strata, wanted / wanted.sum(), seed), strict=True):
            rows_of_split[name] = [rows[index] for index in indices]
    features = corpus_features(targets.feature(), feature)
    if not columns:
        del features["labels"]
    corpus = build_corpus(rows_of_split, features)
    check_no_leak(corpus)
    return corpus


class _Targets:
    """The label columns of all tables and what they become."""

    def __init__(self, kind: str, columns: list[str], tables: dict[str, pd.DataFrame]):
        self.kind = kind
        self.columns = columns
        self.classes: list[str] = []
        if kind == "single_label_classification":
            if len(columns) != 1:
                raise ValueError(f"Single-label classification has one label column; got {', '.join(columns)}.")
            values = {_class_name(value) for table in tables.values() for value in table[columns[0]] if _known(value)}
            self.classes = sorted(values, key=_class_order)

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
        numbers = {}
        for column in self.columns:
            value = row[column]
            try:
                numbers[column] = _number(value) if _known(value) else None
            except ValueError:
                raise ValueError(f"{where}, column {column!r}: {value!r} is no number.") from None
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


def _locate(path: str | os.PathLike, data_dir: str | os.PathLike | None) -> Path:
    """Return a path that starts from `data_dir`, or else from the current folder."""
    inside = Path(data_dir or "") / path
    return inside if inside.exists() or not Path(path).exists() else Path(path)


def table_columns(path: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> list[str]:
    """Return the names of a table's columns.

    Args:
        path: of the table, from `data_dir` or else from the current folder.
        data_dir (*optional*): as for `load_table`.

    Raises:
        ValueError: if it cannot be read, has no column `filename`, or no rows.
    """
    return list(_read_table(_locate(path, data_dir)).columns)


def _read_table(path: Path) -> pd.DataFrame:
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
        table = table.rename(columns={"file": "filename"})
    if "filename" not in table:
        raise ValueError(f"The table {path} needs a column 'filename'; it has {', '.join(table.columns)}.")
    if not len(table):
        raise ValueError(f"The table {path} has no rows.")
    return table


def _label_columns(
    tables: dict[str, pd.DataFrame], start: int, chosen: Sequence[str] | None, patient_column: str | None
) -> list[str]:
    header = list(tables["train"].columns)
    if isinstance(chosen, str):
        chosen = [chosen]
    columns = (
        list(chosen)
        if chosen is not None
        else [column for column in header[start:] if column not in _DESCRIBING and column != patient_column]
    )
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


def _guess_problem_type(tables: dict[str, pd.DataFrame], columns: list[str]) -> str:
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


def _rows(
    table: pd.DataFrame,
    path: Path,
    targets: _Targets,
    patient_column: str | None,
    sex_codes: dict[Any, str],
) -> list[dict[str, Any]]:
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
                "record_id": cells.get("record_id") or _without_ending(cells["filename"]),
                "patient_id": _class_name(cells.get(patient_column, "")) or None,
                "age": plausible_age(cells.get("age")),
                "sex": known_sex,
                "fold": int(float(fold)) if fold.replace(".", "", 1).isdigit() else None,
                "report": cells.get("report") or None,
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


def _without_ending(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in _ENDINGS else name


def _find_file(name: str, folder: Path) -> str | None:
    path = folder / name
    if path.is_file():
        return str(path)
    return next((str(path) + ending for ending in _ENDINGS if Path(str(path) + ending).is_file()), None)


def _probe(rows_of_split: dict[str, list[dict[str, Any]]], feature: ECG) -> None:
    """Read a file of each kind, so that a missing rate is noticed now and not in the middle of training.

    Raises:
        ValueError: if the first files of a kind cannot be read.
    """
    of_ending: dict[str, list[str]] = {}
    for row in (row for rows in rows_of_split.values() for row in rows):
        of_ending.setdefault(Path(row["ecg"]).suffix.lower(), []).append(row["ecg"])
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
