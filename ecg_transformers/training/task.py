"""The corpus of a run: loaded, checked and counted before anything expensive starts."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..corpora import corpus_function, label_names, list_corpora, load_corpus, problem_type
from .arguments import CorpusArguments, DataArguments
from .data import count_records, describe_split, label_matrix
from .label_fraction import select_label_fraction

logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")
# Options by which corpora keep records without a label: pretraining needs none.
_WITHOUT_LABELS = {"keep_unlabelled": True, "label_columns": []}


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
        return column_of(self.corpus[split], name)

    def patient_groups(self, split: str) -> np.ndarray:
        """Return a number per record, equal for records of one patient; an unknown patient stands alone."""
        return patient_numbers(self.corpus[split])


def column_of(dataset: Any, name: str) -> list[Any]:
    """Return a column such as `record_id`; `None` for each record if the data set has no such column."""
    if name not in dataset.column_names:
        return [None] * len(dataset)
    return list(dataset.select_columns([name])[:][name])


def patient_numbers(dataset: Any) -> np.ndarray:
    """Return a number per record, equal for records of one patient; an unknown patient stands alone."""
    seen: dict[Any, int] = {}
    keys = [
        ("record", index) if patient is None else ("patient", patient)
        for index, patient in enumerate(column_of(dataset, "patient_id"))
    ]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def load_task(arguments: DataArguments, corpus: Any = None) -> ClassificationTask:
    """Load the corpus and check that it can be learnt from.

    Args:
        arguments (`DataArguments`): which corpus.
        corpus (`datasets.DatasetDict`, *optional*): its splits, where they have been loaded.

    Returns:
        `ClassificationTask`.

    Raises:
        ValueError: if a folder or file is missing, the corpus or an option is unknown, or there is nothing to learn.
    """
    if corpus is None:
        corpus = load_splits(arguments)
    if "train" not in corpus or len(corpus["train"]) == 0:
        sizes = {split: len(dataset) for split, dataset in corpus.items()}
        raise ValueError(f"The corpus {arguments.corpus!r} has no training records; its splits: {sizes}.")
    names, kind = label_names(corpus), problem_type(corpus)
    targets = {split: label_matrix(corpus[split], names, kind) for split in SPLITS if split in corpus}
    fraction = None
    if arguments.label_fraction < 1:
        corpus, targets, fraction = _keep_fraction(arguments, corpus, targets, names, kind)
    facts = {
        "name": corpus_name(arguments),
        "task": arguments.task,
        "problem_type": kind,
        "label_names": names,
        "label_fraction": fraction,
        "splits": {split: describe_split(corpus[split], targets[split], names, kind) for split in targets},
    }
    task = ClassificationTask(corpus, names, kind, targets, facts)
    _check_labels(task)
    return task


def load_splits(arguments: CorpusArguments) -> Any:
    """Load the corpus that the arguments name.

    Args:
        arguments (`CorpusArguments`): which corpus.

    Returns:
        `datasets.DatasetDict`: its splits.

    Raises:
        ValueError: if a folder or file is missing, or the corpus or an option is unknown.
    """
    base = Path(arguments.data_dir or ".")
    if not base.is_dir():
        raise ValueError(f"--data_dir {base}: there is no such folder.")
    for name in ("ecg_dir", "train_csv", "validation_csv", "test_csv"):
        value = getattr(arguments, name)
        if value is not None and not (Path(value).exists() or (base / value).exists()):
            raise ValueError(f"--{name} {value}: there is no such {'folder' if name == 'ecg_dir' else 'file'}.")
    name, data_dir = arguments.corpus, arguments.data_dir
    if name == "folder" and data_dir is None:
        raise ValueError("--corpus folder needs --data_dir, a folder of ECG files or of a saved data set.")
    options = arguments.options()
    if options.get("streaming") and not getattr(arguments, "streaming", False):
        raise ValueError("This run reads records by index; leave `streaming` out of --corpus_options.")
    try:
        return load_corpus(name, data_dir=data_dir, **options)
    except ValueError as error:
        hint = _options_named_in(str(error), name, arguments)
        if not hint:
            raise
        raise ValueError(f"{error} (On the command line: {hint})") from error


def _options_named_in(message: str, corpus: str, arguments: CorpusArguments) -> str:
    """Tell how the scripts spell the options of a corpus that a message names as arguments of its function."""
    if corpus not in list_corpora():
        return ""
    known = inspect.signature(corpus_function(corpus)).parameters
    found = [backticked or assigned for backticked, assigned in re.findall(r"`(\w+)`|\b(\w+)=", message)]
    named = [name for name in dict.fromkeys(found) if name in known]
    own = {entry.name for entry in fields(arguments)}
    parts = [f"--{name} VALUE" for name in named if name in own]
    others = [f"{name}=VALUE" for name in named if name not in own]
    return ", ".join([*parts, f"--corpus_options {' '.join(others)}"] if others else parts)


def without_labels(arguments: CorpusArguments) -> CorpusArguments:
    """Ask the corpus for all its records, labelled or not, where it has an option for that."""
    if arguments.corpus not in list_corpora():
        return arguments
    known = inspect.signature(corpus_function(arguments.corpus)).parameters
    given = arguments.options()
    if arguments.label_start_index is not None:
        given["label_columns"] = None
    added = [
        f"{name}={json.dumps(value)}" for name, value in _WITHOUT_LABELS.items() if name in known and name not in given
    ]
    return replace(arguments, corpus_options=[*arguments.corpus_options, *added])


def corpus_name(arguments: CorpusArguments) -> str:
    """Return what a corpus is called in records and cards: of a folder or file the last part."""
    if arguments.corpus == "folder":
        return Path(arguments.data_dir).name
    return Path(arguments.corpus).name if Path(arguments.corpus).exists() else arguments.corpus


def corpus_facts(arguments: CorpusArguments, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of a run tells of a corpus whose labels it does not use (JSON).

    Args:
        arguments (`CorpusArguments`): which corpus.
        splits (mapping): those that take part, counted by `count_records`.
    """
    return {
        "name": corpus_name(arguments),
        "task": arguments.task,
        "splits": {split: count_records(dataset) for split, dataset in splits.items()},
    }


def _keep_fraction(
    arguments: DataArguments, corpus: Any, targets: dict[str, np.ndarray], names: list[str], kind: str
) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """Reduce the training split to a fraction of its labelled records, and tell what that did."""
    full = describe_split(corpus["train"], targets["train"], names, kind)
    rows = select_label_fraction(
        patient_numbers(corpus["train"]), targets["train"], arguments.label_fraction, arguments.label_fraction_seed
    )
    # Not in place: the corpus may belong to somebody else.
    corpus = type(corpus)({**corpus, "train": corpus["train"].select(rows)})
    targets = {**targets, "train": targets["train"][rows]}
    lost: list[str] = []
    if kind != "regression":
        left = describe_split(corpus["train"], targets["train"], names, kind)["labels"]
        lost = [name for name in names if full["labels"][name]["positives"] and not left[name]["positives"]]
    if lost:
        logger.warning(
            f"--label_fraction {arguments.label_fraction:g} leaves {len(rows)} training records, none of them with "
            f"{len(lost)} of the {len(names)} labels: {', '.join(lost)}."
        )
    return (
        corpus,
        targets,
        {
            "fraction": arguments.label_fraction,
            "seed": arguments.label_fraction_seed,
            "of_records": full["records"],
            **({"of_patients": full["patients"]} if "patients" in full else {}),
            "labels_without_positives": lost,
        },
    )


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
