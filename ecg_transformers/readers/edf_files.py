"""EDF, EDF+C and BDF files (https://www.edfplus.info/specs)."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import canonical_lead_name
from .content import MAX_UNPACKED_VALUES, FileContent, millivolts_per, parse_sex
from .errors import ECGReadError
from .export_facts import age_at, joined_words, statement_facts
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader

_EXPORT_AGAIN = "The file is truncated or damaged; export it again."
_EDF, _BDF = b"0       ", b"\xffBIOSEMI"
_ECG_WORDS = re.compile(r"\b(ECG|EKG)", re.IGNORECASE)

MAX_SIGNALS = 1000


@dataclass(frozen=True)
class _Header:
    """What the size of a file must agree with."""

    labels: list[str]
    records: int
    seconds: float
    samples: list[int]
    interrupted: bool


def _sniff(path: Path, head: bytes) -> bool:
    # Version, then eight characters each of date and time, as 31.12.99 and 23.59.59.
    stamps = rb"[\d.:/ -]{8}[\d.:/ -]{8}[\d ]{8}"
    return head[:8] in (_EDF, _BDF) and re.fullmatch(stamps, head[168:192]) is not None


def _is_record(path: Path, head: bytes) -> bool:
    """Tell recordings with an ECG from those of sleep or brain without; the labels follow the first 256 bytes."""
    with suppress(ValueError):
        count = int(head[252:256])
        labels = [head[256 + 16 * row : 272 + 16 * row].decode("latin-1").strip() for row in range(min(count, 400))]
        return any(_is_ecg(label) for label in labels)
    return _sniff(path, head)


@register_reader("edf", extensions=(".edf", ".bdf"), sniff=_sniff, is_record=_is_record, any_name=True)
def read_edf(path: Path, request: ReadRequest) -> FileContent:
    """Read the ECG leads of an EDF, EDF+C or BDF file (needs the extra `formats`).

    Leads are the signals whose label names a lead (`ECG V1`, `II`) or says `ECG` or `EKG`; the others are listed in
    `other_signals`. If no label does, `lead_names` with one name per voltage names them. Interrupted recordings
    (EDF+D) are refused. Annotations are `statements`.
    """
    try:
        import edfio
    except ImportError as error:
        raise ImportError("Reading EDF needs edfio: pip install 'ecg-transformers[formats]'") from error

    with open(path, "rb") as file:
        is_bdf = file.read(8) == _BDF
        header = _read_header(file.read(248 + 256 * MAX_SIGNALS), 3 if is_bdf else 2, path)
    if header.interrupted and header.records > 1:
        raise ECGReadError(path, "the recording is interrupted (EDF+D).", "Split it into continuous parts (EDF+C).")
    recording = (edfio.read_bdf if is_bdf else edfio.read_edf)(path, header_encoding="latin-1")
    voltages, others = [], []
    for signal in recording.signals:
        if millivolts_per(signal.physical_dimension) is None:
            others.append(f"{signal.label} ({signal.physical_dimension or 'no unit'})")
        else:
            voltages.append(signal)
    chosen = [(signal, signal.label) for signal in voltages if _is_ecg(signal.label)]
    if not chosen:
        if request.lead_names is None or len(request.lead_names) != len(voltages) or not voltages:
            raise ECGReadError(
                path,
                f"none of its labels names an ECG lead: {', '.join(map(repr, header.labels))[:300]}.",
                f"Pass lead_names= with one name for each of its {len(voltages)} voltages."
                if voltages
                else "There is no ECG in this file.",
            )
        chosen = list(zip(voltages, request.lead_names, strict=True))
    picked = [signal for signal, _ in chosen]
    others += [f"{signal.label} ({signal.physical_dimension})" for signal in voltages if signal not in picked]
    pieces = []
    for signal, label in chosen:
        (low, high), (least, most) = signal.digital_range, signal.physical_range
        if low >= high or least == most or not np.isfinite([least, most]).all():
            raise ECGReadError(
                path, f"{label} maps {low} to {high} onto {least:g} to {most:g}, which is no scale.", "Calibrate it."
            )
        values = signal.data * millivolts_per(signal.physical_dimension)
        pieces.append(LeadPiece(_lead_name(label), values, _rate(signal.sampling_frequency)))
    names, signal, rate, facts = join_leads(pieces, request, path)
    kind = "BDF" if is_bdf else "EDF+" if recording.reserved.startswith("EDF+") else "EDF"
    facts["layout"] = f"{kind}, {len(pieces)} of {len(header.labels)} signals"
    if others:
        facts["other_signals"] = others
    units = {one.physical_dimension for one in picked}
    stored = units.pop() if len(units) == 1 else None
    return FileContent(signal, rate, names, "mV", _facts(recording) | facts, stored_units=stored, names_agreed=True)


def _is_ecg(label: str) -> bool:
    return canonical_lead_name(_lead_name(label)) is not None or _ECG_WORDS.search(label) is not None


def _lead_name(label: str) -> str:
    """Return the lead of a label such as `ECG V1-Ref`; a label that names none is kept."""
    return canonical_lead_name(label) or canonical_lead_name(re.split(r"[-:]", label)[0]) or label


def _rate(rate: float) -> float:
    # Samples per data record divided by its length in decimals, such as 250 / 0.9999.
    return float(round(rate)) if abs(rate - round(rate)) < 1e-6 * rate else rate


def _read_header(data: bytes, width: int, path: Path) -> _Header:
    """Read the fields that say how long the file is, and compare them with its size; `data` begins at byte 8."""

    def number(start: int, length: int, what: str) -> float:
        text = data[start - 8 : start - 8 + length].decode("latin-1").strip()
        try:
            return float(text)
        except ValueError:
            raise ECGReadError(path, f"its {what} is {text!r}.", _EXPORT_AGAIN) from None

    count, records = number(252, 4, "number of signals"), number(236, 8, "number of data records")
    seconds, begin = number(244, 8, "length of a data record"), number(184, 8, "length of the header")
    if not 1 <= count <= MAX_SIGNALS or begin != 256 * (count + 1) or not 0 < seconds < 1e6:
        raise ECGReadError(
            path,
            f"it states {count:g} signals, a header of {begin:g} bytes and data records of {seconds:g} s.",
            _EXPORT_AGAIN,
        )
    count = int(count)
    labels = [data[248 + 16 * row : 264 + 16 * row].decode("latin-1").strip() for row in range(count)]
    samples = [number(256 + 216 * count + 8 * row, 8, f"length of signal {row + 1}") for row in range(count)]
    held = path.stat().st_size - begin
    needed = records * sum(samples) * width
    if any(one < 1 or one % 1 for one in samples) or records < 1 or records % 1 or needed != held:
        raise ECGReadError(
            path,
            f"it states {records:g} data records of {sum(samples):g} samples, {needed:g} bytes; {held:g} follow the "
            "header.",
            _EXPORT_AGAIN,
        )
    if records * sum(samples) > MAX_UNPACKED_VALUES:
        raise ECGReadError(path, f"it holds {records * sum(samples):g} samples.", "Split it.")
    interrupted = data[192 - 8 : 197 - 8] in (b"EDF+D", b"BDF+D")
    return _Header(labels, int(records), seconds, [int(one) for one in samples], interrupted)


def _facts(recording: Any) -> dict[str, Any]:
    def told(read: Any) -> Any:
        # Each field may be anonymised or malformed in its own way.
        with suppress(Exception):
            return read()
        return None

    moment = told(lambda: recording.startdatetime) or told(lambda: recording.startdate)
    recorded_at = moment.isoformat() if moment is not None else None
    birth = told(lambda: recording.patient.birthdate)
    annotations = told(lambda: [note.text for note in recording.annotations]) or []
    code, equipment = told(lambda: recording.patient.code), told(lambda: recording.recording.equipment_code)
    return {
        "patient_id": code if code not in (None, "", "X") else None,
        "age": age_at(birth.isoformat(), recorded_at) if birth is not None else None,
        "sex": parse_sex(told(lambda: recording.patient.sex)),
        "recorded_at": recorded_at,
        "device": joined_words(equipment) if equipment != "X" else None,
        "filters": joined_words(*dict.fromkeys(one.prefiltering for one in recording.signals if _is_ecg(one.label))),
        **statement_facts(annotations[:1000]),
    }
