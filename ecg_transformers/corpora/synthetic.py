"""The embedded corpus: synthetic 12-lead ECGs with known findings, several recordings for each patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import register_corpus
from .corpus_files import check_counts, check_texts
from .synthetic_generator import (
    SYNTHETIC_LABELS,
    SyntheticPatient,
    check_labels,
    check_signal_options,
    draw_patient,
    generate_record,
)
from .synthetic_labels import go_together
from .synthetic_rhythms import RHYTHMS, SINUS_RHYTHMS

if TYPE_CHECKING:
    from datasets import DatasetDict

    from ..record import ECGRecord

__all__ = ["DEFAULT_LABELS", "SYNTHETIC_LABELS", "SyntheticPatient", "draw_patient", "generate_record", "synthetic"]

# Findings that are told by shape and time alone, so that models which scale each lead can learn them too.
DEFAULT_LABELS = (
    "sinus_rhythm",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "atrial_fibrillation",
    "premature_ventricular_beats",
    "left_bundle_branch_block",
    "right_bundle_branch_block",
    "first_degree_av_block",
    "anterior_st_elevation",
)

# Patient number modulo 5 -> split: 60 % train, 20 % validation, 20 % test.
_SPLIT_OF_FOLD = ("train", "validation", "test", "train", "train")

# How often a rhythm underlies a finding that is no rhythm, and how often a second finding joins the first.
_RHYTHM_WEIGHTS = {
    "sinus_rhythm": 0.45,
    "sinus_bradycardia": 0.15,
    "sinus_tachycardia": 0.20,
    "atrial_fibrillation": 0.20,
}
_SECOND_FINDING = 0.12

# Findings that come and go within days; bundle branch blocks and the like stay.
_PASSING = ("premature_ventricular_beats", "anterior_st_elevation", "inferior_st_elevation")

# Rows become Arrow tables in pieces: binary columns hold less than 2 GB a piece, and small pieces keep copies small.
_CHUNK_BYTES = 32_000_000


@register_corpus("synthetic")
def synthetic(
    num_patients: int = 360,
    records_per_patient: int = 2,
    seed: int = 0,
    sampling_rate: float = 500,
    seconds: float = 10.0,
    *,
    labels: Sequence[str] | None = None,
    noise: float = 1.0,
) -> DatasetDict:
    """Build the synthetic corpus in memory.

    Patients are split 60/20/20, all recordings of a patient into one split. From five times as many patients as
    labels on, each label has positives in every split. A patient and a recording depend on `seed` and their own
    numbers only: asking for more patients or recordings leaves the first ones as they were.

    Args:
        num_patients (`int`, *optional*, defaults to 360): at least 3.
        records_per_patient (`int`, *optional*, defaults to 2): recordings of each patient; they share heart and chest.
        seed (`int`, *optional*, defaults to 0): at least 0.
        sampling_rate (`float`, *optional*, defaults to 500): Hz.
        seconds (`float`, *optional*, defaults to 10): length of each recording.
        labels (sequence of `str`, *optional*): findings that occur, from `SYNTHETIC_LABELS`; the nine of
            `DEFAULT_LABELS` by default. Recordings whose rhythm is not among them are in sinus rhythm.
        noise (`float`, *optional*, defaults to 1): factor on the disturbances.

    Returns:
        `datasets.DatasetDict`: `train`, `validation`, `test` with the columns of every corpus; multi-label.

    Raises:
        ValueError: for numbers out of range or unknown labels.

    Example:
        ```python
        corpus = load_corpus("synthetic", num_patients=90, seed=1)
        ```
    """
    from datasets import DatasetDict as _DatasetDict
    from datasets import are_progress_bars_disabled, concatenate_datasets
    from tqdm.auto import tqdm

    from .columns import SPLITS, build_corpus, corpus_features, multi_label_feature

    names = _checked_names(labels)
    check_counts(3, num_patients=num_patients)
    check_counts(1, records_per_patient=records_per_patient)
    check_counts(seed=seed)
    check_signal_options(sampling_rate, seconds, noise)

    features = corpus_features(multi_label_feature(names))
    chunks: dict[str, list] = {split: [] for split in SPLITS}
    rows: dict[str, list] = {split: [] for split in SPLITS}
    record_bytes = 12 * 4 * max(1, round(seconds * sampling_rate))

    def close_chunk(split: str) -> None:
        if rows[split]:
            chunks[split].append(build_corpus({split: rows[split]}, features)[split])
            rows[split] = []

    numbers = [(patient, record) for patient in range(num_patients) for record in range(records_per_patient)]
    for patient, record in tqdm(
        numbers, desc="Generating ECGs", unit="record", disable=are_progress_bars_disabled() or None
    ):
        split = _SPLIT_OF_FOLD[patient % len(_SPLIT_OF_FOLD)]
        row = _row(names, int(seed), patient, record, sampling_rate=sampling_rate, seconds=seconds, noise=noise)
        # Encoded at once: the samples need not be held twice.
        row["ecg"] = features["ecg"].encode_example(row["ecg"])
        rows[split].append(row)
        if len(rows[split]) * record_bytes >= _CHUNK_BYTES:
            close_chunk(split)
    corpus = _DatasetDict()
    for split in SPLITS:
        close_chunk(split)
        corpus[split] = concatenate_datasets(chunks[split]) if len(chunks[split]) > 1 else chunks[split][0]
    return corpus


def _checked_names(labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the label columns in the order of `SYNTHETIC_LABELS`."""
    if labels is None:
        return DEFAULT_LABELS
    wanted = check_texts("labels", [labels] if isinstance(labels, str) else labels, "sinus_rhythm")
    unknown = [label for label in wanted if label not in SYNTHETIC_LABELS]
    if unknown or not wanted:
        raise ValueError(
            f"`labels` names findings of synthetic recordings, at least one; got {wanted!r}. "
            f"Known labels: {', '.join(SYNTHETIC_LABELS)}."
        )
    return tuple(label for label in SYNTHETIC_LABELS if label in wanted)


def _row(names: Sequence[str], seed: int, patient: int, record: int, **options: float) -> dict:
    """Return one row of the corpus."""
    person = np.random.SeedSequence(seed, spawn_key=(patient,))
    findings = _findings(names, seed, patient, 0)
    heart = draw_patient(person, findings)
    if record:
        findings = _findings(names, seed, patient, record)
    own_seed = np.random.SeedSequence(seed, spawn_key=(patient, 1 + record))
    ecg: ECGRecord = generate_record(findings, own_seed, patient=heart, **options)
    ecg.metadata["patient_id"] = f"{seed}-{patient:05d}"
    ecg.metadata["record_id"] = f"{seed}-{patient:05d}-{record}"
    return {
        "ecg": ecg,
        "labels": {name: float(name in findings) for name in names},
        "record_id": ecg.metadata["record_id"],
        "patient_id": ecg.metadata["patient_id"],
        "age": heart.age,
        "sex": heart.sex,
        "fold": patient % len(_SPLIT_OF_FOLD),
        "report": ", ".join(map(_in_words, findings)),
    }


def _in_words(finding: str) -> str:
    """Return a label as words: `first_degree_av_block` as "first degree AV block"."""
    return " ".join(word.upper() if word in ("av", "st") else word for word in finding.split("_"))


def _findings(names: Sequence[str], seed: int, patient: int, record: int) -> tuple[str, ...]:
    """Return the findings of a recording: the patient's chief one, perhaps others, and a rhythm.

    Chief findings go round within each fold, so every split gets all of them.
    """
    folds = len(_SPLIT_OF_FOLD)
    chief = names[(patient // folds + 2 * (patient % folds)) % len(names)]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient, 0, 0)))
    findings = [chief]
    if chief not in RHYTHMS:
        findings.append(_draw_rhythm(rng, names, findings))
    for name in names:
        if rng.random() < _SECOND_FINDING and name not in RHYTHMS and go_together([*findings, name]):
            findings.append(name)
    if record:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient, 0, record)))
        findings = [name for name in findings if name == chief or name not in _PASSING or rng.random() < 0.5]
        rhythm = next(name for name in findings if name in RHYTHMS)
        if chief not in RHYTHMS and rhythm in SINUS_RHYTHMS and rng.random() < 0.4:
            others = [name for name in findings if name != rhythm]
            findings = [*others, _draw_rhythm(rng, names, others, SINUS_RHYTHMS)]
    return check_labels(findings)


def _draw_rhythm(
    rng: np.random.Generator, names: Sequence[str], findings: Sequence[str], rhythms: Sequence[str] = RHYTHMS
) -> str:
    """Return a rhythm that the findings allow; sinus rhythm if no other is asked for."""
    possible = [name for name in rhythms if name in names and go_together([*findings, name])]
    if not possible:
        return "sinus_rhythm"
    weights = np.array([_RHYTHM_WEIGHTS.get(name, 0.05) for name in possible])
    return str(rng.choice(possible, p=weights / weights.sum()))
