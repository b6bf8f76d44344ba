"""SPH: 25,770 records of 24,666 patients of Shandong Provincial Hospital with AHA statements and modifiers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import register_corpus
from .columns import build_corpus_from_columns, corpus_features, multi_label_feature
from .corpus_files import (
    canonical_sex,
    check_choice,
    check_counts,
    check_flags,
    corpus_folder,
    map_files,
    plausible_age,
    read_frame,
    report_missing,
)
from .splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_by_group

if TYPE_CHECKING:
    from datasets import DatasetDict

TASKS = ("statements", "all", "qualified")

_COLUMNS = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex")


@register_corpus("sph")
def load_sph(
    data_dir: str | os.PathLike,
    *,
    task: str = "statements",
    min_positives: int = 0,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load SPH: one HDF5 file per record (in `data_dir` or its folder `records`) and `metadata.csv`.

    Liu et al., Scientific Data 9:272 (2022), CC BY 4.0: 12 leads, 500 Hz, 10 to 60 s, mV. Rate, unit and the order of
    the leads are conventions of the data set, see `read_ecg`. Reading records needs the extra `hdf5`.

    Diagnoses are statements of the AHA, ACC and HRS recommendations, some qualified by modifiers: `60+310;147` is
    statement 60 with modifier 310, and statement 147. There are 44 statements and 15 modifiers. Where `code.csv`
    (columns `Code` and `Description`) is in the folder, its words name the labels and fill `report`; without it labels
    are named by their codes, and `report` is null.

    The data set has no official split: this one is by patient, balanced on the labels.

    Seen on six real records; `code.csv` and the whole of the data set not seen on the real files.

    Args:
        data_dir (`str` or path): the folder with `metadata.csv`.
        task (`str`, *optional*, defaults to `"statements"`): `"statements"`: one label per statement, whatever its
            modifiers; `"all"`: one per statement and one per modifier; `"qualified"`: one per statement with its
            modifiers, so that 60 and 60+310 are two labels. Multi-label; labels are those that occur, by code.
        min_positives (`int`, *optional*, defaults to 0): leave out labels with fewer positive records; records that
            have no other stay as negatives.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): use the records whose files are there instead of
            refusing an incomplete copy.

    Returns:
        `datasets.DatasetDict`: with patient, age and sex; a record without a code has unknown (null) labels.

    Raises:
        ValueError: for a wrong option, missing or damaged files.
    """
    check_choice("task", task, TASKS)
    check_fractions(split)
    check_counts(min_positives=min_positives, seed=seed)
    check_flags(skip_missing=skip_missing)
    folder = corpus_folder(data_dir, "sph")
    table = read_frame(folder / "metadata.csv", _COLUMNS, "SPH", as_text=True)
    files = map_files(lambda name: _find_file(folder, name), list(table["ECG_ID"]), "Looking for records")
    missing = [name for name, file in zip(table["ECG_ID"], files, strict=True) if file is None]
    report_missing(missing, len(files), "records of metadata.csv", skip_missing, "skip_missing")
    there = [index for index, file in enumerate(files) if file is not None]
    table = table.iloc[there]

    statements = [_parse_codes(text, name) for text, name in zip(table["AHA_Code"], table["ECG_ID"], strict=True)]
    labels_of_record = [{label for one in found for label in _labels(one, task)} for found in statements]
    counts = Counter(label for labels in labels_of_record for label in labels)
    labels = sorted(label for label, count in counts.items() if count >= min_positives)
    if not labels:
        raise ValueError(
            f"No label has {min_positives} positive records; the most frequent are {counts.most_common(5)}. Lower "
            "`min_positives`."
        )
    words = _read_words(folder / "code.csv")
    names = _label_names(labels, words or {})
    matrix = np.array([[float(label in found) for label in labels] for found in labels_of_record])
    matrix[[not found for found in statements]] = np.nan

    patients = [patient or None for patient in table["Patient_ID"]]
    columns: dict[str, list[Any]] = {
        "ecg": [files[index] for index in there],
        "record_id": [_without_ending(name) for name in table["ECG_ID"]],
        "patient_id": patients,
        "age": [plausible_age(age) for age in table["Age"]],
        "sex": [canonical_sex(sex) for sex in table["Sex"]],
        "report": [None if words is None else _report(found, words) for found in statements],
    }
    groups = [patient or ("record", name) for patient, name in zip(patients, columns["record_id"], strict=True)]
    splits = split_by_group(groups, matrix, split, seed)
    return build_corpus_from_columns(
        {
            name: {column: [values[index] for index in members] for column, values in columns.items()}
            | {"labels": dict(zip(names, matrix[members].T, strict=True))}
            for name, members in zip(SPLITS, splits, strict=True)
        },
        corpus_features(multi_label_feature(names)),
    )


def _without_ending(name: str) -> str:
    return name.removesuffix(".h5")


def _find_file(folder: Path, name: str) -> str | None:
    for parent in (folder, folder / "records"):
        path = parent / f"{_without_ending(name)}.h5"
        if path.is_file():
            return str(path)
    return None


def _parse_codes(text: str, name: str) -> list[tuple[int, ...]]:
    """Return the statements of a record, each with its modifiers behind it."""
    try:
        statements = [tuple(int(code) for code in one.split("+")) for one in text.split(";") if one.strip()]
    except ValueError:
        raise ValueError(f"The AHA_Code of {name} is {text!r}; expected numbers such as '60+310;147'.") from None
    # Modifiers in any order mean the same.
    return [(statement, *sorted(set(modifiers))) for statement, *modifiers in statements]


def _labels(statement: tuple[int, ...], task: str) -> list[tuple[int, ...]]:
    if task == "qualified":
        return [statement]
    return [(code,) for code in (statement if task == "all" else statement[:1])]


def _read_words(path: Path) -> dict[int, str] | None:
    """Return the words of each code, or `None` where there is no `code.csv`."""
    if not path.is_file():
        return None
    table = read_frame(path, ("Code", "Description"), "SPH", as_text=True)
    try:
        return {int(code): words for code, words in zip(table["Code"], table["Description"], strict=True) if words}
    except ValueError as error:
        raise ValueError(f"The column Code of {path} holds numbers: {error}.") from error


def _in_words(codes: tuple[int, ...], words: dict[int, str]) -> str:
    if not all(code in words for code in codes):
        return "+".join(map(str, codes))
    return " + ".join(words[code] for code in codes)


def _label_names(labels: list[tuple[int, ...]], words: dict[int, str]) -> list[str]:
    names = [_in_words(label, words) for label in labels]
    counts = Counter(names)
    return [
        f"{name} ({'+'.join(map(str, label))})" if counts[name] > 1 else name
        for name, label in zip(names, labels, strict=True)
    ]


def _report(statements: list[tuple[int, ...]], words: dict[int, str]) -> str | None:
    return "; ".join(_in_words(statement, words) for statement in statements) or None
