"""CODE-test: 827 exams of 827 patients, each read by cardiologists, residents, students and a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from ..readers.hdf5_rows import CODE_TEST_LEADS
from . import register_corpus
from .code15 import ABNORMALITIES
from .columns import build_corpus_from_columns, corpus_features, multi_label_feature
from .corpus_files import canonical_sex, check_choice, corpus_folder, plausible_age, read_frame
from .ecg_feature import ECG

if TYPE_CHECKING:
    import pandas as pd
    from datasets import DatasetDict

ANNOTATORS = ("gold_standard", "cardiologist1", "cardiologist2", "cardiology_residents", "emergency_residents")
ANNOTATORS += ("medical_students", "dnn")


@register_corpus("code_test")
def load_code_test(data_dir: str | os.PathLike, *, annotator: str = "gold_standard") -> DatasetDict:
    """Load CODE-test, which is for testing only: the corpus has the split `test` and no other.

    Ribeiro et al., Nature Communications 11:1760 (2020), Zenodo 3625006, CC BY 4.0: 12 leads at 400 Hz, of patients
    none of whom is in CODE. Records of 7 to 10 s are stored in rows of 4096 samples; the zeros on both sides are cut
    off. Amplitudes are taken as mV, see `load_code15`. The leads are stored in the order I, II, III, aVL, aVF, aVR, V1
    to V6; records are read in the usual order, by name.

    Not seen on the real files: tested on files in the documented layout.

    Args:
        data_dir (`str` or path): the folder with `ecg_tracings.hdf5`, `attributes.csv` and the folder `annotations`.
        annotator (`str`, *optional*, defaults to `"gold_standard"`): whose reading the labels are: `"gold_standard"`
            (both cardiologists, a third where they differ), `"cardiologist1"`, `"cardiologist2"`,
            `"cardiology_residents"`, `"emergency_residents"`, `"medical_students"` or `"dnn"` (the authors' network).

    Returns:
        `datasets.DatasetDict`: `test` alone, multi-label with the labels of `code15` in the same order, with age and
        sex; `record_id` is the number of the row, from 0.

    Raises:
        ValueError: for a wrong option, missing files, or tables that do not fit the recordings.
        ImportError: without h5py.
    """
    check_choice("annotator", annotator, ANNOTATORS)
    folder = corpus_folder(data_dir, "code_test")
    tracings = folder / "ecg_tracings.hdf5"
    num_exams = _num_exams(tracings)
    labels = _read_table(folder / "annotations" / f"{annotator}.csv", ABNORMALITIES, num_exams)
    attributes = _read_table(folder / "attributes.csv", ("age", "sex"), num_exams)
    wrong = labels[list(ABNORMALITIES)].stack()
    wrong = sorted(set(wrong[~wrong.isin([0, 1])]))
    if wrong:
        raise ValueError(f"The annotations of {annotator} are 0 or 1; found {', '.join(map(str, wrong[:5]))}.")
    columns = {
        "ecg": [f"{tracings}#tracings:{row}" for row in range(num_exams)],
        "labels": {name: labels[name].to_numpy(dtype=float) for name in ABNORMALITIES},
        "record_id": [str(row) for row in range(num_exams)],
        "age": [plausible_age(age) for age in attributes["age"]],
        "sex": [canonical_sex(sex) for sex in attributes["sex"]],
    }
    feature = ECG(lead_names=STANDARD_LEADS, file_sampling_rate=400, file_lead_names=CODE_TEST_LEADS, file_units="mV")
    return build_corpus_from_columns({"test": columns}, corpus_features(multi_label_feature(ABNORMALITIES), feature))


def _num_exams(path: Path) -> int:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("CODE-test needs h5py: pip install 'ecg-transformers[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            shape = file["tracings"].shape
    except (OSError, KeyError) as error:
        raise ValueError(
            f"CODE-test needs {path} with the dataset tracings: {error}. Point `data_dir` at the unpacked data set."
        ) from error
    if len(shape) != 3 or shape[2] != len(CODE_TEST_LEADS):
        raise ValueError(f"{path} has tracings of shape {shape}; expected (exams, samples, 12).")
    return shape[0]


def _read_table(path: Path, columns: tuple[str, ...], num_exams: int) -> pd.DataFrame:
    table = read_frame(path, columns, "CODE-test")
    if len(table) != num_exams:
        raise ValueError(f"{path} has {len(table)} rows for {num_exams} recordings; they belong together by number.")
    return table
