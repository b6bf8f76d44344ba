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
        groups (sequence of length `records`): the patient of each record.
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
    fractions = check_fractions(fractions)
    label_counts = _label_matrix(labels, len(groups))

    members: dict[Hashable, list[int]] = defaultdict(list)
    for record, group in enumerate(groups):
        members[group].append(record)
    records_of_group = list(members.values())
    sizes = np.array([len(records) for records in records_of_group], dtype=float)
    counts = np.array([label_counts[records].sum(axis=0) for records in records_of_group]).reshape(
        len(records_of_group), label_counts.shape[1]
    )

    # Large groups first: small ones then fill the gaps that these leave.
    rank = np.lexsort((np.random.default_rng(seed).random(len(sizes)), -sizes))
    assigned = np.full(len(sizes), -1)
    wanted_records = fractions * sizes.sum()
    wanted_labels = np.outer(fractions, counts.sum(axis=0))
    has_label = np.zeros(wanted_labels.shape, dtype=bool)
    positive = counts > 0
    groups_left = positive.sum(axis=0)
    groups_of_label = [rank[positive[rank, label]] for label in range(counts.shape[1])]

    def assign(group: int, split: int) -> None:
        assigned[group] = split
        wanted_records[split] -= sizes[group]
        wanted_labels[split] -= counts[group]
        has_label[split] |= positive[group]
        np.subtract(groups_left, positive[group], out=groups_left)

    usable = fractions > 0
    while (groups_left > 0).any():
        label = int(np.argmin(np.where(groups_left > 0, groups_left, np.iinfo(np.int64).max)))
        for group in groups_of_label[label]:
            if assigned[group] >= 0:
                continue
            lacking = usable & ~has_label[:, label]
            candidates = lacking if lacking.any() and groups_left[label] <= lacking.sum() else usable
            assign(group, _neediest(candidates, wanted_labels[:, label], wanted_records))
    for group in rank:
        if assigned[group] < 0:
            assign(group, _neediest(usable, wanted_records))

    splits: list[list[int]] = [[] for _ in fractions]
    for group, split in enumerate(assigned):
        splits[split].extend(records_of_group[group])
    return [np.array(sorted(records), dtype=np.int64) for records in splits]


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


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
    """Return the shares of the splits as an array.

    Raises:
        ValueError: if they are not all within 0 and 1 or do not add up to 1.
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.ndim != 1 or not len(shares) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(
            f"The shares of the splits are numbers from 0 to 1 that add up to 1, such as 0.7, 0.15, 0.15; got "
            f"{list(fractions)}."
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


def _neediest(candidates: np.ndarray, *needs: np.ndarray) -> int:
    """Return the candidate split with the greatest need; later needs break ties, then the first split wins."""
    chosen = np.flatnonzero(candidates)
    for need in needs:
        values = need[chosen]
        chosen = chosen[values >= values.max() - 1e-9]
    return int(chosen[0])
