"""Brugada-HUCA: 363 subjects, with and without Brugada syndrome, of the Hospital Universitario Central de Asturias."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import register_corpus
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import check_choice, check_counts, check_flags, corpus_folder, map_files, read_rows, report_missing
from .splits import DEFAULT_FRACTIONS, check_fractions, split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

LABELS = ("brugada", "basal_pattern", "sudden_death")
_OTHER = {"unknown": None, "positive": 1.0, "negative": 0.0}


@register_corpus("brugada_huca")
def load_brugada_huca(
    data_dir: str | os.PathLike,
    *,
    task: str = "brugada",
    other: str = "unknown",
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load Brugada-HUCA 1.0.0 in its layout on PhysioNet.

    Twelve leads, 100 Hz, 12 s, one record per subject. The labels are columns of `metadata.csv`: `brugada` (the
    diagnosis), `basal_pattern` (the ECG at rest is pathological, whatever the diagnosis), `sudden_death`. Age, sex and
    report are not published.

    Some subjects have `brugada` 2, other or atypical cases by what its users write; the data dictionary of the set
    was not at hand when this was written. They are unknown unless `other` says otherwise.

    Source: https://physionet.org/content/brugada-huca/1.0.0/, CC BY-SA 4.0. There is no official split: subjects are
    distributed at random, balanced by label.

    Args:
        data_dir (`str` or path): the folder with `metadata.csv` and `files`.
        task (`str`, *optional*, defaults to `"brugada"`): the label: `"brugada"`, `"basal_pattern"`,
            `"sudden_death"`, or `"all"` three.
        other (`str`, *optional*, defaults to `"unknown"`): what a value other than 0 and 1 is: `"unknown"` (null),
            `"positive"` or `"negative"`.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): use the records whose files are there instead of
            refusing an incomplete copy.

    Returns:
        `datasets.DatasetDict`: multi-label.

    Raises:
        ValueError: for a wrong option, missing files, or a value that is no number.
    """
    check_choice("task", task, (*LABELS, "all"))
    check_choice("other", other, _OTHER)
    check_fractions(split)
    check_counts(seed=seed)
    check_flags(skip_missing=skip_missing)
    folder = corpus_folder(data_dir, "brugada_huca")
    table = read_rows(folder / "metadata.csv", ("patient_id", *LABELS), "Brugada-HUCA")
    paths = [folder / "files" / row["patient_id"] / f"{row['patient_id']}.hea" for row in table]
    there = map_files(Path.is_file, paths, "Looking for records")
    missing = [str(path) for path, found in zip(paths, there, strict=True) if not found]
    report_missing(missing, len(paths), "records of metadata.csv", skip_missing, "skip_missing")

    names = LABELS if task == "all" else (task,)
    rows, others = [], 0
    for row, path, found in zip(table, paths, there, strict=True):
        if not found:
            continue
        labels = {name: _value(row[name], name, row["patient_id"]) for name in names}
        others += any(value not in (0, 1, None) for value in labels.values())
        rows.append(
            {
                "ecg": str(path),
                "labels": {name: value if value in (0, 1, None) else _OTHER[other] for name, value in labels.items()},
                "record_id": row["patient_id"],
                "patient_id": row["patient_id"],
            }
        )
    if others:
        logger.warning(
            "%d subjects have a label other than 0 and 1 (such as brugada = 2); they are taken as %s. The option "
            "`other` says otherwise.",
            others,
            other,
        )
    return build_corpus(split_rows(rows, split, seed), corpus_features(multi_label_feature(names)))


def _value(text: str, column: str, patient: str) -> float | None:
    """Return a label as a number; a blank cell is unknown."""
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(
            f"metadata.csv of Brugada-HUCA has {column} = {text!r} for subject {patient}; a number is expected."
        ) from None
