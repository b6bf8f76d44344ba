"""Schiller SEMA EDI XML (`SchillerEDI`), as Schiller carts and SEMA export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from .content import FileContent, millivolts_per, parse_sex
from .errors import ECGReadError
from .export_facts import age_at, iso_time, joined_words, statement_facts
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader
from .xml_document import number_of, parse_xml, root_name, text_of

_EXPORT_AGAIN = "The file is truncated or damaged; export it again."


def _sniff(path: Path, head: bytes) -> bool:
    # The root is named after the Java class: com.xiriuz.sema.xml.schillerEDI.SchillerEDI.
    return (root_name(head) or "").rpartition(".")[2] == "SchillerEDI"


@register_reader("schiller-xml", extensions=(".xml",), sniff=_sniff, any_name=True)
def read_schiller(path: Path, request: ReadRequest) -> FileContent:
    """Read a Schiller SEMA export (needs the extra `formats`).

    The rhythm of the first event is read, not the averaged beats; further rhythms are listed in `other_signals`.
    """
    root = parse_xml(path)
    found = [one for one in root.iter("wavedata") if (text_of(one, "type") or "").startswith("ECG_RHYTHM")]
    if not found:
        kinds = ", ".join(sorted({text_of(one, "type") or "unnamed" for one in root.iter("wavedata")})) or "none"
        raise ECGReadError(path, f"it holds no rhythm (wave data: {kinds}).", "Export it with its rhythm.")
    rhythm, resolution = found[0], found[0].find("resolution")
    rate = number_of(text_of(resolution, "samplerate/value"), "sampling rate", path)
    exponent = number_of(text_of(resolution, "samplerate/exponent") or 1, "exponent of the sampling rate", path)
    if exponent != 1:
        # Only files with 1, which is no power of ten, have been seen.
        raise ECGReadError(path, f"its sampling rate has the exponent {exponent:g}.", "Only 1 is understood.")
    unit = text_of(resolution, "yres/units")
    factor = millivolts_per(unit)
    scale = number_of(text_of(resolution, "yres/unitperbit"), "amplitude per bit (unitperbit)", path)
    if factor is None or not scale > 0:
        raise ECGReadError(path, f"its samples are in {scale:g} {unit!r}, which is no voltage.", _EXPORT_AGAIN)
    pieces = [_read_channel(channel, rate, scale * factor, path) for channel in rhythm.findall("channel")]
    names, signal, rate, facts = join_leads(pieces, request, path)
    facts["layout"] = f"Schiller EDI, {len(pieces)} leads stored, {scale:g} {unit} per bit"
    if len(found) > 1:
        facts["other_signals"] = [f"rhythm {number}" for number in range(2, len(found) + 1)]
    return FileContent(signal, rate, names, "mV", _facts(root) | facts, stored_units=unit, names_agreed=True)


def _read_channel(channel: Element, rate: float, scale: float, path: Path) -> LeadPiece:
    name, kind, text = text_of(channel, "name"), text_of(channel, "datastype"), text_of(channel, "data")
    if name is None or text is None:
        raise ECGReadError(path, "one of its leads has no name or no samples.", _EXPORT_AGAIN)
    if kind != "COMMASEPARATE":
        raise ECGReadError(path, f"lead {name} is stored as {kind!r}; COMMASEPARATE is understood.", _EXPORT_AGAIN)
    try:
        counts = np.array(text.rstrip(",").split(","), dtype=np.float64)
    except ValueError as error:
        raise ECGReadError(path, f"lead {name} holds something that is no number ({error}).", _EXPORT_AGAIN) from None
    stated = text_of(channel, "samplecount")
    if stated is not None and number_of(stated, f"samplecount of lead {name}", path) != counts.size:
        raise ECGReadError(path, f"lead {name} announces {stated} samples and holds {counts.size}.", _EXPORT_AGAIN)
    with np.errstate(all="ignore"):
        return LeadPiece(name, counts * scale, rate)


def _facts(root: Element) -> dict[str, Any]:
    start = root.find("examdescript/startdatetime")
    # The time has milliseconds: 140610000 is 14:06:10.
    recorded_at = iso_time(f"{text_of(start, 'date') or ''}{(text_of(start, 'time') or '')[:6]}")
    hardware = root.find("examdescript/aquiringdevice/hardware")
    texts = [text_of(one, "textdata") for one in root.iter("textdata") if text_of(one, "type") == "INTERPRETATION"]
    filters = [
        f"{text_of(one, 'name').lower().replace('_', ' ')} {text_of(one, 'value').lower()}"
        for one in root.iter("filter")
        if text_of(one, "name") and text_of(one, "value") not in (None, "-")
    ]
    return {
        "patient_id": text_of(root, "patdata/id"),
        "age": age_at(iso_time(text_of(root, "patdata/birthdate")), recorded_at),
        "sex": parse_sex(text_of(root, "patdata/gender")),
        "recorded_at": recorded_at,
        "device": joined_words(text_of(hardware, "vendor"), text_of(hardware, "type"), text_of(hardware, "model")),
        "filters": ", ".join(filters) or None,
        **statement_facts(line for text in texts for line in (text or "").splitlines()),
    }
