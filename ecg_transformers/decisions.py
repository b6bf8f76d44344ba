"""From probabilities to findings: decision thresholds, labels that nothing decides, groups of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STORED = "stored"
_DEFAULT = 0.5


def resolve_thresholds(
    choice: str | float | Path | Mapping[str, float | None] | None, label_names: Sequence[str], config: Any
) -> np.ndarray:
    """Return the threshold of every label; NaN for a label that has none and so is left undecided.

    Args:
        choice: `None` for the thresholds stored with the model, or 0.5 if it has none; `"stored"` to insist on those;
            a criterion such as `"youden"`, which must be that by which the stored ones were chosen; a number for all
            labels; or values by label as a mapping or JSON file, where `null`, or no entry, leaves a label undecided.
        label_names (sequence of `str`): the outputs of the model, in order.
        config (`PreTrainedConfig`): with `thresholds` and `threshold_criterion`, if the model has them.

    Returns:
        `np.ndarray` of shape `(labels,)`, float64.

    Raises:
        ValueError: if the model has no such thresholds, a number is no probability, a file cannot be read, or names
            labels that the model does not have.
    """
    stored = getattr(config, "thresholds", None)
    if isinstance(choice, str):
        choice = _read_choice(choice)
    if isinstance(choice, Path):
        choice = _read_file(choice)
    if isinstance(choice, Mapping):
        return _by_label(choice, label_names, "The thresholds given")
    if isinstance(choice, (int, float)) and not isinstance(choice, bool):
        return np.full(len(label_names), _probability(choice, "The threshold"))
    if choice is not None and not stored:
        raise ValueError(
            f"The model has no stored thresholds, so {choice!r} cannot be used. Give a number, or a JSON file of "
            "label: value."
        )
    if choice not in (None, STORED):
        criterion = getattr(config, "threshold_criterion", None)
        if choice != criterion:
            raise ValueError(
                f"The thresholds stored with the model were chosen by {criterion!r}, not {choice!r}. Take them with "
                f"{STORED!r}, give a number, or a JSON file of label: value."
            )
    if not stored:
        return np.full(len(label_names), _DEFAULT)
    return _by_label(stored, label_names, "The thresholds stored with the model")


def _read_choice(text: str) -> float | str | Path:
    try:
        return float(text)
    except ValueError:
        return Path(text) if text.endswith(".json") or Path(text).is_file() else text


def _read_file(path: Path) -> dict[str, float | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The file of thresholds {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"The file of thresholds {path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"The file of thresholds {path} holds no object of label: value.")
    return content


def _by_label(values: Mapping[str, float | None], label_names: Sequence[str], what: str) -> np.ndarray:
    unknown = [name for name in values if name not in label_names]
    if unknown:
        raise ValueError(
            f"{what} name {unknown[:5]}, which the model does not predict; its labels are {list(label_names)[:5]}"
            f"{', …' if len(label_names) > 5 else ''}."
        )
    found = [values.get(name) for name in label_names]
    return np.array([np.nan if value is None else _probability(value, what) for value in found], dtype=np.float64)


def _probability(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what}: expected a probability between 0 and 1; got {value!r}.")
    return float(value)


def summarize_groups(
    groups: Mapping[str, Sequence[str]], probabilities: Mapping[str, float], positive: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return for each group of labels the largest probability in it, and its labels that are positive.

    Args:
        groups (mapping of `str` to sequence of `str`): labels of each group; a label may be in several.
        probabilities (mapping of `str` to `float`): by label.
        positive (sequence of `str`): labels that are present.
    """
    return {
        group: {
            "probability": max(probabilities[name] for name in names),
            "labels": [name for name in names if name in positive],
        }
        for group, names in groups.items()
    }


__all__ = ["resolve_thresholds", "summarize_groups"]
