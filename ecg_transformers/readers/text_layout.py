"""Finding out how a text table of samples is laid out: delimiter, decimal sign, header rows, time column."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..feature_extraction.ecg_leads import canonical_lead_name
from .content import millivolts_per
from .errors import ECGReadError

# Lines in which the table of numbers must have begun.
MAX_PREAMBLE_LINES = 200

# A row of hundreds of columns at most; a longer line is no row, and its titles are not worth parsing.
MAX_ROW_LENGTH, MAX_TITLE_LENGTH = 20_000, 200

# name -> separator for str.split; None splits at blanks.
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "blank": None}

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?|[-+]?(nan|inf)|", re.ASCII | re.IGNORECASE)
_CLOCK = re.compile(r"\[?(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:\.\d{1,9})?)\]?", re.ASCII)
_NAME_AND_UNIT = re.compile(
    r"(.*?)\s*[\[(]\s*([^\])]*?)\s*[\])]|(.*?)[_ ]+(mv|uv|µv|μv|nv|ms|sec|seconds)", re.IGNORECASE
)
_SETTING = re.compile(r"\W*([A-Za-z][A-Za-z _]{1,30}?)\s*[:=,;\t]\s*([^,;\t]{1,60}?)\s*", re.ASCII)
_SHAPE = re.compile(r"(?<!\d)(\d{1,9})\s*[xX]\s*(\d{1,9})(?!\d)", re.ASCII)

_TIME_NAMES = {"time", "t", "elapsed time", "elapsed", "timestamp", "seconds", "sec", "s", "time s", "time ms", "ms"}
_INDEX_NAMES = {"", "index", "sample", "samples", "sample #", "sample number", "unnamed: 0", "n", "#"}
_RATE_NAMES = {"sampling rate", "sample rate", "sampling frequency", "sampling rate hz", "frequency", "fs"}
_UNIT_NAMES = {"unit", "units", "amplitude unit"}
_TIME_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "second": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6}


@dataclass
class TextLayout:
    """The layout of a text table. `first_row` is the index of the first line of numbers."""

    delimiter: str
    first_row: int
    num_columns: int
    decimal_comma: bool = False
    names: list[str] | None = None
    units: list[str] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    claimed_shape: tuple[int, int] | None = None

    def split(self, line: str) -> list[str]:
        """Split a line of the table into its fields, without quotes."""
        return _split(line, self.delimiter)

    def number(self, text: str) -> float:
        """Return the value of a field; an empty one is NaN, clock time is seconds."""
        if self.decimal_comma:
            text = text.replace(",", ".")
        if _NUMBER.fullmatch(text):
            return float(text) if text else np.nan
        match = _CLOCK.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:30]!r} is no number")
        hours, minutes, seconds = match.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)


def _split(line: str, delimiter: str) -> list[str]:
    fields = [text.strip().strip("'\"").strip() for text in line.strip().split(DELIMITERS[delimiter])]
    # Many exporters end each line with the delimiter.
    if len(fields) > 2 and fields[-1] == "" and delimiter != "blank":
        fields.pop()
    return fields


def _numbers(fields: list[str], decimal_comma: bool) -> bool:
    values = [text.replace(",", ".") if decimal_comma else text for text in fields]
    if not any(values):
        return False
    return all(
        _NUMBER.fullmatch(text) or (column == 0 and _CLOCK.fullmatch(text)) for column, text in enumerate(values)
    )


def detect_layout(lines: list[str]) -> TextLayout | None:
    """Find the table of numbers at the beginning of a text.

    Args:
        lines (`list[str]`): the first lines of the file (a last one that may be cut off is not relied upon).

    Returns:
        `TextLayout` or `None`: the layout; `None` if no table of numbers begins within the first lines.
    """
    for index, line in enumerate(lines[:MAX_PREAMBLE_LINES]):
        if len(line) > MAX_ROW_LENGTH or not line.strip() or line.lstrip().startswith("#"):
            continue
        following = [one[:MAX_ROW_LENGTH] for one in lines[index + 1 : index + 6] if one.strip()]
        for delimiter, mark in DELIMITERS.items():
            if mark is not None and mark not in line:
                continue
            # A comma between digits is a decimal sign only where another character separates the fields.
            for decimal_comma in (False, True) if delimiter != "comma" else (False,):
                fields = _split(line, delimiter)
                others = [_split(one, delimiter) for one in following[:-1] or following]
                if _numbers(fields, decimal_comma) and all(
                    len(one) == len(fields) and _numbers(one, decimal_comma) for one in others
                ):
                    layout = TextLayout(delimiter, index, len(fields), decimal_comma)
                    _read_preamble(layout, lines[:index])
                    return layout
    return None


def _read_preamble(layout: TextLayout, lines: list[str]) -> None:
    rows = []
    for line in lines:
        if len(line) > MAX_ROW_LENGTH:
            continue
        if match := _SETTING.fullmatch(line):
            layout.settings.setdefault(match[1].strip().lower().replace("_", " "), match[2])
        if match := _SHAPE.search(line):
            layout.claimed_shape = (int(match[1]), int(match[2]))
        if line.strip() and not line.lstrip().startswith("#"):
            fields = layout.split(line)
            if len(fields) == layout.num_columns and (layout.num_columns > 1 or _looks_like_name(fields[0])):
                rows.append(fields)
    if rows and len(rows) > 1 and all(one == "" or _is_unit(one) for one in rows[-1]):
        layout.units = rows.pop()
    if rows:
        layout.names = rows[-1]


def _looks_like_name(text: str) -> bool:
    name, _ = name_and_unit(text)
    return canonical_lead_name(name) is not None or name.lower() in {"ecg", "signal", "value", "voltage", "amplitude"}


def _is_unit(text: str) -> bool:
    text = text.strip("[]() ")
    return millivolts_per(text) is not None or text.lower() in _TIME_UNITS or "hh:mm" in text.lower() or ":ss" in text


def name_and_unit(text: str) -> tuple[str, str | None]:
    """Split a column title such as `V1 (uV)` or `II_mV` into name and unit."""
    match = _NAME_AND_UNIT.fullmatch(text.strip()) if len(text) <= MAX_TITLE_LENGTH else None
    if match is None:
        return text.strip(), None
    return (match[1], match[2]) if match[2] is not None else (match[3], match[4])


def stated_rate(layout: TextLayout, path: Path) -> float | None:
    """Return the sampling rate that the lines before the table state, in Hz."""
    for name in _RATE_NAMES & set(layout.settings):
        match = re.fullmatch(r"([\d.]+)\s*(hz|/s|samples/s)?", layout.settings[name], re.IGNORECASE | re.ASCII)
        if match is None or match[1].count(".") > 1 or not match[1].strip("."):
            raise ECGReadError(
                path, f"its {name} is {layout.settings[name]!r}.", "Write a number of Hz, or remove the line."
            )
        return float(match[1])
    return None


def stated_unit(layout: TextLayout) -> str | None:
    """Return the unit that the lines before the table state."""
    return next((layout.settings[name] for name in _UNIT_NAMES if name in layout.settings), None)


def time_column(layout: TextLayout, table: np.ndarray, path: Path) -> tuple[str | None, float | None, str]:
    """Tell whether the first column counts time or samples.

    Args:
        layout (`TextLayout`): the layout, with titles if the file has them.
        table (`np.ndarray` of shape `(samples, columns)`): the values.
        path (`Path`): the file, for errors.

    Returns:
        `tuple`: `"time"`, `"index"` or `None`; the sampling rate in Hz or `None`; and a description.

    Raises:
        ECGReadError: if a column titled as time does not advance evenly.
    """
    if table.shape[1] < 2 or table.shape[0] < 2:
        return None, None, ""
    title, unit = name_and_unit(layout.names[0]) if layout.names else (None, None)
    if layout.units and unit is None:
        unit = layout.units[0].strip("[]() ") or None
    column = table[:, 0]
    steps = np.diff(column)
    mean = (column[-1] - column[0]) / (len(column) - 1)
    line = column[0] + mean * np.arange(len(column))
    even = bool(
        np.isfinite(column).all() and mean > 0 and (steps > 0).all() and np.abs(column - line).max() < 0.75 * mean
    )
    if title is not None and title.lower() in _INDEX_NAMES and even and np.all(steps == 1):
        return "index", None, "first column counts samples"
    titled = title is not None and title.lower().replace("_", " ") in _TIME_NAMES
    if title is not None and not titled:
        return None, None, ""
    if not even:
        if titled:
            raise ECGReadError(
                path,
                "its time column does not advance in even steps, so samples are missing or out of order.",
                "Export the recording without gaps.",
            )
        return None, None, ""
    if title is None:
        # No lead rises by the same amount from each sample to the next.
        if np.ptp(steps) > 0.02 * mean + 1e-3:
            return None, None, ""
        if mean == 1.0:
            return "index", None, "first column counts samples"
    scale = _TIME_UNITS.get((unit or ("ms" if title in ("ms", "time ms") else "")).lower())
    if scale is None:
        # Without a unit: 0.05 s is 20 Hz, slower than any ECG; 0.05 ms is 20 kHz, faster than any.
        scale = 1.0 if mean <= 0.05 else 1e-3
    rate = 1.0 / (mean * scale)
    # Clock times are rounded, by half a step of their last digit at both ends.
    tolerance = max(1e-6, 1e-3 / ((column[-1] - column[0]) * scale + 1e-9))
    if abs(rate - round(rate)) <= rate * min(tolerance, 5e-3):
        rate = float(round(rate))
    return "time", rate, f"first column is time in {'ms' if scale == 1e-3 else 'us' if scale == 1e-6 else 's'}"
