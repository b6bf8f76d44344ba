"""A part of the labelled training records, by patient: how few labels a model needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def select_label_fraction(groups: Sequence[Any], targets: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Choose whole patients until they hold a fraction of the labelled records.

    Patients come in one order, drawn from the seed, and a fraction is the beginning of that order; so a smaller
    fraction is contained in every larger one. The order starts with patients who together have every label, the rarest
    first, so that a fraction of at least so many patients has a positive of each label; the others follow at random.
    In a very small fraction rare labels are therefore more frequent than in the corpus.

    Args:
        groups (sequence of length `records`): the patient of each record.
        targets (`np.ndarray`): `(records, labels)` with 1, 0 or NaN (unknown; a regression's values are taken as
            known), or `(records,)` class indices, negative where unknown.
        fraction (`float`): above 0, at most 1. The last patient may exceed it.
        seed (`int`, *optional*, defaults to 0): of the order.

    Returns:
        `np.ndarray`: sorted indices of the chosen records; none of them is without any known label.

    Raises:
        ValueError: if the fraction is out of range, or lengths differ.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"A fraction of the labels is above 0 and at most 1; got {fraction}.")
    if len(groups) != len(targets):
        raise ValueError(f"Each record has a patient and targets; got {len(groups)} and {len(targets)}.")
    if targets.ndim == 1:
        classes = np.unique(targets[targets >= 0])
        known, positive = targets >= 0, targets[:, None] == classes
    else:
        known, positive = ~np.isnan(targets).all(axis=1), targets == 1
    labelled = np.flatnonzero(known)
    patients, patient_of_record = np.unique(np.asarray(groups)[labelled], return_inverse=True)
    has_label = np.zeros((len(patients), positive.shape[1]), dtype=bool)
    np.logical_or.at(has_label, patient_of_record, positive[labelled])
    order = _covering_order(has_label, np.random.default_rng(seed).permutation(len(patients)))

    held = np.cumsum(np.bincount(patient_of_record, minlength=len(patients))[order])
    wanted = max(1, round(fraction * len(labelled)))
    chosen = order[: int(np.searchsorted(held, wanted)) + 1]
    return labelled[np.isin(patient_of_record, chosen)]


def _covering_order(has_label: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Move patients who together have every label to the front of a drawn order, those of the rarest label first."""
    first: list[int] = []
    covered = np.zeros(has_label.shape[1], dtype=bool)
    frequency = has_label.sum(axis=0)
    for label in np.argsort(frequency, kind="stable"):
        if frequency[label] and not covered[label]:
            patient = int(drawn[np.argmax(has_label[drawn, label])])
            first.append(patient)
            covered |= has_label[patient]
    return np.concatenate([np.array(first, dtype=np.int64), drawn[~np.isin(drawn, first)]])
