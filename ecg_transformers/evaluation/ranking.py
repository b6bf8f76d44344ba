"""Areas under the ROC and precision-recall curves for many resamples at once.

A resample is a column of counts: how often each record was drawn. Records are sorted by score once; a resample's curve
is then a cumulative sum of its counts in that order. All records drawn once is the plain score, so the points and the
bootstrap share this one formulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RankedLabel:
    """One label's known records in descending order of score, with ties marked.

    Args:
        order (`np.ndarray` of shape `(known,)`): record numbers, best score first; unknown targets are left out.
        positive_order (`np.ndarray` of shape `(positives,)`): the positive ones among them, in the same order.
        first_positive (`np.ndarray` of shape `(groups,)`): where, among the positives, each group of equal scores that
            holds a positive begins.
        group_start (`np.ndarray` of shape `(groups,)`): where such a group begins among the known records.
        group_end (`np.ndarray` of shape `(groups,)`): where it ends (exclusive).
    """

    order: np.ndarray
    positive_order: np.ndarray
    first_positive: np.ndarray
    group_start: np.ndarray
    group_end: np.ndarray


def rank_label(targets: np.ndarray, scores: np.ndarray) -> RankedLabel:
    """Sort one label's records by score.

    Args:
        targets (`np.ndarray` of shape `(records,)`): 0, 1 or NaN (unknown).
        scores (`np.ndarray` of shape `(records,)`): finite scores, higher for positives.

    Returns:
        `RankedLabel`: the order and its groups of equal scores.
    """
    known = np.flatnonzero(~np.isnan(targets))
    order = known[np.argsort(-scores[known], kind="stable")]
    positive = targets[order] == 1
    new_group = np.diff(scores[order], prepend=np.nan) != 0
    starts = np.flatnonzero(new_group)
    ends = np.append(starts[1:], order.size)
    group_of_positive = (np.cumsum(new_group) - 1)[positive]
    # Both curves' areas are sums over the groups that hold a positive; the others only move the count of negatives.
    groups, first_positive = np.unique(group_of_positive, return_index=True)
    return RankedLabel(order, order[positive], first_positive, starts[groups], ends[groups])


def curve_areas(ranked: RankedLabel, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision of one label for every resample.

    AUROC is the Mann-Whitney statistic with ties counted half (Hanley and McNeil, Radiology 143:29, 1982), which
    equals the trapezoid under the ROC curve. Average precision is the sum over descending distinct thresholds of
    precision times the step in recall, as in scikit-learn and in the CinC Challenge scoring.

    Args:
        ranked (`RankedLabel`): the label's order.
        counts (`np.ndarray` of shape `(records, resamples)`): how often each record was drawn.

    Returns:
        Two `np.ndarray` of shape `(resamples,)`: AUROC, NaN where a resample holds one class only; average precision,
        NaN where it holds no positive.
    """
    num_resamples = counts.shape[1]
    if ranked.positive_order.size == 0 or ranked.order.size == 0:
        return np.full(num_resamples, np.nan), np.full(num_resamples, np.nan)
    drawn = np.zeros((ranked.order.size + 1, num_resamples))
    np.cumsum(counts[ranked.order], axis=0, out=drawn[1:])
    drawn_before, drawn_through = drawn[ranked.group_start], drawn[ranked.group_end]
    positives_in_group = np.add.reduceat(counts[ranked.positive_order], ranked.first_positive, axis=0)
    positives_through = np.cumsum(positives_in_group, axis=0)
    num_positives = positives_through[-1]
    num_negatives = drawn[-1] - num_positives

    negatives_through = drawn_through - positives_through
    negatives_before = drawn_before - (positives_through - positives_in_group)
    concordant = positives_in_group * (num_negatives - 0.5 * (negatives_through + negatives_before))
    pairs = num_positives * num_negatives
    auroc = np.where(pairs > 0, concordant.sum(axis=0) / np.maximum(pairs, 1), np.nan)

    precision = positives_through / np.maximum(drawn_through, 1)
    steps = (positives_in_group * precision).sum(axis=0)
    average_precision = np.where(num_positives > 0, steps / np.maximum(num_positives, 1), np.nan)
    return auroc, average_precision
