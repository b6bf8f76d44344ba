"""HL7 annotated ECG XML (`AnnotatedECG`, the format of the FDA's ECG warehouse; ANSI/HL7 V3 ECG R1-2004)."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from .content import FileContent, millivolts_per, parse_sex
from .errors import ECGReadError
from .export_facts import age_at, age_in_years, iso_date, iso_time, joined_words, statement_facts
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader
from .xml_document import number_of, parse_xml, root_name, text_of

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_EXPORT_AGAIN = "The file is damaged; export it again."
_LEAD_CODE = "MDC_ECG_LEAD_"


@register_reader(
    "hl7-aecg", extensions=(".xml",), sniff=lambda path, head: root_name(head) == "AnnotatedECG", any_name=True
)
def read_hl7(path: Path, request: ReadRequest) -> FileContent:
    """Read an HL7 annotated ECG (needs the extra `formats`).

    All rhythm series of the file are read and placed in time; derived series (representative beats) are not. Leads
    have their MDC codes, `MDC_ECG_LEAD_I`; sequences with other codes are listed in `other_signals`.
    """
    root = parse_xml(path)
    series = root.findall("component/series")
    rhythms = [one for one in series if _code(one) in ("RHYTHM", None)] or series
    pieces: list[LeadPiece] = []
    others: list[str] = []
    first: datetime | float | None = None
    for one in rhythms:
        for sequences in one.findall("component/sequenceSet"):
            values = [(_code(entry), entry.find("value")) for entry in sequences.findall("component/sequence")]
            head, rate = _clock(values, path)
            first = head if first is None else first
            start = _seconds_between(first, head)
            for code, value in values:
                if value is None or (code or "").startswith("TIME_"):
                    continue
                if code is None or not code.startswith(_LEAD_CODE):
                    others.append(str(code))
                    continue
                pieces.append(LeadPiece(code[len(_LEAD_CODE) :], _samples(value, code, path), rate, start))
    names, signal, rate, facts = join_leads(pieces, request, path)
    facts["layout"] = f"HL7 aECG, {len(pieces)} lead sequences"
    if others:
        facts["other_signals"] = list(dict.fromkeys(others))
    return FileContent(signal, rate, names, "mV", _facts(root, rhythms[0]) | facts, names_agreed=True)


def _code(element: Element) -> str | None:
    code = element.find("code")
    return None if code is None else code.get("code")


def _clock(values: list[tuple[str | None, Element | None]], path: Path) -> tuple[datetime | float, float]:
    """Return the time of the first sample (a date, or seconds) and the rate in Hz of a set of sequences."""
    for code, value in values:
        if value is None or code not in ("TIME_ABSOLUTE", "TIME_RELATIVE"):
            continue
        increment, head = value.find("increment"), value.find("head")
        unit = None if increment is None else increment.get("unit")
        if unit not in _SECONDS:
            raise ECGReadError(path, f"its time increment has the unit {unit!r}.", "It must be s, ms or us.")
        step = number_of(increment.get("value"), "time increment", path) * _SECONDS[unit]
        if not 1e-6 < step < 1e3:
            raise ECGReadError(path, f"its time increment is {step:g} s.", _EXPORT_AGAIN)
        rate = 1 / step
        # 0.002 s is 500 Hz; 0.00390625 s is 256 Hz. Only rounding noise is removed.
        rate = float(round(rate)) if math.isclose(rate, round(rate), rel_tol=1e-9) else rate
        text = None if head is None else head.get("value")
        if code == "TIME_RELATIVE":
            offset = number_of(text or 0, "time of the first sample", path)
            return offset * _SECONDS.get(head.get("unit") or "s", 1.0) if head is not None else 0.0, rate
        return _time_stamp(text) or 0.0, rate
    raise ECGReadError(path, "a set of its sequences has no time axis.", "Export it with its sampling rate.")


def _time_stamp(text: str | None) -> datetime | None:
    """Return an HL7 time stamp (`YYYYMMDDHHMMSS.ffff`, an offset from UTC dropped) with its fraction of a second."""
    whole = iso_time(text)
    if whole is None or "T" not in whole:
        return None
    fraction = (text or "").partition(".")[2][:6]
    digits = "".join(character for character in fraction if character.isdigit())
    return datetime.fromisoformat(whole).replace(microsecond=int(digits.ljust(6, "0")) if digits else 0)


def _seconds_between(first: datetime | float, head: datetime | float) -> float:
    if isinstance(first, datetime) and isinstance(head, datetime):
        return (head - first).total_seconds()
    return head - first if isinstance(first, float) and isinstance(head, float) else 0.0


def _samples(value: Element, code: str, path: Path) -> np.ndarray:
    """Return the samples of one sequence in mV."""
    scale, origin = value.find("scale"), value.find("origin")
    digits = text_of(value, "digits")
    if scale is None or digits is None:
        raise ECGReadError(path, f"{code} has no scale or no digits.", "Sequences of type SLIST_PQ are understood.")
    factor = millivolts_per(scale.get("unit"))
    if factor is None:
        raise ECGReadError(path, f"{code} has the unit {scale.get('unit')!r}, which is no voltage.", _EXPORT_AGAIN)
    step = number_of(scale.get("value"), f"scale of {code}", path) * factor
    zero = 0.0
    if origin is not None and origin.get("value"):
        zero = number_of(origin.get("value"), f"origin of {code}", path)
        zero *= millivolts_per(origin.get("unit")) or factor
    try:
        counts = np.array(digits.split(), dtype=np.float64)
    except ValueError as error:
        raise ECGReadError(path, f"{code} holds something that is no number ({error}).", _EXPORT_AGAIN) from None
    with np.errstate(all="ignore"):
        return zero + step * counts


def _facts(root: Element, rhythm: Element) -> dict[str, Any]:
    subject = root.find("componentOf/timepointEvent/componentOf/subjectAssignment/subject/trialSubject")
    person = None if subject is None else subject.find("subjectDemographicPerson")
    time = rhythm.find("effectiveTime/low")
    if time is None:
        time = (
            root.find("effectiveTime/low")
            if root.find("effectiveTime/low") is not None
            else root.find("effectiveTime/center")
        )
    recorded_at = iso_time(None if time is None else time.get("value"))
    age = None
    for observation in root.findall("controlVariable/relatedObservation"):
        value = observation.find("value")
        if _code(observation) == "21612-7" and value is not None:
            age = age_in_years(value.get("value"), value.get("unit"))
    birth = (_attribute(person, "birthTime", "value") or "")[:8]
    born = iso_date(birth[:4], birth[4:6], birth[6:]) if len(birth) == 8 else None
    device = "author/seriesAuthor/"
    statements = [
        text_of(annotation, "value")
        for annotation in rhythm.iter("annotation")
        if _code(annotation) == "MDC_ECG_INTERPRETATION_STATEMENT"
    ]
    return {
        "patient_id": _attribute(subject, "id", "extension"),
        "age": age if age is not None else age_at(born, recorded_at),
        "sex": parse_sex(_attribute(person, "administrativeGenderCode", "code")),
        "recorded_at": recorded_at,
        "device": joined_words(
            text_of(rhythm, device + "manufacturerOrganization/name"),
            text_of(rhythm, device + "manufacturedSeriesDevice/manufacturerModelName"),
            text_of(rhythm, device + "manufacturedSeriesDevice/softwareName"),
        ),
        "filters": _filters(rhythm),
        **statement_facts(statement and statement.rstrip(" ,") for statement in statements),
    }


def _attribute(element: Element | None, path: str, name: str) -> str | None:
    found = None if element is None else element.find(path)
    return None if found is None else found.get(name) or None


def _filters(rhythm: Element) -> str | None:
    parts = []
    for variable in rhythm.findall("controlVariable/controlVariable"):
        code = _code(variable) or ""
        if "_FILTER_" not in code:
            continue
        words = code.partition("_FILTER_")[2].lower().replace("_", "-")
        values = []
        for component in variable.findall("component/controlVariable/value"):
            if component.get("value"):
                values.append(f"{component.get('value')} {component.get('unit') or ''}".strip())
            elif text_of(component):
                values.append(text_of(component).lower())
        parts.append(" ".join([words, *values]))
    return ", ".join(parts) or None
