"""The 77 findings of DeepECG, their groups, and the published decision thresholds.

The figures are those of the configuration files published with the weights (HeartWise-AI, DeepECG_Docker);
`deepecg.json` names the file of each. Two models share the labels and differ in the order of their outputs:
`deepecg_sl` (the EfficientNet) and `deepecg_ssl` (the transformer).

What is missing in those files is missing here, as `None`: the 77-task file has no threshold for "Acute pericarditis",
only one for its group, and the transformer's own file has none for "Brugada".
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODEL_TYPES = ("deepecg_sl", "deepecg_ssl")


@functools.cache
def _facts() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("deepecg.json").read_text(encoding="utf-8"))


def _check_model_type(model_type: str) -> None:
    if model_type not in MODEL_TYPES:
        raise ValueError(f"DeepECG's labels belong to the model types {list(MODEL_TYPES)}; got {model_type!r}.")


def deepecg_labels(model_type: str) -> list[str]:
    """Return the 77 labels in the order of a model's own outputs.

    The original brings the transformer's outputs into the EfficientNet's order with a permutation, `reordered[:, j] =
    raw[:, conversion[j]]`. Here the names follow the outputs instead, so nothing has to be reordered.

    Args:
        model_type (`str`): `"deepecg_sl"` or `"deepecg_ssl"`.

    Raises:
        ValueError: for another model type.

    Example:
        >>> deepecg_labels("deepecg_sl")[:2], deepecg_labels("deepecg_ssl")[:2]
        (['Sinusal', 'Regular'], ['Acute pericarditis', 'QS complex in V1-V2-V3'])
    """
    _check_model_type(model_type)
    names = _facts()["labels"]
    if model_type == "deepecg_sl":
        return list(names)
    columns = dict(zip(_facts()["deepecg_ssl_columns"], names, strict=True))
    return [columns[column] for column in range(len(names))]


def label_groups() -> dict[str, list[str]]:
    """Return the six groups of labels.

    "ST depression (anterior - V3-V4)" is in two of them, as published; the groups have 78 entries for 77 labels.
    """
    return copy.deepcopy(_facts()["groups"])


def threshold_sources(model_type: str) -> list[str]:
    """Return the names of the sources of thresholds for a model, its default first.

    Two published files hold thresholds for the transformer, and they differ widely: `"wcr_77_classes"`, the file of
    its own weights and the default, and `"77_tasks_final"`, whose figures have three decimals and never go below
    0.001.

    Raises:
        ValueError: for another model type.
    """
    _check_model_type(model_type)
    first = _facts()["default_thresholds"][model_type]
    others = [name for name, source in _facts()["thresholds"].items() if model_type in source["labels"]]
    return sorted(others, key=lambda name: name != first)


def _threshold_source(model_type: str, source: str | None) -> tuple[str, dict[str, Any]]:
    known = threshold_sources(model_type)
    if source is None:
        source = known[0]
    if source not in known:
        raise ValueError(f"Thresholds of {model_type} come from {known}; got {source!r}.")
    return source, _facts()["thresholds"][source]


def deepecg_thresholds(model_type: str, source: str | None = None) -> dict[str, float | None]:
    """Return the threshold of every label, in the order of the model's outputs; `None` where none was published.

    Each is the point of the receiver operating characteristic with the largest sum of sensitivity and specificity
    (Youden).

    Args:
        model_type (`str`): `"deepecg_sl"` or `"deepecg_ssl"`.
        source (`str`, *optional*): one of [`threshold_sources`]; the first if not given.

    Raises:
        ValueError: for another model type or source.
    """
    _, found = _threshold_source(model_type, source)
    return {name: found["labels"][model_type][name] for name in deepecg_labels(model_type)}


def group_thresholds(model_type: str, source: str | None = None) -> dict[str, float]:
    """Return the threshold published for each group as a whole; "Pericarditis" is "Acute pericarditis" alone.

    Args:
        model_type (`str`): `"deepecg_sl"` or `"deepecg_ssl"`.
        source (`str`, *optional*): one of [`threshold_sources`]; the first if not given.

    Raises:
        ValueError: for another model type or source.
    """
    _, found = _threshold_source(model_type, source)
    return dict(found["groups"][model_type])


def biomarker_thresholds(model_type: str) -> dict[str, float]:
    """Return the thresholds of the digital biomarkers by name, such as `"LVEF <= 40 %"`.

    Raises:
        ValueError: for another model type.
    """
    _check_model_type(model_type)
    return {name: entry["thresholds"][model_type] for name, entry in _facts()["biomarkers"].items()}


def describe_deepecg_head(
    model_type: str, num_labels: int, label_names: Sequence[str] | None = None, checkpoint_name: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return what the configuration of a converted DeepECG classifier says about its outputs.

    A head of 77 outputs has the published labels unless others are given. A head of one output is a biomarker where
    the label is called like one, or where the checkpoint has the name under which that biomarker was published.

    Args:
        model_type (`str`): `"deepecg_sl"` or `"deepecg_ssl"`.
        num_labels (`int`): outputs of the head.
        label_names (sequence of `str`, *optional*): their names, in order.
        checkpoint_name (`str`, *optional*): name of the original file or folder, without its ending.

    Returns:
        `tuple`: fields of the configuration — `id2label`, `label2id`, `problem_type` and, as far as they are known,
            `thresholds` (by label), `threshold_criterion`, `threshold_source`, `label_groups` — and remarks for
            whoever converts.

    Raises:
        ValueError: for another model type, or if the names do not fit the head.
    """
    _check_model_type(model_type)
    notes: list[str] = []
    if label_names is not None:
        names = [str(name) for name in label_names]
        if len(names) != num_labels or len(set(names)) != num_labels:
            raise ValueError(
                f"The head has {num_labels} labels; `label_names` holds {len(names)} names, {len(set(names))} of them "
                "different."
            )
    elif num_labels == len(_facts()["labels"]):
        names = deepecg_labels(model_type)
    elif num_labels == 1 and _published_biomarker(model_type, checkpoint_name):
        names = [_published_biomarker(model_type, checkpoint_name)]
        notes.append(f"The output is named {names[0]!r} after the checkpoint; `label_names` gives it another name.")
    else:
        names = [f"LABEL_{index}" for index in range(num_labels)]
        notes.append("The labels have no names and no thresholds; `label_names` gives them names.")
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "multi_label_classification",
    }
    if set(names) == set(_facts()["labels"]):
        source, found = _threshold_source(model_type, None)
        published = deepecg_thresholds(model_type)
        fields["thresholds"] = {name: published[name] for name in names}
        fields["label_groups"] = label_groups()
        fields |= {"threshold_criterion": found["criterion"], "threshold_source": found["file"]}
        missing = [name for name in names if published[name] is None]
        notes.append(f"No threshold was published for {', '.join(missing)}: predictions leave it undecided.")
    elif set(names) <= biomarker_thresholds(model_type).keys():
        fields["thresholds"] = {name: biomarker_thresholds(model_type)[name] for name in names}
        fields |= {"threshold_criterion": "youden", "threshold_source": _facts()["biomarker_file"]}
    return fields, notes


def _published_biomarker(model_type: str, checkpoint_name: str | None) -> str | None:
    biomarkers: Mapping[str, Mapping] = _facts()["biomarkers"]
    matching = (name for name, entry in biomarkers.items() if entry["checkpoints"][model_type] == checkpoint_name)
    return None if checkpoint_name is None else next(matching, None)


__all__ = [
    "biomarker_thresholds",
    "deepecg_labels",
    "deepecg_thresholds",
    "describe_deepecg_head",
    "group_thresholds",
    "label_groups",
    "threshold_sources",
]
