"""What the exports of carts tell of patient and recording, in the keys of `ECGRecord.metadata`.

Names of persons are never taken over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from .content import parse_age

# Units of age in exports: words of MUSE, UCUM codes of HL7, letters of DICOM.
_UNITS_PER_YEAR = {
    **dict.fromkeys(("", "years", "year", "yr", "a", "y"), 1.0),
    **dict.fromkeys(("months", "month", "mo", "m"), 12.0),
    **dict.fromkeys(("weeks", "week", "wk", "w"), 365.25 / 7),
    **dict.fromkeys(("days", "day", "d"), 365.25),
    **dict.fromkeys(("hours", "hour", "h"), 365.25 * 24),
}


def age_in_years(value: Any, unit: str | None = "years") -> float | None:
    """Return an age in years, or `None` for what is no age."""
    per_year = _UNITS_PER_YEAR.get(str(unit or "").strip().lower())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if per_year is None or not math.isfinite(number):
        return None
    return parse_age(number if per_year == 1 else round(number / per_year, 2))


def age_at(birth: str | None, recorded_at: str | None) -> float | None:
    """Return the completed years between two ISO dates (of which the second may have a time), or `None`."""
    try:
        born, seen = date.fromisoformat(str(birth)), datetime.fromisoformat(str(recorded_at)).date()
    except ValueError:
        return None
    return parse_age(seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day)))


def iso_date(year: Any, month: Any, day: Any) -> str | None:
    """Return a date as ISO text, or `None` if there is no such day."""
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except (TypeError, ValueError):
        return None


def iso_time(text: str | None) -> str | None:
    """Return a point in time as ISO text.

    Args:
        text (`str`): digits as in HL7 and DICOM, `YYYYMMDD` with `HHMMSS` and a fraction where known, or ISO text;
            offsets from UTC are dropped.

    Returns:
        `str`: `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`; `None` if it is neither.
    """
    match = re.match(r"\s*(\d{4})-?(\d{2})-?(\d{2})(?:[T ]?(\d{2}):?(\d{2})(?::?(\d{2}))?)?", text or "", re.ASCII)
    if match is None:
        return None
    day = iso_date(*match.groups()[:3])
    if day is None or match[4] is None:
        return day
    try:
        return datetime.fromisoformat(f"{day}T{match[4]}:{match[5]}:{match[6] or '00'}").isoformat()
    except ValueError:
        return day


def statement_facts(statements: Iterable[str | None]) -> dict[str, Any]:
    """Return `statements`, the lines of the interpretation, and `report`, the same as one text."""
    lines = [" ".join(line.split()) for line in statements if line]
    lines = [line for line in lines if line]
    if not lines:
        return {}
    return {"statements": lines, "report": ". ".join(line.rstrip(".") for line in lines)}


def joined_words(*parts: str | None) -> str | None:
    """Return the parts that say something, each once, with blanks between them."""
    words = list(dict.fromkeys(" ".join(part.split()) for part in parts if part and part.strip()))
    return " ".join(words) or None
