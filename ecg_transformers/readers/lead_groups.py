"""Putting the leads of an export together: pieces of time joined, limb leads derived, leads in standard order.

Carts store the leads of one recording together or in pieces: eight leads of twelve, since the other limb leads follow
from I and II; or groups of three that follow each other in time, as the page is printed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import DERIVED_LEADS, STANDARD_LEADS, arrange_leads, canonical_lead_name
from .content import MAX_UNPACKED_VALUES, agree_on_names
from .errors import ECGReadError
from .registry import ReadRequest

# Gaps between pieces hold no bytes, so the length of the joined recording is bounded by what the pieces hold. Twelve
# leads one after the other need 12.
MAX_GAP_RATIO = 16


@dataclass
class LeadPiece:
    """Samples of one lead.

    Args:
        name (`str`): the lead as the file names it.
        samples (`np.ndarray` of shape `(samples,)`): potentials in mV; NaN where missing.
        sampling_rate (`float`): Hz.
        start_seconds (`float`): time of the first sample, on a clock that all pieces share.
    """

    name: str
    samples: np.ndarray
    sampling_rate: float
    start_seconds: float = 0.0


def join_leads(
    pieces: Sequence[LeadPiece], request: ReadRequest, path: Path
) -> tuple[list[str], np.ndarray, float, dict[str, Any]]:
    """Place the pieces of all leads on one time axis and derive the limb leads that are not stored.

    The time axis begins with the first piece and ends with the last one; what a lead lacks of it is NaN. Of pieces of
    one lead that overlap the longest is kept. The twelve standard leads come first, in standard order.

    Args:
        pieces (sequence of `LeadPiece`): in the order in which the file has them.
        request (`ReadRequest`): the caller's `lead_names` are compared with the stored leads in their stored order,
            and name those that are no known leads. The twelve standard leads in standard order are accepted, too.
        path (`Path`): the file, for error messages.

    Returns:
        `tuple`: names, signal of shape `(leads, samples)` in mV, rate in Hz, and metadata: `derived_leads` (names) and
        `gaps` (a sentence) where there are any.

    Raises:
        ECGReadError: if the pieces have several rates or no samples, or lie absurdly far apart, or are not the leads
            that the caller names.
    """
    pieces = [piece for piece in pieces if piece.samples.size]
    if not pieces:
        raise ECGReadError(path, "it holds no samples of an ECG.", "Export the recording with its waveforms.")
    rate = float(pieces[0].sampling_rate)
    others = sorted({float(piece.sampling_rate) for piece in pieces} - {rate})
    if others:
        raise ECGReadError(
            path,
            f"its leads have several sampling rates ({', '.join(f'{one:g}' for one in (rate, *others))} Hz).",
            "Export all leads at one rate.",
        )
    begin = min(piece.start_seconds for piece in pieces)
    offsets = [(piece.start_seconds - begin) * rate for piece in pieces]
    held = sum(piece.samples.size for piece in pieces)
    final = _final_names([piece.name for piece in pieces], request, path)
    stored = list(dict.fromkeys(final[piece.name] for piece in pieces))
    names = [name for name in STANDARD_LEADS if name in stored]
    names += [name for name in stored if name not in STANDARD_LEADS]
    length = max(offset + piece.samples.size for offset, piece in zip(offsets, pieces, strict=True))
    if not math.isfinite(length) or length * len(names) > min(MAX_UNPACKED_VALUES, MAX_GAP_RATIO * held):
        raise ECGReadError(
            path,
            f"its {len(pieces)} pieces hold {held} samples, but their times span {length / rate:g} s.",
            "The times in the file are damaged; export it again.",
        )
    starts = [round(offset) for offset in offsets]
    width = max(start + piece.samples.size for start, piece in zip(starts, pieces, strict=True))
    joined = np.full((len(names), width), np.nan, dtype=np.float32)
    taken = np.zeros(joined.shape, dtype=bool)
    for start, piece in sorted(zip(starts, pieces, strict=True), key=lambda pair: -pair[1].samples.size):
        row = names.index(final[piece.name])
        span = slice(start, start + piece.samples.size)
        if not taken[row, span].any():
            joined[row, span], taken[row, span] = piece.samples, True
    facts: dict[str, Any] = {}
    if not taken.all():
        facts["gaps"] = "the leads were not stored for the same time; what is missing is NaN"
    names, joined, derived = derive_limb_leads(names, joined)
    if derived:
        facts["derived_leads"] = derived
    return names, joined, rate, facts


def _final_names(stored: list[str], request: ReadRequest, path: Path) -> dict[str, str]:
    """Return for each stored name the canonical one, or for an unknown lead the caller's."""
    stored = list(dict.fromkeys(stored))
    canonical = {name: canonical_lead_name(name) or name for name in stored}
    given = [canonical_lead_name(name) or name for name in request.lead_names or ()]
    distinct = list(dict.fromkeys(canonical.values()))
    if not given or (set(distinct) <= set(given) and given == list(STANDARD_LEADS)):
        return canonical
    agreed = agree_on_names(distinct, None, request, len(distinct), path)
    renamed = dict(zip(distinct, agreed, strict=True))
    return {name: canonical_lead_name(renamed[one]) or renamed[one] for name, one in canonical.items()}


def derive_limb_leads(names: Sequence[str], signal: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
    """Complete a 12-lead recording of which I, II and V1 to V6 are stored; return names, signal and the leads derived.

    Other recordings, and those that are complete, are returned as they are.
    """
    names = list(names)
    stored = {canonical_lead_name(name) for name in names}
    derived = [name for name in STANDARD_LEADS if name not in stored]
    if not derived or not set(derived) <= set(DERIVED_LEADS):
        return names, signal, []
    rest = [row for row, name in enumerate(names) if canonical_lead_name(name) not in STANDARD_LEADS]
    twelve, _ = arrange_leads(signal, names)
    return [*STANDARD_LEADS, *(names[row] for row in rest)], np.concatenate([twelve, signal[rest]]), derived
