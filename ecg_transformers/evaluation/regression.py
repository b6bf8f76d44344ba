"""Scores of regression models (age, ejection fraction, interval lengths, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .score_inputs import ArrayLike, as_float64, check_label_names, check_scores, mean_of_known, plain

REGRESSION_METRICS = ("mae", "rmse", "r2", "pearson")


def regression_metrics(
    targets: ArrayLike, predictions: ArrayLike, target_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score predicted numbers: mean absolute error, root mean square error, R² and Pearson correlation.

    R² is one minus the ratio of squared error to the targets' squared deviation from their own mean, so it is negative
    for predictions worse than that mean. R² and Pearson of targets without spread, and Pearson of predictions without
    spread, are missing (`None`), not 0.

    Args:
        targets (array of shape `(records,)` or `(records, quantities)`): true values in their own units; NaN is
            unknown and left out of that quantity.
        predictions (array of the same shape): predicted values, finite.
        target_names (sequence of `str`, *optional*): names of the quantities; `target_0`, ... if absent.

    Returns:
        `dict`, valid JSON: `mae`, `rmse`, `r2`, `pearson` (means over the quantities where known; `None` if nowhere),
        `num_records`, and `per_target`: name → the four scores and `num_known`.

    Raises:
        ValueError: if shapes differ or predictions are not finite.

    Example:
        >>> regression_metrics([61.0, 47.0, 70.0], [59.0, 50.0, 71.0])["mae"]
        2.0
    """
    targets = as_float64(targets, "targets")
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2:
        raise ValueError(f"`targets` must have shape (records,) or (records, quantities); got {targets.shape}.")
    if np.isinf(targets).any():
        raise ValueError(
            f"{int(np.isinf(targets).sum())} of {targets.size} targets are infinite; mark unknown ones NaN."
        )
    predictions = check_scores(predictions, targets.shape, "predictions")
    if target_names is None:
        target_names = [f"target_{index}" for index in range(targets.shape[1])]
    names = check_label_names(target_names, targets.shape[1])

    known = ~np.isnan(targets)
    error = predictions - targets
    squared_error = _sum_known(error**2, known)
    count = known.sum(axis=0)
    target_deviation = targets - mean_of_known(targets, axis=0)
    prediction_deviation = predictions - mean_of_known(np.where(known, predictions, np.nan), axis=0)
    target_spread = _sum_known(target_deviation**2, known)
    prediction_spread = _sum_known(prediction_deviation**2, known)
    covariance = _sum_known(target_deviation * prediction_deviation, known)
    # A constant column deviates from its own mean by rounding, which is no spread.
    has_spread = _range_known(targets, known) > 0
    both_spread = has_spread & (_range_known(predictions, known) > 0)
    scores = {
        "mae": np.where(count > 0, _sum_known(np.abs(error), known) / np.maximum(count, 1), np.nan),
        "rmse": np.where(count > 0, np.sqrt(squared_error / np.maximum(count, 1)), np.nan),
        "r2": np.where(has_spread, 1 - squared_error / np.where(has_spread, target_spread, 1), np.nan),
        "pearson": np.where(
            both_spread,
            np.clip(covariance / np.where(both_spread, np.sqrt(target_spread * prediction_spread), 1), -1, 1),
            np.nan,
        ),
    }
    return {
        **{metric: plain(mean_of_known(scores[metric])) for metric in REGRESSION_METRICS},
        "num_records": len(targets),
        "per_target": {
            name: {
                **{metric: plain(scores[metric][index]) for metric in REGRESSION_METRICS},
                "num_known": int(count[index]),
            }
            for index, name in enumerate(names)
        },
    }


def _sum_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, values, 0.0).sum(axis=0)


def _range_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    high = np.where(known, values, -np.inf).max(axis=0)
    low = np.where(known, values, np.inf).min(axis=0)
    return high - low
