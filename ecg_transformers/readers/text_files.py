"""Text tables of samples: CSV, TSV and blank-separated, with or without titles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..feature_extraction.ecg_leads import canonical_lead_name
from .content import FileContent, millivolts_per
from .errors import ECGReadError
from .registry import HEAD_BYTES, ReadRequest, register_reader
from .text_layout import (
    TextLayout,
    detect_layout,
    name_and_unit,
    stated_rate,
    stated_unit,
    time_column,
)
from .wfdb_header import decode_text
from .xml_document import root_name

MAX_TEXT_BYTES = 256 * 2**20

# A table with fewer rows is no recording; label tables are often numeric as well.
MIN_LISTED_ROWS = 100

_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_GENERIC_NAMES = {"ecg", "signal", "value", "voltage", "amplitude"}


def _lines(data: bytes) -> list[str]:
    encoding = _BYTE_ORDER_MARKS.get(data[:2])
    text = data.decode(encoding, "replace") if encoding else decode_text(data)
    return re.split(r"\r\n|\r|\n", text)


def _is_text(head: bytes) -> bool:
    # XML may hold tables of samples, too, but is for the readers of its formats.
    if root_name(head) is not None:
        return False
    return head[:2] in _BYTE_ORDER_MARKS or b"\0" not in head


def _sniff(path: Path, head: bytes) -> bool:
    return _is_text(head) and detect_layout(_lines(head)) is not None


def _is_record(path: Path, head: bytes) -> bool:
    """Tell recordings from tables of labels: titles must name leads; without titles many rows must follow."""
    layout = detect_layout(_lines(head)) if _is_text(head) else None
    if layout is None:
        return False
    if layout.names is not None:
        names = [name_and_unit(name)[0] for name in layout.names]
        return any(canonical_lead_name(name) is not None or name.lower() in _GENERIC_NAMES for name in names)
    with open(path, "rb") as file:
        rows = sum(1 for _ in zip(range(layout.first_row + MIN_LISTED_ROWS), file, strict=False))
    return rows >= layout.first_row + MIN_LISTED_ROWS


@register_reader("text", extensions=(".csv", ".txt", ".tsv", ".asc"), sniff=_sniff, is_record=_is_record)
def read_text(path: Path, request: ReadRequest) -> FileContent:
    """Read a table of numbers with one row per sample and one column per lead.

    Found out from the content and described in `metadata["layout"]`: the delimiter (comma, semicolon, tab, blanks), a
    decimal comma where the delimiter is another character, the title row with lead names and units (`I`, `V1 (uV)`; or
    a second row of units), lines such as `sampling rate: 500` and `units: uV` before the table, a title that states
    rows and columns (`5000 X 12`), and a first column of time (s or ms) or of sample numbers. Rate, names and unit
    that the text does not state are the caller's to give; none has a default.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ECGReadError(
            path, f"a text of {path.stat().st_size} bytes (at most {MAX_TEXT_BYTES} are read).", "Convert it to .npy."
        )
    data = path.read_bytes()
    if not _is_text(data[:HEAD_BYTES]) or b"\0" in data and data[:2] not in _BYTE_ORDER_MARKS:
        raise ECGReadError(path, "it is no text (it has zero bytes, or is XML).", "Name its format with format=.")
    lines = _lines(data)
    layout = detect_layout(lines)
    if layout is None:
        raise ECGReadError(path, "it has no table of numbers.", "One row per sample, one column per lead is expected.")
    table = _parse_table(layout, lines, path)
    if layout.claimed_shape and layout.num_columns in layout.claimed_shape and layout.claimed_shape != table.shape:
        raise ECGReadError(
            path,
            f"its title says {layout.claimed_shape[0]} x {layout.claimed_shape[1]}, {table.shape[0]} rows of "
            f"{table.shape[1]} numbers follow.",
            "The file is truncated or damaged; export it again.",
        )
    kind, rate, description = time_column(layout, table, path)
    stated = stated_rate(layout, path)
    if rate is not None and stated is not None and abs(rate - stated) > 0.01 * stated:
        raise ECGReadError(
            path, f"it states {stated:g} Hz, its time column advances at {rate:g} Hz.", "Remove the wrong one."
        )
    first = 0 if kind is None else 1
    names, units = _columns(layout, first)
    signal = table[:, first:].T
    unit = _common_unit(units, path) or stated_unit(layout)
    parts = [f"{table.shape[0]} rows of {table.shape[1]} columns", f"delimiter {layout.delimiter}"]
    parts += ["decimal comma"] * layout.decimal_comma + ["title row"] * (layout.names is not None)
    parts += [description] * bool(description)
    return FileContent(
        signal,
        sampling_rate=rate if stated is None else stated,
        lead_names=names,
        units=unit,
        metadata={"layout": ", ".join(parts)},
    )


def _parse_table(layout: TextLayout, lines: list[str], path: Path) -> np.ndarray:
    rows = lines[layout.first_row :]
    simple = not layout.decimal_comma
    try:
        if simple:
            separator = {"comma": ",", "semicolon": ";", "tab": "\t", "blank": None}[layout.delimiter]
            table = np.loadtxt(rows, delimiter=separator, comments="#", ndmin=2)
            if table.shape[1] == layout.num_columns:
                return table
    except ValueError:
        # Quotes, empty fields, clock times and trailing delimiters take the slower way, which also names the line.
        pass
    values = []
    for number, line in enumerate(rows, start=layout.first_row + 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = layout.split(line)
        try:
            if len(fields) != layout.num_columns:
                raise ValueError(f"it has {len(fields)} fields instead of {layout.num_columns}")
            values.append([layout.number(text) for text in fields])
        except ValueError as error:
            raise ECGReadError(
                path, f"line {number} cannot be read: {error}.", "The file is truncated or damaged; export it again."
            ) from None
    return np.array(values)


def _columns(layout: TextLayout, first: int) -> tuple[list[str] | None, list[str | None]]:
    count = layout.num_columns - first
    if layout.names is None:
        return None, [None] * count
    pairs = [name_and_unit(name) for name in layout.names[first:]]
    units = [unit for _, unit in pairs]
    if layout.units is not None:
        units = [
            stated or below.strip("[]() ") or None for stated, below in zip(units, layout.units[first:], strict=True)
        ]
    names = [name for name, _ in pairs]
    if count == 1 and names[0].lower() in _GENERIC_NAMES:
        return None, units
    return names, units


def _common_unit(units: list[str | None], path: Path) -> str | None:
    stated = {unit for unit in units if unit}
    if len({millivolts_per(unit) for unit in stated}) > 1 or (stated and None in units):
        raise ECGReadError(
            path, f"its columns have different units: {sorted(stated)}.", "Keep only leads, all in one unit."
        )
    return next(iter(sorted(stated)), None)
