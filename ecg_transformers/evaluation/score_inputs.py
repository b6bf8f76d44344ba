"""Checks that turn what callers pass (lists, NumPy, torch) into arrays that the scores can trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ArrayLike = Any

# Class index that torch's cross entropy ignores; a single-label target with this value is unknown.
IGNORED_CLASS_INDEX = -100


def as_float64(values: ArrayLike, name: str) -> np.ndarray:
    """Return `values` as a float64 array; `None` becomes NaN.

    Args:
        values (array-like): a NumPy array, a torch tensor on any device and of any dtype, or nested lists.
        name (`str`): what the values are called in an error message.

    Returns:
        `np.ndarray`: the values, float64.

    Raises:
        ValueError: if the values are ragged, empty, or no numbers.
    """
    if hasattr(values, "detach"):
        # NumPy knows no bfloat16, so the conversion happens before the tensor leaves torch.
        values = values.detach().double().cpu().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be a rectangular array of numbers (one row per record); it cannot be converted: {error}. "
            "Check that every record has the same number of values."
        ) from None
    if array.size == 0:
        raise ValueError(f"`{name}` is empty (shape {array.shape}); pass at least one record.")
    return array


def check_label_names(label_names: Sequence[str] | None, num_labels: int) -> list[str]:
    """Return one name per label: the given ones, or `label_0`, `label_1`, ...

    Raises:
        ValueError: if the number of names is wrong or names repeat.
    """
    if label_names is None:
        return [f"label_{index}" for index in range(num_labels)]
    names = [str(name) for name in label_names]
    if len(names) != num_labels:
        raise ValueError(f"{num_labels} labels need {num_labels} names; got {len(names)}: {names}.")
    if len(set(names)) != num_labels:
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Label names must differ; repeated: {repeated}.")
    return names


def check_binary_targets(targets: ArrayLike, name: str = "targets") -> np.ndarray:
    """Return targets as a float64 array `(records, labels)` of 0, 1 and NaN (unknown).

    Raises:
        ValueError: if the shape is not `(records, labels)` or `(records,)`, or a value is none of 0, 1, NaN.
    """
    array = as_float64(targets, name)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"`{name}` must have shape (records, labels); got {array.shape}.")
    odd = ~((array == 0) | (array == 1) | np.isnan(array))
    if odd.any():
        raise ValueError(
            f"`{name}` must hold 0, 1 or NaN (unknown); found {np.unique(array[odd])[:5].tolist()}. "
            "Turn class indices into one column per label, and likelihoods into 0/1, first."
        )
    return array


def check_scores(scores: ArrayLike, shape: tuple[int, int], name: str = "scores") -> np.ndarray:
    """Return finite float64 scores of the given shape `(records, labels)`.

    Raises:
        ValueError: if the shape differs or a value is NaN or infinite.
    """
    array = as_float64(scores, name)
    if array.ndim == 1 and shape[1] == 1:
        array = array[:, None]
    if array.shape != shape:
        raise ValueError(
            f"`{name}` has shape {array.shape}, the targets have {shape}; both must be (records, labels) "
            "with the same records and labels in the same order."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"`{name}` must be finite; {int(bad.sum())} of {array.size} values are NaN or infinite, "
            f"the first in record {int(np.argwhere(bad)[0][0])}. Mend the model or its input; they cannot be scored."
        )
    return array


def check_probabilities(
    probabilities: ArrayLike, shape: tuple[int, int], name: str = "probabilities", activation: str = "sigmoid"
) -> np.ndarray:
    """Return finite float64 probabilities of the given shape `(records, labels)`.

    Raises:
        ValueError: if the shape differs or a value is not a number between 0 and 1.
    """
    array = check_scores(probabilities, shape, name)
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"`{name}` must lie between 0 and 1; they range from {low:.6g} to {high:.6g}. "
            f"Apply {activation} to logits first."
        )
    return array


def check_thresholds(
    thresholds: ArrayLike | Mapping[str, float] | None, label_names: Sequence[str], default: float = 0.5
) -> np.ndarray:
    """Return one threshold per label.

    Args:
        thresholds (`float`, array-like of shape `(labels,)`, mapping from label name to `float`, or `None`): `None` is
            `default` for every label.
        label_names (sequence of `str`): names of the labels, in column order.
        default (`float`): threshold where none is given.

    Returns:
        `np.ndarray` of shape `(labels,)`, float64.

    Raises:
        ValueError: if the number of thresholds is wrong, a name is missing, or a value lies outside 0..1.
    """
    if thresholds is None:
        thresholds = default
    if isinstance(thresholds, Mapping):
        missing = [name for name in label_names if name not in thresholds]
        if missing:
            raise ValueError(f"No threshold for {missing}; `thresholds` names {list(thresholds)}. Give one per label.")
        thresholds = [thresholds[name] for name in label_names]
    array = as_float64(thresholds, "thresholds")
    if array.ndim == 0:
        array = np.full(len(label_names), float(array))
    if array.shape != (len(label_names),):
        raise ValueError(
            f"`thresholds` must be one number or one per label ({len(label_names)}); got shape {array.shape}."
        )
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"Thresholds are probabilities between 0 and 1; got {array.tolist()}.")
    return array


def check_class_targets(targets: ArrayLike, num_classes: int) -> np.ndarray:
    """Return single-label targets as float64 class indices `(records,)`, NaN where unknown.

    NaN and -100, the index that torch's cross entropy ignores, mean unknown.

    Raises:
        ValueError: if the shape is not `(records,)`, or a value is no index below `num_classes`.
    """
    array = as_float64(targets, "targets")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"Single-label targets have shape (records,), one class index each; got {array.shape}.")
    array = np.where(array == IGNORED_CLASS_INDEX, np.nan, array)
    known = array[~np.isnan(array)]
    odd = known[(known < 0) | (known >= num_classes) | (known != np.floor(known))]
    if odd.size:
        raise ValueError(
            f"Class indices must be whole numbers from 0 to {num_classes - 1}, or NaN or -100 where unknown; "
            f"found {np.unique(odd)[:5].tolist()}."
        )
    return array


def one_hot(class_indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn checked class indices `(records,)` into 0/1 columns `(records, classes)`; a NaN index gives a NaN row."""
    columns = (class_indices[:, None] == np.arange(num_classes)).astype(np.float64)
    columns[np.isnan(class_indices)] = np.nan
    return columns


def plain(value: float) -> float | None:
    """Return a Python float, or `None` for NaN, so that results are valid JSON."""
    value = float(value)
    return None if np.isnan(value) else value


def mean_of_known(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean over the values that are not NaN; NaN where there is none (and no warning, unlike `np.nanmean`)."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
