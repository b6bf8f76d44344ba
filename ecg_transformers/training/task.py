"""The corpus of a run: loaded, checked and counted before anything expensive starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..corpora import label_names, load_corpus, problem_type
from .arguments import DataArguments
from .data import describe_split, label_matrix

logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class ClassificationTask:
    """A corpus and what it asks of a model.

    Args:
        corpus (`datasets.DatasetDict`): the splits.
        label_names (`list[str]`): order of the model's outputs.
        problem_type (`str`): as in `config.problem_type`.
        targets (`dict[str, np.ndarray]`): per split, as `label_matrix` returns them.
        facts (`dict`): JSON: corpus, task, counts per split and label.
    """

    corpus: Any
    label_names: list[str]
    problem_type: str
    targets: dict[str, np.ndarray]
    facts: dict[str, Any]

    def has_records(self, split: str) -> bool:
        """Whether a split exists and is not empty."""
        return split in self.corpus and len(self.corpus[split]) > 0

    def can_rank(self, split: str) -> bool:
        """Whether a split can be scored: at least one label has both classes, or two known values in a regression."""
        if not self.has_records(split):
            return False
        targets = self.targets[split]
        if self.problem_type == "single_label_classification":
            return len(set(targets[targets >= 0].tolist())) > 1
        if self.problem_type == "regression":
            return bool(((~np.isnan(targets)).sum(axis=0) > 1).any())
        return bool(((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).any())

    def column(self, split: str, name: str) -> list[Any]:
        """Return a column such as `record_id`; `None` for each record where the corpus has none."""
        dataset = self.corpus[split]
        if name not in dataset.column_names:
            return [None] * len(dataset)
        return list(dataset.select_columns([name])[:][name])

    def patient_groups(self, split: str) -> np.ndarray:
        """Return a number per record, equal for records of one patient; an unknown patient stands alone."""
        seen: dict[Any, int] = {}
        keys = [
            ("record", index) if patient is None else ("patient", patient)
            for index, patient in enumerate(self.column(split, "patient_id"))
        ]
        return np.array([seen.setdefault(key, len(seen)) for key in keys])


def load_task(arguments: DataArguments) -> ClassificationTask:
    """Load the corpus and check that it can be learnt from.

    Args:
        arguments (`DataArguments`): which corpus.

    Returns:
        `ClassificationTask`.

    Raises:
        ValueError: if a folder or file is missing, the corpus or an option is unknown, or there is nothing to learn.
    """
    base = Path(arguments.data_dir or ".")
    if not base.is_dir():
        raise ValueError(f"--data_dir {base}: there is no such folder.")
    for name in ("ecg_dir", "train_csv", "validation_csv", "test_csv"):
        value = getattr(arguments, name)
        if value is not None and not (Path(value).exists() or (base / value).exists()):
            raise ValueError(f"--{name} {value}: there is no such {'folder' if name == 'ecg_dir' else 'file'}.")
    name, data_dir = arguments.corpus, arguments.data_dir
    if name == "folder":
        if data_dir is None:
            raise ValueError("--corpus folder needs --data_dir, the folder of a saved data set.")
        name, data_dir = data_dir, None
    corpus = load_corpus(name, data_dir=data_dir, **arguments.options())
    if "train" not in corpus or len(corpus["train"]) == 0:
        sizes = {split: len(dataset) for split, dataset in corpus.items()}
        raise ValueError(f"The corpus {arguments.corpus!r} has no training records; its splits: {sizes}.")
    names, kind = label_names(corpus), problem_type(corpus)
    targets = {split: label_matrix(corpus[split], names, kind) for split in SPLITS if split in corpus}
    facts = {
        "name": Path(arguments.corpus).name if Path(arguments.corpus).is_dir() else arguments.corpus,
        "task": arguments.task,
        "problem_type": kind,
        "label_names": names,
        "splits": {split: describe_split(corpus[split], targets[split], names, kind) for split in targets},
    }
    if arguments.corpus == "folder":
        facts["name"] = Path(arguments.data_dir).name
    task = ClassificationTask(corpus, names, kind, targets, facts)
    _check_labels(task)
    return task


def _check_labels(task: ClassificationTask) -> None:
    targets = task.targets["train"]
    if task.problem_type == "multi_label_classification":
        positives = (targets == 1).sum(axis=0)
        absent = [name for name, count in zip(task.label_names, positives, strict=True) if count == 0]
        if len(absent) == len(task.label_names):
            raise ValueError(
                f"None of the {len(absent)} labels ({', '.join(absent[:5])}, ...) has a positive among the "
                f"{len(targets)} "
                "training records, so there is nothing to learn. Check the label columns and the split."
            )
        if absent:
            logger.warning(
                f"{len(absent)} labels have no positive in training and cannot be learnt: {', '.join(absent)}."
            )
    elif task.problem_type == "single_label_classification":
        if not (targets >= 0).any():
            raise ValueError(
                f"All {len(targets)} training records are of unknown class, so there is nothing to learn."
            )
    elif np.isnan(targets).all():
        raise ValueError(
            f"All {len(targets)} training records lack the value to predict, so there is nothing to learn."
        )
    for split in ("validation", "test"):
        if not task.has_records(split):
            logger.warning(f"The corpus has no {split} records.")
