"""From what a file says to an `ECGRecord`: units, agreement with the caller, and checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..feature_extraction.ecg_leads import canonical_lead_name
from ..record import ECGRecord
from .errors import ECGReadError

if TYPE_CHECKING:
    from .registry import ReadRequest


# Factors to millivolts. Both code points that are printed as a micro sign occur in files.
MILLIVOLTS = {"nv": 1e-6, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "mv": 1.0, "v": 1e3}
MILLIVOLTS |= {"nanovolt": 1e-6, "microvolt": 1e-3, "millivolt": 1.0, "volt": 1e3}
MILLIVOLTS |= {"nanovolts": 1e-6, "microvolts": 1e-3, "millivolts": 1.0, "volts": 1e3}

# Electrocardiographs sample at 100 Hz to some kHz; a rate outside this range is a damaged or misread field.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1.0, 100_000.0

# An electrocardiograph's input range is about +-5 mV around an offset (IEC 60601-2-25 asks for 10 mV peak to valley);
# noisy public records have excursions to 33 mV. A recording in which most leads move by more than 50 is no recording
# in mV, and one in microvolts reaches 100 in every beat.
ABSURD_MILLIVOLTS = 50.0

# The largest recording that is unpacked from a compressed file: 4 GiB as float32.
MAX_UNPACKED_VALUES = 2**30

# Real recordings are packed at most about 20:1. Only flat ones go beyond, up to the 1032:1 of deflate; those of up to
# 64 MiB are still read, more is taken for a bomb.
MAX_PACKING, SMALL_BYTES = 100, 64 * 2**20


def unpacked_limit(packed_bytes: int) -> int:
    """Return how many bytes a compressed file of a given size may unpack to."""
    return min(4 * MAX_UNPACKED_VALUES, SMALL_BYTES + MAX_PACKING * packed_bytes)


@dataclass
class FileContent:
    """What a reader found in a file.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): samples in `units`; NaN where missing.
        sampling_rate (`float`, *optional*): Hz as the file states it.
        lead_names (sequence of `str`, *optional*): as the file states them.
        units (`str`, *optional*): as the file states it.
        metadata (`dict`): facts for `ECGRecord.metadata`.
        default_sampling_rate, default_lead_names, default_units: the convention of the data set or format, for what
            the file does not state; a value of the caller goes before it.
        stored_units (`str`, *optional*): the unit in the file, where the reader has converted the samples to `units`.
        names_agreed (`bool`): the reader has compared its lead names with the caller's; it may have reordered leads.
    """

    signal: np.ndarray
    sampling_rate: float | None = None
    lead_names: Sequence[str] | None = None
    units: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    default_sampling_rate: float | None = None
    default_lead_names: Sequence[str] | None = None
    default_units: str | None = None
    stored_units: str | None = None
    names_agreed: bool = False


def millivolts_per(unit: str) -> float | None:
    """Return the factor from a unit to mV, or `None` if it is no unit of voltage."""
    return MILLIVOLTS.get(str(unit).strip().lower())


def parse_age(value: Any) -> float | None:
    """Return an age in years, or `None` for anything that is no number from 0 to 120."""
    try:
        age = float(value)
    except (TypeError, ValueError):
        return None
    return age if 0 <= age <= 120 else None


def parse_sex(value: Any) -> str | None:
    """Return `"female"` or `"male"` for the spellings that files use, else `None`."""
    word = str(value).strip().lower().rstrip(".")
    return {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}.get(word)


def build_record(content: FileContent | ECGRecord, path: Path, format: str, request: ReadRequest) -> ECGRecord:
    """Check what a reader found against the caller's statements and the limits of an ECG; return the record in mV."""
    if isinstance(content, ECGRecord):
        content = FileContent(content.signal, content.sampling_rate, content.lead_names, "mV", dict(content.metadata))
    signal = np.asarray(content.signal)
    if signal.ndim != 2 or 0 in signal.shape:
        raise ECGReadError(
            path,
            f"it holds an array of shape {signal.shape} instead of (leads, samples), both at least 1.",
            "Check that the file holds one recording.",
        )
    _check_complete(content, path, request, signal.shape[0])
    rate = _agreed_rate(content, path, request)
    names = _agreed_names(content, path, request, signal.shape[0])
    unit = _agreed_unit(content, path, request)
    factor = millivolts_per(unit)
    with np.errstate(all="ignore"):
        signal = (signal if factor == 1.0 else signal * np.float64(factor)).astype(np.float32)

    metadata = {key: value for key, value in content.metadata.items() if value is not None}
    missing = np.isnan(signal).all(axis=1)
    if missing.any():
        lost = [str(name) for name, gone in zip(names, missing, strict=True) if gone]
        if missing.all() or not request.drop_nan_leads:
            remedy = (
                "The recording has no samples." if missing.all() else "Leave such leads out with drop_nan_leads=True."
            )
            raise ECGReadError(path, f"every sample is missing (NaN) in lead {', '.join(lost)}.", remedy)
        names = [name for name, gone in zip(names, missing, strict=True) if not gone]
        signal = signal[~missing]
        metadata["dropped_leads"] = lost
    if np.isinf(signal).any():
        raise ECGReadError(
            path, "it holds infinite samples.", "The file is damaged, or the unit is wrong; missing samples are NaN."
        )
    _check_amplitude(signal, path, content, request, unit)
    metadata.setdefault("record_id", path.stem)
    metadata.setdefault("source", str(path))
    metadata["format"] = format
    try:
        return ECGRecord(signal, rate, tuple(names), metadata)
    except ValueError as error:
        raise ECGReadError(
            path, str(error), "Name the leads with lead_names= if the file's names are unusable."
        ) from error


def _check_complete(content: FileContent, path: Path, request: ReadRequest, num_leads: int) -> None:
    """Name all at once that neither the file nor the caller states."""
    plural = "s" * (num_leads > 1)
    facts = (
        ("state its sampling rate", "sampling_rate= in Hz", "sampling_rate"),
        (f"name its {num_leads} lead{plural}", f"lead_names= with {num_leads} name{plural}", "lead_names"),
        ("state the unit of its samples", 'units="mV" or units="uV"', "units"),
    )
    lacking = [
        (what, remedy)
        for what, remedy, name in facts
        if all(value is None for value in (getattr(content, name), getattr(request, name)))
        and getattr(content, f"default_{name}") is None
    ]
    if lacking:
        raise ECGReadError(
            path,
            f"the file does not {_listed([what for what, _ in lacking])}.{_doubt(content)}",
            f"Pass {_listed([remedy for _, remedy in lacking], 'and')}.",
        )


def _listed(parts: Sequence[str], word: str = "or") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _doubt(content: FileContent) -> str:
    """Tell where none of the names in a file is that of a lead, as in a table of patients or labels."""
    names = list(content.lead_names or ())
    if not names or any(canonical_lead_name(str(name)) for name in names):
        return ""
    shown = ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
    return f" It does not look like a table of samples: no ECG lead is called {shown}."


def _agreed_rate(content: FileContent, path: Path, request: ReadRequest) -> float:
    stated, given = content.sampling_rate, request.sampling_rate
    for value, origin in ((stated, "the file states"), (given, "the caller gives")):
        if value is not None and not MIN_SAMPLING_RATE <= _number(value) <= MAX_SAMPLING_RATE:
            raise ECGReadError(
                path,
                f"{origin} a sampling rate of {value!r} Hz, outside {MIN_SAMPLING_RATE:g} to {MAX_SAMPLING_RATE:g}.",
                "Correct the header." if origin == "the file states" else "Pass the rate in Hz.",
            )
    if stated is not None:
        if given is not None and not math.isclose(float(stated), float(given), rel_tol=1e-3):
            raise ECGReadError(
                path,
                f"the file states a sampling rate of {float(stated):g} Hz, the caller {float(given):g} Hz.",
                "Leave sampling_rate out; reading does not resample.",
            )
        return float(stated)
    rate = given if given is not None else content.default_sampling_rate
    return float(rate)


def _agreed_names(content: FileContent, path: Path, request: ReadRequest, num_leads: int) -> list[str]:
    if content.names_agreed and content.lead_names is not None:
        return list(content.lead_names)
    return agree_on_names(content.lead_names, content.default_lead_names, request, num_leads, path)


def agree_on_names(
    stated: Sequence[str] | None,
    default: Sequence[str] | None,
    request: ReadRequest,
    num_leads: int,
    path: Path,
) -> list[str]:
    """Return the names of the rows of a file: those stated in it, else the caller's, else the default.

    Raises:
        ECGReadError: if there are none, there are too few or too many, or file and caller contradict each other.
    """
    given = request.lead_names
    names = stated if stated is not None else (given if given is not None else default)
    if names is None:
        raise ECGReadError(
            path,
            f"the file does not name its {num_leads} lead{'s' * (num_leads > 1)}.",
            f"Pass lead_names= with {num_leads} name{'s' * (num_leads > 1)}.",
        )
    for candidate, origin in (
        (names, "the file names" if stated is not None else "there are names for"),
        (given, "lead_names has"),
    ):
        if candidate is not None and len(candidate) != num_leads:
            raise ECGReadError(
                path,
                f"it holds {num_leads} leads, but {origin} {len(candidate)}: {list(candidate)[:16]}.",
                "Pass one name per lead; a selection is made afterwards with record.select_leads(names).",
            )
    names = [str(name) for name in names]
    if stated is None or given is None:
        return names
    for row, (name, wanted) in enumerate(zip(names, given, strict=True)):
        known = canonical_lead_name(name)
        if known is None:
            names[row] = str(wanted)
        elif known != canonical_lead_name(wanted):
            raise ECGReadError(
                path,
                f"row {row + 1} is lead {known} in the file and {wanted!r} in lead_names.",
                "Leave lead_names out; leads are reordered afterwards with record.select_leads(names).",
            )
    return names


def _agreed_unit(content: FileContent, path: Path, request: ReadRequest) -> str:
    for unit, origin in ((request.units, "given"), (content.units, "stated in the file")):
        if unit is not None and millivolts_per(unit) is None:
            raise ECGReadError(path, f"the unit {unit!r} {origin} is no voltage.", "Units are mV, uV, V and nV.")
    stored, given = content.stored_units or content.units, request.units
    if stored is not None and given is not None and millivolts_per(stored) != millivolts_per(given):
        raise ECGReadError(
            path,
            f"the file states its samples in {stored}, the caller in {given}.",
            "Leave units out: records are always returned in mV. If the file is wrong, correct the file.",
        )
    if content.units is not None:
        return content.units
    unit = given if given is not None else content.default_units
    return unit


def _check_amplitude(signal: np.ndarray, path: Path, content: FileContent, request: ReadRequest, unit: str) -> None:
    with np.errstate(all="ignore"):
        # Most recordings are settled by the cheap test.
        if np.nanmax(signal) - np.nanmin(signal) <= ABSURD_MILLIVOLTS:
            return
        step = max(1, signal.shape[1] // 100_000)
        sample = signal[:, ::step].astype(np.float64)
        moved = np.nanpercentile(np.abs(sample - np.nanmedian(sample, axis=1, keepdims=True)), 99, axis=1)
    typical = float(np.nanmedian(moved))
    if typical <= ABSURD_MILLIVOLTS:
        if float(np.nanmax(np.abs(signal))) > 1e6:
            doubt = _doubt(content)
            remedy = "Give a file of samples." if doubt else "The file is damaged; missing samples are written as NaN."
            raise ECGReadError(path, f"it holds samples beyond 1 kV.{doubt}", remedy)
        return
    remedy = "Correct the gain or the unit in the file."
    if content.units is None:
        remedy = (
            'If the samples are microvolts, pass units="uV".'
            if millivolts_per(unit) == 1.0
            else f"Check units={unit!r}: the samples may be in a smaller unit."
        )
    raise ECGReadError(
        path,
        f"the amplitudes are absurd for an ECG in {unit}: a typical lead moves by {typical:.4g} mV "
        f"(at most {ABSURD_MILLIVOLTS:g} is believed).{_doubt(content)}",
        remedy,
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
