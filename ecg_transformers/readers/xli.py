"""XLI, the packing of waveforms in Philips SierraECG files: second differences, split into bytes, packed with LZW.

Our own decoder, checked against the library `sierraecg`, since that follows a chunk of negative length for ever and
unpacks without a limit.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .errors import ECGReadError

CODE_BITS = 10

# The last codes of the table are reserved.
MAX_CODE = (1 << CODE_BITS) - 2

# Subtracted from every stored difference.
DIFFERENCE_BIAS = 64


def decode_xli(data: bytes, num_leads: int, num_samples: int, path: Path) -> np.ndarray:
    """Unpack waveforms.

    Args:
        data (`bytes`): one chunk per lead: its length (4 bytes), an unused half, the value before the third sample
            (2 bytes each), then LZW codes of ten bits.
        num_leads (`int`): chunks expected.
        num_samples (`int`): samples that each lead must have at least; what follows them is padding.
        path (`Path`): the file, for error messages.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`, int64: converter counts.

    Raises:
        ECGReadError: if the data hold fewer leads or samples, or leave the range of 16 bits.
    """
    remedy = "The file is truncated or damaged; export it again."
    if num_leads * num_samples > 1000 * len(data):
        raise ECGReadError(
            path, f"{num_leads} leads of {num_samples} samples cannot be packed in {len(data)} bytes.", remedy
        )
    counts = np.empty((num_leads, num_samples), dtype=np.int64)
    position = 0
    for lead in range(num_leads):
        size, start = struct.unpack_from("<i2xh", data, position) if position + 8 <= len(data) else (-1, 0)
        position += 8
        if size <= 0 or position + size > len(data):
            raise ECGReadError(path, f"its packed waveforms end in lead {lead + 1} of {num_leads}.", remedy)
        # High and low bytes are stored apart, so all of both must be unpacked to find the second half.
        unpacked = _unpack_lzw(data[position : position + size], limit=4 * num_samples + 4096)
        position += size
        half = len(unpacked + b"\0") // 2
        if half < num_samples or num_samples < 2:
            raise ECGReadError(
                path, f"lead {lead + 1} unpacks to {half} samples; {num_samples} are announced.", remedy
            )
        halves = np.frombuffer((unpacked + b"\0")[: 2 * half], np.uint8).reshape(2, half)
        values = (halves[0].astype(np.uint16) << 8 | halves[1]).view(np.int16)[:num_samples].astype(np.int64)
        counts[lead] = _undo_differences(values, start)
    if np.abs(counts).max() > 32768:
        raise ECGReadError(path, "its unpacked waveforms leave the range of 16 bits.", remedy)
    return counts


def _undo_differences(values: np.ndarray, start: int) -> np.ndarray:
    """Sum second differences: sample n is 2 * (n - 1) - (n - 2) minus the difference stored one place earlier."""
    second = np.empty(len(values), dtype=np.int64)
    second[0], second[1] = values[0], values[1] - values[0]
    second[2:3] = -start
    second[3:] = DIFFERENCE_BIAS - values[2:-1]
    second[1:] = np.cumsum(second[1:])
    return np.cumsum(second)


def _unpack_lzw(data: bytes, limit: int) -> bytes:
    """Undo LZW with codes of fixed width, first bit first; ends with the codes, at a reserved one, or at the limit."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits = bits[: len(bits) // CODE_BITS * CODE_BITS].reshape(-1, CODE_BITS)
    codes = bits @ (1 << np.arange(CODE_BITS - 1, -1, -1))
    table = [bytes([value]) for value in range(256)]
    parts: list[bytes] = []
    previous, size = b"", 0
    for code in codes.tolist():
        if code > MAX_CODE:
            break
        if code < len(table):
            entry = table[code]
        else:
            # A code that is just being defined; a larger one occurs in damaged data only, and ends it.
            if code > len(table) or not previous:
                break
            entry = previous + previous[:1]
        if previous and len(table) <= MAX_CODE:
            table.append(previous + entry[:1])
        parts.append(entry)
        previous, size = entry, size + len(entry)
        if size > limit:
            break
    return b"".join(parts)
