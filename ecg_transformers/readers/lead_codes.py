"""The lead numbers of ISO 11073-10101 (MDC) and SCP-ECG, which agree: 1 is lead I, 61 is lead III.

The numbers are the low halves of the MDC codes 131073 (`MDC_ECG_LEAD_I`) and on; SCP-ECG (EN 1064, section 3) uses
the same list, as do the coding schemes `MDC` (`2:1`) and `SCPECG` (`5.6.3-9-1`) of DICOM waveforms.
"""

from __future__ import annotations

import re

from ..feature_extraction.ecg_leads import canonical_lead_name

LEAD_OF_NUMBER = {
    **dict(enumerate(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "V7"), start=1)),
    **dict(enumerate(("V2R", "V3R", "V4R", "V5R", "V6R", "V7R", "VX", "VY", "VZ", "CC5", "CM5"), start=10)),
    **dict(enumerate(("III", "aVR", "aVL", "aVF", "-aVR", "V8", "V9", "V8R", "V9R"), start=61)),
}

_MDC_BASE = 131072


def lead_of_code(scheme: str | None, code: str | None) -> str | None:
    """Return the lead that a DICOM code names, or `None`.

    Args:
        scheme (`str`): `MDC`, `SCPECG` or another coding scheme, of which none is understood.
        code (`str`): such as `2:1` or `131073` (MDC), `MDC_ECG_LEAD_I`, `5.6.3-9-1` (SCP-ECG).
    """
    code = (code or "").strip()
    if code.upper().startswith("MDC_ECG_LEAD_"):
        return canonical_lead_name(code) or code[len("MDC_ECG_LEAD_") :]
    if (scheme or "").strip().upper() == "MDC":
        match = re.fullmatch(r"(?:2:)?(\d{1,6})", code, re.ASCII)
        number = int(match[1]) if match else 0
        return LEAD_OF_NUMBER.get(number - _MDC_BASE if number > _MDC_BASE else number)
    match = re.fullmatch(r"5\.6\.3-9-(\d{1,3})", code, re.ASCII)
    return LEAD_OF_NUMBER.get(int(match[1])) if match else None


def lead_of_words(text: str | None) -> str | None:
    """Return the lead that a description names, such as `Lead I (Einthoven)`, `aVR, augmented voltage`, or `None`."""
    words = re.sub(r"\(.*?\)", " ", text or "")
    for candidate in (words, words.split(",")[0], *re.findall(r"[\w-]+", words)):
        name = canonical_lead_name(candidate)
        if name is not None:
            return name
    return None
