"""CODE-15 %: 345,779 exams of 233,770 patients of a telehealth network, with six abnormalities."""

from __future__ import annotations

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
    corpus_folder,
    map_files,
    read_columns,
    report_missing,
)
from .splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_by_group

if TYPE_CHECKING:
    from datasets import DatasetDict

ABNORMALITIES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")

# What each task predicts: columns of exams.csv.
_TARGETS = {"abnormalities": ABNORMALITIES, "age": ("age",), "death": ("death",), "normal": ("normal_ecg",)}

_BOOLEANS = ("is_male", *ABNORMALITIES, "normal_ecg", "death")
_TYPES = {name: pa.bool_() for name in _BOOLEANS} | {"exam_id": pa.int64(), "patient_id": pa.int64()}
_TYPES |= {"age": pa.float64(), "trace_file": pa.string()}


@register_corpus("code15")
def load_code15(
    data_dir: str | os.PathLike,
    *,
    task: str = "abnormalities",
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load CODE-15 % in its original layout: `exams.csv` and `exams_part0.hdf5` to `exams_part17.hdf5`, unpacked.

    Ribeiro et al., CODE-15 %, Zenodo 4916206 (2021), CC BY 4.0: 12 leads at 400 Hz, collected in Minas Gerais from
    2010 to 2016. Only the table and the exam numbers of the parts are read, in a second or two; each record is read
    from its row when it is asked for (needs the extra `hdf5`).

    - Records of 7 to 10 s are stored in rows of 4096 samples, with zeros on both sides. The zeros are cut off: a
      record is as long as it was recorded, and models mask what they add themselves.
    - Amplitudes are taken as mV. The data set's page names no unit, its authors' README says "1e-4 V" and in the same
      sentence a factor of 1000 to volts; amplitudes are about twice those of other sets.
    - Each part ends with a row of zeros whose `exam_id` is 0. It is in no table and never used.
    - `death` (death during follow-up, whose length differs) is known of the first exam of each patient only.

    Splits are by patient, who have up to 38 exams. They follow from all of `exams.csv` and are balanced on the six
    abnormalities, so they are the same for every task and whichever parts are there.

    Not seen on the real files: tested on files in the documented layout.

    Args:
        data_dir (`str` or path): the folder with `exams.csv` and the parts.
        task (`str`, *optional*, defaults to `"abnormalities"`): `"abnormalities"` (1dAVb, RBBB, LBBB, SB, ST, AF;
            multi-label), `"age"` (years; regression), `"death"` or `"normal"` (one label each). Exams whose target is
            blank are left out.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): use the parts that are there instead of refusing an
            incomplete copy.

    Returns:
        `datasets.DatasetDict`: with patient, age and sex; `record_id` is the `exam_id`.

    Raises:
        ValueError: for a wrong option, missing or damaged files, or exams that are in no part.
        ImportError: without h5py.
    """
    check_choice("task", task, _TARGETS)
    check_fractions(split)
    check_counts(seed=seed)
    check_flags(skip_missing=skip_missing)
    folder = corpus_folder(data_dir, "code15")
    targets = _TARGETS[task]
    exams = _read_exams(folder / "exams.csv")
    rows = _rows_of_exams(exams, folder, skip_missing)

    # A patient who is not known stands alone; ids are positive.
    patients = exams["patient_id"]
    groups = np.where(patients.is_null(), -1 - np.arange(len(patients)), patients.fill_null(0))
    strata = np.stack([_numbers(exams[name]) for name in ABNORMALITIES], axis=1)
    splits = split_by_group(groups, strata, split, seed)

    age = _numbers(exams["age"])
    age[~((age >= 0) & (age <= 130))] = np.nan
    values = {name: age if name == "age" else _numbers(exams[name]) for name in targets}
    usable = (rows >= 0) & ~np.isnan(np.stack(list(values.values()))).all(axis=0)
    if not usable.any():
        raise ValueError(f"No exam of {folder / 'exams.csv'} has a known target of the task {task!r}.")
    # Arrow writes the references, 345,779 of them in no time.
    paths = pc.binary_join_element_wise(
        pc.binary_join_element_wise(str(folder), exams["trace_file"], os.sep),
        pc.cast(pa.array(rows), pa.string()),
        "#tracings:",
    )
    columns = {
        "ecg": paths,
        "record_id": pc.cast(exams["exam_id"], pa.string()),
        "patient_id": pc.cast(patients, pa.string()),
        "age": pa.array(age, from_pandas=True),
        "sex": pc.if_else(exams["is_male"], "male", "female"),
    }
    columns_of_split: dict[str, dict[str, Any]] = {}
    for name, members in zip(SPLITS, splits, strict=True):
        chosen = members[usable[members]]
        taken = {column: array.take(pa.array(chosen)) for column, array in columns.items()}
        columns_of_split[name] = taken | {"labels": {target: array[chosen] for target, array in values.items()}}
    feature = regression_feature(targets) if task == "age" else multi_label_feature(targets)
    return build_corpus_from_columns(columns_of_split, corpus_features(feature))


def _read_exams(path: Path) -> dict[str, pa.Array]:
    """Return the columns of `exams.csv` that are used."""
    exams = read_columns(path, _TYPES, "CODE-15 %")
    if exams["exam_id"].null_count or exams["trace_file"].null_count:
        raise ValueError(f"{path} has exams without exam_id or trace_file.")
    return exams


def _numbers(array: pa.Array) -> np.ndarray:
    """Return booleans or numbers as float64, NaN where null."""
    return pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False).copy()


def _rows_of_exams(exams: dict[str, pa.Array], folder: Path, skip_missing: bool) -> np.ndarray:
    """Return the row of each exam in its part, -1 where the part is missing."""
    encoded = exams["trace_file"].dictionary_encode()
    names = encoded.dictionary.to_pylist()
    part_of_exam = encoded.indices.to_numpy()
    there = [(folder / name).is_file() for name in names]
    missing = [f"{name} (unpack {Path(name).stem}.zip)" for name, found in zip(names, there, strict=True) if not found]
    report_missing(missing, len(names), "parts of CODE-15 %", skip_missing, "skip_missing")

    exam_ids = exams["exam_id"]
    rows = np.full(len(exam_ids), -1, dtype=np.int64)
    parts = [number for number, found in enumerate(there) if found]
    ids_of_part = map_files(lambda number: _read_exam_ids(folder / names[number]), parts, "Reading exam numbers")
    for number, ids in zip(parts, ids_of_part, strict=True):
        members = np.flatnonzero(part_of_exam == number)
        wanted = exam_ids.take(pa.array(members))
        place = pc.index_in(wanted, value_set=pa.array(ids))
        if place.null_count:
            absent = [str(exam_id) for exam_id in wanted.filter(place.is_null()).to_pylist()]
            named = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            raise ValueError(
                f"{folder / names[number]} lacks {len(absent)} exams that exams.csv says are in it: {named}. Fetch "
                "table and part again; they belong together."
            )
        rows[members] = place.to_numpy()
    return rows


def _read_exam_ids(path: Path) -> np.ndarray:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("CODE-15 % needs h5py: pip install 'ecg-transformers[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            ids, shape = file["exam_id"][:], file["tracings"].shape
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path} is no part of CODE-15 %, with the datasets exam_id and tracings: {error}. Fetch it again."
        ) from error
    if ids.ndim != 1 or not len(ids) or len(shape) != 3 or len(ids) != shape[0]:
        raise ValueError(f"{path} has exam_id of shape {ids.shape} and tracings of shape {shape}; fetch it again.")
    return ids.astype(np.int64)
