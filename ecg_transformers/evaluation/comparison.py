"""Compare classifiers on the same records: macro AUROC of each, and of two the difference, with paired intervals.

All are scored on the same resamples of patients, so what makes a record hard for both does not widen the interval of
their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .bootstrap import check_level, interval_limits, plain_interval, resample_blocks
from .ranking import curve_areas, rank_label
from .score_inputs import ArrayLike, check_binary_targets, check_label_names, mean_of_known, plain


class PairedAUROC:
    """AUROC of several classifiers on the same resamples of patients.

    Labels with one class only have no AUROC and are left out of the macro mean, for all classifiers alike.

    Args:
        targets (array of shape `(records, labels)`): 0, 1 or NaN (unknown).
        scores (mapping): name -> array of shape `(records, labels)` of finite scores, higher for positives; or
            `(runs, records, labels)` for one classifier trained several times, whose AUROC is the mean over its runs.
        label_names (sequence of `str`, *optional*): names of the columns; `label_0`, ... if absent.
        groups (array of shape `(records,)`, *optional*): patient of each record; whole patients are drawn.
        num_resamples (`int`, *optional*, defaults to 1000): 0 leaves the intervals out.
        level (`float`, *optional*, defaults to 0.95): coverage of the percentile intervals.
        seed (`int`, *optional*, defaults to 0): the same seed gives the same resamples.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or a score is not finite.

    Example:
        >>> compared = PairedAUROC(targets, {"trained": trained, "untrained": untrained}, groups=patients)
        >>> compared.difference("trained", "untrained")
        {'value': 0.081, 'lower': 0.060, 'upper': 0.103, 'num_resamples': 1000}
    """

    def __init__(
        self,
        targets: ArrayLike,
        scores: Mapping[str, ArrayLike],
        *,
        label_names: Sequence[str] | None = None,
        groups: ArrayLike | None = None,
        num_resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ):
        check_level(level, "percentile")
        targets = check_binary_targets(targets)
        self.label_names = check_label_names(label_names, targets.shape[1])
        self.level = level
        once = np.ones((len(targets), 1))
        blocks = [once]
        if num_resamples:
            blocks += list(resample_blocks(targets, num_resamples, seed, None, groups, False))
        # name -> (1 + resamples, labels); the first row is the data themselves
        self._areas = {name: _areas(targets, _runs(name, values, targets), blocks) for name, values in scores.items()}

    def per_label(self, name: str) -> dict[str, float | None]:
        """Return a classifier's AUROC by label, `None` for labels with one class only."""
        return {label: plain(value) for label, value in zip(self.label_names, self._areas[name][0], strict=True)}

    def macro(self, name: str) -> dict[str, Any]:
        """Return a classifier's macro AUROC: `value`, `lower`, `upper`, `num_resamples`."""
        return self._interval(self._macro(name))

    def difference(self, name: str, other: str) -> dict[str, Any]:
        """Return how much a classifier's macro AUROC is above another's, likewise."""
        return self._interval(self._macro(name) - self._macro(other))

    def difference_of_differences(self, first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
        """Return how much larger the difference of one pair is than that of another pair, likewise."""
        differences = [self._macro(name) - self._macro(other) for name, other in (first, second)]
        return self._interval(differences[0] - differences[1])

    def _macro(self, name: str) -> np.ndarray:
        return mean_of_known(self._areas[name], axis=1)

    def _interval(self, values: np.ndarray) -> dict[str, Any]:
        if len(values) == 1:
            return plain_interval(float(values[0]), np.nan, np.nan, 0)
        limits = interval_limits(values[:1], values[1:, None], self.level, "percentile")
        return plain_interval(float(values[0]), *(float(part[0]) for part in limits))


def _runs(name: str, values: ArrayLike, targets: np.ndarray) -> np.ndarray:
    runs = np.asarray(values, dtype=np.float64)
    runs = runs[None] if runs.ndim == 2 else runs
    if runs.shape[1:] != targets.shape or not len(runs):
        raise ValueError(
            f"The scores of {name!r} have shape {np.shape(values)}; the targets need (records, labels) = "
            f"{targets.shape}, or (runs, records, labels)."
        )
    if not np.isfinite(runs).all():
        raise ValueError(f"The scores of {name!r} hold NaN or infinity.")
    return runs


def _areas(targets: np.ndarray, runs: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the AUROC of every label on every resample, mean over the runs: `(resamples, labels)`."""
    means = []
    for label in range(targets.shape[1]):
        ranked = [rank_label(targets[:, label], run[:, label]) for run in runs]
        areas = [np.concatenate([curve_areas(each, counts)[0] for counts in blocks]) for each in ranked]
        means.append(np.mean(areas, axis=0))
    return np.stack(means, axis=1)
