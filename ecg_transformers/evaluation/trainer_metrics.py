"""`compute_metrics` for `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .challenge import SINUS_RHYTHM, ChallengeWeights, challenge_score
from .classification import CLASSIFICATION_METRICS, multilabel_metrics, singlelabel_metrics
from .regression import REGRESSION_METRICS, regression_metrics
from .score_inputs import ArrayLike, as_float64, check_label_names, check_thresholds

PROBLEM_TYPES = ("multi_label_classification", "single_label_classification", "regression")


def logits_to_probabilities(logits: ArrayLike, problem_type: str) -> np.ndarray:
    """Turn logits into probabilities by sigmoid, or softmax over classes.

    In float64, where few large logits become equal (equal scores change AUROC).

    Args:
        logits (array of shape `(records, labels)`): the model's output.
        problem_type (`str`): `"multi_label_classification"` or `"single_label_classification"`.

    Returns:
        `np.ndarray` of the same shape, float64.

    Raises:
        ValueError: if the problem type is another one.
    """
    logits = as_float64(logits, "logits")
    if problem_type == "multi_label_classification":
        # exp of a negative number only: no overflow, and full precision near 0.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    if problem_type == "single_label_classification":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    raise ValueError(f"Logits of the problem type {problem_type!r} have no probabilities; see {PROBLEM_TYPES[:2]}.")


def make_compute_metrics(
    label_names: Sequence[str],
    problem_type: Literal["multi_label_classification", "single_label_classification", "regression"],
    thresholds: ArrayLike | Mapping[str, float] | None = None,
    *,
    per_label: bool = False,
    challenge_weights: ChallengeWeights | None = None,
    normal_class: str | None = SINUS_RHYTHM,
    aliases: Mapping[str, str] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Make the `compute_metrics` argument of `Trainer`.

    Args:
        label_names (sequence of `str`): names of the labels (regression: of the quantities), in the order of the
            logits.
        problem_type (`str`): `"multi_label_classification"`, `"single_label_classification"` or `"regression"`, as in
            `config.problem_type`.
        thresholds (`float`, array or mapping by name, *optional*, defaults to 0.5): multi-label decision thresholds.
        per_label (`bool`, *optional*, defaults to `False`): add `auroc/<label>`, `f1/<label>`, ... for every label;
            scores that are missing are left out.
        challenge_weights (`ChallengeWeights`, *optional*): add `challenge_score` (multi-label only).
        normal_class, aliases (*optional*): as in `challenge_score`.

    Returns:
        A function from an `EvalPrediction` (logits, or a tuple whose first element is the logits, and labels) to a
        `dict` of floats: `macro_auroc`, `macro_auprc`, `macro_f1`, `macro_recall`, `macro_precision`,
        `macro_specificity`, `num_missing_labels`; with a single label also `accuracy` and `balanced_accuracy`; of a
        regression `mae`, `rmse`, `r2`, `pearson`. A macro without any label is NaN, so that a key named in
        `metric_for_best_model` always exists.

    Raises:
        ValueError: if names, thresholds or the problem type do not fit; when called, if the arrays do not.

    Example:
        >>> trainer = Trainer(..., compute_metrics=make_compute_metrics(names, "multi_label_classification"))
        >>> trainer.evaluate()["eval_macro_auroc"]
        0.93
    """
    names = check_label_names(label_names, len(label_names))
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"`problem_type` is {problem_type!r}; it must be one of {list(PROBLEM_TYPES)}.")
    if challenge_weights is not None and problem_type != "multi_label_classification":
        raise ValueError(f"The Challenge score is defined for multi-label problems, not for {problem_type!r}.")
    limits = check_thresholds(thresholds, names)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits, targets = _first(prediction.predictions), _first(prediction.label_ids)
        if problem_type == "regression":
            values = as_float64(logits, "predictions")
            if values.ndim == 2 and values.shape[1] == 1 and np.ndim(targets) == 1:
                values = values[:, 0]
            results = regression_metrics(targets, values, names)
            return _flatten(results, REGRESSION_METRICS, results["per_target"] if per_label else {})
        probabilities = logits_to_probabilities(logits, problem_type)
        if problem_type == "single_label_classification":
            results = singlelabel_metrics(targets, probabilities, names)
            keys = ("accuracy", "balanced_accuracy")
        else:
            results = multilabel_metrics(targets, probabilities, names, limits)
            keys = ()
        keys += (*(f"macro_{metric}" for metric in CLASSIFICATION_METRICS), "num_missing_labels")
        flat = _flatten(results, keys, results["per_label"] if per_label else {})
        if challenge_weights is not None:
            flat["challenge_score"] = challenge_score(
                targets, probabilities > limits, challenge_weights, names, normal_class, aliases
            )
        return flat

    return compute_metrics


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


def _flatten(
    results: Mapping[str, Any], keys: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    flat = {key: float("nan") if results[key] is None else float(results[key]) for key in keys}
    metrics = (*CLASSIFICATION_METRICS, *REGRESSION_METRICS)
    for name, row in rows.items():
        flat.update({f"{key}/{name}": float(row[key]) for key in metrics if row.get(key) is not None})
    return flat
