"""The coding of samples in SCP-ECG files: Huffman tables (section 2) and differences."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ECGReadError
from .scp_sections import EXPORT_AGAIN

# The number of tables that stands for the default table of the standard.
DEFAULT_TABLE = 19999

# A table is expanded to 2 ** (longest prefix) entries. The default table has prefixes of up to 10 bits.
MAX_PREFIX_BITS, MAX_TABLES = 16, 32


@dataclass(frozen=True)
class Code:
    """One code of a Huffman table.

    Args:
        prefix (`int`): bits that identify it.
        total (`int`): bits that it takes; those after the prefix are a signed number.
        switches (`bool`): it selects the table number `value` (from 1) instead of giving a sample.
        value (`int`): the sample, to which a number after the prefix is added.
        base_code (`int`): the prefix as the file has it, its first bit lowest.
    """

    prefix: int
    total: int
    switches: bool
    value: int
    base_code: int

    @property
    def bits(self) -> int:
        """The prefix with its first bit highest."""
        return int(f"{self.base_code:0{self.prefix}b}"[::-1], 2)


def _default_codes() -> list[Code]:
    """Build the default table (EN 1064, annex C): small numbers as ones, zero and sign; then 8 and 16 bits."""
    codes = [Code(1, 1, False, 0, 0)]
    for size in range(1, 9):
        for sign in (0, 1):
            # `size` ones, a zero, the sign: as the file would have it, the sign is the highest bit.
            base_code = (1 << size) - 1 | sign << (size + 1)
            codes.append(Code(size + 2, size + 2, False, -size if sign else size, base_code))
    return [*codes, Code(10, 18, False, 0, 0b0111111111), Code(10, 26, False, 0, 0b1111111111)]


def read_tables(body: bytes | None, path: Path) -> list[list[Code]]:
    """Return the Huffman tables of section 2; none if samples are stored as plain 16-bit numbers.

    Raises:
        ECGReadError: if the section ends within a table, or a table is none.
    """
    if not body:
        return []
    count, position = struct.unpack_from("<H", body)[0] if len(body) >= 2 else 0, 2
    if count == DEFAULT_TABLE:
        return [_default_codes()]
    if count > MAX_TABLES:
        raise ECGReadError(path, f"it announces {count} Huffman tables (at most {MAX_TABLES}).", EXPORT_AGAIN)
    tables = []
    for number in range(1, count + 1):
        size = struct.unpack_from("<H", body, position)[0] if position + 2 <= len(body) else 0
        position += 2
        if size == 0 or position + 9 * size > len(body):
            raise ECGReadError(path, f"Huffman table {number} of {count} is cut off.", EXPORT_AGAIN)
        codes = []
        for _ in range(size):
            prefix, total, mode, value, base_code = struct.unpack_from("<BBBhI", body, position)
            position += 9
            if not (1 <= prefix <= MAX_PREFIX_BITS and prefix <= total <= prefix + 32) or base_code >= 1 << prefix:
                raise ECGReadError(path, f"Huffman table {number} has an impossible code.", EXPORT_AGAIN)
            if mode == 0 and not 1 <= value <= count:
                raise ECGReadError(path, f"Huffman table {number} switches to table {value}.", EXPORT_AGAIN)
            codes.append(Code(prefix, total, mode == 0, value, base_code))
        tables.append(codes)
    return tables


class SampleDecoder:
    """Decodes the samples of one lead after the other.

    Args:
        tables (list of lists of `Code`): the Huffman tables; empty for plain numbers.
        path (`Path`): the file, for error messages.
    """

    def __init__(self, tables: list[list[Code]], path: Path):
        self.tables, self.path = tables, path
        self._lookups: dict[int, tuple[int, list[Code | None]]] = {}

    def decode(self, data: bytes, count: int, differences: int, what: str) -> np.ndarray:
        """Return samples.

        Args:
            data (`bytes`): their code.
            count (`int`): how many there are.
            differences (`int`): 0 for samples, 1 or 2 for first or second differences after one or two samples.
            what (`str`): the lead, for error messages.

        Returns:
            `np.ndarray` of shape `(count,)`, int64: converter counts, within 16 bits.

        Raises:
            ECGReadError: if the data end early or hold no code of the table.
        """
        if differences not in (0, 1, 2):
            raise ECGReadError(self.path, f"its samples are coded as differences {differences}.", EXPORT_AGAIN)
        if count > 8 * len(data):
            raise ECGReadError(
                self.path, f"{what} has {count} samples in {len(data)} bytes, less than a bit each.", EXPORT_AGAIN
            )
        if self.tables:
            values = np.array(self._huffman(data, count, what), dtype=np.int64)
        elif 2 * count <= len(data):
            values = np.frombuffer(data, "<i2", count).astype(np.int64)
        else:
            raise ECGReadError(self.path, f"{what} holds {len(data) // 2} of {count} samples.", EXPORT_AGAIN)
        if differences == 2 and count > 1:
            # The second value is a sample, too.
            values[1] -= values[0]
            values[1:] = np.cumsum(values[1:])
        if differences:
            values = np.cumsum(values)
        # Encoders count in 16 bits, around the corner where it must be.
        return values.astype(np.int16).astype(np.int64)

    def _lookup(self, number: int) -> tuple[int, list[Code | None]]:
        """Return the longest prefix of a table, and the code that any bits of that length begin with."""
        if number not in self._lookups:
            codes = self.tables[number]
            longest = max(code.prefix for code in codes)
            entries: list[Code | None] = [None] * (1 << longest)
            for code in codes:
                rest = longest - code.prefix
                first = code.bits << rest
                entries[first : first + (1 << rest)] = [code] * (1 << rest)
            self._lookups[number] = longest, entries
        return self._lookups[number]

    def _huffman(self, data: bytes, count: int, what: str) -> list[int]:
        # 64 bits from each byte on, so that any code lies in one number.
        padded = np.frombuffer(data + bytes(8), np.uint8).astype(np.uint64)
        words = np.zeros(len(data) + 1, dtype=np.uint64)
        for shift in range(8):
            words |= padded[shift : shift + len(words)] << np.uint64(56 - 8 * shift)
        words, end, position = words.tolist(), 8 * len(data), 0
        longest, entries = self._lookup(0)
        mask = (1 << longest) - 1
        values: list[int] = []
        while len(values) < count:
            if position >= end:
                raise ECGReadError(self.path, f"{what} holds {len(values)} of {count} samples.", EXPORT_AGAIN)
            code = entries[words[position >> 3] >> (64 - (position & 7) - longest) & mask]
            if code is None:
                raise ECGReadError(
                    self.path, f"{what} has bits that are no Huffman code after {len(values)} samples.", EXPORT_AGAIN
                )
            if code.switches:
                longest, entries = self._lookup(code.value - 1)
                mask = (1 << longest) - 1
                position += code.total
                continue
            value = code.value
            if code.total > code.prefix:
                size = code.total - code.prefix
                start = position + code.prefix
                number = words[min(start, end) >> 3] >> (64 - (start & 7) - size) & (1 << size) - 1
                value += number - (1 << size) if number >> (size - 1) else number
            position += code.total
            values.append(value)
        if position > end:
            raise ECGReadError(self.path, f"{what} ends within its last sample.", EXPORT_AGAIN)
        return values
