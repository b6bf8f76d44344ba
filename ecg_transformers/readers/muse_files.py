"""GE MUSE XML (`RestingECG`), as MUSE and MAC carts export it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from .content import FileContent, millivolts_per, parse_sex
from .errors import ECGReadError
from .export_facts import age_at, age_in_years, iso_date, iso_time, joined_words, statement_facts
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader
from .xml_document import decode_base64, number_of, parse_xml, root_name, text_of

_EXPORT_AGAIN = "The file is truncated or damaged; export it again."


@register_reader(
    "muse-xml", extensions=(".xml",), sniff=lambda path, head: root_name(head) == "RestingECG", any_name=True
)
def read_muse(path: Path, request: ReadRequest) -> FileContent:
    """Read a GE MUSE export (needs the extra `formats`).

    The rhythm is read, not the median beats. MUSE stores eight leads; III, aVR, aVL and aVF are derived from I and II
    and listed in `derived_leads`. Each lead's length and, where the file has it, its CRC-32 are checked. The lowest
    16-bit value, which would be some -160 mV, marks a missing sample. Dates are month-day-year, as MUSE writes them.
    """
    root = parse_xml(path)
    waveforms = root.findall("Waveform")
    rhythms = [one for one in waveforms if (text_of(one, "WaveformType") or "").lower() == "rhythm"]
    if not rhythms:
        kinds = ", ".join(sorted({text_of(one, "WaveformType") or "unnamed" for one in waveforms})) or "none"
        raise ECGReadError(path, f"it holds no rhythm (waveforms: {kinds}).", "Export it with its waveforms.")
    pieces, scales, off = [], set(), []
    for rhythm in rhythms:
        rate = number_of(text_of(rhythm, "SampleBase"), "sampling rate (SampleBase)", path)
        exponent = number_of(text_of(rhythm, "SampleExponent") or 0, "SampleExponent", path)
        if not abs(exponent) <= 9:
            raise ECGReadError(path, f"its SampleExponent is {exponent:g}.", _EXPORT_AGAIN)
        rate *= 10.0**exponent
        if not 0 < rate < 1e6:
            raise ECGReadError(path, f"its sampling rate is {rate:g} Hz.", _EXPORT_AGAIN)
        for lead in rhythm.findall("LeadData"):
            piece, scale = _read_lead(lead, rate, path)
            pieces.append(piece)
            scales.add(scale)
            if (text_of(lead, "LeadOff") or "").upper() == "TRUE":
                off.append(piece.name)
    names, signal, rate, facts = join_leads(pieces, request, path)
    layout = f"MUSE {text_of(root, 'MuseInfo/MuseVersion') or 'of unknown version'}, {len(pieces)} leads stored, "
    facts["layout"] = layout + ", ".join(sorted(scales))
    if off:
        facts["leads_off"] = off
    return FileContent(
        signal, rate, names, "mV", _facts(root, rhythms[0]) | facts, stored_units="uV", names_agreed=True
    )


def _read_lead(lead: Element, rate: float, path: Path) -> tuple[LeadPiece, str]:
    name = text_of(lead, "LeadID")
    if name is None:
        raise ECGReadError(path, "one of its leads has no LeadID.", _EXPORT_AGAIN)
    width = text_of(lead, "LeadSampleSize") or "2"
    if width != "2":
        raise ECGReadError(path, f"lead {name} has samples of {width} bytes; 2 are understood.", _EXPORT_AGAIN)
    unit = (text_of(lead, "LeadAmplitudeUnits") or "").lower()
    factor = millivolts_per(unit)
    if factor is None:
        raise ECGReadError(path, f"lead {name} has the unit {unit!r}, which is no voltage.", "Correct the file.")
    scale = number_of(text_of(lead, "LeadAmplitudeUnitsPerBit"), f"LeadAmplitudeUnitsPerBit of lead {name}", path)
    data = decode_base64(text_of(lead, "WaveFormData"), f"the waveform of lead {name}", path)
    stated = text_of(lead, "LeadSampleCountTotal")
    count = number_of(stated, f"LeadSampleCountTotal of lead {name}", path) if stated else len(data) // 2
    if len(data) != 2 * count:
        raise ECGReadError(
            path, f"lead {name} holds {len(data)} bytes for {count:g} samples of 2 bytes.", _EXPORT_AGAIN
        )
    checksum = text_of(lead, "LeadDataCRC32")
    if checksum and checksum.isdigit() and int(checksum) not in (0, zlib.crc32(data)):
        raise ECGReadError(path, f"the samples of lead {name} do not match their checksum.", _EXPORT_AGAIN)
    counts = np.frombuffer(data, "<i2")
    samples = counts * (scale * factor)
    samples[counts == -32768] = np.nan
    start = number_of(text_of(lead, "LeadTimeOffset") or 0, f"LeadTimeOffset of lead {name}", path) / 1000
    return LeadPiece(name, samples, rate, start), f"{scale:g} {unit} per bit"


def _facts(root: Element, rhythm: Element) -> dict[str, Any]:
    patient, test = root.find("PatientDemographics"), root.find("TestDemographics")
    day = _iso_day(text_of(test, "AcquisitionDate"))
    recorded_at = iso_time(f"{day or ''}T{text_of(test, 'AcquisitionTime') or ''}") or day
    age = age_in_years(text_of(patient, "PatientAge"), text_of(patient, "AgeUnits"))
    filters = []
    # The high-pass filter is stated in hundredths of a hertz.
    for tag, what, factor in (
        ("HighPassFilter", "high-pass", 0.01),
        ("LowPassFilter", "low-pass", 1),
        ("ACFilter", "mains", 1),
    ):
        value = text_of(rhythm, tag)
        if value:
            filters.append(f"{what} {int(value) * factor:g} Hz" if value.isdigit() else f"{what} {value.lower()}")
    lines, words = [], []
    for statement in root.findall("Diagnosis/DiagnosisStatement"):
        words.append(text_of(statement, "StmtText") or "")
        if "ENDSLINE" in [flag.text for flag in statement.findall("StmtFlag")]:
            lines.append(" ".join(words))
            words = []
    return {
        "patient_id": text_of(patient, "PatientID"),
        "age": age if age is not None else age_at(_iso_day(text_of(patient, "DateofBirth")), recorded_at),
        "sex": parse_sex(text_of(patient, "Gender")),
        "recorded_at": recorded_at,
        "device": joined_words("GE", text_of(test, "AcquisitionDevice")),
        "filters": ", ".join(filters) or None,
        "confirmed": text_of(test, "Status"),
        **statement_facts([*lines, " ".join(words)]),
    }


def _iso_day(text: str | None) -> str | None:
    parts = (text or "").replace("/", "-").split("-")
    return iso_date(parts[2], parts[0], parts[1]) if len(parts) == 3 else None
