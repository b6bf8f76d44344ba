"""WFDB records: a `.hea` header and one or several signal files beside it (PhysioNet, the CinC Challenges)."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from .content import MAX_UNPACKED_VALUES, FileContent, millivolts_per
from .errors import ECGReadError
from .registry import ReadRequest, register_reader
from .row_reference import WindowReference
from .wfdb_comments import comment_facts
from .wfdb_header import MAX_HEADER_BYTES, Header, SignalLine, read_header

# Bytes per sample of each storage format, https://wfdb.io/spec/signal-files.html. The last three are FLAC streams.
BYTES_PER_SAMPLE = {
    "8": 1,
    "16": 2,
    "24": 3,
    "32": 4,
    "61": 2,
    "80": 1,
    "160": 2,
    "212": 1.5,
    "310": 4 / 3,
    "311": 4 / 3,
}
# Formats in which every sample has its place, so that a stretch can be read without what comes before.
DIRECT_FORMATS = ("16", "24", "32", "80", "160", "212")
# Formats decoded here, and the smallest value of each, which marks a missing sample.
_MISSING = {"16": -32768, "212": -2048}
FLAC_FORMATS = ("508", "516", "524")

# FLAC stores a constant block of 65535 samples in about 10 bytes; no honest recording is packed much tighter.
MAX_FLAC_SAMPLES_PER_BYTE = 8192

# Gaps of a segmented record hold no bytes, so their claimed length is bounded by what the segments do hold.
MAX_GAP_RATIO = 1000

_SAME_RELEASE = "Fetch the header and its signal files again, from the same release."


def header_beside(path: Path) -> Path | None:
    """Return the header whose record a signal file belongs to, if it lies beside the file."""
    header = path.with_suffix(".hea")
    try:
        if header.is_file():
            with open(header, "rb") as file:
                return header if path.name.encode() in file.read(MAX_HEADER_BYTES) else None
    except OSError:
        pass
    return None


def _sniff(path: Path, head: bytes) -> bool:
    if path.suffix.lower() == ".mat":
        return header_beside(path) is not None
    # A `.dat` file alone cannot be understood; the reader says so.
    return path.suffix.lower() == ".dat" or (b"\0" not in head and bool(head.strip()))


def _is_record(path: Path, head: bytes) -> bool:
    return path.suffix.lower() == ".hea" and _sniff(path, head)


@register_reader("wfdb", extensions=(".hea", ".dat", ".mat"), sniff=_sniff, is_record=_is_record, windows=True)
def read_wfdb(path: Path, request: ReadRequest) -> FileContent:
    """Read a WFDB record by its header or by a signal file that lies beside its header.

    Formats 16 and 212, those of nearly all corpora, are decoded here in a few NumPy calls (most of the time that the
    `wfdb` library takes goes into its header tables); all other formats of the library are decoded by it. Signals
    whose unit is no voltage (blood pressure, respiration) are left out and listed in `metadata["other_signals"]`.
    """
    if path.suffix.lower() != ".hea":
        header_path = header_beside(path)
        if header_path is None:
            raise ECGReadError(
                path,
                f"there is no header {path.stem}.hea beside it that names this file.",
                "Rate, leads and gains of a WFDB signal file are in its .hea header; put both into one folder.",
            )
        path = header_path
    header = read_header(path)
    if header.segments is not None:
        names, signal, rate, others = _read_segments(path, header)
        if request.window is not None:
            request.window.check(signal.shape[1])
            signal = signal[:, request.window.start : request.window.stop]
    else:
        names, signal, rate, others = _read_single(path, header, request.window)
    metadata = {"record_id": header.record_name.removesuffix(".mat") or path.stem, "source": str(path)}
    metadata |= {"recorded_at": header.recorded_at, **comment_facts(header.comments)}
    if others:
        metadata["other_signals"] = others
    if all(name is None for name in names):
        names = None
    elif None in names:
        names = [f"signal {row + 1}" if name is None else name for row, name in enumerate(names)]
    units = {one.units for one in header.signals if millivolts_per(one.units) is not None}
    return FileContent(signal, rate, names, "mV", metadata, stored_units=units.pop() if len(units) == 1 else None)


def _read_single(
    path: Path, header: Header, window: WindowReference | None = None
) -> tuple[list[str | None], np.ndarray, float | None, list[str]]:
    """Return names, mV, rate of the voltage signals of a one-segment record, and the names of the other signals."""
    rows = [row for row, signal in enumerate(header.signals) if millivolts_per(signal.units) is not None]
    others = [f"{one.name or row + 1} ({one.units})" for row, one in enumerate(header.signals) if row not in rows]
    if not rows:
        raise ECGReadError(
            path, f"no signal is a voltage: {', '.join(others)[:200]}.", "There is no ECG in this record."
        )
    for row in rows:
        _check_gain(path, header.signals[row], row)
    per_frame = {header.signals[row].samples_per_frame for row in rows}
    if len(per_frame) > 1:
        raise ECGReadError(
            path,
            f"its voltage signals have several rates ({sorted(per_frame)} samples per frame).",
            "Split the record.",
        )
    num_samples = _check_sizes(path, header)
    rate = header.sampling_rate and header.sampling_rate * min(per_frame)
    plain = all(one.samples_per_frame == 1 and one.skew == 0 for one in header.signals)
    formats = {one.format for one in header.signals}
    simple = plain and len(formats) == 1 and formats <= set(_MISSING)
    start, stop = 0, num_samples
    # Where each sample has its place in the file, the others need not be read.
    direct = plain and all(one.format in DIRECT_FORMATS for one in header.signals)
    if window is not None and direct:
        window.check(num_samples)
        start, stop = window.start, window.stop
    decode = _decode_simple if simple else _decode_with_wfdb
    columns = decode(path, header, num_samples, start, stop)
    if window is not None and not direct:
        window.check(min(len(columns[row]) for row in rows))
        columns = [column[window.start : window.stop] for column in columns]
    length = min(len(columns[row]) for row in rows)
    signal = np.empty((len(rows), length), dtype=np.float32)
    for out, row in enumerate(rows):
        one, column = header.signals[row], columns[row]
        with np.errstate(over="ignore"):
            if simple:
                values = (column.astype(np.float64) - one.baseline) / one.gain
                values[column == _MISSING[one.format]] = np.nan
            else:
                values = column
            signal[out] = values[:length] * millivolts_per(one.units)
    return [header.signals[row].name for row in rows], signal, rate, others


def _check_gain(path: Path, signal: SignalLine, row: int) -> None:
    if not (math.isfinite(signal.gain) and signal.gain > 0):
        raise ECGReadError(
            path,
            f"signal {row + 1} ({signal.name or 'unnamed'}) has a gain of {signal.gain:g} units per {signal.units}; "
            "a missing gain or 0 means uncalibrated.",
            "Write the gain, a positive number, into the header.",
        )


def _files_of(header: Header) -> dict[str, list[SignalLine]]:
    files: dict[str, list[SignalLine]] = {}
    for signal in header.signals:
        files.setdefault(signal.file_name, []).append(signal)
    return files


def _check_sizes(path: Path, header: Header) -> int:
    """Compare what the header claims with the signal files; return the frames per signal."""
    num_samples = header.num_samples
    for name, signals in _files_of(header).items():
        file = path.with_name(name)
        try:
            size = file.stat().st_size
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
            raise ECGReadError(
                path, f"its signal file {name} {reason}.", "Put all files of the record into one folder."
            ) from None
        if not file.is_file():
            raise ECGReadError(path, f"its signal file {name} is no regular file.", _SAME_RELEASE)
        first = signals[0]
        if any((one.format, one.byte_offset) != (first.format, first.byte_offset) for one in signals):
            raise ECGReadError(path, f"the signals of {name} differ in format or offset.", _SAME_RELEASE)
        per_frame = sum(one.samples_per_frame for one in signals)
        if first.format in FLAC_FORMATS:
            if num_samples is None:
                raise ECGReadError(
                    path, "the header of a compressed record lacks its length.", "Add it to the header."
                )
            if num_samples * per_frame > min(MAX_UNPACKED_VALUES, MAX_FLAC_SAMPLES_PER_BYTE * size):
                raise ECGReadError(
                    path,
                    f"{num_samples} samples of {len(signals)} signals cannot be in the {size} bytes of {name}.",
                    _SAME_RELEASE,
                )
            continue
        width = BYTES_PER_SAMPLE.get(first.format)
        if width is None:
            known = ", ".join((*BYTES_PER_SAMPLE, *FLAC_FORMATS))
            raise ECGReadError(path, f"storage format {first.format} is not known.", f"Formats read: {known}.")
        held = size - first.byte_offset
        if num_samples is None:
            num_samples = max(0, int(held / (width * per_frame)))
        needed = _stored_bytes(first.format, num_samples * per_frame)
        # A block of the packed formats is at most 4 bytes; more than that and a frame is not padding.
        if num_samples == 0 or not needed <= held < needed + 4 + width * per_frame:
            raise ECGReadError(
                path,
                f"the header claims {num_samples} samples of {len(signals)} signals in {name}, which take {needed} "
                f"bytes in format {first.format}; the file has {max(held, 0)}"
                + (f" after its {first.byte_offset} leading ones." if first.byte_offset else "."),
                "The signal file is truncated or belongs to another header. " + _SAME_RELEASE,
            )
        if any(one.skew >= num_samples for one in signals):
            raise ECGReadError(path, f"a signal of {name} is skewed by more than the record's length.", _SAME_RELEASE)
    return num_samples


def _stored_bytes(format: str, count: int) -> int:
    if format == "310" and count % 3 == 2:
        return 4 * (count // 3 + 1)
    if format in ("310", "311"):
        return (4 * count + 2) // 3
    return (3 * count + 1) // 2 if format == "212" else count * BYTES_PER_SAMPLE[format]


def _decode_simple(path: Path, header: Header, num_samples: int, start: int, stop: int) -> list[np.ndarray]:
    """Decode frames of format 16, or 212: two samples of twelve bits in three bytes."""
    decoded: dict[str, Iterator[np.ndarray]] = {}
    for name, signals in _files_of(header).items():
        first, count = start * len(signals), (stop - start) * len(signals)
        if signals[0].format == "16":
            offset = signals[0].byte_offset + 2 * first
            flat = np.fromfile(path.with_name(name), dtype="<i2", count=count, offset=offset)
        else:
            # A pair begins with an even sample; of the last, the second sample may be missing in the file.
            needed = _stored_bytes("212", first + count) - first // 2 * 3
            offset = signals[0].byte_offset + first // 2 * 3
            stored = np.fromfile(path.with_name(name), dtype=np.uint8, count=needed, offset=offset)
            flat = _unpack_212(stored)[first % 2 : first % 2 + count] if stored.size == needed else stored[:0]
        if flat.size != count:
            raise ECGReadError(path, f"its signal file {name} ended while it was read.", _SAME_RELEASE)
        decoded[name] = iter(flat.reshape(stop - start, len(signals)).T)
    return [next(decoded[signal.file_name]) for signal in header.signals]


def _unpack_212(stored: np.ndarray) -> np.ndarray:
    """Return the 12-bit samples of pairs of three bytes, the middle one holding the high bits of both."""
    low, shared, high = np.append(stored, np.zeros(-stored.size % 3, np.uint8)).reshape(-1, 3).T.astype("<i2")
    pairs = np.stack([low | (shared & 0x0F) << 8, high | (shared & 0xF0) << 4], axis=1)
    return (pairs.ravel() ^ 0x800) - 0x800


def _decode_with_wfdb(path: Path, header: Header, num_samples: int, start: int, stop: int) -> list[np.ndarray]:
    """Decode any format through `wfdb`, which sees only a header that we wrote ourselves from checked fields."""
    import wfdb

    with tempfile.TemporaryDirectory(prefix="ecg-wfdb-") as folder:
        staged = {}
        for number, name in enumerate(_files_of(header)):
            staged[name] = f"s{number}.dat"
            _link(path.with_name(name).resolve(), Path(folder) / staged[name])
        lines = [f"r {header.num_signals} 1 {num_samples}"]
        for one in header.signals:
            # Gains of signals that are left out may be anything; they are never used.
            gain = one.gain if math.isfinite(one.gain) and one.gain > 0 else 1.0
            lines.append(
                f"{staged[one.file_name]} {one.format}x{one.samples_per_frame}:{one.skew}+{one.byte_offset} "
                f"{gain!r}({one.baseline})/mV 0 0 {one.initial_value} 0 0 s"
            )
        (Path(folder) / "r.hea").write_text("\n".join(lines) + "\n", encoding="ascii")
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            record = os.path.join(folder, "r")
            end = None if stop == num_samples else stop
            return wfdb.rdrecord(record, sampfrom=start, sampto=end, smooth_frames=False).e_p_signal


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source, target)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def _read_segments(path: Path, header: Header) -> tuple[list[str | None], np.ndarray, float | None, list[str]]:
    """Join the segments of a record; signals that a segment lacks, and gaps, are NaN."""
    parts: list[tuple[int, int, list[str | None], np.ndarray]] = []
    others: list[str] = []
    names: list[str | None] = []
    rate, position, held = header.sampling_rate, 0, 0
    real = [name for name, _ in header.segments if name != "~"]
    if len(set(real)) < len(real):
        raise ECGReadError(path, "a segment occurs twice.", _SAME_RELEASE)
    for name, length in header.segments:
        if name == "~" or length == 0:
            # A segment of length 0 at the start only lists the signals of a record with a variable layout.
            position += length
            continue
        segment_path = path.with_name(name + ".hea")
        if not segment_path.is_file():
            raise ECGReadError(path, f"its segment {name}.hea is missing.", "Put all segments into one folder.")
        segment = read_header(segment_path)
        if segment.segments is not None:
            raise ECGReadError(path, f"its segment {name} is segmented again.", _SAME_RELEASE)
        segment = replace(segment, num_samples=segment.num_samples or length)
        found, signal, found_rate, skipped = _read_single(segment_path, segment)
        rate = rate or found_rate
        if found_rate is not None and not math.isclose(rate, found_rate, rel_tol=1e-6):
            raise ECGReadError(path, f"segment {name} has {found_rate:g} Hz, the record {rate:g} Hz.", _SAME_RELEASE)
        if signal.shape[1] != length:
            raise ECGReadError(
                path, f"segment {name} has {signal.shape[1]} samples, the record says {length}.", _SAME_RELEASE
            )
        if None in found or len(set(found)) != len(found):
            raise ECGReadError(path, f"segment {name} does not name its signals.", "Name them in its header.")
        parts.append((position, length, found, signal))
        names += [one for one in found if one not in names]
        others += [one for one in skipped if one not in others]
        position, held = position + length, held + signal.size
    if header.num_samples is not None and position != header.num_samples:
        raise ECGReadError(
            path, f"its segments have {position} samples, the record line says {header.num_samples}.", _SAME_RELEASE
        )
    if not parts or position * len(names) > min(MAX_UNPACKED_VALUES, MAX_GAP_RATIO * held):
        raise ECGReadError(
            path,
            f"it claims {position} samples, of which its segments hold {held} values.",
            "Read the segments singly.",
        )
    joined = np.full((len(names), position), np.nan, dtype=np.float32)
    for start, length, found, signal in parts:
        joined[[names.index(one) for one in found], start : start + length] = signal
    return names, joined, rate, others
