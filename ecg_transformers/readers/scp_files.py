"""SCP-ECG files (EN 1064, ISO 11073-91064), and the variant of Healforce's handheld recorders."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .content import FileContent
from .errors import ECGReadError
from .lead_codes import LEAD_OF_NUMBER
from .lead_groups import LeadPiece, join_leads
from .registry import ReadRequest, register_reader
from .scp_coding import SampleDecoder, read_tables
from .scp_sections import EXPORT_AGAIN, ScpSections, looks_like_scp, patient_facts, split_sections

MAX_SCP_BYTES = 64 * 2**20

_NO_RHYTHM = "Export it with its rhythm data."


@register_reader("scp-ecg", extensions=(".scp",), sniff=lambda path, head: looks_like_scp(head), any_name=True)
def read_scp(path: Path, request: ReadRequest) -> FileContent:
    """Read an SCP-ECG file.

    Checksums are compared. Understood are plain and Huffman-coded samples (default and own tables, switched or not),
    first and second differences, and the subtraction of a reference beat. Bimodal compression, which thins out the
    samples between beats, is refused.

    Files of the Healforce Prince 180D break the standard: one stream holds the samples of all channels in turn, 10
    bits of each in words of 12. They are decoded; their leads have no names, which are the caller's to give.
    """
    size = path.stat().st_size
    if size > MAX_SCP_BYTES:
        raise ECGReadError(path, f"an SCP-ECG file of {size} bytes (at most {MAX_SCP_BYTES} are read).", "Split it.")
    sections = split_sections(path.read_bytes(), path)
    for number, what in ((3, "lead definitions"), (6, "rhythm data")):
        if number not in sections.bodies:
            raise ECGReadError(path, f"it has no section {number} ({what}).", _NO_RHYTHM)
    rhythm = sections.bodies[6]
    if len(rhythm) < 8:
        raise ECGReadError(path, "its rhythm data are cut off.", EXPORT_AGAIN)
    nanovolts, interval, differences, bimodal = struct.unpack_from("<HHBB", rhythm)
    if nanovolts == 0 or interval == 0:
        raise ECGReadError(path, f"it states {nanovolts} nV per bit, a sample every {interval} us.", EXPORT_AGAIN)
    facts = patient_facts(sections)
    if sections.zero_based:
        return _read_healforce(sections, nanovolts, interval, facts, path)
    if bimodal:
        raise ECGReadError(path, "its rhythm is stored with bimodal compression.", "Export it without.")
    pieces, coding = _read_leads(sections, nanovolts, interval, differences, path)
    names, signal, rate, joined = join_leads(pieces, request, path)
    parts = [f"SCP-ECG, {len(pieces)} leads stored", f"{nanovolts / 1000:g} uV per bit", *coding, *sections.notes]
    return FileContent(
        signal, rate, names, "mV", facts | joined | {"layout": ", ".join(parts)}, stored_units="uV", names_agreed=True
    )


def _read_leads(
    sections: ScpSections, nanovolts: int, interval: int, differences: int, path: Path
) -> tuple[list[LeadPiece], list[str]]:
    """Decode section 6 with the help of sections 2 to 5; return the leads and how they were coded."""
    definition, rhythm = sections.bodies[3], sections.bodies[6]
    count = definition[0]
    if count == 0 or len(definition) < 2 + 9 * count or len(rhythm) < 6 + 2 * count:
        raise ECGReadError(path, f"it announces {count} leads, which its sections do not define.", EXPORT_AGAIN)
    tables = read_tables(sections.bodies.get(2), path)
    decoder = SampleDecoder(tables, path)
    rate = 1e6 / interval
    beats = _reference_beats(sections, decoder, count, interval, path) if definition[1] & 1 else None
    lengths = struct.unpack_from(f"<{count}H", rhythm, 6)
    position = 6 + 2 * count
    if position + sum(lengths) > len(rhythm):
        raise ECGReadError(
            path, f"its leads take {sum(lengths)} bytes; section 6 holds {len(rhythm) - position}.", EXPORT_AGAIN
        )
    pieces = []
    for row, length in enumerate(lengths):
        first, last, number = struct.unpack_from("<IIB", definition, 2 + 9 * row)
        name = LEAD_OF_NUMBER.get(number, f"lead {number}")
        if first < 1 or last < first:
            raise ECGReadError(path, f"lead {name} has samples {first} to {last}.", EXPORT_AGAIN)
        data = rhythm[position : position + length]
        position += length
        counts = decoder.decode(data, last - first + 1, differences, f"lead {name}")
        samples = counts * (nanovolts * 1e-6)
        if beats is not None:
            _add_reference_beat(samples, first, row, beats)
        pieces.append(LeadPiece(name, samples, rate, (first - 1) / rate))
    coding = ["Huffman tables" if len(tables) > 1 else "Huffman table"] if tables else ["plain numbers"]
    coding += [f"differences of order {differences}"] if differences else []
    coding += ["reference beat subtracted"] if beats is not None else []
    return pieces, coding


# The reference beat of each lead in mV, the place of its fiducial point (from 1), and for each beat of its type the
# samples between which it was subtracted and the fiducial point: (begin, fiducial, end), from 1, both ends included.
ReferenceBeats = tuple[list[np.ndarray], int, list[tuple[int, int, int]]]


def _reference_beats(
    sections: ScpSections, decoder: SampleDecoder, count: int, interval: int, path: Path
) -> ReferenceBeats:
    places, beat = sections.bodies.get(4, b""), sections.bodies.get(5, b"")
    if len(places) < 6 or len(beat) < 6 + 2 * count:
        raise ECGReadError(
            path, "a reference beat was subtracted, but section 4 or 5, which tell of it, is missing.", EXPORT_AGAIN
        )
    milliseconds, fiducial, number = struct.unpack_from("<HHH", places)
    nanovolts, own_interval, differences = struct.unpack_from("<HHB", beat)
    if len(places) < 6 + 14 * number or own_interval != interval:
        raise ECGReadError(
            path,
            f"its reference beat has a sample every {own_interval} us, its rhythm every {interval} us; section 4 "
            f"announces {number} beats in {len(places)} bytes.",
            "Export it without bimodal compression." if own_interval != interval else EXPORT_AGAIN,
        )
    zones = []
    for row in range(number):
        kind, begin, middle, end = struct.unpack_from("<HIII", places, 6 + 14 * row)
        # Only beats of type 0 are like the reference beat.
        if kind == 0 and 1 <= begin <= end:
            zones.append((begin, middle, end))
    samples = milliseconds * 1000 // interval
    lengths = struct.unpack_from(f"<{count}H", beat, 6)
    position, leads = 6 + 2 * count, []
    for row, length in enumerate(lengths):
        data = beat[position : position + length]
        position += length
        counts = decoder.decode(data, samples, differences, f"the reference beat of lead {row + 1}")
        leads.append(counts * (nanovolts * 1e-6))
    return leads, fiducial, zones


def _add_reference_beat(samples: np.ndarray, first: int, row: int, beats: ReferenceBeats) -> None:
    """Add the reference beat to the residual of a lead whose first sample has the number `first`."""
    leads, fiducial, zones = beats
    beat = leads[row]
    for begin, middle, end in zones:
        # Sample n of the rhythm corresponds to sample n + shift of the beat.
        shift = fiducial - middle
        begin = max(begin, first, 1 - shift)
        end = min(end, first + len(samples) - 1, len(beat) - shift)
        if begin <= end:
            samples[begin - first : end - first + 1] += beat[begin + shift - 1 : end + shift]


def _read_healforce(sections: ScpSections, nanovolts: int, interval: int, facts: dict, path: Path) -> FileContent:
    """Decode the Healforce variant: three words of 16 bits hold four samples, all channels in turn.

    Found out for the Prince 180D by K. Bao (github.com/KaibinBao/healforcescpecg): the field of the sample interval
    holds the rate, samples have an offset of 512, the bits above them are marks of beats.
    """
    count, rhythm = sections.bodies[3][0], sections.bodies[6]
    length = struct.unpack_from("<H", rhythm, 6)[0]
    data = rhythm[8 : 8 + length]
    if not 1 <= count <= 12 or interval > 1000 or len(data) != length or length % 6 or length == 0:
        raise ECGReadError(
            path,
            f"it breaks the standard (its directory counts from 0), and is no Healforce recording of {count} channels "
            f"at {interval} Hz with {len(data)} of {length} bytes either.",
            "Export it with the device's own program in another format.",
        )
    words = np.frombuffer(data, "<u2").reshape(-1, 3).astype(np.int64)
    nibbles = words >> 10 & 0xF
    fourth = nibbles[:, 0] << 8 | nibbles[:, 1] << 4 | nibbles[:, 2]
    counts = (np.column_stack([words, fourth]) & 0x3FF).reshape(-1) - 512
    if counts.size % count:
        raise ECGReadError(path, f"{counts.size} samples do not divide into {count} channels.", EXPORT_AGAIN)
    kind = f"SCP-ECG as Healforce writes it, {count} channels in turn"
    facts["layout"] = ", ".join([kind, f"{nanovolts / 1000:g} uV per bit", *sections.notes])
    return FileContent(
        counts.reshape(-1, count).T * (nanovolts * 1e-6), float(interval), None, "mV", facts, stored_units="uV"
    )
