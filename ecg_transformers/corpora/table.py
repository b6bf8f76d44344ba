"""Your own files: a CSV that names each file and its labels, as the HuBERT-ECG repository uses it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from . import register_corpus
from .columns import build_corpus, corpus_features, shares_of_train
from .corpus_files import check_choice, map_files, report_missing
from .ecg_feature import ECG
from .splits import DEFAULT_FRACTIONS, check_no_leak, split_by_group
from .table_rows import (
    PROBLEM_TYPES,
    UNLABELLED,
    Targets,
    choose_label_columns,
    find_file,
    guess_problem_type,
    locate,
    names_within,
    probe_files,
    read_table,
    rows_of_table,
)

if TYPE_CHECKING:
    from datasets import DatasetDict


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

    Files may be of any format that `read_ecg` reads, also mixed; their column may be called `file` too. A name may
    be that of one row of an HDF5 file, such as `exams.hdf5#tracings:17`. Columns called `patient_id`, `record_id`,
    `fold`, `report` and `memmap_idx` are never labels.

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
        only target (a blank class or number) are left out. `record_id` is the path within the folder without its
        ending unless the table has the column.

    Raises:
        ValueError: for missing columns or files, values that are no labels, or a patient in two tables.
    """
    if problem_type is not None:
        check_choice("problem_type", problem_type, PROBLEM_TYPES)
    if isinstance(lead_names, str):
        check_choice("lead_names", lead_names, ("standard",))
        lead_names = STANDARD_LEADS
    given = {"train": train_csv, "validation": validation_csv, "test": test_csv}
    paths = {name: locate(path, data_dir) for name, path in given.items() if path is not None}
    shares = shares_of_train(paths, split)
    tables = {name: read_table(path) for name, path in paths.items()}

    columns = choose_label_columns(tables, label_start_index, label_columns, patient_column)
    kind = UNLABELLED if not columns else problem_type or guess_problem_type(tables, columns)
    targets = Targets(kind, columns, tables)
    feature = ECG(file_sampling_rate=sampling_rate, file_lead_names=lead_names, file_units=units)

    rows_of_split: dict[str, list[dict[str, Any]]] = {}
    files_of_folder: dict[Path, set[str]] = defaultdict(set)
    for name, table in tables.items():
        csv_path = paths[name]
        default = data_dir or csv_path.parent
        folder = Path(os.path.abspath(default if ecg_dir is None else locate(ecg_dir, data_dir)))
        if not folder.is_dir():
            raise ValueError(f"`ecg_dir` is the folder with the ECG files; there is none at {folder}.")
        rows = rows_of_table(table, csv_path, targets, patient_column, sex_codes or {})
        files = map_files(lambda row, folder=folder: find_file(row["ecg"], folder), rows, "Looking for records")
        missing = [row["ecg"] for row, file in zip(rows, files, strict=True) if file is None]
        report_missing(
            missing, len(rows), f"files of {csv_path} in {folder} (`ecg_dir`)", skip_missing, "skip_missing"
        )
        rows_of_split[name] = [{**row, "ecg": file} for row, file in zip(rows, files, strict=True) if file is not None]
        if not rows_of_split[name]:
            raise ValueError(f"{csv_path} gives no records with a known target.")
        files_of_folder[folder].update(row["ecg"] for row in rows_of_split[name])
    # A file has one name in all tables, so that a recording in two of them is noticed.
    names = {}
    for folder, files in files_of_folder.items():
        names.update(names_within(sorted(files), folder))
    for row in (row for rows in rows_of_split.values() for row in rows):
        row["record_id"] = row["record_id"] or names[row["ecg"]]
    probe_files(rows_of_split, feature)

    if shares:
        rows = rows_of_split["train"]
        groups = [row["patient_id"] or ("record", row["record_id"]) for row in rows]
        strata = targets.strata([row["labels"] for row in rows])
        for name, indices in zip(shares, split_by_group(groups, strata, list(shares.values()), seed), strict=True):
            rows_of_split[name] = [rows[index] for index in indices]
    features = corpus_features(targets.feature(), feature)
    if not columns:
        del features["labels"]
    corpus = build_corpus(rows_of_split, features)
    check_no_leak(corpus)
    return corpus


def table_columns(path: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> list[str]:
    """Return the names of a table's columns.

    Args:
        path: of the table, from `data_dir` or else from the current folder.
        data_dir (*optional*): as for `load_table`.

    Raises:
        ValueError: if it cannot be read, has no column `filename`, or no rows.
    """
    return list(read_table(locate(path, data_dir)).columns)
