"""The columns that all corpora share, and what the feature of `labels` says about the task."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, NamedSplit, Value
from datasets.table import InMemoryTable, table_cast

from .ecg_feature import ECG
from .splits import SPLITS, check_fractions

logger = logging.getLogger(__name__)

# Marks the values of a label struct that are numbers to be predicted, not classes.
_REGRESSION = "regression"


def multi_label_feature(names: Sequence[str]) -> dict[str, Value]:
    """Return the feature of multi-label targets: 1, 0 or null (unknown) per name."""
    return {str(name): Value("float32") for name in names}


def regression_feature(names: Sequence[str]) -> dict[str, Value]:
    """Return the feature of several numbers to be predicted; null means unknown."""
    return {str(name): Value("float32", id=_REGRESSION) for name in names}


def shares_of_train(present: Collection[str], fractions: Sequence[float]) -> dict[str, float]:
    """Return which share of `train` becomes which split, where some are missing.

    Args:
        present (collection of `str`): the splits that there are.
        fractions (three `float`): shares of train, validation and test of the whole.

    Returns:
        `dict[str, float]`: for `train` and the splits that are missing; empty if none is.

    Raises:
        ValueError: if the shares are none, or leave nothing for these.
    """
    shares = dict(zip(SPLITS, check_fractions(fractions).tolist(), strict=True))
    parts = [name for name in SPLITS if name == "train" or name not in present]
    if len(parts) == 1:
        return {}
    total = sum(shares[name] for name in parts)
    if not total:
        raise ValueError(f"`split` {list(fractions)} leaves nothing for {', '.join(parts)}.")
    return {name: shares[name] / total for name in parts}


def corpus_features(labels: Any, ecg: ECG | None = None) -> Features:
    """Return the features of a corpus.

    Args:
        labels: the feature of the `labels` column: `multi_label_feature(names)`, `ClassLabel(names=names)`,
            `Value("float32")` or `regression_feature(names)`.
        ecg (`ECG`, *optional*): the feature of the `ecg` column, where files need a rate or lead names.

    Returns:
        `datasets.Features`: `ecg`, `labels`, `record_id`, `patient_id`, `age`, `sex`, `fold`, `report`.
    """
    return Features(
        {
            "ecg": ecg or ECG(),
            "labels": labels,
            "record_id": Value("string"),
            "patient_id": Value("string"),
            "age": Value("float32"),
            "sex": Value("string"),
            "fold": Value("int32"),
            "report": Value("string"),
        }
    )


def build_corpus(rows_of_split: Mapping[str, Sequence[Mapping[str, Any]]], features: Features) -> DatasetDict:
    """Build a corpus in memory from rows; ECGs given as paths stay paths, nothing is copied.

    Args:
        rows_of_split (mapping of `str` to sequence of mappings): the rows of `train`, `validation` and `test`. Columns
            that a row leaves out are null.
        features (`datasets.Features`): see `corpus_features`.

    Returns:
        `datasets.DatasetDict`: the three splits.
    """
    corpus = DatasetDict()
    for split in SPLITS:
        rows = rows_of_split.get(split, ())
        columns = {name: [row.get(name) for row in rows] for name in features}
        corpus[split] = Dataset.from_dict(columns, features=features, split=split)
    empty = [split for split, rows in rows_of_split.items() if not len(rows)]
    if empty:
        logger.warning("The corpus has no records for %s.", ", ".join(empty))
    return corpus


def build_corpus_from_columns(columns_of_split: Mapping[str, Mapping[str, Any]], features: Features) -> DatasetDict:
    """Build a corpus in memory from whole columns, which takes a hundredth of the time of rows.

    Args:
        columns_of_split (mapping of `str` to mappings): for each split its columns, as arrays (`np.ndarray`,
            `pyarrow.Array` or sequences; NaN in numbers is null). `labels` may be a mapping of arrays by label.
            Columns that are left out are null.
        features (`datasets.Features`): see `corpus_features`.

    Returns:
        `datasets.DatasetDict`: the splits given.
    """
    corpus = DatasetDict()
    for split, columns in columns_of_split.items():
        num_rows = len(columns["ecg"])
        arrays = {}
        for name, feature in features.items():
            values = columns.get(name)
            if values is None:
                arrays[name] = pa.nulls(num_rows)
            elif isinstance(values, Mapping):
                parts = [pa.array(values[label], from_pandas=True) for label in feature]
                arrays[name] = pa.StructArray.from_arrays(parts, list(feature))
            else:
                arrays[name] = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        table = table_cast(pa.table(arrays), features.arrow_schema)
        corpus[split] = Dataset(InMemoryTable(table), info=DatasetInfo(features=features), split=NamedSplit(split))
        if not num_rows:
            logger.warning("The corpus has no records for %s.", split)
    return corpus


def _labels_feature(features_or_dataset: Any) -> Any:
    if isinstance(features_or_dataset, DatasetDict):
        if not features_or_dataset:
            raise ValueError("The corpus has no splits.")
        features_or_dataset = next(iter(features_or_dataset.values()))
    features = getattr(features_or_dataset, "features", features_or_dataset)
    if features is None:
        raise ValueError(
            "The data set does not know its features; `map` on a stream forgets them unless it is given `features=`."
        )
    if "labels" not in features:
        raise ValueError(
            f"A corpus has a column `labels`; found {', '.join(features)}. Without labels it serves pretraining; "
            "another `task` of the corpus may have some."
        )
    return features["labels"]


def problem_type_of(features_or_dataset: Any) -> str:
    """Return the kind of task, see `ecg_transformers.corpora.problem_type`."""
    labels = _labels_feature(features_or_dataset)
    if isinstance(labels, ClassLabel):
        return "single_label_classification"
    if isinstance(labels, Value) and labels.dtype.startswith("float"):
        return "regression"
    if isinstance(labels, dict) and labels and all(isinstance(value, Value) for value in labels.values()):
        marked = any(value.id == _REGRESSION for value in labels.values())
        return "regression" if marked else "multi_label_classification"
    raise ValueError(
        "`labels` is a struct of float32 (multi-label), a ClassLabel (single-label) or a float (regression); got "
        f"{labels}."
    )


def label_names_of(features_or_dataset: Any) -> list[str]:
    """Return the label names, see `ecg_transformers.corpora.label_names`."""
    labels = _labels_feature(features_or_dataset)
    problem_type_of(features_or_dataset)
    if isinstance(labels, ClassLabel):
        return list(labels.names)
    return list(labels) if isinstance(labels, dict) else ["labels"]
