"""Bootstrap intervals: all resamples of all labels at once.

The interval is the plain percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). The text beside the HuBERT-ECG evaluation code speaks of the empirical (basic) bootstrap, whose interval runs from
`2 value - upper quantile` to `2 value - lower quantile`; its code adds the quantiles of `resample - value` to the
value, which is the percentile interval. `method="percentile"` therefore equals the numbers it prints, `method="basic"`
what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .classification import (
    AREA_METRICS,
    CLASSIFICATION_METRICS,
    DECISION_METRICS,
    Undefined,
    check_single_label,
    check_undefined,
    decision_scores,
    fill_undefined_areas,
)
from .ranking import curve_areas, rank_label
from .score_inputs import (
    ArrayLike,
    as_float64,
    check_binary_targets,
    check_label_names,
    check_probabilities,
    check_thresholds,
    mean_of_known,
    one_hot,
    plain,
)

# Numbers of a block of resamples (records x resamples) that stay in a processor's cache.
_BLOCK_SIZE = 2**18


def bootstrap_intervals(
    targets: ArrayLike,
    probabilities: ArrayLike,
    metrics: str | Sequence[str] = CLASSIFICATION_METRICS,
    *,
    thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
    label_names: Sequence[str] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    indices: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    stratify: bool | ArrayLike = False,
    method: Literal["percentile", "basic"] = "percentile",
    undefined: Undefined = "missing",
) -> dict[str, dict[str, Any]]:
    """Confidence intervals of classification scores, per label and for the macro mean.

    A label that holds one class only in a resample is left out of that resample's macro, and that resample out of the
    label's interval; `num_resamples` tells how many were used.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN (unknown) in columns; or, with
            probabilities of shape `(records, classes)`, one class index per record (single-label: each class against
            the rest, the class of highest probability is the predicted one, `thresholds` is not used).
        probabilities (array of shape `(records, labels)`): predicted probabilities in 0..1.
        metrics (`str` or sequence of `str`, *optional*): of `auroc`, `auprc`, `f1`, `recall`, `precision`,
            `specificity`; all by default.
        thresholds (`float`, array of shape `(labels,)` or mapping by name, *optional*, defaults to 0.5): a label is
            predicted where its probability is strictly above its threshold.
        label_names (sequence of `str`, *optional*): names of the columns; `label_0`, ... if absent.
        num_resamples (`int`, *optional*, defaults to 1000): number of resamples drawn.
        level (`float`, *optional*, defaults to 0.95): coverage asked for.
        seed (`int`, *optional*, defaults to 0): the same seed gives the same resamples.
        indices (int array of shape `(resamples, drawn)`, *optional*): the resamples themselves, instead of drawing.
        groups (array of shape `(records,)`, *optional*): patient of each record. Whole patients are drawn, as they
            must be when patients have several records: drawing records would make the interval too narrow.
        stratify (`bool` or array of shape `(records,)`, *optional*): draw within strata, so that each keeps its size.
            `True` makes records of equal target rows a stratum (as HuBERT-ECG does), which keeps every label's
            prevalence.
        method (`"percentile"` or `"basic"`, *optional*): see the module's text.
        undefined (`"missing"` or `"zero"`, *optional*): how labels with one class are scored, as in
            `per_label_metrics`.

    Returns:
        `dict`, valid JSON: metric → `{"macro": interval, "per_label": {name: interval}}`, where an interval is
        `{"value", "lower", "upper", "num_resamples"}` and a missing number is `None`.

    Raises:
        ValueError: if inputs do not fit together; the message names the argument.

    Example:
        >>> intervals = bootstrap_intervals(targets, probabilities, "auroc", groups=patient_ids)
        >>> intervals["auroc"]["macro"]
        {'value': 0.93, 'lower': 0.91, 'upper': 0.95, 'num_resamples': 1000}
    """
    check_undefined(undefined)
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in metrics if name not in CLASSIFICATION_METRICS]
    if unknown or not metrics:
        raise ValueError(
            f"Unknown metrics {unknown}; choose from {list(CLASSIFICATION_METRICS)}, or give any function of "
            "the data to `bootstrap_statistic`."
        )
    targets, probabilities, decisions, names = classification_inputs(targets, probabilities, thresholds, label_names)
    blocks = resample_blocks(targets, num_resamples, seed, indices, groups, stratify)
    check_level(level, method)

    need_areas = any(name in AREA_METRICS for name in metrics)
    ranked = [rank_label(targets[:, k], probabilities[:, k]) for k in range(targets.shape[1])] if need_areas else []
    outcomes = mark_outcomes(targets, decisions)
    once = np.ones((len(targets), 1))
    point = _scores_of_block(ranked, outcomes, once, metrics, undefined)
    drawn = [_scores_of_block(ranked, outcomes, counts, metrics, undefined) for counts in blocks]
    result = {}
    for name in metrics:
        value, samples = point[name][0], np.concatenate([block[name] for block in drawn])
        macro_value, macro_samples = mean_of_known(value), mean_of_known(samples, axis=1)
        lower, upper, used = interval_limits(value, samples, level, method)
        macro = interval_limits(macro_value[None], macro_samples[:, None], level, method)
        result[name] = {
            "macro": plain_interval(float(macro_value), *(float(part[0]) for part in macro)),
            "per_label": {
                label: plain_interval(*row) for label, *row in zip(names, value, lower, upper, used, strict=True)
            },
        }
    return result


def bootstrap_statistic(
    statistic: Callable[..., Any],
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    indices: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    stratify: ArrayLike | None = None,
    method: Literal["percentile", "basic"] = "percentile",
) -> dict[str, Any]:
    """Confidence interval of any function of the data, called once per resample.

    For the scores that `bootstrap_intervals` knows, that function is far faster.

    Args:
        statistic (callable): takes the arrays, each with the resample's records, and returns a number, an array, or
            `None` for missing; e.g. `lambda t, p: regression_metrics(t, p)["mae"]`.
        arrays (arrays of equal length): records along the first axis.
        num_resamples, level, seed, indices, groups, method: as in `bootstrap_intervals`.
        stratify (array of shape `(records,)`, *optional*): strata within which records are drawn.

    Returns:
        `dict`: `value`, `lower`, `upper` (floats or arrays like the statistic; `None` or NaN where missing) and
        `num_resamples` used.

    Raises:
        ValueError: if the arrays differ in length or the resampling arguments do not fit.

    Example:
        >>> bootstrap_statistic(lambda t, p: challenge_score(t, p, weights, names), targets, decisions)["lower"]
        0.41
    """
    if not arrays:
        raise ValueError("Pass at least one array after the statistic: `bootstrap_statistic(function, targets, ...)`.")
    data = [array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array) for array in arrays]
    lengths = [len(array) if array.ndim else 0 for array in data]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(f"All arrays need the same number of records along the first axis; got {lengths}.")
    blocks = resample_blocks(data[0], num_resamples, seed, indices, groups, False if stratify is None else stratify)
    check_level(level, method)

    def evaluate(rows: np.ndarray) -> np.ndarray:
        value = statistic(*(array[rows] for array in data))
        return np.asarray(np.nan if value is None else value, dtype=np.float64)

    records = np.arange(lengths[0])
    value = evaluate(records)
    samples = np.stack(
        [evaluate(np.repeat(records, column)) for counts in blocks for column in counts.T.astype(np.int64)]
    )
    flat = interval_limits(value.reshape(-1), samples.reshape(len(samples), -1), level, method)
    lower, upper, used = (part.reshape(value.shape) for part in flat)
    if value.ndim == 0:
        return plain_interval(float(value), float(lower), float(upper), float(used))
    return {"value": value, "lower": lower, "upper": upper, "num_resamples": used}


def classification_inputs(
    targets: ArrayLike,
    probabilities: ArrayLike,
    thresholds: ArrayLike | Mapping[str, float] | None,
    label_names: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Check what a classifier is judged by: targets and probabilities in columns, decisions, names.

    Single-label targets become a column per class, against the rest; decided is the class of highest probability.
    """
    target_array = as_float64(targets, "targets")
    probability_array = as_float64(probabilities, "probabilities")
    if target_array.ndim == 1 and probability_array.ndim == 2 and probability_array.shape[1] > 1:
        known_targets, known_probabilities = check_single_label(target_array, probability_array)
        num_classes = known_probabilities.shape[1]
        known = ~(np.isnan(target_array) | (target_array < 0))
        columns = np.full(probability_array.shape, np.nan)
        columns[known] = one_hot(known_targets, num_classes)
        decisions = one_hot(probability_array.argmax(axis=1).astype(np.float64), num_classes) == 1
        return columns, probability_array, decisions, check_label_names(label_names, num_classes)
    target_array = check_binary_targets(target_array)
    probability_array = check_probabilities(probability_array, target_array.shape)
    names = check_label_names(label_names, target_array.shape[1])
    return target_array, probability_array, probability_array > check_thresholds(thresholds, names), names


def mark_outcomes(targets: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Mark each record's outcome: `(4, labels, records)`, true and false positives, false and true negatives."""
    positive, negative = targets.T == 1, targets.T == 0
    decided = decisions.T
    return np.stack([positive & decided, negative & decided, positive & ~decided, negative & ~decided]).astype(float)


def _scores_of_block(
    ranked: list, outcomes: np.ndarray, counts: np.ndarray, metrics: Sequence[str], undefined: Undefined
) -> dict[str, np.ndarray]:
    """Score every label on every resample of a block: metric → `(resamples, labels)`."""
    scores = {}
    if ranked:
        pairs = [fill_undefined_areas(*curve_areas(label, counts), undefined) for label in ranked]
        scores["auroc"], scores["auprc"] = (np.stack(column, axis=1) for column in zip(*pairs, strict=True))
    if any(name in DECISION_METRICS for name in metrics):
        num_labels = outcomes.shape[1]
        totals = (outcomes.reshape(4 * num_labels, -1) @ counts).reshape(4, num_labels, -1).transpose(0, 2, 1)
        scores.update(decision_scores(*totals, undefined=undefined))
    return scores


def resample_blocks(
    targets: np.ndarray,
    num_resamples: int,
    seed: int,
    indices: ArrayLike | None,
    groups: ArrayLike | None,
    stratify: bool | ArrayLike,
) -> Iterator[np.ndarray]:
    """Yield blocks of resamples as counts `(records, resamples)`; arguments are checked before the first block."""
    num_records = len(targets)
    block = max(_BLOCK_SIZE // num_records, 16)
    if indices is not None:
        if groups is not None or stratify is not False:
            raise ValueError("`indices` are the resamples, `groups` and `stratify` say how to draw them: pass either.")
        drawn = np.asarray(indices)
        if drawn.ndim != 2 or drawn.size == 0 or not np.issubdtype(drawn.dtype, np.integer):
            raise ValueError(
                f"`indices` must be whole numbers of shape (resamples, drawn); got {drawn.dtype}, {drawn.shape}."
            )
        if drawn.min() < 0 or drawn.max() >= num_records:
            raise ValueError(
                f"`indices` must lie in 0..{num_records - 1}; they range from {drawn.min()} to {drawn.max()}."
            )
        starts = range(0, len(drawn), block)
        return (_count_draws(drawn[start : start + block].astype(np.int64), num_records) for start in starts)
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1; got {num_resamples}.")
    unit_of_record, num_units = np.arange(num_records), num_records
    if groups is not None:
        group_array = np.asarray(groups)
        if group_array.shape != (num_records,):
            raise ValueError(f"`groups` must name one patient per record ({num_records}); got {group_array.shape}.")
        # NaN differs from itself, None is None: both would make one patient of all records without a name.
        nameless = np.array([group is None or group != group for group in group_array.tolist()])
        if nameless.any():
            raise ValueError(
                f"`groups` names no patient for {int(nameless.sum())} of {num_records} records; give each of these a "
                "name of its own, such as its record id."
            )
        patients, unit_of_record = np.unique(group_array.astype(str), return_inverse=True)
        num_units = len(patients)
    stratum_of_unit = _strata(targets, stratify, unit_of_record, num_units)
    return _drawn_blocks(unit_of_record, stratum_of_unit, num_resamples, block, seed)


def _strata(targets: np.ndarray, stratify: bool | ArrayLike, unit_of_record: np.ndarray, num_units: int) -> np.ndarray:
    if stratify is False or stratify is None:
        return np.zeros(num_units, dtype=np.int64)
    if stratify is True:
        rows = np.nan_to_num(targets, nan=-1.0).reshape(len(targets), -1)
        stratum = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    else:
        strata = np.asarray(stratify)
        if strata.shape != (len(targets),):
            raise ValueError(f"`stratify` must be a bool or hold one stratum per record; got shape {strata.shape}.")
        stratum = np.unique(strata, return_inverse=True)[1].reshape(-1)
    stratum_of_unit = np.empty(num_units, dtype=np.int64)
    stratum_of_unit[unit_of_record] = stratum
    if (stratum_of_unit[unit_of_record] != stratum).any():
        raise ValueError(
            "Some patients have records in several strata, so patients cannot be drawn within strata. "
            "Pass `stratify` as an array with one value per patient, or leave it out."
        )
    return stratum_of_unit


def _drawn_blocks(
    unit_of_record: np.ndarray, stratum_of_unit: np.ndarray, num_resamples: int, block: int, seed: int
) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    members = np.argsort(stratum_of_unit, kind="stable")
    size_of_stratum = np.bincount(stratum_of_unit)
    first_of_stratum = np.cumsum(size_of_stratum) - size_of_stratum
    first, size = first_of_stratum[stratum_of_unit[members]], size_of_stratum[stratum_of_unit[members]]
    is_record = np.array_equal(unit_of_record, np.arange(len(members)))
    for start in range(0, num_resamples, block):
        uniform = generator.random((min(block, num_resamples - start), len(members)))
        drawn = members[first + (uniform * size).astype(np.int64)]
        counts = _count_draws(drawn, len(members))
        yield counts if is_record else counts[unit_of_record]


def _count_draws(drawn: np.ndarray, num_units: int) -> np.ndarray:
    """Count how often each unit occurs in each row of `drawn` `(resamples, drawn)`: `(units, resamples)`, float64."""
    num_resamples = len(drawn)
    cells = drawn * num_resamples + np.arange(num_resamples)[:, None]
    counts = np.bincount(cells.reshape(-1), minlength=num_units * num_resamples)
    return counts.reshape(num_units, num_resamples).astype(np.float64)


def check_level(level: float, method: str) -> None:
    """Raise `ValueError` unless `level` is a coverage and `method` a kind of interval."""
    if not 0 < level < 1:
        raise ValueError(f"`level` is the coverage between 0 and 1, e.g. 0.95; got {level!r}.")
    if method not in ("percentile", "basic"):
        raise ValueError(f"`method` is {method!r}; it must be 'percentile' or 'basic'.")


def interval_limits(
    value: np.ndarray, samples: np.ndarray, level: float, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper limits and the number of resamples used for each column of `samples`."""
    lower, upper = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    used = (~np.isnan(samples)).sum(axis=0)
    tails = [(1 - level) / 2, (1 + level) / 2]
    # A score that is missing on all the data has no interval, even if a statistic is defined on some resamples.
    for column in np.flatnonzero((used > 0) & ~np.isnan(value)):
        known = samples[:, column][~np.isnan(samples[:, column])]
        lower[column], upper[column] = np.quantile(known, tails)
    if method == "basic":
        lower, upper = 2 * value - upper, 2 * value - lower
    return lower, upper, used


def plain_interval(value: float, lower: float, upper: float, used: float) -> dict[str, Any]:
    """Return an interval as JSON has it, `None` for NaN."""
    return {"value": plain(value), "lower": plain(lower), "upper": plain(upper), "num_resamples": int(used)}
