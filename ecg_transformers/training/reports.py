"""Clean-up of ECG reports."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLANKS = re.compile(r"\s+")
_EKG = re.compile(r"\bekg\b")
_ORNAMENTS = "*=- "
# A full stop inside a number or a word ends nothing.
_STATEMENT_ENDS = re.compile(r"[.,;](?=\s|$)|\n")


def clean_report(text: str) -> str:
    """Bring a report to the form in which models see it.

    Lower case; "ekg" as a word becomes "ecg"; stars, equals signs, hyphens and blanks go from both ends: so does
    D-BETA. Ours: runs of white space become one blank, so that reports that differ in line breaks are the same.

    Args:
        text (`str`): a report.

    Returns:
        `str`: the cleaned report, empty if nothing is left.

    Example:
        >>> clean_report("*** Sinus rhythm. Normal EKG ***")
        'sinus rhythm. normal ecg'
    """
    return _EKG.sub("ecg", _BLANKS.sub(" ", text.lower())).strip(_ORNAMENTS)


def clean_reports(texts: Iterable[str | None]) -> list[str | None]:
    """Clean many reports; what is missing or empty after cleaning is `None`."""
    cleaned = (clean_report(text) if text is not None else "" for text in texts)
    return [text or None for text in cleaned]


def split_statements(text: str) -> list[str]:
    """Split a report at full stops, commas, semicolons and line ends, as ECG reports list their findings.

    Args:
        text (`str`): a report.

    Returns:
        `list[str]`: its statements; the report itself if it has one only.

    Example:
        >>> split_statements("sinus rhythm, 72/min. left bundle branch block.")
        ['sinus rhythm', '72/min', 'left bundle branch block']
    """
    statements = [part.strip(_ORNAMENTS) for part in _STATEMENT_ENDS.split(text)]
    return [part for part in statements if any(map(str.isalnum, part))] or [text]
