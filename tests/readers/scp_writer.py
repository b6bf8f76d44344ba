"""A writer of SCP-ECG files, after the description of the standard, and one of the Healforce variant."""

import binascii
import struct

import numpy as np
from cart_files import SCALE, STANDARD, STORED, ecg_counts

# The default Huffman table: sample -> bits. Eight and sixteen bits follow nine ones and a zero, or ten ones.
SCP_DEFAULT = {0: "0"} | {
    sign * n: "1" * n + "0" + ("1" if sign < 0 else "0") for n in range(1, 9) for sign in (1, -1)
}


def scp_default_bits(values):
    for value in values:
        if value in SCP_DEFAULT:
            yield SCP_DEFAULT[value]
        elif -128 <= value < 128:
            yield "1111111110" + f"{value & 0xFF:08b}"
        else:
            yield "1111111111" + f"{value & 0xFFFF:016b}"


# Two tables of our own: prefix -> (bits after it, switches, value).
SCP_OWN = [
    {"0": (0, False, 0), "10": (0, False, 1), "110": (0, False, -1), "1110": (0, True, 2), "1111": (16, False, 0)},
    {"00": (0, False, 0), "01": (6, False, 5), "10": (0, True, 1), "110": (16, False, 0)},
]


def scp_own_bits(values, switch_every=50):
    table = 0
    for number, value in enumerate(values):
        if number % switch_every == switch_every - 1:
            yield "10" if table else "1110"
            table = 1 - table
        if table == 0:
            yield {0: "0", 1: "10", -1: "110"}.get(value) or "1111" + f"{value & 0xFFFF:016b}"
        elif value == 0:
            yield "00"
        elif -27 <= value <= 36:
            # The number after the prefix is signed and added to the value of the code.
            yield "01" + f"{value - 5 & 0x3F:06b}"
        else:
            yield "110" + f"{value & 0xFFFF:016b}"


def scp_pack(values, coding):
    if coding == "plain":
        return np.asarray(values).astype("<i2").tobytes()
    text = "".join(scp_default_bits(values) if coding == "default" else scp_own_bits(values))
    text += "0" * (-len(text) % 16)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def scp_differences(x, order):
    if order == 0:
        return x.tolist()
    if order == 1:
        return [int(x[0]), *np.diff(x).tolist()]
    return [int(x[0]), int(x[1]), *np.diff(x, 2).tolist()]


def scp_section(number, body):
    body += bytes(len(body) % 2)
    rest = struct.pack("<HIBB6s", number, 16 + len(body), 20, 20, b"SCPECG" if number == 0 else b"") + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp_file(bodies):
    length = 16 + 10 * 12
    entries, place = [struct.pack("<HII", 0, length, 7)], 7 + length
    sections = {number: scp_section(number, body) for number, body in bodies.items()}
    for number in range(1, 12):
        size = len(sections.get(number, b""))
        entries.append(struct.pack("<HII", number, size, place if size else 0))
        place += size
    body = scp_section(0, b"".join(entries)) + b"".join(sections[number] for number in sorted(sections))
    rest = struct.pack("<I", 6 + len(body)) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp_tag(tag, value):
    return struct.pack("<BH", tag, len(value)) + value


def write_scp(
    folder, name="ecg.scp", counts=None, names=STANDARD, coding="default", order=2, beats=None, bimodal=0, starts=None
):
    """Write an SCP-ECG file; `beats` are fiducial samples (from 1) around which a reference beat is subtracted."""
    counts = ecg_counts() if counts is None else counts
    numbers = dict(zip(STORED, range(1, 9), strict=True)) | {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64, "VX": 16}
    microvolts = SCALE * 1000
    bodies = {
        1: scp_tag(0, b"Doe\0") + scp_tag(2, b"S-7\0") + scp_tag(5, struct.pack("<HBB", 1953, 5, 8))
        + scp_tag(8, b"\1")
        + scp_tag(14, bytes(8) + b"CART1\0" + bytes(22) + b"p\0s\0a\0b\0Maker\0")
        + scp_tag(25, struct.pack("<HBB", 2002, 11, 22)) + scp_tag(26, bytes([9, 10, 0]))
        + scp_tag(27, struct.pack("<H", 5)) + b"\xff\0\0",
        8: bytes([1]) + bytes(7) + bytes([2]) + b"\1" + struct.pack("<H", 6) + b"Sinus\0" + b"\2"
        + struct.pack("<H", 7) + b"Normal\0",
    }  # fmt: skip
    if coding == "default":
        bodies[2] = struct.pack("<H", 19999)
    elif coding == "own":
        bodies[2] = struct.pack("<H", len(SCP_OWN))
        for table in SCP_OWN:
            bodies[2] += struct.pack("<H", len(table))
            for prefix, (after, switches, value) in table.items():
                size = len(prefix)
                bodies[2] += struct.pack("<BBBhI", size, size + after, not switches, value, int(prefix[::-1], 2))
    samples = counts.shape[1]
    starts = [1] * len(names) if starts is None else starts
    bodies[3] = bytes([len(names), (1 if beats else 0) | 4 | len(names) << 3 & 0xF8])
    for lead, start in zip(names, starts, strict=True):
        bodies[3] += struct.pack("<IIB", start, start + samples - 1, numbers[lead])
    residual = counts.copy()
    if beats:
        length, fiducial, before, after = 200, 81, 60, 100
        reference = np.round(np.linspace(0.5, 1.5, len(names))[:, None] * 180 * np.hanning(length)).astype(np.int64)
        places = []
        for kind, middle in beats:
            begin, end = middle - before, middle + after
            places.append(struct.pack("<HIII", kind, begin, middle, end))
            if kind == 0:
                # Sample `middle` of the rhythm lies on sample `fiducial` of the beat, both from 1.
                first = fiducial - before
                residual[:, begin - 1 : end] -= reference[:, first - 1 : first + before + after]
        bodies[4] = struct.pack("<HHH", length * 2, fiducial, len(beats)) + b"".join(places)
        packed = [scp_pack(scp_differences(x, 1), coding) for x in reference]
        bodies[5] = struct.pack("<HHBB", int(microvolts * 1000), 2000, 1, 0)
        bodies[5] += struct.pack(f"<{len(packed)}H", *map(len, packed)) + b"".join(packed)
    packed = [scp_pack(scp_differences(x, order), coding) for x in residual]
    bodies[6] = struct.pack("<HHBB", int(microvolts * 1000), 2000, order, bimodal)
    bodies[6] += struct.pack(f"<{len(packed)}H", *map(len, packed)) + b"".join(packed)
    (folder / name).write_bytes(scp_file(bodies))
    return folder / name


def write_healforce(folder, name="hand.scp", counts=None, rate=150):
    """Three words of sixteen bits hold four samples; the directory counts from 0 and has the unpacked length."""
    counts = np.clip(ecg_counts(3, 400), -512, 511) if counts is None else counts
    stream = (counts.T.reshape(-1) + 512).reshape(-1, 4)
    words = stream[:, :3] | (stream[:, 3:] >> np.array([8, 4, 0]) & 0xF) << 10
    data = words.astype("<u2").tobytes()
    bodies = {3: bytes([len(counts), 4]) + bytes(10), 6: struct.pack("<HHBBH", 10000, rate, 0, 0, len(data)) + data}
    sections = {
        number: struct.pack("<HHIBB6x", 0xBEEF, number, 16 + len(body), 13, 13) + body
        for number, body in bodies.items()
    }
    length = 16 + 30
    entries = struct.pack("<HII", 0, length, 6) + struct.pack("<HII", 3, len(sections[3]), 6 + length)
    entries += struct.pack("<HII", 6, len(sections[6]) + len(data) // 3, 6 + length + len(sections[3]))
    head = struct.pack("<HHIBB6x", 1, 0, length, 13, 13) + entries
    body = head + sections[3] + sections[6] + bytes(len(data))
    (folder / name).write_bytes(struct.pack("<HI", 7, 6 + len(body)) + body)
    return folder / name


def without_checksums(path):
    """Zero all checksums, so that damage reaches the decoder."""
    data = bytearray(path.read_bytes())
    data[:2] = b"\0\0"
    for number in range(12):
        _, length, place = struct.unpack_from("<HII", data, 22 + 10 * number)
        if length:
            data[place - 1 : place + 1] = b"\0\0"
    path.write_bytes(data)
    return path
