"""Splitting a corpus by patient, with labels spread as evenly as the patients allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)


def split_by_group(
    groups: Sequence[Hashable],
    labels: Any = None,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> list[np.ndarray]:
    """Distribute records over splits so that no group (patient) is in two of them.

    Groups are handed out label by label, the rarest first, each to the split that is furthest from its share of that
    label (iterative stratification, Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, here over groups of records). A
    label that has just enough groups left to give one to each split without it gives those first, so that each split
    holds positives of every label wherever the number of patients allows.

    Args:
        groups (sequence of length `records`): the patient of each record; an array of numbers is fastest.
        labels (array of shape `(records, labels)` or `(records,)`, *optional*): 0/1 per label (NaN counts as 0), or
            one class per record. `None` balances the number of records only.
        fractions (sequence of `float`, *optional*, defaults to 0.7, 0.15, 0.15): share of each split; they add up to
            1.
        seed (`int`, *optional*, defaults to 0): order among equal groups. The same input and seed give the same
            splits.

    Returns:
        `list[np.ndarray]`: the sorted record indices of each split.

    Raises:
        ValueError: if lengths differ or fractions are no fractions.
    """
    fractions = check_fractions(fractions, None)
    label_counts = _label_matrix(labels, len(groups))

    group_of_record = _group_numbers(groups)
    sizes = np.bincount(group_of_record)
    counts = np.zeros((len(sizes), label_counts.shape[1]))
    for label in range(label_counts.shape[1]):
        counts[:, label] = np.bincount(group_of_record, label_counts[:, label], minlength=len(sizes))

    # Large groups first: small ones then fill the gaps that these leave.
    rank = np.lexsort((np.random.default_rng(seed).random(len(sizes)), -sizes))
    groups_of_label = [rank[counts[rank, label] > 0].tolist() for label in range(counts.shape[1])]
    counts_of_group: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for group, label in zip(*(axis.tolist() for axis in np.nonzero(counts)), strict=True):
        counts_of_group[group].append((label, float(counts[group, label])))

    # Plain numbers from here on: corpora have hundreds of thousands of patients, each handed out by itself.
    assigned = [-1] * len(sizes)
    size_of_group = sizes.tolist()
    wanted_records = (fractions * sizes.sum()).tolist()
    wanted_labels = np.outer(counts.sum(axis=0), fractions).tolist()
    groups_left = [len(members) for members in groups_of_label]
    usable = np.flatnonzero(fractions > 0).tolist()
    lacking = [list(usable) for _ in groups_of_label]

    def assign(group: int, split: int) -> None:
        assigned[group] = split
        wanted_records[split] -= size_of_group[group]
        for label, count in counts_of_group.get(group, ()):
            wanted_labels[label][split] -= count
            groups_left[label] -= 1
            if split in lacking[label]:
                lacking[label].remove(split)

    while any(groups_left):
        label = min((left, label) for label, left in enumerate(groups_left) if left)[1]
        for group in groups_of_label[label]:
            if assigned[group] < 0:
                scarce = lacking[label] and groups_left[label] <= len(lacking[label])
                candidates = lacking[label] if scarce else usable
                assign(group, _neediest(candidates, wanted_labels[label], wanted_records))
    left = [wanted_records[split] for split in usable]
    for group in rank.tolist():
        if assigned[group] < 0:
            # `_neediest`, written out
            least, place = max(left) - 1e-9, 0
            while left[place] < least:
                place += 1
            left[place] -= size_of_group[group]
            assigned[group] = usable[place]

    split_of_record = np.array(assigned, dtype=np.int64)[group_of_record]
    return [np.flatnonzero(split_of_record == split) for split in range(len(fractions))]


def split_rows(
    rows: Sequence[Mapping[str, Any]], fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, list[Mapping[str, Any]]]:
    """Distribute the rows of a corpus over train, validation and test by patient, balanced on their labels.

    Args:
        rows (sequence of mappings): with `record_id`, `patient_id` (null: the record stands alone) and, optionally,
            `labels`: a struct of 0, 1 and null, or a class.
        fractions (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): see `split_by_group`.

    Returns:
        `dict[str, list]`: the rows of each split, in their order.

    Raises:
        ValueError: if the shares are no shares.
    """
    groups = [row.get("patient_id") or ("record", row["record_id"]) for row in rows]
    labels = [row.get("labels") for row in rows]
    if any(isinstance(value, Mapping) for value in labels):
        names = next(list(value) for value in labels if isinstance(value, Mapping))
        strata = np.array([[(value or {}).get(name) or 0.0 for name in names] for value in labels], dtype=float)
    elif labels and None not in labels:
        strata = np.array(labels)
    else:
        strata = None
    splits = split_by_group(groups, strata, fractions, seed)
    return {name: [rows[index] for index in indices] for name, indices in zip(SPLITS, splits, strict=True)}


def check_fractions(fractions: Sequence[float], count: int | None = len(SPLITS)) -> np.ndarray:
    """Return the shares of the splits as an array.

    Args:
        fractions (sequence of `float`): the shares.
        count (`int`, *optional*, defaults to 3): how many there are; `None` for any number.

    Raises:
        ValueError: if they are no list of `count` numbers from 0 to 1 that add up to 1.
    """
    try:
        shares = np.asarray(fractions, dtype=float)
    except (TypeError, ValueError):
        shares = np.array(np.nan)
    right_count = shares.ndim == 1 and len(shares) > 0 and count in (None, len(shares))
    if not right_count or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(
            f"The shares of the splits are {'' if count is None else f'{count} '}numbers from 0 to 1 that add up to "
            f"1, such as [0.7, 0.15, 0.15]; got {fractions!r}."
        )
    return shares


def check_no_leak(splits: Mapping[str, Any]) -> None:
    """Make sure that no record and no patient is in two splits.

    Args:
        splits (mapping of `str` to data set): a `datasets.DatasetDict`, or mappings of columns; the columns
            `record_id` and `patient_id` are compared where present, nulls are skipped.

    Raises:
        ValueError: naming what is shared by which splits.
    """
    for column, noun in (("patient_id", "patients"), ("record_id", "records")):
        seen: dict[Any, str] = {}
        for split, data in splits.items():
            names = getattr(data, "column_names", data)
            values = {value for value in data[column] if value is not None} if column in names else set()
            shared = sorted(str(value) for value in values if value in seen)
            if shared:
                other = seen[next(value for value in values if value in seen)]
                raise ValueError(
                    f"{len(shared)} {noun} of split {split!r} are in other splits as well (such as {other!r}): "
                    f"{', '.join(shared[:5])}{', …' if len(shared) > 5 else ''}. Split by patient, for example with "
                    "`split_by_group`."
                )
            seen.update(dict.fromkeys(values, split))


def _label_matrix(labels: Any, num_records: int) -> np.ndarray:
    if labels is None:
        return np.zeros((num_records, 0))
    matrix = np.asarray(labels)
    if len(matrix) != num_records:
        raise ValueError(
            f"Each record has a group and labels; got {num_records} groups and {len(matrix)} rows of labels."
        )
    if matrix.ndim == 1:
        classes, matrix = np.unique(matrix, return_inverse=True)
        matrix = np.eye(len(classes))[matrix]
    return np.nan_to_num(matrix.astype(float)) > 0


def _group_numbers(groups: Sequence[Hashable]) -> np.ndarray:
    """Return the number of each record's group, in the order in which groups appear."""
    if isinstance(groups, np.ndarray):
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]
    number_of_group = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.fromiter(map(number_of_group.__getitem__, groups), dtype=np.int64, count=len(groups))


def _neediest(candidates: Sequence[int], *needs: Sequence[float]) -> int:
    """Return the candidate split with the greatest need; later needs break ties, then the first split wins."""
    for need in needs:
        least = max([need[split] for split in candidates]) - 1e-9
        candidates = [split for split in candidates if need[split] >= least]
    return candidates[0]
