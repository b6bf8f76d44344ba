"""PTB-XL: 21,799 records of 18,869 patients with SCP-ECG statements and recommended folds."""

from __future__ import annotations

import ast
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import register_corpus
from .columns import SPLITS, build_corpus, corpus_features, multi_label_feature
from .corpus_files import (
    check_choice,
    check_counts,
    check_flags,
    check_number,
    corpus_folder,
    map_files,
    plausible_age,
    read_frame,
    report_missing,
)

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

TASKS = ("superclass", "subclass", "diagnostic", "form", "rhythm", "all")

# The data set writes 300 for ages over 89 (its documentation on PhysioNet).
_AGE_OVER_89 = 300
_SEX = {0: "male", 1: "female"}


@register_corpus("ptbxl")
def load_ptbxl(
    data_dir: str | os.PathLike,
    *,
    task: str = "superclass",
    sampling_rate: int = 500,
    min_likelihood: float = 0.0,
    min_positives: int = 0,
    keep_unlabelled: bool = False,
    validation_fold: int = 9,
    test_fold: int = 10,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load PTB-XL in its original layout.

    Labels follow the benchmark of the data set's authors (Strodthoff et al., arXiv 2004.13701, repository
    helme/ecg_ptbxl_benchmarking): a statement counts whatever its likelihood, 0 (unknown) included; diagnostic
    statements are aggregated to their superclass or subclass; records without any label of the task are left out;
    labels are in alphabetical order. The label set is that of `scp_statements.csv`: 5 superclasses, 23 subclasses, 44
    diagnostic, 19 form, 12 rhythm statements, 71 in all, also where only a part of the records is there.

    Splits are the recommended ones, in which no patient is in two: folds 1 to 8, 9 and 10. Ages over 89, which the
    data set hides behind 300, are given as 90.

    Args:
        data_dir (`str` or path): the folder with `ptbxl_database.csv`, `scp_statements.csv` and the records.
        task (`str`, *optional*, defaults to `"superclass"`): `"superclass"`, `"subclass"`, `"diagnostic"`, `"form"`,
            `"rhythm"` or `"all"`.
        sampling_rate (`int`, *optional*, defaults to 500): 500 or 100 Hz; which of the two versions of the records.
        min_likelihood (`float`, *optional*, defaults to 0): least likelihood (0 to 100) of a diagnostic statement.
            Statements on form or rhythm alone carry 0, unknown, nearly throughout and count in any case.
        min_positives (`int`, *optional*, defaults to 0): leave out labels with fewer positive records, and with them
            records that have no other.
        keep_unlabelled (`bool`, *optional*, defaults to `False`): keep records without a label of the task as
            negatives.
        validation_fold (`int`, *optional*, defaults to 9): fold for validation.
        test_fold (`int`, *optional*, defaults to 10): fold for testing.
        skip_missing (`bool`, *optional*, defaults to `False`): use the records whose files are there instead of
            refusing an incomplete copy.

    Returns:
        `datasets.DatasetDict`: multi-label, with patient, fold and report.

    Raises:
        ValueError: for a wrong option, missing or damaged files, or an empty split.
    """
    check_choice("task", task, TASKS)
    check_choice("sampling_rate", sampling_rate, (500, 100))
    check_number("min_likelihood", min_likelihood, "a number from 0 to 100 (percent)", lambda value: 0 <= value <= 100)
    check_counts(min_positives=min_positives)
    check_counts(1, validation_fold=validation_fold, test_fold=test_fold)
    check_flags(keep_unlabelled=keep_unlabelled, skip_missing=skip_missing)
    if validation_fold == test_fold:
        raise ValueError(f"Validation and test need different folds; both are {test_fold}.")
    folder = corpus_folder(data_dir, "ptbxl")
    file_column = "filename_hr" if sampling_rate == 500 else "filename_lr"
    columns = ("ecg_id", "patient_id", "scp_codes", "strat_fold", file_column)
    table = read_frame(folder / "ptbxl_database.csv", columns, "PTB-XL")
    label_of_statement, diagnostic = _labels_of_statements(folder / "scp_statements.csv", task)

    paths = [folder / f"{name}.hea" for name in table[file_column]]
    found = map_files(Path.is_file, paths, "Looking for records")
    missing = [str(path) for path, there in zip(paths, found, strict=True) if not there]
    report_missing(missing, len(paths), f"{sampling_rate} Hz records of PTB-XL", skip_missing, "skip_missing")

    rows, labels_of_row = [], []
    for path, there, row in zip(paths, found, table.to_dict("records"), strict=True):
        if there:
            statements = _parse_statements(row["scp_codes"], row["ecg_id"])
            labels_of_row.append(
                {
                    label_of_statement[code]
                    for code, likelihood in statements.items()
                    if code in label_of_statement and (likelihood >= min_likelihood or code not in diagnostic)
                }
            )
            rows.append(_describe(row, path))

    counts = Counter(label for labels in labels_of_row for label in labels)
    names = sorted(name for name in set(label_of_statement.values()) if counts[name] >= min_positives)
    if not names:
        raise ValueError(
            f"No label of the task {task!r} has {min_positives} positive records; the most frequent are "
            f"{counts.most_common(5)}. Lower `min_positives`."
        )
    split_of_fold = {validation_fold: "validation", test_fold: "test"}
    rows_of_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for row, labels in zip(rows, labels_of_row, strict=True):
        if keep_unlabelled or labels & set(names):
            row["labels"] = {name: float(name in labels) for name in names}
            rows_of_split[split_of_fold.get(row["fold"], "train")].append(row)
    left_out = len(rows) - sum(map(len, rows_of_split.values()))
    if left_out:
        logger.warning(
            "%d of %d records have no label of the task %r and are left out; keep_unlabelled=True keeps them.",
            left_out, len(rows), task,
        )  # fmt: skip
    empty = [split for split, members in rows_of_split.items() if not members]
    if empty:
        per_fold = Counter(row["fold"] for members in rows_of_split.values() for row in members)
        raise ValueError(
            f"PTB-XL would have no records for {', '.join(empty)}; labelled records per fold: "
            f"{dict(sorted(per_fold.items()))}. Choose other folds with `validation_fold` and `test_fold`."
        )
    return build_corpus(rows_of_split, corpus_features(multi_label_feature(names)))


def _labels_of_statements(path: Path, task: str) -> tuple[dict[str, str], set[str]]:
    """Return the label of the task for each statement that has one, and which statements are diagnostic."""
    columns = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    table = read_frame(path, columns, "PTB-XL")
    table = table.set_index(table.columns[0])
    diagnostic = set(map(str, table.index[table["diagnostic"] == 1]))
    if task in ("superclass", "subclass"):
        column = "diagnostic_class" if task == "superclass" else "diagnostic_subclass"
        labels = table.loc[table["diagnostic"] == 1, column].dropna()
        return {str(code): str(label) for code, label in labels.items()}, diagnostic
    codes = table.index if task == "all" else table.index[table[task] == 1]
    return {str(code): str(code) for code in codes}, diagnostic


def _parse_statements(text: str, ecg_id: Any) -> dict[str, float]:
    """Return the likelihood of each statement; the file writes a Python dictionary."""
    try:
        return {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"Record {ecg_id} of ptbxl_database.csv has no dictionary as `scp_codes`: {text!r}."
        ) from error


def _describe(row: dict[str, Any], path: Path) -> dict[str, Any]:
    import pandas as pd

    def known(name: str) -> Any:
        value = row.get(name)
        return None if pd.isna(value) else value

    age, patient, sex, report = known("age"), known("patient_id"), known("sex"), known("report")
    return {
        "ecg": str(path),
        "record_id": str(row["ecg_id"]),
        "patient_id": None if patient is None else str(int(patient)),
        "age": 90.0 if age == _AGE_OVER_89 else plausible_age(age),
        "sex": None if sex is None else _SEX.get(int(sex)),
        "fold": int(row["strat_fold"]),
        "report": None if report is None else str(report),
    }
