"""LUDB: 200 records of 200 subjects with diagnoses and, in every lead, the borders of P, QRS and T."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from ..readers.wfdb_annotations import Annotations, read_annotations
from . import register_corpus
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import (
    canonical_sex,
    check_choice,
    check_counts,
    check_flags,
    corpus_folder,
    map_files,
    plausible_age,
    read_rows,
    report_missing,
)
from .sample_classes import DELINEATION_FEATURE
from .splits import DEFAULT_FRACTIONS, check_fractions, split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

# The columns of ludb.csv with diagnoses, by what the option `task` calls them.
COLUMN_OF_TASK = {
    "rhythm": "Rhythms",
    "axis": "Electric axis of the heart",
    "conduction": "Conduction abnormalities",
    "extrasystole": "Extrasystolies",
    "hypertrophy": "Hypertrophies",
    "pacing": "Cardiac pacing",
    "ischemia": "Ischemia",
    "repolarization": "Non-specific repolarization abnormalities",
    "other": "Other states",
}
TASKS = (*COLUMN_OF_TASK, "all")

_WAVE_OF_SYMBOL = {"p": "P", "N": "QRS", "t": "T"}


@register_corpus("ludb")
def load_ludb(
    data_dir: str | os.PathLike,
    *,
    task: str = "all",
    details: bool = True,
    min_positives: int = 1,
    keep_unlabelled: bool = True,
    delineation: bool = True,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load the Lobachevsky University electrocardiography database 1.0.1 in its layout on PhysioNet.

    Twelve leads, 500 Hz, 10 s. Beside the common columns there is `delineation`, a list with one entry per wave of
    each lead: `lead` (as `I`, `aVR`, `V1`), `wave` (`"P"`, `"QRS"`, `"T"`), `onset`, `peak` and `offset` in samples of
    the record. Onset or offset is null where the cardiologists marked none, as for paced QRS complexes, whose onset
    is their spike. `ecg_transformers.corpora.sample_classes.wave_classes` makes a class per sample of it. The first
    and the last beats of a record are not marked. `report` is the list of all diagnoses.

    Source: Kalyakulina et al., IEEE Access 8:186181 (2020), https://physionet.org/content/ludb/1.0.1/, ODC-BY 1.0.
    There is no official split: subjects are distributed at random, balanced by label.

    Args:
        data_dir (`str` or path): the folder with `ludb.csv` and `data`.
        task (`str`, *optional*, defaults to `"all"`): the diagnoses of which column are labels: `"rhythm"`, `"axis"`,
            `"conduction"`, `"extrasystole"`, `"hypertrophy"`, `"pacing"`, `"ischemia"`, `"repolarization"`, `"other"`,
            or `"all"` of them.
        details (`bool`, *optional*, defaults to `True`): `False` drops what a diagnosis says of place and type
            (`Ischemia: inferior wall`, `Atrial extrasystole, type: single pac`), except for the axis of the heart.
        min_positives (`int`, *optional*, defaults to 1): leave out labels with fewer positive records.
        keep_unlabelled (`bool`, *optional*, defaults to `True`): keep records that have none of the labels; they are
            negatives of all.
        delineation (`bool`, *optional*, defaults to `True`): read the annotation files.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_missing (`bool`, *optional*, defaults to `False`): use the records whose files are there instead of
            refusing an incomplete copy.

    Returns:
        `datasets.DatasetDict`: multi-label; the labels are those that occur, in alphabetical order, as `ludb.csv`
        writes them.

    Raises:
        ValueError: for a wrong option, or missing or damaged files.
    """
    check_choice("task", task, TASKS)
    check_fractions(split)
    check_counts(min_positives=min_positives, seed=seed)
    check_flags(details=details, keep_unlabelled=keep_unlabelled, delineation=delineation, skip_missing=skip_missing)
    folder = corpus_folder(data_dir, "ludb")
    table = read_rows(folder / "ludb.csv", ("ID", *COLUMN_OF_TASK.values()), "LUDB")
    paths = [folder / "data" / f"{row['ID']}.hea" for row in table]
    there = map_files(Path.is_file, paths, "Looking for records")
    missing = [str(path) for path, found in zip(paths, there, strict=True) if not found]
    report_missing(missing, len(paths), "records of ludb.csv", skip_missing, "skip_missing")
    kept = [(row, path) for row, path, found in zip(table, paths, there, strict=True) if found]

    wanted = list(COLUMN_OF_TASK) if task == "all" else [task]
    labels_of_row = [
        {_label(text, kind, details) for kind in wanted for text in _statements(row, kind)} for row, _ in kept
    ]
    counts = Counter(label for labels in labels_of_row for label in labels)
    names = sorted(name for name, count in counts.items() if count >= min_positives)
    if not names:
        raise ValueError(
            f"No label of the task {task!r} has {min_positives} positive records; the most frequent are "
            f"{counts.most_common(5)}. Lower `min_positives`."
        )
    waves = map_files(lambda entry: read_delineation(entry[1]) if delineation else None, kept, "Reading waves")
    rows = [
        {
            "ecg": str(path),
            "labels": {name: float(name in labels) for name in names},
            "record_id": row["ID"],
            "patient_id": row["ID"],
            "age": plausible_age(row.get("Age")),
            "sex": canonical_sex(row.get("Sex")),
            "report": ". ".join(text for kind in COLUMN_OF_TASK for text in _statements(row, kind)) or None,
            "delineation": marks,
        }
        for (row, path), labels, marks in zip(kept, labels_of_row, waves, strict=True)
        if keep_unlabelled or labels & set(names)
    ]
    features = corpus_features(multi_label_feature(names))
    if delineation:
        features["delineation"] = DELINEATION_FEATURE
    return build_corpus(split_rows(rows, split, seed), features)


def read_delineation(path: Path) -> list[dict[str, Any]]:
    """Read the waves of all leads of a LUDB record.

    Args:
        path (`Path`): its header; beside it lies one annotation file per lead, `.i` to `.v6`.

    Returns:
        `list[dict]`: `lead`, `wave`, `onset`, `peak`, `offset` per wave, lead by lead, in the order of time.

    Raises:
        ValueError: if a file is missing or is no annotation file.
    """
    marks = []
    for lead in STANDARD_LEADS:
        file = path.with_suffix(f".{lead.lower()}")
        try:
            found = waves_of_annotations(read_annotations(file))
        except ValueError as error:
            raise ValueError(f"{error} The corpus 'ludb' does without waves if `delineation` is False.") from error
        marks += [{"lead": lead, **wave} for wave in found]
    return marks


def waves_of_annotations(annotations: Annotations) -> list[dict[str, Any]]:
    """Join borders and peaks to waves.

    A wave is a peak (`p`, `N`, `t`), its onset `(` and its offset `)`. Borders belong to the peak that they enclose;
    an onset that no peak follows before the offset belongs to the peak before (in some QRS complexes without Q wave
    the peak is marked a few samples early).

    Returns:
        `list[dict]`: `wave`, `onset`, `peak`, `offset`; null where there is no mark.
    """
    waves: list[dict[str, Any]] = []
    onset = None
    for sample, symbol in zip(annotations.samples.tolist(), annotations.symbols, strict=True):
        last = waves[-1] if waves else None
        if symbol == "(":
            onset = sample
        elif symbol in _WAVE_OF_SYMBOL:
            waves.append({"wave": _WAVE_OF_SYMBOL[symbol], "onset": onset, "peak": sample, "offset": None})
            onset = None
        elif symbol == ")" and last is not None and last["offset"] is None:
            last["offset"] = sample
            if last["onset"] is None:
                last["onset"] = onset
            onset = None
    return waves


def _statements(row: dict[str, str], kind: str) -> list[str]:
    """Return the diagnoses of a cell, which has one per line."""
    lines = (" ".join(line.split()).rstrip(".").rstrip() for line in row[COLUMN_OF_TASK[kind]].splitlines())
    return [line for line in lines if line]


def _label(text: str, kind: str, details: bool) -> str:
    return text if details or kind == "axis" else re.split(r":|, (?:type|localisation|morphology)\b", text)[0].strip()
