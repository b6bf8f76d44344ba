"""The sections of an SCP-ECG file (EN 1064, ISO 11073-91064): directory, checksums, patient data, statements."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .content import parse_sex
from .errors import ECGReadError
from .export_facts import age_at, age_in_years, iso_date, iso_time, joined_words, statement_facts
from .wfdb_header import decode_text

EXPORT_AGAIN = "The file is truncated or damaged; export it again."

_AGE_UNITS = {0: "years", 1: "years", 2: "months", 3: "weeks", 4: "days", 5: "hours"}
_SEXES = {1: "male", 2: "female"}
_FILE_HEADER, _SECTION_HEADER = 6, 16


@dataclass
class ScpSections:
    """The sections of a file.

    Args:
        bodies (`dict[int, bytes]`): section number -> content without its header; empty sections are left out.
        zero_based (`bool`): the directory counts bytes from 0, against the standard.
        notes (`list[str]`): what is unusual about the file.
    """

    bodies: dict[int, bytes]
    zero_based: bool = False
    notes: list[str] = field(default_factory=list)


def looks_like_scp(head: bytes) -> bool:
    """Tell an SCP-ECG file by the header of section 0 and the first entry of its directory, which is about itself."""
    if len(head) < 32:
        return False
    number, length = struct.unpack_from("<HI", head, 8)
    first, first_length, index = struct.unpack_from("<HII", head, 22)
    return number == first == 0 and (
        head[16:22] == b"SCPECG" or (length == first_length and index in (_FILE_HEADER, _FILE_HEADER + 1))
    )


def split_sections(data: bytes, path: Path) -> ScpSections:
    """Cut a file into its sections and compare checksums.

    A section whose checksum is wrong is accepted if that of the whole file is right, and the other way round: some
    writers fill in only one of them. A file without any checksum (all zero) is accepted and noted.

    Raises:
        ECGReadError: if the directory leads out of the file or nowhere, or the checksums say that bytes have changed.
    """
    if len(data) < _FILE_HEADER + _SECTION_HEADER:
        raise ECGReadError(path, f"it ends after {len(data)} bytes.", EXPORT_AGAIN)
    stated_crc, stated_size = struct.unpack_from("<HI", data)
    directory_length, index = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 28)[0]
    zero_based = index == _FILE_HEADER
    body = data[_FILE_HEADER + _SECTION_HEADER : _FILE_HEADER + directory_length]
    # The Healforce variant states the size in the lower half only.
    size = stated_size & 0xFFFF if zero_based else stated_size
    if size > len(data):
        raise ECGReadError(path, f"it states a size of {size} bytes and has {len(data)}.", EXPORT_AGAIN)
    file_fits = binascii.crc_hqx(data[2:size], 0xFFFF) == stated_crc
    found = ScpSections({}, zero_based)
    wrong, written = [], bool(stated_crc)
    for offset in range(0, len(body) - 9, 10):
        number, length, start = struct.unpack_from("<HII", body, offset)
        if number == 0 or length <= _SECTION_HEADER:
            continue
        start -= 0 if zero_based else 1
        if start < _FILE_HEADER or start + length > len(data):
            raise ECGReadError(
                path, f"section {number} is said to be bytes {start} to {start + length} of {len(data)}.", EXPORT_AGAIN
            )
        section = data[start : start + length]
        crc, stated_number, stated_length = struct.unpack_from("<HHI", section)
        if zero_based and stated_number == number and _SECTION_HEADER < stated_length < length:
            # Healforce's directory has the length that the samples would take unpacked.
            section = section[:stated_length]
        elif (stated_number, stated_length) != (number, length):
            raise ECGReadError(
                path,
                f"section {number} of {length} bytes calls itself section {stated_number} of {stated_length} bytes.",
                EXPORT_AGAIN,
            )
        written = written or bool(crc)
        if binascii.crc_hqx(section[2:], 0xFFFF) != crc:
            wrong.append(number)
        found.bodies.setdefault(number, section[_SECTION_HEADER:])
    if zero_based:
        found.notes.append("checksums of another kind, not compared")
    elif not written:
        found.notes.append("no checksums")
    elif wrong and not file_fits:
        listed = ", ".join(map(str, sorted(wrong)))
        raise ECGReadError(path, f"the checksums of the file and of section {listed} do not match.", EXPORT_AGAIN)
    return found


def patient_facts(sections: ScpSections) -> dict[str, Any]:
    """Return metadata from section 1 (patient and acquisition) and section 8 (statements)."""
    tags = _tags(sections.bodies.get(1, b""))
    day, clock = _date(tags.get(25)), tags.get(26, b"")
    recorded_at = day
    if day and len(clock) >= 3:
        recorded_at = iso_time(f"{day}T{clock[0]:02d}:{clock[1]:02d}:{clock[2]:02d}")
    age = None
    if len(tags.get(4, b"")) >= 3:
        value, unit = struct.unpack_from("<HB", tags[4])
        age = age_in_years(value, _AGE_UNITS.get(unit, "?")) if value else None
    sex = tags.get(8, b"")
    return {
        "patient_id": _text(tags.get(2)),
        "age": age if age is not None else age_at(_date(tags.get(5)), recorded_at),
        "sex": parse_sex(_SEXES.get(sex[0])) if sex else None,
        "recorded_at": recorded_at,
        "device": _device(tags.get(14, b"")),
        "filters": _filters(tags),
        **_statements(sections.bodies.get(8, b"")),
    }


def _tags(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position + 3 <= len(body) and body[position] != 255:
        tag, length = struct.unpack_from("<BH", body, position)
        found.setdefault(tag, body[position + 3 : position + 3 + length])
        position += 3 + length
    return found


def _text(value: bytes | None) -> str | None:
    text = " ".join(decode_text((value or b"").split(b"\0")[0]).split())
    return text or None


def _date(value: bytes | None) -> str | None:
    """Return an ISO date; the year's bytes are swapped in the files of some devices."""
    if value is None or len(value) < 4:
        return None
    for order in ("<", ">"):
        year, month, day = struct.unpack_from(f"{order}HBB", value)
        if 1850 <= year <= 2200:
            return iso_date(year, month, day)
    return None


def _device(value: bytes) -> str | None:
    """Return manufacturer and model of the acquiring device."""
    if len(value) < 14:
        return None
    # 36 bytes of fixed fields, then program, serial number, two software versions, and the manufacturer.
    strings = [_text(one) for one in value[36:].split(b"\0")]
    maker = strings[4] if len(strings) > 4 else None
    return joined_words(maker, _text(value[8:14]))


def _filters(tags: dict[int, bytes]) -> str | None:
    parts = []
    for tag, words, factor in ((27, "high-pass", 0.01), (28, "low-pass", 1.0)):
        if len(tags.get(tag, b"")) >= 2:
            number = struct.unpack_from("<H", tags[tag])[0] * factor
            parts += [f"{words} {number:g} Hz"] if number else []
    return ", ".join(parts) or None


def _statements(body: bytes) -> dict[str, Any]:
    if len(body) < 9:
        return {}
    lines, position = [], 9
    for _ in range(body[8]):
        if position + 3 > len(body):
            break
        length = struct.unpack_from("<H", body, position + 1)[0]
        lines.append(_text(body[position + 3 : position + 3 + length]))
        position += 3 + length
    confirmed = {0: "original report", 1: "confirmed", 2: "overread, not confirmed"}.get(body[0])
    facts = statement_facts(lines)
    return facts | {"confirmed": confirmed} if facts else {}
