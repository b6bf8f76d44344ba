"""Choosing decision thresholds on validation data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from .challenge import ChallengeWeights, join_classes, match_classes, record_credits
from .score_inputs import ArrayLike, check_binary_targets, check_label_names, check_probabilities

DEFAULT_THRESHOLD = 0.5
_MAX_SWEEPS = 20


def select_thresholds(
    targets: ArrayLike,
    probabilities: ArrayLike,
    criterion: Literal["f1", "youden", "challenge"] = "f1",
    *,
    label_names: Sequence[str] | None = None,
    challenge_weights: ChallengeWeights | None = None,
    aliases: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Choose one threshold per label on validation data (never on the test set).

    Every cut between two neighbouring probabilities is tried; the threshold is the middle between them, so it is used
    with "strictly above". Of equally good cuts the one nearest 0.5 is taken.

    Args:
        targets (array of shape `(records, labels)`): 0, 1 or NaN (unknown, left out of that label).
        probabilities (array of the same shape): predicted probabilities in 0..1.
        criterion (`"f1"`, `"youden"` or `"challenge"`, *optional*, defaults to `"f1"`): what is maximised. `youden` is
            sensitivity + specificity - 1 (Youden, Cancer 3:32, 1950; what the DeepECG thresholds use), `challenge` the
            CinC score, by improving one label's threshold at a time until none improves.
        label_names (sequence of `str`, *optional*): names of the columns, needed for `challenge`.
        challenge_weights (`ChallengeWeights`, *optional*): needed for `challenge`. Labels without weights get the `f1`
            threshold.
        aliases (mapping, *optional*): as in `challenge_score`.

    Returns:
        `np.ndarray` of shape `(labels,)`, float64. Labels without both classes get 0.5, and a `UserWarning` names
        them.

    Raises:
        ValueError: if inputs do not fit together, or the criterion is unknown or lacks what it needs.
    """
    targets = check_binary_targets(targets)
    probabilities = check_probabilities(probabilities, targets.shape)
    names = check_label_names(label_names, targets.shape[1])
    if criterion not in ("f1", "youden", "challenge"):
        raise ValueError(f"`criterion` is {criterion!r}; it must be 'f1', 'youden' or 'challenge'.")
    if criterion == "challenge" and (challenge_weights is None or label_names is None):
        raise ValueError("The criterion 'challenge' needs `challenge_weights` and `label_names`.")

    thresholds = np.full(len(names), DEFAULT_THRESHOLD)
    one_class = ~((targets == 1).any(axis=0) & (targets == 0).any(axis=0))
    if one_class.any():
        missing = [name for name, alone in zip(names, one_class, strict=True) if alone]
        warnings.warn(
            f"{len(missing)} labels do not have both classes in these data and get the threshold {DEFAULT_THRESHOLD}: "
            f"{', '.join(missing)}.",
            stacklevel=2,
        )
    for label in np.flatnonzero(~one_class):
        known = ~np.isnan(targets[:, label])
        thresholds[label] = _best_threshold(targets[known, label], probabilities[known, label], criterion)
    if criterion == "challenge":
        class_of_label = match_classes(names, challenge_weights, aliases)
        free = np.flatnonzero(~one_class & (class_of_label >= 0))
        _climb_challenge_score(targets, probabilities, thresholds, free, class_of_label, challenge_weights.values)
    return thresholds


def _best_threshold(targets: np.ndarray, probabilities: np.ndarray, criterion: str) -> float:
    order = np.argsort(-probabilities, kind="stable")
    cuts, thresholds = _cuts(probabilities[order])
    true_positives = np.cumsum(targets[order])[cuts]
    predicted = cuts + 1
    num_positives, num_records = targets.sum(), len(targets)
    if criterion == "youden":
        values = true_positives / num_positives - (predicted - true_positives) / (num_records - num_positives)
    else:
        values = 2 * true_positives / (predicted + num_positives)
    return _pick(values, thresholds)


def _cuts(descending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last predicted position of every possible cut, and a threshold for each."""
    lower = np.append(descending[1:], 0.0)
    cuts = np.flatnonzero(descending > lower)
    # All records at probability 0 allow no cut; 0.5 then predicts none of them, as any threshold would.
    if cuts.size == 0:
        return np.array([len(descending) - 1]), np.array([DEFAULT_THRESHOLD])
    middle = 0.5 * (descending[cuts] + lower[cuts])
    # The middle of two neighbouring floats can round up to the upper one.
    return cuts, np.where(middle < descending[cuts], middle, lower[cuts])


def _pick(values: np.ndarray, thresholds: np.ndarray) -> float:
    # Sums in another order differ by rounding; such cuts count as equally good.
    best = np.flatnonzero(values >= values.max() - 1e-12 * max(1.0, abs(values.max())))
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - DEFAULT_THRESHOLD))]])


def _climb_challenge_score(
    targets: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    free: np.ndarray,
    class_of_label: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Improve `thresholds` in place, one label at a time.

    The other labels fixed, a record's credit has two values, with and without this label; sorted by probability, the
    credit of every cut is one cumulative sum. Credit can only grow, so the climb ends.
    """
    num_classes = len(weights)
    true, known = join_classes(targets, class_of_label, num_classes)
    decisions = (probabilities > thresholds).astype(np.float64)

    def credits() -> np.ndarray:
        predicted, _ = join_classes(decisions, class_of_label, num_classes)
        return record_credits(true, predicted * known, weights)

    best = credits().sum()
    for _ in range(_MAX_SWEEPS):
        before = best
        for label in free:
            current = decisions[:, label].copy()
            decisions[:, label] = 1
            with_label = credits()
            decisions[:, label] = 0
            without_label = credits()
            order = np.argsort(-probabilities[:, label], kind="stable")
            cuts, cut_thresholds = _cuts(probabilities[order, label])
            # The first entry predicts the label for no record: threshold 1 is above every probability.
            gains = np.append(0.0, np.cumsum((with_label - without_label)[order])[cuts])
            cut_thresholds = np.append(1.0, cut_thresholds)
            value = without_label.sum() + gains.max()
            if value > best + 1e-9:
                thresholds[label] = _pick(gains, cut_thresholds)
                decisions[:, label] = probabilities[:, label] > thresholds[label]
                best = credits().sum()
            else:
                decisions[:, label] = current
        if best <= before + 1e-9:
            return
