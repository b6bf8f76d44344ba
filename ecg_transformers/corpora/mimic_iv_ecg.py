"""MIMIC-IV-ECG: 800,035 records of 161,352 patients of a hospital in Boston, with machine reports and measurements."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import register_corpus
from .columns import build_corpus_from_columns, corpus_features, multi_label_feature, regression_feature
from .corpus_files import (
    check_choice,
    check_counts,
    check_flags,
    check_paths,
    check_texts,
    corpus_folder,
    map_files,
    read_columns,
    report_missing,
)
from .splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_by_group

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

TASKS = ("reports", "measurements", "icd", "labels")

# Labels of the task "measurements" and the columns of machine_measurements.csv that they are.
COLUMN_OF_MEASUREMENT = {
    "rr_interval_ms": "rr_interval",
    "p_onset_ms": "p_onset",
    "p_end_ms": "p_end",
    "qrs_onset_ms": "qrs_onset",
    "qrs_end_ms": "qrs_end",
    "t_end_ms": "t_end",
    "p_axis_degrees": "p_axis",
    "qrs_axis_degrees": "qrs_axis",
    "t_axis_degrees": "t_axis",
}
# What the carts write where they measured nothing.
MISSING_VALUES = (29999, 32767, 65535)
_NUM_REPORT_LINES = 18
# Stands between the lines while they are joined; a control character, which no report has.
_END = "\x1f"

VALIDATION_FOLD, TEST_FOLD = 18, 19

# Files looked for unless all are asked for: a wrong folder is noticed, and 800,035 questions are not put to a disk.
_PROBES = 100


@register_corpus("mimic_iv_ecg")
def load_mimic_iv_ecg(
    data_dir: str | os.PathLike,
    *,
    task: str = "reports",
    measurements: Sequence[str] | None = None,
    icd_csv: str | os.PathLike | None = None,
    icd_codes: Sequence[str] | None = None,
    icd_column: str = "all_diag_all",
    fold_column: str = "strat_fold",
    labels_csv: str | os.PathLike | None = None,
    label_columns: Sequence[str] | None = None,
    identifiers: bool = False,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load MIMIC-IV-ECG 1.0 in its layout on PhysioNet, or a part of it with its tables.

    Twelve leads, 500 Hz, 10 s. The files store aVF before aVL; leads are known by the names in the headers. `report`
    is the machine's report, its lines joined by full stops; the cardiologists' reports are in MIMIC-IV-Note. Age and
    sex are known with `icd_csv`. Only tables are read: for all records a few seconds and 1 GB of memory, measured on
    tables of that length. A hundred records spread over the table are looked for on the disk (with `skip_missing` all
    are).

    Subject and study numbers must not be published again. `patient_id` and `record_id` are therefore rows of
    `record_list.csv` (`row-0`; a patient's is that of the first record), which only who has the set can trace back,
    and a split is shared by its options and seed. `identifiers=True` gives the numbers of the set, for linking to
    other tables. The paths in the column `ecg`, and headers, name them in any case: do not publish a saved corpus.

    Source: Gow et al. (2023), https://doi.org/10.13026/4nqg-sb35; diagnoses and folds: MIMIC-IV-ECG-ICD (Strodthoff et
    al. 2024, PhysioNet mimic-iv-ecg-ext-icd-labels). Not seen on the real files: tested on files in the documented
    layout.

    Args:
        data_dir (`str` or path): the folder with `record_list.csv`, `machine_measurements.csv` and `files`. Without
            the second (the demo lacks it) there are no reports and no measurements.
        task (`str`, *optional*, defaults to `"reports"`): `"reports"`: no labels, for pretraining; records without a
            report are kept. `"measurements"`: regression of numbers that the machine measured. `"icd"`: discharge
            diagnoses, see `icd_codes`. `"labels"`: those of `labels_csv`.
        measurements (sequence of `str`, *optional*): which numbers, all nine by default: `rr_interval_ms`,
            `p_onset_ms`, `p_end_ms`, `qrs_onset_ms`, `qrs_end_ms`, `t_end_ms` (from the start of the median beat),
            `p_axis_degrees`, `qrs_axis_degrees`, `t_axis_degrees`. 29999, 32767 and 65535, which mark missing ones,
            and axes beyond 360 degrees either way are null; records without any are left out.
        icd_csv (`str` or path, *optional*): `records_w_diag_icd10.csv` of MIMIC-IV-ECG-ICD. Gives age, sex and fold;
            then the splits are its folds 0 to 17, 18 and 19 instead of `split`.
        icd_codes (sequence of `str`, *optional*): task `"icd"`: one label per code, such as `["I48", "I2510"]`,
            positive where a diagnosis begins with it. Records without any diagnosis are left out.
        icd_column (`str`, *optional*, defaults to `"all_diag_all"`): column of `icd_csv` with the diagnoses.
        fold_column (`str`, *optional*, defaults to `"strat_fold"`): `"strat_fold"` or `"fold"` of `icd_csv`.
        labels_csv (`str` or path, *optional*): task `"labels"`: a table with `study_id` and columns of 0, 1 and blank
            (unknown). Records that it does not list are left out.
        label_columns (sequence of `str`, *optional*): which columns of `labels_csv`; all others by default.
        identifiers (`bool`, *optional*, defaults to `False`): see above.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test, by
            patient.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): look for every record and leave out those that are not
            there.

    Returns:
        `datasets.DatasetDict`: without the column `labels` (task `"reports"`), regression (`"measurements"`), or
        multi-label. The split does not depend on the task.

    Raises:
        ValueError: for a wrong option, missing or damaged tables, or missing records.
    """
    check_choice("task", task, TASKS)
    check_choice("fold_column", fold_column, ("strat_fold", "fold"))
    check_fractions(split)
    check_counts(seed=seed)
    check_flags(identifiers=identifiers, skip_missing=skip_missing)
    check_paths(icd_csv=icd_csv, labels_csv=labels_csv)
    check_texts("icd_column", [icd_column], "all_diag_all")
    check_texts("measurements", measurements, "qrs_end_ms")
    check_texts("icd_codes", icd_codes, "I48")
    check_texts("label_columns", label_columns, "heart_failure")
    _check_options(task, icd_csv, icd_codes, labels_csv)
    folder = corpus_folder(data_dir, "mimic_iv_ecg")
    types = {"subject_id": pa.int64(), "study_id": pa.int64(), "path": pa.string()}
    records = read_columns(folder / "record_list.csv", types, "MIMIC-IV-ECG")
    subjects, studies = records["subject_id"].to_numpy(), records["study_id"].to_numpy()
    place_of_study = _Places(studies, folder / "record_list.csv")

    columns: dict[str, Any] = {
        "ecg": pc.binary_join_element_wise(f"{folder}{os.sep}", records["path"], ".hea", ""),
        **_names(subjects, studies, identifiers),
    }
    labels, columns["report"] = _measured(folder, place_of_study, task, measurements)
    if icd_csv is not None:
        icd = _read_icd(Path(icd_csv), place_of_study, fold_column, icd_column if task == "icd" else None)
        columns |= {name: icd[name] for name in ("age", "sex", "fold")}
        splits = _splits_of_folds(icd["fold"], subjects, fold_column)
        if task == "icd":
            labels = _icd_labels(icd["diagnoses"], icd_codes)
    else:
        splits = split_by_group(subjects, None, split, seed)
    if task == "labels":
        labels = _read_labels(Path(labels_csv), place_of_study, label_columns)

    kept = _there(columns["ecg"], skip_missing)
    if labels is not None:
        kept &= ~np.logical_and.reduce([np.isnan(values) for values in labels.values()])
        if not kept.any():
            raise ValueError(f"No record of {folder} has a known value of {', '.join(list(labels)[:5])}.")
        logger.info("%d of %d records have a target of the task %r.", kept.sum(), len(kept), task)
    columns_of_split = {}
    for name, members in zip(SPLITS, splits, strict=True):
        chosen = members[kept[members]]
        taken = {column: values.take(pa.array(chosen)) for column, values in columns.items() if values is not None}
        if labels is not None:
            taken["labels"] = {label: values[chosen] for label, values in labels.items()}
        columns_of_split[name] = taken
    feature = regression_feature if task == "measurements" else multi_label_feature
    features = corpus_features(feature(list(labels or ())))
    if labels is None:
        del features["labels"]
    return build_corpus_from_columns(columns_of_split, features)


class _Places:
    """The rows of record_list.csv in which studies are."""

    def __init__(self, studies: np.ndarray, path: Path):
        self.order = np.argsort(studies, kind="stable")
        self.sorted = studies[self.order]
        if (self.sorted[1:] == self.sorted[:-1]).any():
            raise ValueError(f"{path} lists a study twice; fetch it again.")

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, studies: np.ndarray) -> np.ndarray:
        """Return the row of each study, -1 where the list lacks it."""
        nearest = np.minimum(np.searchsorted(self.sorted, studies), len(self.sorted) - 1)
        return np.where(self.sorted[nearest] == studies, self.order[nearest], -1)

    def lines(self, studies: np.ndarray, path: Path) -> pa.Array:
        """Return for each row of record_list.csv the line of another table that is about it, null without one."""
        rows = self.rows(studies)
        known = np.flatnonzero(rows >= 0)
        if not len(known):
            raise ValueError(f"{path} has no study of record_list.csv in its column study_id; it is another set's.")
        lines = np.full(len(self), -1, dtype=np.int64)
        lines[rows[known]] = known
        return pa.array(lines, mask=lines < 0)


def _check_options(task: str, icd_csv: Any, icd_codes: Any, labels_csv: Any) -> None:
    if (task == "icd") != bool(icd_codes) or (task == "icd" and icd_csv is None):
        raise ValueError(
            "The task 'icd' needs `icd_csv`, records_w_diag_icd10.csv of MIMIC-IV-ECG-ICD, and `icd_codes`, such as "
            '["I48", "I50"]; other tasks take no `icd_codes`.'
        )
    if (task == "labels") != (labels_csv is not None):
        raise ValueError("The task 'labels' and `labels_csv` go together: give both or neither.")


def _names(subjects: np.ndarray, studies: np.ndarray, identifiers: bool) -> dict[str, pa.Array]:
    """Return `record_id` and `patient_id`: the numbers of the set, or the rows that stand for them."""
    prefix = ""
    if not identifiers:
        _, first, patient = np.unique(subjects, return_index=True, return_inverse=True)
        studies, subjects, prefix = np.arange(len(studies)), first[patient], "row-"
    numbers = {"record_id": studies, "patient_id": subjects}
    return {
        name: pc.binary_join_element_wise(prefix, pc.cast(pa.array(values), pa.string()), "")
        for name, values in numbers.items()
    }


def _measured(
    folder: Path, places: _Places, task: str, measurements: Sequence[str] | None
) -> tuple[dict[str, np.ndarray] | None, pa.Array | None]:
    """Return the measurements, if they are the task, and the reports, in the order of record_list.csv."""
    path = folder / "machine_measurements.csv"
    if not path.is_file() and task not in ("reports", "measurements"):
        logger.warning("There is no %s, so there are no reports.", path)
        return None, None
    names = list(COLUMN_OF_MEASUREMENT if measurements is None else measurements) if task == "measurements" else []
    if not set(names) <= set(COLUMN_OF_MEASUREMENT):
        raise ValueError(f"`measurements` is a list of {', '.join(COLUMN_OF_MEASUREMENT)}; got {measurements!r}.")
    types = {"study_id": pa.int64(), **{f"report_{line}": pa.string() for line in range(_NUM_REPORT_LINES)}}
    types |= {COLUMN_OF_MEASUREMENT[name]: pa.float64() for name in names}
    table = read_columns(path, types, "MIMIC-IV-ECG")
    lines = places.lines(table["study_id"].to_numpy(), path)

    statements = [table.pop(f"report_{line}") for line in range(_NUM_REPORT_LINES)]
    joined = pc.binary_join_element_wise(*statements, _END, null_handling="replace", null_replacement="")
    joined = pc.replace_substring_regex(joined, rf"\s*\.?\s*({_END}\s*)+", ". ")
    report = pc.utf8_trim(joined, " .")
    report = pc.if_else(pc.equal(report, ""), None, report).take(lines)
    if not names:
        return None, report
    values = {}
    for name in names:
        column = table[COLUMN_OF_MEASUREMENT[name]].take(lines).to_numpy(zero_copy_only=False).astype(np.float64)
        column[np.isin(column, MISSING_VALUES)] = np.nan
        if name.endswith("_degrees"):
            column[np.abs(column) > 360] = np.nan
        values[name] = column
    return values, report


def _read_icd(path: Path, places: _Places, fold_column: str, diagnoses: str | None) -> dict[str, pa.Array]:
    """Return age, sex, fold and diagnoses in the order of record_list.csv."""
    types = {"study_id": pa.int64(), "age": pa.float64(), "gender": pa.string(), fold_column: pa.float64()}
    if diagnoses is not None:
        types[diagnoses] = pa.string()
    table = read_columns(path, types, "MIMIC-IV-ECG-ICD")
    lines = places.lines(table["study_id"].to_numpy(), path)
    table = {name: values.take(lines) for name, values in table.items()}
    age, gender = table["age"], table["gender"]
    sexes = pc.if_else(pc.equal(gender, "F"), "female", pc.if_else(pc.equal(gender, "M"), "male", None))
    return {
        "age": pc.if_else(pc.and_(pc.greater_equal(age, 0), pc.less_equal(age, 130)), age, None),
        "sex": sexes,
        "fold": pc.cast(table[fold_column], pa.int32()),
        "diagnoses": None if diagnoses is None else table[diagnoses],
    }


def _splits_of_folds(folds: pa.Array, subjects: np.ndarray, fold_column: str) -> list[np.ndarray]:
    """Return the records of each split by the published folds; records without a fold are in none."""
    numbers = folds.fill_null(-1).to_numpy()
    if (numbers < 0).any():
        logger.warning("%d records have no fold in `icd_csv` and are left out.", (numbers < 0).sum())
    split = np.where(numbers == VALIDATION_FOLD, 1, np.where(numbers == TEST_FOLD, 2, 0))
    known = numbers >= 0
    _, patient = np.unique(subjects[known], return_inverse=True)
    for number, name in enumerate(SPLITS):
        inside = split[known] == number
        if np.intersect1d(patient[inside], patient[~inside]).size:
            raise ValueError(
                f"The column {fold_column!r} of `icd_csv` puts a patient into {name} and into another split. Choose "
                "the other `fold_column`, or leave `icd_csv` out and split by patient."
            )
    return [np.flatnonzero(known & (split == number)) for number in range(len(SPLITS))]


def _icd_labels(diagnoses: pa.Array, codes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return 1 where a diagnosis begins with the code, NaN for records without diagnoses.

    The file writes a Python list, `['I4891', 'I10']`; each code follows a quotation mark.
    """
    unknown = pc.invert(pc.match_substring_regex(diagnoses, "['\"][A-Z]")).fill_null(True)
    labels = {}
    for code in codes:
        if not str(code).isalnum():
            raise ValueError(f"`icd_codes` are letters and digits without a dot, such as 'I48'; got {code!r}.")
        found = pc.match_substring_regex(diagnoses, f"['\"]{code}").fill_null(False)
        labels[str(code)] = np.where(
            unknown.to_numpy(zero_copy_only=False), np.nan, found.to_numpy(zero_copy_only=False)
        )
    return labels


def _read_labels(path: Path, places: _Places, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Return the columns of `labels_csv` in the order of record_list.csv, NaN where unknown."""
    if names is None:
        names = [name for name in _header(path) if name not in ("study_id", "subject_id")]
    table = read_columns(path, {"study_id": pa.int64(), **dict.fromkeys(names, pa.float64())}, "`labels_csv`")
    lines = places.lines(table["study_id"].to_numpy(), path)
    labels = {}
    for name in names:
        values = table[name].take(lines).to_numpy(zero_copy_only=False).astype(np.float64)
        strange = values[~np.isin(values, (0, 1)) & ~np.isnan(values)]
        if len(strange):
            raise ValueError(f"{path}, column {name!r}: labels are 0, 1 or blank; got {strange[0]:g}.")
        labels[name] = values
    if not labels:
        raise ValueError(f"{path} has no label columns beside study_id.")
    return labels


def _header(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [name.strip().strip('"') for name in file.readline().split(",")]
    except (OSError, ValueError) as error:
        raise ValueError(f"`labels_csv` cannot be read: {error}") from error


def _there(paths: pa.Array, skip_missing: bool) -> np.ndarray:
    """Tell which records are on the disk; without `skip_missing`, make sure that some are and take all."""
    total = len(paths)
    looked = range(total) if skip_missing else range(0, total, max(1, total // _PROBES))
    wanted = paths.take(pa.array(list(looked))).to_pylist()
    found = np.array(map_files(os.path.isfile, wanted, "Looking for records"))
    missing = [path for path, there in zip(wanted, found, strict=True) if not there]
    report_missing(missing, len(wanted), "records looked for", skip_missing, "skip_missing")
    return found if skip_missing else np.ones(total, dtype=bool)
