"""The text of a WFDB header, parsed strictly and without trust.

Syntax: https://wfdb.io/spec/header-files.html (header(5) of the WFDB Applications Guide). The parser is our own since
every field is checked before a byte of signal is read, since `wfdb` drops non-ASCII characters (a unit of `µV` would
arrive as `V`), and since it refuses record lines such as `E01137.mat 12 500 5000` that occur in published corpora.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ECGReadError

MAX_HEADER_BYTES = 4 * 2**20
MAX_LINE_LENGTH = 2000

_FORMAT = re.compile(r"(\d{1,4})(?:x(\d{1,9}))?(?::(\d{1,15}))?(?:\+(\d{1,15}))?", re.ASCII)
_GAIN = re.compile(r"([^(/\s]+)(?:\((-?\d{1,15})\))?(?:/(\S+))?", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})", re.ASCII)
_TIME = re.compile(r"\d{1,2}:\d{1,2}:\d{1,2}(?:\.\d{1,6})?", re.ASCII)

_RELEASE_AGAIN = "Fetch the header and its signal files again, from the same release."


@dataclass
class SignalLine:
    """One signal of a header, with the defaults of the specification filled in (`None`: not stated)."""

    file_name: str
    format: str
    samples_per_frame: int = 1
    skew: int = 0
    byte_offset: int = 0
    gain: float = 0.0
    baseline: int = 0
    units: str = "mV"
    initial_value: int = 0
    name: str | None = None


@dataclass
class Header:
    """A parsed header. `segments` is set for a record that is made of other records."""

    record_name: str
    num_signals: int
    sampling_rate: float | None = None
    num_samples: int | None = None
    recorded_at: str | None = None
    signals: list[SignalLine] = field(default_factory=list)
    segments: list[tuple[str, int]] | None = None
    comments: list[str] = field(default_factory=list)


def decode_text(data: bytes) -> str:
    """Decode text as UTF-8 or, where it is none, as Windows-1252/Latin-1."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def read_header(path: Path) -> Header:
    """Read and check a header file.

    Args:
        path (`Path`): the `.hea` file.

    Returns:
        `Header`: its fields; signal files are plain names in the header's own folder.

    Raises:
        ECGReadError: if the text is no header, or a field has an impossible value.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_HEADER_BYTES + 1)
    if len(data) > MAX_HEADER_BYTES:
        raise ECGReadError(path, f"a WFDB header of more than {MAX_HEADER_BYTES} bytes.", _RELEASE_AGAIN)
    if b"\0" in data:
        raise ECGReadError(path, "the header is no text (it has zero bytes).", _RELEASE_AGAIN)
    lines, comments = [], []
    for line in re.split(r"\r\n|\r|\n", decode_text(data)):
        line = line.strip()
        if len(line) > MAX_LINE_LENGTH and not line.startswith("#"):
            raise ECGReadError(path, f"a header line has {len(line)} characters.", _RELEASE_AGAIN)
        if line.startswith("#"):
            comments.append(line.lstrip("# \t").rstrip())
        elif line:
            lines.append(line)
    if not lines:
        raise ECGReadError(path, "the header has no record line.", _RELEASE_AGAIN)
    header = _record_line(path, lines[0])
    header.comments = [comment for comment in comments if comment]
    rows, kind = lines[1:], "signal" if header.segments is None else "segment"
    expected = header.num_signals if header.segments is None else len(header.segments)
    if len(rows) != expected:
        raise ECGReadError(
            path, f"the record line announces {expected} {kind}s, {len(rows)} {kind} lines follow.", _RELEASE_AGAIN
        )
    if header.segments is None:
        header.signals = [_signal_line(path, row) for row in rows]
    else:
        header.segments = [_segment_line(path, row) for row in rows]
    return header


def _record_line(path: Path, line: str) -> Header:
    tokens = line.split()
    name, _, count = tokens[0].partition("/")
    if len(tokens) < 2 or not re.fullmatch(r"\d{1,6}", tokens[1], re.ASCII):
        raise ECGReadError(
            path,
            f"the record line {line[:80]!r} lacks the number of signals.",
            "This is no WFDB header, or a damaged one.",
        )
    header = Header(name, int(tokens[1]))
    if count:
        if not re.fullmatch(r"\d{1,6}", count, re.ASCII) or int(count) == 0:
            raise ECGReadError(path, f"the record line announces {count!r} segments.", _RELEASE_AGAIN)
        header.segments = [("", 0)] * int(count)
    if header.num_signals == 0:
        raise ECGReadError(path, "the record line announces no signals.", "There is no ECG in this record.")
    if len(tokens) > 2:
        # The counter frequency and its base value follow the rate after "/" and "(".
        text = re.split(r"[/(]", tokens[2])[0]
        header.sampling_rate = _float(path, text, "sampling rate")
        if not header.sampling_rate > 0:
            raise ECGReadError(path, f"the sampling rate is {text} Hz.", "Correct the header: it must be positive.")
    if len(tokens) > 3:
        if not re.fullmatch(r"\d{1,15}", tokens[3], re.ASCII):
            raise ECGReadError(path, f"the number of samples is {tokens[3][:40]!r}.", _RELEASE_AGAIN)
        # Zero means unspecified.
        header.num_samples = int(tokens[3]) or None
    if len(tokens) > 5 and _TIME.fullmatch(tokens[4]) and _DATE.fullmatch(tokens[5]):
        day, month, year = _DATE.fullmatch(tokens[5]).groups()
        header.recorded_at = f"{year}-{int(month):02d}-{int(day):02d}T{tokens[4]}"
    return header


def _signal_line(path: Path, line: str) -> SignalLine:
    tokens = line.split()
    form = _FORMAT.fullmatch(tokens[1]) if len(tokens) > 1 else None
    if form is None:
        raise ECGReadError(path, f"the signal line {line[:80]!r} lacks a storage format.", _RELEASE_AGAIN)
    _check_plain_name(path, tokens[0])
    code, per_frame, skew, offset = form.groups()
    signal = SignalLine(tokens[0], str(int(code)), int(per_frame or 1), int(skew or 0), int(offset or 0))
    if signal.samples_per_frame == 0:
        raise ECGReadError(path, f"a signal line has 0 samples per frame: {line[:80]!r}.", _RELEASE_AGAIN)
    baseline, position = None, 2
    gain = _GAIN.fullmatch(tokens[2]) if len(tokens) > 2 else None
    if gain is not None:
        text, baseline, units = gain.groups()
        signal.gain, signal.units = _float(path, text, "gain"), units or "mV"
        position = 3
    # Resolution, zero of the converter, first value, checksum, block size; then the description, blanks included.
    integers = []
    while position < len(tokens) and len(integers) < 5 and _INTEGER.fullmatch(tokens[position]):
        integers.append(int(tokens[position]))
        position += 1
    if baseline is not None:
        signal.baseline = int(baseline)
    elif len(integers) > 1:
        signal.baseline = integers[1]
    signal.initial_value = integers[2] if len(integers) > 2 else 0
    signal.name = " ".join(tokens[position:]) or None
    return signal


def _segment_line(path: Path, line: str) -> tuple[str, int]:
    tokens = line.split()
    if len(tokens) < 2 or not re.fullmatch(r"\d{1,15}", tokens[1], re.ASCII):
        raise ECGReadError(path, f"the segment line {line[:80]!r} lacks a length.", _RELEASE_AGAIN)
    if tokens[0] != "~":
        _check_plain_name(path, tokens[0])
    return tokens[0], int(tokens[1])


def _check_plain_name(path: Path, name: str) -> None:
    if name in (".", "..") or any(character in name for character in "/\\:\0") or len(name) > 255:
        raise ECGReadError(
            path,
            f"the header names the file {name[:80]!r}, which is outside the header's own folder.",
            "Such a header is refused for safety; put the signal file beside the header and name it alone.",
        )
    if name in ("-", "~"):
        raise ECGReadError(path, f"the header names no signal file ({name!r}).", _RELEASE_AGAIN)


def _float(path: Path, text: str, what: str) -> float:
    if not re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?", text, re.ASCII):
        raise ECGReadError(path, f"the {what} is {text[:40]!r}, which is no number.", "Correct the header.")
    return float(text)
