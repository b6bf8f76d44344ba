"""From several windows of a recording to one prediction per recording."""

from __future__ import annotations

from typing import Any

import numpy as np


def aggregate_windows(values: Any, record_index: Any, method: str = "mean") -> Any:
    """Combine the predictions of a recording's windows into one row per recording.

    This is the test-time augmentation of HuBERT-ECG (medRxiv 10.1101/2024.11.14.24317328): probabilities, not logits,
    of several 5-second crops are averaged or their maximum is taken, label by label. The number of windows may differ
    between recordings.

    Args:
        values (`np.ndarray` or `torch.Tensor` of shape `(rows, ...)`): one row per window, usually probabilities
            `(rows, labels)`. A tensor may be on any device and keeps its gradient.
        record_index (array or tensor of shape `(rows,)`): for each row the recording it belongs to, 0, 1, 2, ... as
            `ECGFeatureExtractor(..., windows="all")` returns it, in any order.
        method (`"mean"` or `"max"`, *optional*, defaults to `"mean"`): how windows are combined. The maximum raises
            the probability of every label with the number of windows, so thresholds have to be chosen with it too.

    Returns:
        `np.ndarray` or `torch.Tensor` of shape `(records, ...)`, row `i` for recording `i`, of the kind and dtype
        given.

    Raises:
        ValueError: if `method` is unknown, the lengths differ, or a recording below the highest index has no window.

    Example:
        >>> aggregate_windows(np.array([[0.2], [0.4], [0.9]]), [0, 0, 1])
        array([[0.3],
               [0.9]])
    """
    if method not in ("mean", "max"):
        raise ValueError(f"`method` is {method!r}; it must be 'mean' or 'max'.")
    is_tensor = hasattr(values, "detach")
    rows = record_index.detach().cpu().numpy() if hasattr(record_index, "detach") else np.asarray(record_index)
    if not is_tensor:
        values = np.asarray(values)
    if values.ndim == 0 or rows.ndim != 1 or len(rows) != len(values) or len(rows) == 0:
        raise ValueError(
            f"`record_index` must name one recording per row of `values`; got shapes {rows.shape} and "
            f"{tuple(values.shape)}."
        )
    if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0:
        raise ValueError(
            f"`record_index` must hold whole numbers from 0; got dtype {rows.dtype}, minimum {rows.min()}."
        )
    # Checked before counting, so that one absurd index cannot ask for gigabytes.
    num_records = len(np.unique(rows))
    if rows.max() != num_records - 1:
        raise ValueError(
            f"`record_index` names {num_records} recordings but reaches {rows.max()}: some have no window. Number the "
            "recordings 0, 1, 2, ... without gaps (np.unique(record_index, return_inverse=True)[1] does it)."
        )
    count = np.bincount(rows)
    if is_tensor:
        return _aggregate_tensor(values, rows, count, method)
    order = np.argsort(rows, kind="stable")
    starts = np.cumsum(count) - count
    if method == "max":
        return np.maximum.reduceat(values[order], starts, axis=0)
    dtype = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    total = np.add.reduceat(values[order].astype(np.promote_types(dtype, np.float32)), starts, axis=0)
    return (total / count.reshape(-1, *[1] * (values.ndim - 1)).astype(total.dtype)).astype(dtype)


def _aggregate_tensor(values: Any, rows: np.ndarray, count: np.ndarray, method: str) -> Any:
    import torch

    if method == "mean" and not values.is_floating_point():
        values = values.double()
    index = torch.as_tensor(rows, device=values.device, dtype=torch.int64)
    index = index.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    empty = values.new_zeros((len(count), *values.shape[1:]))
    return empty.scatter_reduce(0, index, values, reduce="mean" if method == "mean" else "amax", include_self=False)
