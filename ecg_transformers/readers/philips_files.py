"""Philips SierraECG XML (PageWriter, HeartStart, IntelliSpace ECG): schema 1.03, 1.04, 1.04.01 and 1.04.02."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import FileContent, parse_sex
from .errors import ECGReadError
from .export_facts import age_at, age_in_years, iso_time, joined_words, statement_facts
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader
from .xli import decode_xli
from .xml_document import decode_base64, number_of, parse_xml, root_name, text_of

VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")

# The limb leads that an export stores as differences from what I and II say (see `_restore_limb_leads`).
_LIMB_LEADS = STANDARD_LEADS[:6]


@register_reader(
    "philips-xml",
    extensions=(".xml",),
    sniff=lambda path, head: root_name(head) == "restingecgdata",
    any_name=True,
)
def read_philips(path: Path, request: ReadRequest) -> FileContent:
    """Read a Philips SierraECG export (needs the extra `formats`).

    The rhythm of all leads is read, not the representative beats. Statements are `statements` and `report`; their
    codes are `labels`, the severity is `severity`. The carts end the 11 s of a resting ECG with zeros and a
    calibration pulse of 1 mV, the same in all leads: they are kept, and `no_ecg_after_seconds` says where they begin.
    """
    root = parse_xml(path)
    version = text_of(root, "documentinfo/documentversion")
    if version not in VERSIONS:
        raise ECGReadError(
            path,
            f"its schema version is {version!r}; {', '.join(VERSIONS)} are understood.",
            "Export it from the ECG management system in one of these versions.",
        )
    waveforms = root.find("waveforms/parsedwaveforms")
    if waveforms is None:
        raise ECGReadError(path, "it holds no waveforms.", "Export it with parsed waveforms.")
    recording = root.find("dataacquisition/signalcharacteristics")
    rate = number_of(
        waveforms.get("samplespersecond") or text_of(recording, "samplingrate"), "sampling rate (samplingrate)", path
    )
    microvolts = number_of(
        waveforms.get("resolution") or text_of(recording, "resolution") or text_of(recording, "signalresolution"),
        "resolution (uV per bit)",
        path,
    )
    offset = number_of(waveforms.get("signaloffset") or text_of(recording, "signaloffset") or 0, "signal offset", path)
    milliseconds = number_of(waveforms.get("durationperchannel"), "length (durationperchannel)", path)
    samples = round(rate * milliseconds / 1000) if 0 < rate * milliseconds < 1e12 else 0
    if samples == 0 or not microvolts > 0:
        raise ECGReadError(
            path,
            f"it states {milliseconds:g} ms at {rate:g} Hz and {microvolts:g} uV per bit.",
            "The file is damaged; export it again.",
        )
    names = _lead_names(waveforms, recording, request, path)
    counts, packing = _counts(waveforms, recording, names, samples, path)
    with np.errstate(all="ignore"):
        signal = (counts - offset) * (microvolts / 1000)
    pieces = [LeadPiece(name, row, rate) for name, row in zip(names, signal, strict=True)]
    names, signal, rate, facts = join_leads(pieces, request, path)
    end = _end_of_ecg(signal)
    if end is not None:
        facts["no_ecg_after_seconds"] = round(end / rate, 3)
    layout = f"SierraECG {version}, {packing}, {microvolts:g} uV per bit"
    return FileContent(
        signal, rate, names, "mV", _facts(root) | facts | {"layout": layout}, stored_units="uV", names_agreed=True
    )


def _lead_names(waveforms: Element, recording: Element | None, request: ReadRequest, path: Path) -> list[str]:
    labels = (waveforms.get("leadlabels") or "").split()
    if labels:
        # Some files name the leads that the cart could have recorded, too, after those that it did.
        count = number_of(waveforms.get("numberofleads") or len(labels), "number of leads", path)
        if not 1 <= count <= len(labels):
            raise ECGReadError(
                path, f"it announces {count:g} leads and names {len(labels)}.", "The file is damaged; export it again."
            )
        return labels[: int(count)]
    # Schema 1.03 has no labels: the kind of acquisition says which leads there are, in the standard order.
    kind, allocated = text_of(recording, "acquisitiontype"), text_of(recording, "numberchannelsallocated")
    if kind in ("STD-12", "10-WIRE") and allocated == "12":
        return list(STANDARD_LEADS)
    if request.lead_names is not None and allocated == str(len(request.lead_names)):
        return list(request.lead_names)
    raise ECGReadError(
        path,
        f"it does not name its leads (acquisition type {kind!r}, {allocated} channels).",
        "Pass lead_names= with one name per channel.",
    )


def _counts(
    waveforms: Element, recording: Element | None, names: list[str], samples: int, path: Path
) -> tuple[np.ndarray, str]:
    """Return the converter counts of all leads, shape `(leads, samples)`, and how they were packed."""
    encoding = waveforms.get("dataencoding")
    if encoding != "Base64":
        raise ECGReadError(path, f"its waveforms are encoded as {encoding!r}.", "Export them as Base64.")
    bits = waveforms.get("bitspersample") or waveforms.get("nbitspersample") or text_of(recording, "bitspersample")
    if bits not in (None, "16"):
        raise ECGReadError(path, f"its samples have {bits} bits; 16 are understood.", "Export it again.")
    data = decode_base64(waveforms.text, "its waveform data", path)
    packing = waveforms.get("compressmethod") or waveforms.get("compression") or "Uncompressed"
    if packing == "XLI":
        return _restore_limb_leads(decode_xli(data, len(names), samples, path), names), "XLI"
    if packing != "Uncompressed":
        raise ECGReadError(path, f"its waveforms are packed with {packing!r}.", "Export them with XLI or unpacked.")
    if len(data) != 2 * len(names) * samples:
        raise ECGReadError(
            path,
            f"{len(names)} leads of {samples} samples take {2 * len(names) * samples} bytes; it holds {len(data)}.",
            "The file is truncated or damaged; export it again.",
        )
    counts = np.frombuffer(data, "<i2").reshape(len(names), samples).astype(np.int64)
    if not set(_LIMB_LEADS) <= set(names):
        return counts, "unpacked"
    # Whether the limb leads of unpacked data are differences is not documented; a difference is nearly zero.
    row = names.index
    plain = np.abs(counts[row("III")] - (counts[row("II")] - counts[row("I")])).sum()
    if np.abs(counts[row("III")]).sum() < plain:
        return _restore_limb_leads(counts, names), "unpacked, limb leads as differences"
    return counts, "unpacked"


def _restore_limb_leads(counts: np.ndarray, names: list[str]) -> np.ndarray:
    """Undo what the packing does to III, aVR, aVL and aVF: they are stored as differences from the derived leads.

    The formulas are those of the library `sierraecg`, with which the results agree to the bit.
    """
    if not set(_LIMB_LEADS) <= set(names):
        return counts
    restored = counts.copy()
    row = {name: names.index(name) for name in _LIMB_LEADS}
    one, two = counts[row["I"]], counts[row["II"]]
    three = two - one - counts[row["III"]]
    restored[row["III"]] = three
    restored[row["aVR"]] = -counts[row["aVR"]] - (one + two) // 2
    restored[row["aVL"]] = (one - three) // 2 - counts[row["aVL"]]
    restored[row["aVF"]] = (two + three) // 2 - counts[row["aVF"]]
    return restored


def _end_of_ecg(signal: np.ndarray) -> int | None:
    """Return the first sample of the tail with the calibration pulse, if there is one: there all leads are equal."""
    if len(signal) < 3:
        return None
    differing = np.flatnonzero(np.ptp(signal, axis=0) > 0)
    begin = int(differing[-1]) + 1 if differing.size else 0
    tail = signal[0, begin:]
    return begin if begin and tail.size and tail.max() - tail.min() > 0.5 else None


def _facts(root: Element) -> dict[str, Any]:
    acquisition, patient = root.find("dataacquisition"), root.find("patient/generalpatientdata")
    day = time = None
    if acquisition is not None:
        day, time = acquisition.get("date"), acquisition.get("time")
    recorded_at = iso_time(f"{day or ''}T{time or ''}") or iso_time(day)
    age = age_in_years(text_of(patient, "age/years"))
    machine = root.find("dataacquisition/machine")
    details = None if machine is None else machine.get("detaildescription")
    interpretation = root.find("interpretations/interpretation")
    statements, codes = [], []
    for statement in () if interpretation is None else interpretation.findall("statement"):
        left, right = text_of(statement, "leftstatement"), text_of(statement, "rightstatement")
        statements.append(f"{left or ''}{', ' + right if right else ''}")
        codes.append(text_of(statement, "statementcode"))
    facts: dict[str, Any] = {
        "patient_id": text_of(patient, "patientid"),
        "age": age if age is not None else age_at(text_of(patient, "age/dateofbirth"), recorded_at),
        "sex": parse_sex(text_of(patient, "sex")),
        "recorded_at": recorded_at,
        "device": joined_words("Philips", text_of(machine), details),
        "filters": _filters(root.find("reportinfo/reportbandwidth")),
        "severity": text_of(interpretation, "severity"),
        "confirmed": root.get("status"),
        **statement_facts(statements),
    }
    if any(codes):
        facts["labels"] = [code for code in codes if code]
    return facts


def _filters(bandwidth: Element | None) -> str | None:
    parts = []
    for tag, words in (
        ("highpassfiltersetting", "high-pass"),
        ("lowpassfiltersetting", "low-pass"),
        ("notchfiltersetting", "notch"),
    ):
        value = text_of(bandwidth, tag)
        if value:
            parts.append(f"{words} {value} Hz" if value.replace(".", "", 1).isdigit() else f"{words} {value}")
    return f"of the printed report: {', '.join(parts)}" if parts else None
