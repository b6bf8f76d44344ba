"""The score of the PhysioNet/CinC Challenges 2020 and 2021, which weighs confusions by their clinical closeness.

Definition (Perez Alday et al., Physiol Meas 41:124003, 2020; Reyna et al., CinC 2021): a record with labels and
predictions adds `1 / max(1, number of classes that are positive in either)` to every cell (label class, predicted
class) of a matrix; the observed score is the sum of that matrix times the weights. It is shifted and scaled so that
predicting the labels scores 1 and predicting the normal class (sinus rhythm, SNOMED CT 426783006) for every record
scores 0.

The formula is the same in both years. What differs (physionetchallenges/evaluation-2020 and evaluation-2021):

- 2020 scores 27 diagnoses in 24 classes (three pairs count as one: 713427006 and 59118001, 284470004 and 63593006,
  427172004 and 17338001); 2021 scores 30 in 26 (also 733534002 and 164909002; new are 6374002, 733534002 and
  365413008). The 2021 file joins equivalent codes in one name (`a|b`); for a file with separate
  rows pass `equivalent_classes=CHALLENGE_2020_EQUIVALENT_CLASSES` to `load_challenge_weights`.
- Where predicting the labels scores the same as predicting the normal class, the 2020 code gives NaN and that of 2021
  gives 0. Here the score is then missing (NaN).
- Revisions of the 2020 code made records without any positive class positive for the normal one, in labels and
  outputs; that of 2021 does not, and neither does this.

The weights are not part of this package; download `weights.csv` from those repositories.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .score_inputs import ArrayLike, check_binary_targets, check_label_names, check_scores

SINUS_RHYTHM = "426783006"
CHALLENGE_2020_EQUIVALENT_CLASSES = (("713427006", "59118001"), ("284470004", "63593006"), ("427172004", "17338001"))


@dataclass(frozen=True, eq=False)
class ChallengeWeights:
    """Scored classes and their weights.

    Args:
        class_names (`tuple[str, ...]`): one name per class; equivalent names are joined with `|`.
        values (`np.ndarray` of shape `(classes, classes)`): credit for predicting the column's class where the row's
            is true.

    Raises:
        ValueError: if names repeat, or values are not a square matrix of finite numbers.
    """

    class_names: tuple[str, ...]
    values: np.ndarray

    def __post_init__(self):
        values = np.array(self.values, dtype=np.float64)
        num_classes = len(self.class_names)
        if values.shape != (num_classes, num_classes) or num_classes == 0 or not np.isfinite(values).all():
            raise ValueError(
                f"{num_classes} classes need {num_classes} x {num_classes} finite weights; got shape {values.shape}."
            )
        values.flags.writeable = False
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "values", values)
        parts = [part for name in self.class_names for part in _name_parts(name)]
        if len(set(parts)) != len(parts):
            repeated = sorted({part for part in parts if parts.count(part) > 1})
            raise ValueError(f"Each name may belong to one class only; {repeated} occur in several.")

    def class_index(self, name: str, aliases: Mapping[str, str] | None = None) -> int | None:
        """Return the class that shares a name with `name` (after `aliases`), or `None`.

        Raises:
            ValueError: if the parts of a joined name belong to several classes.
        """
        wanted = _name_parts(_rename(name, aliases))
        found = [index for index, known in enumerate(self.class_names) if wanted & _name_parts(known)]
        if len(found) > 1:
            raise ValueError(f"{name!r} matches several classes: {[self.class_names[index] for index in found]}.")
        return found[0] if found else None


def load_challenge_weights(
    path: str | Path,
    aliases: Mapping[str, str] | None = None,
    equivalent_classes: Sequence[Sequence[str]] = (),
) -> ChallengeWeights:
    """Read the weights of a CinC Challenge from a CSV file with class names as its header and as its first column.

    Args:
        path (`str` or `Path`): e.g. `weights.csv` of physionetchallenges/evaluation-2021.
        aliases (mapping, *optional*): renames classes, e.g. `{"RBBB": "CRBBB|RBBB"}`; names compare without regard to
            case.
        equivalent_classes (sequence of sequences of `str`, *optional*): classes that count as one. Their rows and
            columns must be equal.

    Returns:
        `ChallengeWeights`: the classes in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file; the message says where to get it.
        ValueError: if the file is not a square table of numbers with equal row and column names, or if classes that
            become one have different weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no weights file {path}. Download weights.csv from the repository "
            "physionetchallenges/evaluation-2021 (or evaluation-2020) and pass its path."
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV text: {error}. Pass the weights.csv of a CinC Challenge.") from None
    columns = rows[0][1:] if rows else []
    if not columns or len(rows) != len(columns) + 1 or any(len(row) != len(columns) + 1 for row in rows):
        raise ValueError(
            f"{path} must be a square table with class names in its first row and first column; it has {len(rows)} "
            f"lines of {sorted({len(row) for row in rows})} cells."
        )
    names = [row[0] for row in rows[1:]]
    if sorted(names) != sorted(columns) or len(set(names)) != len(names):
        raise ValueError(f"{path}: row names and column names must be the same, each once; got {names} and {columns}.")
    try:
        values = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    except ValueError as error:
        raise ValueError(f"{path}: every weight must be a number: {error}.") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: every weight must be a finite number; {int((~np.isfinite(values)).sum())} are not.")
    values = values[:, [columns.index(name) for name in names]]
    joined = {name: "|".join(group) for group in equivalent_classes for name in group}
    return _merge_classes([_rename(_rename(name, aliases), joined) for name in names], values, path)


def _merge_classes(names: list[str], values: np.ndarray, path: Path) -> ChallengeWeights:
    """Let rows of the same name become one class, as the Challenge's code does, after checking that they agree."""
    keys = [frozenset(_name_parts(name)) for name in names]
    first = [keys.index(key) for key in keys]
    same_rows, same_columns = values == values[first], values == values[:, first]
    if not (same_rows.all() and same_columns.all()):
        odd = sorted({names[index] for index in np.argwhere(~(same_rows & same_columns.T))[:, 0]})
        raise ValueError(f"{path}: classes that count as one must have equal weights; those of {odd} differ.")
    kept = sorted(set(first))
    return ChallengeWeights(tuple(names[index] for index in kept), values[np.ix_(kept, kept)])


def challenge_score(
    targets: ArrayLike,
    predictions: ArrayLike,
    weights: ChallengeWeights,
    label_names: Sequence[str],
    normal_class: str | None = SINUS_RHYTHM,
    aliases: Mapping[str, str] | None = None,
) -> float:
    """Score decisions as the CinC Challenges 2020 and 2021 do.

    Args:
        targets (array of shape `(records, labels)`): 0, 1 or NaN. An unknown label counts as absent, and so does what
            is predicted for it, by the model as well as by the two models that fix the scale.
        predictions (array of the same shape): decisions, 0 or 1.
        weights (`ChallengeWeights`): from `load_challenge_weights`.
        label_names (sequence of `str`): names of the columns. A column belongs to the class with which it shares a
            name;
            columns of one class are joined (positive if any is), columns without a class are not scored.
        normal_class (`str` or `None`, *optional*, defaults to sinus rhythm, SNOMED CT 426783006): the class that the
            inactive model predicts for every record. It must have weights; it need not be among the labels, where the
            HuBERT-ECG code takes the inactive score for 0 instead, which `normal_class=None` does here.
        aliases (mapping, *optional*): renames labels and the normal class, e.g. `{"VPB": "VPC|VPB"}`; names compare
            without regard to case.

    Returns:
        `float`: 1 for perfect decisions, 0 for the inactive model, negative for worse; NaN where these two score the
        same.

    Raises:
        ValueError: if inputs do not fit together, no label is scored, or the normal class has no weights.

    Example:
        >>> weights = load_challenge_weights("weights.csv")
        >>> challenge_score(targets, probabilities > thresholds, weights, label_names)
        0.53
    """
    return challenge_score_details(targets, predictions, weights, label_names, normal_class, aliases)["score"]


def challenge_score_details(
    targets: ArrayLike,
    predictions: ArrayLike,
    weights: ChallengeWeights,
    label_names: Sequence[str],
    normal_class: str | None = SINUS_RHYTHM,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the parts of `challenge_score`, whose arguments it takes.

    Returns:
        `dict`: `score`, `observed`, `correct`, `inactive` (the three sums), `scored_classes` (names, in the order of
        the labels) and `unscored_labels` (names of columns without weights).

    Raises:
        ValueError: as `challenge_score`.
    """
    targets = check_binary_targets(targets)
    decisions = check_scores(check_binary_targets(predictions, "predictions"), targets.shape, "predictions")
    names = check_label_names(label_names, targets.shape[1])
    class_of_label = match_classes(names, weights, aliases)
    true, known = join_classes(targets, class_of_label, len(weights.class_names))
    predicted, _ = join_classes(decisions, class_of_label, len(weights.class_names))
    inactive = np.zeros_like(true)
    if normal_class is not None:
        inactive[:, normal_class_index(normal_class, weights, aliases)] = 1
    sums = {
        "observed": float(record_credits(true, predicted * known, weights.values).sum()),
        "correct": float(record_credits(true, true, weights.values).sum()),
        "inactive": float(record_credits(true, inactive * known, weights.values).sum()),
    }
    scale = sums["correct"] - sums["inactive"]
    order = list(dict.fromkeys(index for index in class_of_label if index >= 0))
    return {
        "score": (sums["observed"] - sums["inactive"]) / scale if scale != 0 else float("nan"),
        **sums,
        "scored_classes": [weights.class_names[index] for index in order],
        "unscored_labels": [name for name, index in zip(names, class_of_label, strict=True) if index < 0],
    }


def match_classes(
    label_names: Sequence[str], weights: ChallengeWeights, aliases: Mapping[str, str] | None
) -> np.ndarray:
    """Return the class of each label, -1 for labels without weights.

    Raises:
        ValueError: if no label has weights.
    """
    found = [weights.class_index(name, aliases) for name in label_names]
    if all(index is None for index in found):
        raise ValueError(
            f"None of the labels {list(label_names)[:8]} has Challenge weights, whose classes are "
            f"{list(weights.class_names)[:8]} ... Pass `aliases` that rename labels to classes."
        )
    return np.array([-1 if index is None else index for index in found])


def normal_class_index(normal_class: str, weights: ChallengeWeights, aliases: Mapping[str, str] | None) -> int:
    """Return the class that the inactive model predicts.

    Raises:
        ValueError: if it has no weights.
    """
    index = weights.class_index(normal_class, aliases)
    if index is None:
        raise ValueError(
            f"The normal class {normal_class!r} is none of the weighted classes {list(weights.class_names)}. Name the "
            "class of sinus rhythm, or pass `normal_class=None` to score predicting nothing as 0."
        )
    return index


def join_classes(columns: np.ndarray, class_of_label: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring label columns `(records, labels)` of 0, 1, NaN to classes.

    A class is positive if any of its labels is, otherwise unknown if any of them is.

    Returns:
        `tuple`: positives as 0/1 float64 and known cells as `bool`, both `(records, classes)`.
    """
    scored = np.flatnonzero(class_of_label >= 0)
    membership = np.zeros((columns.shape[1], num_classes))
    membership[scored, class_of_label[scored]] = 1
    positive = (columns == 1).astype(np.float64) @ membership > 0
    unknown = np.isnan(columns).astype(np.float64) @ membership > 0
    return positive.astype(np.float64), positive | ~unknown


def record_credits(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each record's credit `(records,)` from 0/1 arrays `(records, classes)`."""
    positive_in_either = np.maximum(true, predicted).sum(axis=1)
    return ((true @ weights) * predicted).sum(axis=1) / np.maximum(positive_in_either, 1)


def _rename(name: str, aliases: Mapping[str, str] | None) -> str:
    key = str(name).strip().upper()
    for old, new in (aliases or {}).items():
        if str(old).strip().upper() == key:
            return str(new).strip()
    return str(name).strip()


def _name_parts(name: str) -> set[str]:
    return {part.strip().upper() for part in name.split("|") if part.strip()}
