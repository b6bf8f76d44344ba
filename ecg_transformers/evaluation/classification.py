"""Scores of multi-label and single-label classifiers: AUROC, AUPRC, F1, recall, precision, specificity, accuracy.

Definitions, and where they differ from the HuBERT-ECG evaluation code (Edoar-do/HuBERT-ECG):

- *Decision*: positive when the probability is strictly above the threshold. The same.
- *Unknown targets* (NaN) are left out, label by label. The reference knows none.
- *A label whose known targets hold one class only* is missing (NaN in arrays, `None` in dictionaries) in all six
  scores, is left out of every macro, and is counted in `num_missing_labels`; its confusion counts remain. The
  reference gives such a label AUROC 0, AUPRC 0 without positives and 1 without negatives, 0 for every 0/0, and
  averages these in. `undefined="zero"` reproduces that.
- *Precision and F1 where nothing is predicted positive* (0/0) but both classes occur: 0, as in the reference and in
  scikit-learn. Leaving the label out of the macro would reward a model for never predicting it.
- *Macro*: plain mean over the labels that are not missing.
- *AUPRC* is average precision (a step sum, no interpolation). The same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .ranking import curve_areas, rank_label
from .score_inputs import (
    ArrayLike,
    as_float64,
    check_binary_targets,
    check_class_targets,
    check_label_names,
    check_probabilities,
    check_scores,
    check_thresholds,
    mean_of_known,
    one_hot,
    plain,
)

AREA_METRICS = ("auroc", "auprc")
DECISION_METRICS = ("f1", "recall", "precision", "specificity")
CLASSIFICATION_METRICS = AREA_METRICS + DECISION_METRICS

Undefined = Literal["missing", "zero"]


def auroc(targets: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Area under the ROC curve per label, ties counted half.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN (unknown, left out).
        scores (array of the same shape): any finite scores, higher for positives; logits serve as well as
            probabilities.

    Returns:
        `np.ndarray` of shape `(labels,)`: values in 0..1, NaN for a label with one class only.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or scores are not finite.

    Example:
        >>> auroc([[0], [1], [1]], [[0.1], [0.4], [0.1]])
        array([0.75])
    """
    return _areas(targets, scores)[0]


def average_precision(targets: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Average precision (AUPRC) per label.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN (unknown, left out).
        scores (array of the same shape): any finite scores, higher for positives.

    Returns:
        `np.ndarray` of shape `(labels,)`: values in 0..1, NaN for a label with one class only. A classifier without
        skill scores the label's prevalence, so values of labels of different prevalence do not compare.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or scores are not finite.
    """
    return _areas(targets, scores)[1]


def _areas(targets: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    targets = check_binary_targets(targets)
    scores = check_scores(scores, targets.shape)
    once = np.ones((len(targets), 1))
    pairs = [curve_areas(rank_label(targets[:, k], scores[:, k]), once) for k in range(targets.shape[1])]
    areas_roc, areas_precision = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return areas_roc, np.where(np.isnan(areas_roc), np.nan, areas_precision)


def confusion_counts(targets: ArrayLike, decisions: ArrayLike) -> dict[str, np.ndarray]:
    """Count right and wrong decisions per label.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN (unknown, left out).
        decisions (array of the same shape): predicted 0 or 1.

    Returns:
        `dict` of `np.ndarray` of shape `(labels,)`, int64: `true_positives`, `false_positives`, `false_negatives`,
        `true_negatives`, `num_unknown`.

    Raises:
        ValueError: if shapes differ, or targets are not 0, 1 or NaN, or decisions not 0 or 1.
    """
    targets = check_binary_targets(targets)
    decisions = check_binary_targets(decisions, "decisions")
    check_scores(decisions, targets.shape, "decisions")
    return _count(targets, decisions == 1)


def _count(targets: np.ndarray, decisions: np.ndarray) -> dict[str, np.ndarray]:
    positive, negative = targets == 1, targets == 0
    return {
        "true_positives": (positive & decisions).sum(axis=0),
        "false_positives": (negative & decisions).sum(axis=0),
        "false_negatives": (positive & ~decisions).sum(axis=0),
        "true_negatives": (negative & ~decisions).sum(axis=0),
        "num_unknown": np.isnan(targets).sum(axis=0),
    }


def decision_scores(
    true_positives: np.ndarray,
    false_positives: np.ndarray,
    false_negatives: np.ndarray,
    true_negatives: np.ndarray,
    undefined: Undefined = "missing",
) -> dict[str, np.ndarray]:
    """Turn confusion counts of any common shape into F1, recall (sensitivity), precision and specificity.

    Args:
        true_positives, false_positives, false_negatives, true_negatives (`np.ndarray`): counts.
        undefined (`"missing"` or `"zero"`): what becomes of counts with one class only; see the module's text.

    Returns:
        `dict` of `np.ndarray` of that shape.
    """

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return numerator / np.maximum(denominator, 1)

    scores = {
        "f1": ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
        "recall": ratio(true_positives, true_positives + false_negatives),
        "precision": ratio(true_positives, true_positives + false_positives),
        "specificity": ratio(true_negatives, true_negatives + false_positives),
    }
    if undefined == "missing":
        one_class = (true_positives + false_negatives == 0) | (true_negatives + false_positives == 0)
        scores = {name: np.where(one_class, np.nan, value) for name, value in scores.items()}
    return scores


def fill_undefined_areas(
    areas_roc: np.ndarray, areas_precision: np.ndarray, undefined: Undefined
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the rule for labels with one class to AUROC and to average precision as `curve_areas` returns them."""
    if undefined == "missing":
        return areas_roc, np.where(np.isnan(areas_roc), np.nan, areas_precision)
    return np.nan_to_num(areas_roc, nan=0.0), np.nan_to_num(areas_precision, nan=0.0)


def check_undefined(undefined: str) -> None:
    """Raise `ValueError` unless `undefined` is `"missing"` or `"zero"`."""
    if undefined not in ("missing", "zero"):
        raise ValueError(f"`undefined` is {undefined!r}; it must be 'missing' (left out of the macro) or 'zero'.")


def per_label_metrics(
    targets: ArrayLike,
    probabilities: ArrayLike,
    thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
    *,
    label_names: Sequence[str] | None = None,
    undefined: Undefined = "missing",
) -> dict[str, np.ndarray]:
    """Score every label of a multi-label classifier.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN (unknown, left out of that label).
        probabilities (array of the same shape): predicted probabilities in 0..1.
        thresholds (`float`, array of shape `(labels,)` or mapping by name, *optional*, defaults to 0.5): a label is
            predicted where its probability is strictly above its threshold.
        label_names (sequence of `str`, *optional*): names of the columns, needed for thresholds by name.
        undefined (`"missing"` or `"zero"`, *optional*): labels with one class only are NaN (default), or scored as the
            HuBERT-ECG code does; see the module's text.

    Returns:
        `dict` of `np.ndarray` of shape `(labels,)`: `auroc`, `auprc`, `f1`, `recall`, `precision`, `specificity`,
        `threshold`, and int64 counts `true_positives`, `false_positives`, `false_negatives`, `true_negatives`,
        `num_unknown`.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or probabilities or thresholds lie outside 0..1.

    Example:
        >>> scores = per_label_metrics([[0, 1], [1, 1], [1, 1]], [[0.1, 0.8], [0.7, 0.9], [0.4, 0.2]])
        >>> scores["auroc"], scores["recall"]
        (array([ 1., nan]), array([0.5, nan]))
    """
    check_undefined(undefined)
    targets = check_binary_targets(targets)
    probabilities = check_probabilities(probabilities, targets.shape)
    thresholds = check_thresholds(thresholds, check_label_names(label_names, targets.shape[1]))
    return _score_labels(targets, probabilities, probabilities > thresholds, thresholds, undefined)


def _score_labels(
    targets: np.ndarray,
    probabilities: np.ndarray,
    decisions: np.ndarray,
    thresholds: np.ndarray,
    undefined: Undefined,
) -> dict[str, np.ndarray]:
    once = np.ones((len(targets), 1))
    pairs = [curve_areas(rank_label(targets[:, k], probabilities[:, k]), once) for k in range(targets.shape[1])]
    areas_roc, areas_precision = (np.concatenate(column) for column in zip(*pairs, strict=True))
    areas_roc, areas_precision = fill_undefined_areas(areas_roc, areas_precision, undefined)
    counts = _count(targets, decisions)
    scores = decision_scores(*(counts[name] for name in list(counts)[:4]), undefined=undefined)
    return {"auroc": areas_roc, "auprc": areas_precision, **scores, "threshold": thresholds, **counts}


def summarize_labels(scores: Mapping[str, np.ndarray], label_names: Sequence[str]) -> dict[str, Any]:
    """Bring arrays of per-label scores into plain Python: macro means, one dictionary per label, counts.

    Args:
        scores (mapping of `np.ndarray` of shape `(labels,)`): as `per_label_metrics` returns them.
        label_names (sequence of `str`): one name per label.

    Returns:
        `dict`: `macro_<metric>` for each score, `num_labels`, `num_missing_labels`, `missing_labels` and `per_label`.
    """
    one_class = (scores["true_positives"] + scores["false_negatives"] == 0) | (
        scores["true_negatives"] + scores["false_positives"] == 0
    )
    per_label = {}
    for index, name in enumerate(label_names):
        row: dict[str, Any] = {metric: plain(scores[metric][index]) for metric in CLASSIFICATION_METRICS}
        row["threshold"] = plain(scores["threshold"][index])
        counts = ("true_positives", "false_positives", "false_negatives", "true_negatives", "num_unknown")
        row.update({count: int(scores[count][index]) for count in counts})
        row["num_positives"] = row["true_positives"] + row["false_negatives"]
        row["num_negatives"] = row["true_negatives"] + row["false_positives"]
        per_label[name] = row
    summary: dict[str, Any] = {
        f"macro_{metric}": plain(mean_of_known(scores[metric])) for metric in CLASSIFICATION_METRICS
    }
    summary["num_labels"] = len(label_names)
    summary["num_missing_labels"] = int(one_class.sum())
    summary["missing_labels"] = [name for name, missing in zip(label_names, one_class, strict=True) if missing]
    summary["per_label"] = per_label
    return summary


def multilabel_metrics(
    targets: ArrayLike,
    probabilities: ArrayLike,
    label_names: Sequence[str] | None = None,
    thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
    *,
    undefined: Undefined = "missing",
) -> dict[str, Any]:
    """Score a multi-label classifier: macro means and every label, as plain Python values.

    Args:
        targets (array of shape `(records, labels)`): 0, 1 or NaN (unknown, left out of that label).
        probabilities (array of the same shape): predicted probabilities in 0..1.
        label_names (sequence of `str`, *optional*): names of the columns; `label_0`, ... if absent.
        thresholds (`float`, array of shape `(labels,)` or mapping by name, *optional*, defaults to 0.5): a label is
            predicted where its probability is strictly above its threshold.
        undefined (`"missing"` or `"zero"`, *optional*): labels with one class only are `None` and left out of the
            macro (default), or scored as the HuBERT-ECG code does; see the module's text.

    Returns:
        `dict`, valid JSON: `macro_auroc`, `macro_auprc`, `macro_f1`, `macro_recall`, `macro_precision`,
        `macro_specificity` (`None` if no label has both classes), `num_records`, `num_labels`, `num_missing_labels`,
        `missing_labels` (names), and `per_label`: name → the six scores, `threshold`, confusion counts,
        `num_positives`, `num_negatives`, `num_unknown`.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or probabilities or thresholds lie outside 0..1.
    """
    targets = check_binary_targets(targets)
    names = check_label_names(label_names, targets.shape[1])
    scores = per_label_metrics(targets, probabilities, thresholds, label_names=names, undefined=undefined)
    return {"num_records": len(targets), **summarize_labels(scores, names)}


def check_single_label(targets: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Check class indices and class probabilities, and leave out records of unknown class.

    Returns:
        `tuple`: float64 class indices `(known,)` and probabilities `(known, classes)`.

    Raises:
        ValueError: if the inputs do not fit together, or a record's probabilities do not sum to 1.
    """
    shape = as_float64(probabilities, "probabilities").shape
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"Single-label probabilities have shape (records, classes), classes >= 2; got {shape}.")
    targets = check_class_targets(targets, shape[1])
    probabilities = check_probabilities(probabilities, (len(targets), shape[1]), activation="softmax")
    sums = probabilities.sum(axis=1)
    # bfloat16 keeps 8 bits, so rows of a few dozen classes miss 1 by up to about 0.01.
    if (np.abs(sums - 1) > 0.02).any():
        raise ValueError(
            f"The probabilities of a single-label record must sum to 1; sums are {sums.min():.4g}..{sums.max():.4g}. "
            "Apply softmax (not sigmoid), or score the problem as multi-label."
        )
    known = ~np.isnan(targets)
    if not known.any():
        raise ValueError("Every single-label target is unknown (NaN or -100); pass at least one known class.")
    return targets[known], probabilities[known]


def singlelabel_metrics(
    targets: ArrayLike,
    probabilities: ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    undefined: Undefined = "missing",
) -> dict[str, Any]:
    """Score a single-label classifier: accuracy, confusion matrix, and each class against the rest.

    The predicted class is the one of highest probability, the first of equals. Per-class scores take each class
    against all others (AUROC by its probability, F1 and the rest by the predicted class).

    Args:
        targets (array of shape `(records,)`): class indices; NaN or -100 is unknown and left out.
        probabilities (array of shape `(records, classes)`): class probabilities, each row summing to 1.
        label_names (sequence of `str`, *optional*): names of the classes; `label_0`, ... if absent.
        undefined (`"missing"` or `"zero"`, *optional*): how classes that no record (or every record) has are scored.

    Returns:
        `dict`, valid JSON: `accuracy`, `balanced_accuracy` (mean recall of the classes that occur), `confusion_matrix`
        (rows true, columns predicted), `num_unknown`, and everything that `multilabel_metrics` returns.

    Raises:
        ValueError: if shapes differ, indices are out of range, or probabilities are not probabilities.
    """
    check_undefined(undefined)
    num_given = as_float64(targets, "targets").shape[0]
    targets, probabilities = check_single_label(targets, probabilities)
    num_classes = probabilities.shape[1]
    names = check_label_names(label_names, num_classes)
    predicted = probabilities.argmax(axis=1)
    matrix = np.bincount(targets.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    matrix = matrix.reshape(num_classes, num_classes)
    recall = np.where(matrix.sum(axis=1) > 0, matrix.diagonal() / np.maximum(matrix.sum(axis=1), 1), np.nan)
    decisions = one_hot(predicted.astype(np.float64), num_classes) == 1
    no_threshold = np.full(num_classes, np.nan)
    scores = _score_labels(one_hot(targets, num_classes), probabilities, decisions, no_threshold, undefined)
    return {
        "accuracy": float(matrix.diagonal().sum() / matrix.sum()),
        "balanced_accuracy": float(mean_of_known(recall)),
        "num_records": len(targets),
        "num_unknown": num_given - len(targets),
        **summarize_labels(scores, names),
        "confusion_matrix": matrix.tolist(),
    }
