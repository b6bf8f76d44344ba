"""From marked waves and beats to a class per sample: which wave of which beat a model's token stands on.

The corpus `ludb` has the column `delineation`, `mit_bih` the column `beats`. These functions turn them into arrays
beside the signal, at its rate or another, and into one class per segment (a token, a shard of a codebook):

    row = load_corpus("ludb", data_dir="ludb")["train"][0]
    record = row["ecg"]
    classes = wave_classes(row["delineation"], record.lead_names, record.num_samples)  # (12, 5000), as the signal
    at_100_hz = classes_at_rate(classes, record.sampling_rate, 100)                    # (12, 1000)
    per_token = segment_classes(at_100_hz, 64)                                         # (12, 15)

A class is a number: its index in `WAVE_CLASSES` or `AAMI_CLASSES`; `UNKNOWN` (-1) is where nobody marked anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import List, Value

# 0 is what lies between the waves of a stretch that was annotated.
WAVE_CLASSES = ("none", "P", "QRS", "T")

# ANSI/AAMI EC57: any other beat, supraventricular ectopic, ventricular ectopic, fusion, unknown or paced.
AAMI_CLASSES = ("N", "S", "V", "F", "Q")

# Symbols of beats, https://wfdb.io/spec/annotation-codes.html, by class as de Chazal et al. (IEEE Trans Biomed Eng
# 51:1196, 2004, table 1) group those of MIT-BIH; B, n and r, which it lacks, by their meaning (ours).
AAMI_CLASS_OF_SYMBOL = {
    symbol: name
    for name, symbols in {"N": "NLRejBn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}.items()
    for symbol in symbols
}

UNKNOWN = -1

DELINEATION_FEATURE = List(
    {
        "lead": Value("string"),
        "wave": Value("string"),
        "onset": Value("int32"),
        "peak": Value("int32"),
        "offset": Value("int32"),
    }
)
BEATS_FEATURE = List({"sample": Value("int32"), "symbol": Value("string"), "aami": Value("string")})


def wave_classes(delineation: Sequence[Mapping[str, Any]], lead_names: Sequence[str], num_samples: int) -> np.ndarray:
    """Return the wave at each sample of each lead.

    A wave covers the samples from its onset to its offset, both included; where one of the two was not marked, it
    ends at its peak. Where waves touch, QRS comes before P and P before T. Samples before the first and after the
    last marked wave of a lead are unknown, since annotators leave out what is cut off there (ours).

    Args:
        delineation (sequence of mappings): the column `delineation` of a row: `lead`, `wave` (`"P"`, `"QRS"`, `"T"`),
            `onset`, `peak`, `offset` (samples from the record's start; onset and offset may be null).
        lead_names (sequence of `str`): the rows of the result, such as `record.lead_names`; a lead without any wave
            is unknown throughout.
        num_samples (`int`): length of the record at the rate of the delineation.

    Returns:
        `np.ndarray` of shape `(leads, samples)`, int8: indices in `WAVE_CLASSES`, or `UNKNOWN`.

    Raises:
        ValueError: for a wave of another name.

    Example:
        >>> marks = [{"lead": "II", "wave": "QRS", "onset": 1, "peak": 2, "offset": 3}]
        >>> wave_classes([*marks, {"lead": "II", "wave": "T", "onset": 5, "peak": 6, "offset": None}], ["II"], 8)
        array([[-1,  2,  2,  2,  0,  3,  3, -1]], dtype=int8)
    """
    classes = np.full((len(lead_names), num_samples), UNKNOWN, dtype=np.int8)
    row_of_lead = {name: row for row, name in enumerate(lead_names)}
    waves: list[tuple[int, int, int, int]] = []
    for mark in delineation:
        if mark["wave"] not in WAVE_CLASSES[1:]:
            raise ValueError(f"Waves are {', '.join(WAVE_CLASSES[1:])}; the delineation has {mark['wave']!r}.")
        if mark["lead"] in row_of_lead:
            places = [mark[name] for name in ("onset", "peak", "offset") if mark[name] is not None]
            waves.append((WAVE_CLASSES.index(mark["wave"]), row_of_lead[mark["lead"]], min(places), max(places)))
    for row in {wave[1] for wave in waves}:
        of_lead = [wave for wave in waves if wave[1] == row]
        classes[row, min(wave[2] for wave in of_lead) : max(wave[3] for wave in of_lead) + 1] = 0
    for kind in ("T", "P", "QRS"):
        for number, row, first, last in waves:
            if WAVE_CLASSES[number] == kind:
                classes[row, first : last + 1] = number
    return classes


def beat_classes(
    beats: Sequence[Mapping[str, Any]],
    num_samples: int,
    sampling_rate: float,
    before_seconds: float = 0.25,
    after_seconds: float = 0.45,
) -> np.ndarray:
    """Return the AAMI class of the beat that each sample belongs to.

    A beat reaches from `before_seconds` before its mark (near the R peak) to `after_seconds` after it, and no farther
    than halfway to its neighbours; what lies between beats is unknown. The reach is ours: about a P wave before, and
    the end of a T wave after.

    Args:
        beats (sequence of mappings): the column `beats` of a row: `sample`, from the window's start, and `aami`.
        num_samples (`int`): length of the window.
        sampling_rate (`float`): rate in Hz of the window and of `sample`.
        before_seconds (`float`, *optional*, defaults to 0.25): reach before the mark.
        after_seconds (`float`, *optional*, defaults to 0.45): reach after it.

    Returns:
        `np.ndarray` of shape `(samples,)`, int8: indices in `AAMI_CLASSES`, or `UNKNOWN`.

    Raises:
        ValueError: for a class that AAMI does not have.

    Example:
        >>> beat_classes([{"sample": 2, "aami": "V"}], 8, sampling_rate=10, before_seconds=0.1, after_seconds=0.2)
        array([-1,  2,  2,  2,  2, -1, -1, -1], dtype=int8)
    """
    classes = np.full(num_samples, UNKNOWN, dtype=np.int8)
    ordered = sorted(beats, key=lambda beat: beat["sample"])
    marks = [beat["sample"] for beat in ordered]
    for number, beat in enumerate(ordered):
        if beat["aami"] not in AAMI_CLASSES:
            raise ValueError(f"Beats are of the AAMI classes {', '.join(AAMI_CLASSES)}; got {beat['aami']!r}.")
        first = marks[number] - round(before_seconds * sampling_rate)
        last = marks[number] + round(after_seconds * sampling_rate)
        if number:
            first = max(first, (marks[number - 1] + marks[number]) // 2 + 1)
        if number + 1 < len(marks):
            last = min(last, (marks[number] + marks[number + 1]) // 2)
        classes[max(first, 0) : max(last + 1, 0)] = AAMI_CLASSES.index(beat["aami"])
    return classes


def classes_at_rate(classes: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """Bring classes to another rate: each new sample has the class of the old one nearest in time.

    Args:
        classes (`np.ndarray` of shape `(..., samples)`): at `sampling_rate` Hz.
        sampling_rate (`float`): Hz.
        target_rate (`float`): Hz.

    Returns:
        `np.ndarray` of shape `(..., ceil(samples * target_rate / sampling_rate))`: as many samples as the `ECG`
        feature gives a record at that rate.
    """
    num_samples = classes.shape[-1]
    # Rounded first: 0.1 * 30 is a little more than 3.
    length = math.ceil(round(num_samples * target_rate / sampling_rate, 6))
    nearest = np.floor(np.arange(length) * sampling_rate / target_rate + 0.5).astype(np.int64)
    return classes[..., np.minimum(nearest, num_samples - 1)]


def segment_classes(classes: np.ndarray, samples_per_segment: int) -> np.ndarray:
    """Return the most frequent class of each segment of equal length; a rest at the end is dropped.

    Args:
        classes (`np.ndarray` of shape `(..., samples)`): int8, `UNKNOWN` counts as a class of its own. Of classes that
            are equally frequent the first wins, `UNKNOWN` before all.
        samples_per_segment (`int`): length of a segment.

    Returns:
        `np.ndarray` of shape `(..., samples // samples_per_segment)`, int8.

    Raises:
        ValueError: if a segment has no samples.

    Example:
        >>> segment_classes(np.array([0, 1, 1, 2, 2, -1, 0], dtype=np.int8), 3)
        array([1, 2], dtype=int8)
    """
    if samples_per_segment < 1:
        raise ValueError(f"A segment has at least one sample; got {samples_per_segment}.")
    count = classes.shape[-1] // samples_per_segment
    segments = classes[..., : count * samples_per_segment].reshape(*classes.shape[:-1], count, samples_per_segment)
    kinds = np.unique(classes) if classes.size else np.array([UNKNOWN], dtype=np.int8)
    votes = np.stack([(segments == kind).sum(axis=-1) for kind in kinds])
    return kinds[votes.argmax(axis=0)].astype(np.int8)
