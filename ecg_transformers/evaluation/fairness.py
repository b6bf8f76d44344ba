"""Differences of true- and false-positive rates between groups of patients, such as sexes and age groups.

The definitions are ours; DeepECG (medRxiv 10.1101/2025.03.02.25322575) reports such differences without giving its age
groups, thresholds or averages. Thresholds are the same for all groups. A label's gap is the largest difference between
two groups. The macro gap is the largest, over pairs of groups, of the mean difference over the labels that both can be
scored on; so opposite differences of two labels cancel. A gap is never negative: noise alone makes one, the larger the
smaller the groups, so its interval can lie above 0 without a real difference. `difference` is the signed one between
the two groups that are furthest apart; for two groups its interval contains 0 where the data do not tell them apart.
With more groups the pair is picked out of several, for which the interval does not allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .bootstrap import (
    check_level,
    classification_inputs,
    interval_limits,
    mark_outcomes,
    plain_interval,
    resample_blocks,
)
from .report import MISSING, lay_out
from .score_inputs import ArrayLike, mean_of_known, plain

# Lower ends of the age groups, in years (ours): children and adolescents, young, middle and higher age, very old.
AGE_BINS = (0, 18, 40, 60, 80)

RATES = ("true_positive_rate", "false_positive_rate")


def age_groups(ages: Sequence[float | None], bins: Sequence[float] = AGE_BINS) -> list[str | None]:
    """Name the age group of each record, such as `"40-59"`.

    Args:
        ages (sequence of `float` or `None`): years.
        bins (sequence of `float`, *optional*, defaults to 0, 18, 40, 60, 80): lower ends, ascending; the last group is
            open.

    Returns:
        `list`: a name per record; `None` where the age is missing, not finite, or below the first bin.

    Raises:
        ValueError: if the bins do not ascend.

    Example:
        >>> age_groups([17.5, 40, 95, None])
        ['0-17', '40-59', '80+', None]
    """
    edges = [float(edge) for edge in bins]
    if not edges or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ValueError(f"`bins` are the lower ends of age groups, ascending; got {list(bins)}.")
    names = [f"{low:g}-{high - 1:g}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]:g}+"]
    found: list[str | None] = []
    for age in ages:
        known = age is not None and math.isfinite(age) and age >= edges[0]
        found.append(names[int(np.searchsorted(edges, age, side="right")) - 1] if known else None)
    return found


def fairness_gaps(
    targets: ArrayLike,
    probabilities: ArrayLike,
    attributes: Mapping[str, Sequence[Any]],
    thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
    *,
    label_names: Sequence[str] | None = None,
    patients: ArrayLike | None = None,
    min_patients: int = 10,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score how far the true- and false-positive rates of a classifier differ between groups.

    A group takes part in a label's true-positive rate if at least `min_patients` of its patients have the label, and
    in its false-positive rate if as many do not have it; otherwise it is listed as too small, and not scored.

    Args:
        targets (array of shape `(records, labels)` or `(records,)`): 0, 1 or NaN; or one class index per record with
            probabilities of shape `(records, classes)`, as for `bootstrap_intervals`.
        probabilities (array of shape `(records, labels)`): predicted probabilities in 0..1.
        attributes (mapping of `str` to sequence of length `records`): for each attribute, such as `"sex"`, the group
            of each record; `None`, NaN or an empty string where it is unknown. For ages see `age_groups`.
        thresholds (`float`, array of shape `(labels,)` or mapping by name, *optional*, defaults to 0.5): a label is
            predicted where its probability is strictly above its threshold; the same for all groups.
        label_names (sequence of `str`, *optional*): names of the columns; `label_0`, ... if absent.
        patients (array of shape `(records,)`, *optional*): patient of each record; whole patients are drawn, and
            counted. Without it every record is a patient.
        min_patients (`int`, *optional*, defaults to 10): see above.
        num_resamples (`int`, *optional*, defaults to 1000): bootstrap resamples of patients; 0 leaves intervals out.
        level (`float`, *optional*, defaults to 0.95): coverage asked for.
        seed (`int`, *optional*, defaults to 0): of the resamples.

    Returns:
        `dict`, valid JSON: `min_patients`, `level`, `unknown_attributes` (names of those that are unknown for all
        records, and left out) and `attributes`: name → a dictionary with

        - `groups`: name → `num_records`, `num_patients`; and `num_unknown`, records of no known group;
        - `macro`: rate → `gap`, `difference` (intervals `{"value", "lower", "upper", "num_resamples"}`), `between`
          (the two groups furthest apart, the higher rate first) and `num_labels` (how many they share);
        - `largest`: rate → the label with the largest gap: `label`, `gap`, `difference`, `between`;
        - `per_label`: label → rate → `groups` (name → `rate`, `num_records`, `num_patients`), `too_small` (names),
          `gap`, `difference`, `between`.

        Rates are `"true_positive_rate"` and `"false_positive_rate"`. Missing numbers are `None`.

    Raises:
        ValueError: if inputs do not fit together, or no attribute has a known group.

    Example:
        >>> gaps = fairness_gaps(targets, probabilities, {"sex": sexes, "age": age_groups(ages)}, patients=patient_ids)
        >>> gaps["attributes"]["sex"]["macro"]["true_positive_rate"]["gap"]
        {'value': 0.012, 'lower': 0.002, 'upper': 0.041, 'num_resamples': 1000}
    """
    targets, probabilities, decisions, names = classification_inputs(targets, probabilities, thresholds, label_names)
    num_records = len(targets)
    check_level(level, "percentile")
    if min_patients < 1 or num_resamples < 0:
        raise ValueError(f"`min_patients` is at least 1 and `num_resamples` 0; got {min_patients}, {num_resamples}.")
    patient_ids = np.arange(num_records) if patients is None else np.asarray(patients)
    # Drawn once and used for all attributes; also checks the patients.
    blocks = resample_blocks(targets, max(num_resamples, 1), seed, None, patient_ids, False)
    patient_of = np.unique(patient_ids.astype(str), return_inverse=True)[1].reshape(-1)
    outcomes = mark_outcomes(targets, decisions)
    members = {name: _members(name, groups, num_records) for name, groups in attributes.items()}
    if not any(len(groups) for groups in members.values()):
        raise ValueError(f"No record has a known group of {list(attributes) or 'any attribute'}; nothing to compare.")
    scorers = {
        name: _Attribute(groups, outcomes, patient_of, min_patients) for name, groups in members.items() if groups
    }
    once = np.ones((num_records, 1))
    points = {name: scorer.differences(once) for name, scorer in scorers.items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    if num_resamples:
        for counts in blocks:
            for name, scorer in scorers.items():
                drawn[name].append(scorer.differences(counts))
    return {
        "min_patients": min_patients,
        "level": level,
        "unknown_attributes": [name for name, groups in members.items() if not groups],
        "attributes": {
            name: _summarize(scorer, points[name], drawn[name], names, num_records, level)
            for name, scorer in scorers.items()
        },
    }


def _members(attribute: str, groups: Sequence[Any], num_records: int) -> dict[str, np.ndarray]:
    """Return the records of each group, groups in alphabetical order, numbers in front in theirs."""
    if len(groups) != num_records:
        raise ValueError(f"Attribute {attribute!r} has {len(groups)} values for {num_records} records.")
    known = [None if value is None or value != value or value == "" else str(value) for value in groups]
    present = sorted({name for name in known if name is not None}, key=lambda name: (_leading_number(name), name))
    return {name: np.flatnonzero([value == name for value in known]) for name in present}


def _leading_number(name: str) -> float:
    digits = "".join(itertools.takewhile(lambda character: character.isdigit(), name))
    return float(digits) if digits else math.inf


class _Attribute:
    """The groups of one attribute: sizes, which can be scored, and their differences on any resample."""

    def __init__(
        self, members: dict[str, np.ndarray], outcomes: np.ndarray, patient_of: np.ndarray, min_patients: int
    ):
        self.names = list(members)
        self.members = list(members.values())
        self.pairs = list(itertools.combinations(range(len(self.names)), 2))
        # (groups, outcome, labels, records of the group); true and false positives, false and true negatives
        self.outcomes = [outcomes[:, :, rows] for rows in self.members]
        self.num_patients = [len(np.unique(patient_of[rows])) for rows in self.members]
        counted = [
            _count_patients(piece, patient_of[rows]) for piece, rows in zip(self.outcomes, self.members, strict=True)
        ]
        # (rates, groups, labels): positives for the true-positive rate, negatives for the other
        self.records = np.stack([_rate_parts(piece.sum(-1))[1] for piece in self.outcomes], axis=1).astype(int)
        self.patients = np.stack(counted, axis=1)
        self.large = self.patients >= min_patients
        first, second = [pair[0] for pair in self.pairs], [pair[1] for pair in self.pairs]
        self.comparable = self.large[:, first] & self.large[:, second]

    def rates(self, counts: np.ndarray) -> np.ndarray:
        """Return `(rates, groups, labels, resamples)` for resamples as counts `(records, resamples)`."""
        found = []
        for piece, rows in zip(self.outcomes, self.members, strict=True):
            num_labels = piece.shape[1]
            totals = (piece.reshape(4 * num_labels, -1) @ counts[rows]).reshape(4, num_labels, -1)
            hits, total = _rate_parts(totals)
            found.append(np.where(total > 0, hits / np.maximum(total, 1), np.nan))
        return np.stack(found, axis=1)

    def differences(self, counts: np.ndarray) -> np.ndarray:
        """Return the differences of pairs that can be compared: `(rates, pairs, labels, resamples)`, else NaN."""
        rates = self.rates(counts)
        first, second = [pair[0] for pair in self.pairs], [pair[1] for pair in self.pairs]
        return np.where(self.comparable[..., None], rates[:, first] - rates[:, second], np.nan)


def _rate_parts(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numerators and denominators of the two rates from the four outcomes `(4, ...)`."""
    true_positive, false_positive, false_negative, true_negative = totals
    hits = np.stack([true_positive, false_positive])
    return hits, hits + np.stack([false_negative, true_negative])


def _count_patients(outcomes: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Count the patients with a positive and with a negative record of each label: `(rates, labels)`."""
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(patients[order]) > 0])
    in_question = _rate_parts(outcomes[:, :, order])[1] > 0
    return np.logical_or.reduceat(in_question, starts, axis=-1).sum(-1)


def _largest(differences: np.ndarray, axis: int) -> np.ndarray:
    """Return the largest absolute value along an axis, NaN where there is none."""
    sizes = np.where(np.isnan(differences), -1.0, np.abs(differences))
    largest = sizes.max(axis=axis, initial=-1.0)
    return np.where(largest < 0, np.nan, largest)


def _summarize(
    scorer: _Attribute,
    point: np.ndarray,
    drawn: list[np.ndarray],
    labels: list[str],
    num_records: int,
    level: float,
) -> dict[str, Any]:
    """Bring the differences of one attribute, on all data and on resamples, into plain Python."""
    # (rates, pairs, labels, resamples); without resamples the last axis is empty.
    samples = np.concatenate(drawn, axis=-1) if drawn else point[..., :0]
    macro, macro_samples = (mean_of_known(part, axis=2)[:, :, None] for part in (point, samples))
    rates = scorer.rates(np.ones((num_records, 1)))[..., 0]
    summary: dict[str, Any] = {
        "groups": {
            name: {"num_records": len(rows), "num_patients": count}
            for name, rows, count in zip(scorer.names, scorer.members, scorer.num_patients, strict=True)
        },
        "num_unknown": num_records - sum(len(rows) for rows in scorer.members),
        "macro": {},
        "largest": {},
        "per_label": {label: {} for label in labels},
    }
    for index, rate in enumerate(RATES):
        found = _compare(scorer, macro[index], macro_samples[index], level)[0]
        pair = _pair_index(scorer, found["between"])
        found["num_labels"] = 0 if pair is None else int(scorer.comparable[index, pair].sum())
        summary["macro"][rate] = found
        compared = _compare(scorer, point[index], samples[index], level)
        for column, label in enumerate(labels):
            large = scorer.large[index, :, column]
            summary["per_label"][label][rate] = {
                "groups": {
                    name: {
                        "rate": plain(rates[index, group, column]) if large[group] else None,
                        "num_records": int(scorer.records[index, group, column]),
                        "num_patients": int(scorer.patients[index, group, column]),
                    }
                    for group, name in enumerate(scorer.names)
                },
                "too_small": [name for name, enough in zip(scorer.names, large, strict=True) if not enough],
                **compared[column],
            }
        values = [entry["gap"]["value"] for entry in compared]
        known = [column for column, value in enumerate(values) if value is not None]
        best = max(known, key=lambda column: values[column]) if known else None
        nothing = {"gap": _no_interval(), "difference": _no_interval(), "between": None}
        summary["largest"][rate] = (
            {"label": None, **nothing} if best is None else {"label": labels[best], **compared[best]}
        )
    return summary


def _compare(scorer: _Attribute, point: np.ndarray, samples: np.ndarray, level: float) -> list[dict[str, Any]]:
    """Compare groups, label by label: `point` `(pairs, labels, 1)`, `samples` `(pairs, labels, resamples)`."""
    gaps, gap_samples = _largest(point, 0)[:, 0], _largest(samples, 0).T
    gap_limits = interval_limits(gaps, gap_samples, level, "percentile")
    columns = np.arange(len(gaps))
    sizes = np.where(np.isnan(point[..., 0]), -1.0, np.abs(point[..., 0]))
    widest = sizes.argmax(axis=0) if len(scorer.pairs) else np.zeros(len(gaps), dtype=int)
    if len(scorer.pairs):
        signed, signed_samples = point[widest, columns, 0], samples[widest, columns].T
        sign = np.where(signed < 0, -1.0, 1.0)
        signed, signed_samples = signed * sign, signed_samples * sign
    else:
        signed, signed_samples, sign = gaps, gap_samples, np.ones(len(gaps))
    limits = interval_limits(signed, signed_samples, level, "percentile")
    found = []
    for column in columns:
        between = None
        if not np.isnan(gaps[column]):
            first, second = (scorer.names[group] for group in scorer.pairs[widest[column]])
            between = [first, second] if sign[column] > 0 else [second, first]
        found.append(
            {
                "gap": plain_interval(gaps[column], *(part[column] for part in gap_limits)),
                "difference": plain_interval(signed[column], *(part[column] for part in limits)),
                "between": between,
            }
        )
    return found


def _pair_index(scorer: _Attribute, between: list[str] | None) -> int | None:
    if between is None:
        return None
    return scorer.pairs.index(tuple(sorted(scorer.names.index(name) for name in between)))


def _no_interval() -> dict[str, Any]:
    return {"value": None, "lower": None, "upper": None, "num_resamples": 0}


def format_fairness(
    gaps: Mapping[str, Any], style: Literal["text", "markdown"] = "text", *, digits: int = 3, listed: int = 12
) -> str:
    """Lay out what `fairness_gaps` returned: a row per attribute and rate, and lines on the groups.

    Args:
        gaps (mapping): what `fairness_gaps` returned.
        style (`"text"` or `"markdown"`, *optional*, defaults to `"text"`): aligned columns, or a table for a card.
        digits (`int`, *optional*, defaults to 3): decimals.
        listed (`int`, *optional*, defaults to 12): labels named at most in a line.

    Returns:
        `str`: the table, ending without a line break.
    """
    titles = {"true_positive_rate": "true positives", "false_positive_rate": "false positives"}
    interval = f" [{gaps['level']:.0%} CI]"
    header = [
        "Groups",
        "Rate of",
        f"Macro gap{interval}",
        "Between",
        "Labels",
        f"Largest gap of a label{interval}",
        "Between",
    ]
    rows, notes = [], []
    for name, attribute in gaps["attributes"].items():
        for rate, title in titles.items():
            macro, largest = attribute["macro"][rate], attribute["largest"][rate]
            shown = "" if largest["label"] is None else f"{largest['label']} "
            rows.append(
                [
                    name,
                    title,
                    _cell(macro["gap"], digits),
                    " / ".join(macro["between"] or [MISSING]),
                    str(macro["num_labels"]),
                    shown + _cell(largest["gap"], digits),
                    " / ".join(largest["between"] or [MISSING]),
                ]
            )
        sizes = ", ".join(f"{group} {facts['num_patients']}" for group, facts in attribute["groups"].items())
        unknown = f"; unknown: {attribute['num_unknown']} records" if attribute["num_unknown"] else ""
        notes.append(f"Patients by {name}: {sizes}{unknown}.")
        for rate, title in titles.items():
            notes += _left_out(name, title, rate, attribute, gaps["min_patients"], listed)
    for name in gaps.get("unknown_attributes", ()):
        notes.append(f"Not compared by {name}: unknown for all records.")
    return lay_out(header, rows, notes, style)


def _left_out(
    name: str, title: str, rate: str, attribute: Mapping[str, Any], min_patients: int, listed: int
) -> list[str]:
    """Tell which labels and groups a rate was not compared for, and why."""
    kind = "with" if rate == "true_positive_rate" else "without"
    per_label = {label: found[rate] for label, found in attribute["per_label"].items()}
    if len(attribute["groups"]) < 2:
        return [f"Not compared by {name}, {title}: all records are of one group."]
    labels = [label for label, found in per_label.items() if found["gap"]["value"] is None]
    notes = []
    if labels:
        more = f", and {len(labels) - listed} more" if len(labels) > listed else ""
        shown = f"all {len(labels)} labels" if len(labels) == len(per_label) else ", ".join(labels[:listed]) + more
        notes.append(
            f"Not compared by {name}, {title}: {shown}; fewer than two groups have {min_patients} patients {kind} the "
            "label."
        )
    compared = [found for found in per_label.values() if found["gap"]["value"] is not None]
    counts = {group: sum(group in found["too_small"] for found in compared) for group in attribute["groups"]}
    groups = [f"{group} for {count} of {len(compared)} labels" for group, count in counts.items() if count]
    if groups:
        notes.append(
            f"Left out of the comparison by {name}, {title}: {', '.join(groups)}; fewer than {min_patients} patients "
            f"of the group are {kind} the label."
        )
    return notes


def _cell(interval: Mapping[str, Any], digits: int) -> str:
    if interval["value"] is None:
        return MISSING
    text = f"{interval['value']:.{digits}f}"
    if interval["lower"] is None:
        return text
    return f"{text} [{interval['lower']:.{digits}f}, {interval['upper']:.{digits}f}]"
