"""From the rows of a corpus to batches for a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

UNKNOWN_CLASS = -100  # ignored by the cross entropy of torch


class CorpusSplit(Dataset):
    """One split of a corpus for a `DataLoader`, each row with the seed of its random window.

    The seed follows from the run's seed, the epoch and the row alone, so windows do not depend on the number of
    workers or on whether the run was interrupted. (One generator serves a batch, so they do depend on the batch's
    other rows.)

    Args:
        dataset (`datasets.Dataset`): a split.
        seed (`int`, *optional*, defaults to 0): seed of the run.
        columns (sequence of `str`, *optional*, defaults to `("ecg", "labels")`): what a row holds.
    """

    def __init__(self, dataset: Any, seed: int = 0, columns: Sequence[str] = ("ecg", "labels")):
        self.dataset = dataset.select_columns(list(columns))
        self.seed = seed
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, which moves the random windows."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def _with_seed(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        seed = np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)[0]
        return {**row, "window_seed": int(seed)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._with_seed(self.dataset[int(index)], int(index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        columns = self.dataset[indices]
        return [
            self._with_seed({name: values[row] for name, values in columns.items()}, index)
            for row, index in enumerate(indices)
        ]


class ECGCollator:
    """Turn rows of a corpus into a batch: window, preprocess once per batch, targets as one tensor.

    Args:
        extractor (`ECGFeatureExtractor`): the model's.
        label_names (sequence of `str`): order of the targets.
        problem_type (`str`): as in `config.problem_type`.
        windows (`str`, *optional*, defaults to `"first"`): `"first"`, `"random"` or `"all"`. With `"all"` a record may
            have several rows; `record_index` tells which record each row belongs to, and `labels` has one row per
            record.
        model_inputs (sequence of `str`, *optional*): names that the model's `forward` takes; all outputs of the
            extractor by default.
    """

    def __init__(
        self,
        extractor: Any,
        label_names: Sequence[str],
        problem_type: str,
        windows: str = "first",
        model_inputs: Sequence[str] | None = None,
    ):
        if windows not in ("first", "random", "all"):
            raise ValueError(f"windows must be 'first', 'random' or 'all'; got {windows!r}.")
        self.extractor = extractor
        self.label_names = list(label_names)
        self.problem_type = problem_type
        self.windows = windows
        self.model_inputs = None if model_inputs is None else {*model_inputs, "record_index"}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows (sequence of mappings): `ecg` (an `ECGRecord`), `labels`, and for reproducible random windows
                `window_seed`.

        Returns:
            `dict[str, torch.Tensor]`: the extractor's output, `labels` (float, NaN where unknown; int64 class indices
            with single-label problems) and, with `"all"`, `record_index`.
        """
        generator = None
        if self.windows == "random" and "window_seed" in rows[0]:
            generator = torch.Generator().manual_seed(joint_seed([row["window_seed"] for row in rows]))
        features = self.extractor(
            [row["ecg"] for row in rows], windows=self.windows, generator=generator, return_tensors="pt"
        )
        batch = {
            name: value for name, value in features.items() if self.model_inputs is None or name in self.model_inputs
        }
        targets = target_array([row["labels"] for row in rows], self.label_names, self.problem_type)
        batch["labels"] = torch.from_numpy(targets)
        return batch


def joint_seed(seeds: Sequence[int]) -> int:
    """Return one seed for a batch from those of its rows."""
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1))


def target_array(labels: Sequence[Any], label_names: Sequence[str], problem_type: str) -> np.ndarray:
    """Turn the `labels` of rows into one array.

    Args:
        labels (sequence): one struct (mapping by label name), class index or number per row; null means unknown.
        label_names (sequence of `str`): order of the columns.
        problem_type (`str`): as in `config.problem_type`.

    Returns:
        `np.ndarray`: int64 `(rows,)` with single-label problems (-100: unknown), else float32 `(rows, labels)` with
            NaN for
        unknown.
    """
    if problem_type == "single_label_classification":
        return np.array([UNKNOWN_CLASS if value is None or value < 0 else value for value in labels], dtype=np.int64)
    rows = []
    for value in labels:
        if value is None:
            rows.append([np.nan] * len(label_names))
        elif isinstance(value, Mapping):
            rows.append([np.nan if value[name] is None else value[name] for name in label_names])
        else:
            rows.append([value])
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(label_names))


def label_matrix(dataset: Any, label_names: Sequence[str], problem_type: str) -> np.ndarray:
    """Return the targets of a whole split without reading its recordings, as `target_array` does for rows."""
    column = dataset.select_columns(["labels"])
    pieces = [
        target_array(column[start : start + 10_000]["labels"], label_names, problem_type)
        for start in range(0, len(column), 10_000)
    ]
    return np.concatenate(pieces) if pieces else target_array([], label_names, problem_type)


def positive_weights(targets: np.ndarray, maximum: float | None = None) -> np.ndarray:
    """Return the weight of each label's positives in the loss: negatives / positives.

    Labels with one class only get 1: neither weight would balance anything, and 0 or infinity would spoil the loss.

    Args:
        targets (`np.ndarray` of shape `(records, labels)`): 1, 0 or NaN (unknown, not counted).
        maximum (`float`, *optional*): upper limit.

    Returns:
        `np.ndarray` of shape `(labels,)`, float32.
    """
    positives = (targets == 1).sum(axis=0)
    negatives = (targets == 0).sum(axis=0)
    weights = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return np.minimum(weights, np.inf if maximum is None else maximum).astype(np.float32)


def count_records(dataset: Any) -> dict[str, Any]:
    """Count records and, if any is known, patients, where each unknown one stands alone (JSON).

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): a split; a stream has no count.
    """
    if not hasattr(dataset, "__len__"):
        return {"records": "streamed"}
    facts: dict[str, Any] = {"records": len(dataset)}
    if "patient_id" in dataset.column_names:
        patients = dataset.select_columns(["patient_id"])[:]["patient_id"]
        known = {patient for patient in patients if patient is not None}
        if known:
            facts["patients"] = len(known) + sum(patient is None for patient in patients)
    return facts


def describe_split(dataset: Any, targets: np.ndarray, label_names: Sequence[str], problem_type: str) -> dict[str, Any]:
    """Count what a split holds: records, patients, and per label positives, negatives and unknowns (JSON)."""
    facts = count_records(dataset)
    if problem_type == "single_label_classification":
        facts["labels"] = {
            name: {"positives": int((targets == index).sum())} for index, name in enumerate(label_names)
        }
    elif problem_type == "multi_label_classification":
        facts["labels"] = {
            name: {
                "positives": int((targets[:, index] == 1).sum()),
                "negatives": int((targets[:, index] == 0).sum()),
                "unknown": int(np.isnan(targets[:, index]).sum()),
            }
            for index, name in enumerate(label_names)
        }
    else:
        facts["labels"] = {
            name: {"known": int((~np.isnan(targets[:, index])).sum())} for index, name in enumerate(label_names)
        }
    return facts
