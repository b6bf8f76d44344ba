import struct

import cart_files
import numpy as np
import pytest
import scp_writer

from ecg_transformers import STANDARD_LEADS, ECGReadError, read_ecg
from ecg_transformers.readers.scp_coding import SampleDecoder, read_tables

COUNTS = cart_files.ecg_counts()


@pytest.mark.parametrize("coding", ["default", "own", "plain"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_codings(tmp_path, coding, order):
    record = read_ecg(scp_writer.write_scp(tmp_path, coding=coding, order=order))
    assert record.lead_names == STANDARD_LEADS and record.sampling_rate == 500
    np.testing.assert_allclose(record.signal, COUNTS * cart_files.SCALE, atol=1e-6)
    layout = record.metadata["layout"]
    assert ("Huffman" in layout) == (coding != "plain") and ("differences" in layout) == (order > 0)


@pytest.mark.parametrize("coding", ["default", "own", "plain"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_numbers_of_sixteen_bits(tmp_path, coding, order):
    """Differences leave the range of 16 bits and come round again, as in an encoder that counts in 16 bits."""
    counts = np.random.default_rng(order).integers(-32768, 32768, 500)
    counts[:4] = -32768, 32767, 0, -32768
    values = np.array(scp_writer.scp_differences(counts, order)).astype(np.int16).tolist()
    whole = scp_writer.write_scp(tmp_path, coding=coding).read_bytes()
    tables = read_tables(_bodies(whole).get(2), tmp_path)
    data = scp_writer.scp_pack(values, coding)
    decoder = SampleDecoder(tables, tmp_path)
    np.testing.assert_array_equal(decoder.decode(data, 500, order, "lead I"), counts)
    with pytest.raises(ECGReadError, match=r"lead I (holds|ends)"):
        decoder.decode(data[: len(data) // 2], 500, order, "lead I")


@pytest.mark.parametrize("coding", ["default", "own", "plain"])
def test_a_reference_beat_is_added_again(tmp_path, coding):
    # The second beat is of another type; the first zone begins, and the last ends, at the ends of the recording.
    beats = [(0, 61), (1, 200), (0, 350), (0, 500)]
    path = scp_writer.write_scp(tmp_path, coding=coding, beats=beats)
    record = read_ecg(path)
    np.testing.assert_allclose(record.signal, COUNTS * 0.005, atol=1e-6)
    assert "reference beat" in record.metadata["layout"]
    # The file does hold the residual: without the flag it is what is read.
    path.write_bytes(_rewritten(path.read_bytes(), lambda b: b.update({3: b[3][:1] + b"\x64" + b[3][2:]})))
    residual = read_ecg(path).signal - record.signal
    assert not residual[:, 165:280].any() and (residual[:, 349] < -0.3).all()


def test_eight_leads_and_leads_at_different_times(tmp_path):
    record = read_ecg(scp_writer.write_scp(tmp_path, counts=cart_files.eight(COUNTS), names=cart_files.STORED))
    assert record.lead_names == STANDARD_LEADS and len(record.metadata["derived_leads"]) == 4
    np.testing.assert_allclose(record.select_leads(["V3"]).signal[0], COUNTS[8] * 0.005, atol=1e-6)
    record = read_ecg(scp_writer.write_scp(tmp_path, counts=COUNTS[:2], names=("V1", "VX"), starts=[1, 301]))
    assert record.lead_names == ("V1", "VX") and record.num_samples == 900
    np.testing.assert_allclose(record.signal[1, 300:], COUNTS[1] * 0.005, atol=1e-6)
    assert np.isnan(record.signal[1, :300]).all()


def test_metadata(tmp_path):
    facts = read_ecg(scp_writer.write_scp(tmp_path)).metadata
    assert (facts["patient_id"], facts["age"], facts["sex"]) == ("S-7", 49.0, "male")
    assert facts["recorded_at"] == "2002-11-22T09:10:00" and facts["device"] == "Maker CART1"
    assert facts["statements"] == ["Sinus", "Normal"] and facts["confirmed"] == "confirmed"
    assert facts["filters"] == "high-pass 0.05 Hz"


def test_checksums(tmp_path, refused):
    path = scp_writer.write_scp(tmp_path)
    whole = path.read_bytes()

    def change(*places):
        data = bytearray(whole)
        for place in places:
            data[place] ^= 0x10
        path.write_bytes(data)
        return path

    sixth = 22 + 10 * 6
    start = struct.unpack_from("<I", whole, sixth + 6)[0] - 1
    # Changed samples break the checksums of the file and of section 6.
    refused(change(start + 600), "checksums of the file and of section 6 do not match")
    # One of the two may be wrong: some writers fill in only the other.
    assert read_ecg(change(0)).num_leads == 12
    data = bytearray(whole)
    data[start : start + 2] = b"\0\0"
    data[:2] = struct.pack("<H", scp_writer.binascii.crc_hqx(bytes(data[2:]), 0xFFFF))
    path.write_bytes(data)
    assert read_ecg(path).num_leads == 12
    # No checksums at all.
    path.write_bytes(whole)
    scp_writer.without_checksums(path)
    assert "no checksums" in read_ecg(path).metadata["layout"]


def test_files_that_are_refused(tmp_path, refused):
    write = scp_writer.write_scp
    refused(write(tmp_path, bimodal=1), "bimodal")
    whole = write(tmp_path).read_bytes()
    path = tmp_path / "ecg.scp"
    path.write_bytes(whole[:4000])
    refused(path, "states a size of")
    for number, match in ((3, "lead definitions"), (6, "rhythm data")):
        path.write_bytes(_rewritten(whole, lambda bodies, number=number: bodies.pop(number)))
        refused(path, match)
    changes = {
        "12 leads, which its sections do not define": lambda b: b.update({3: b[3][:50]}),
        "samples 0 to 600": lambda b: b.update({3: b[3][:2] + bytes(4) + b[3][6:]}),
        "holds 6.. of 1000 samples": lambda b: b.update({3: b[3][:6] + struct.pack("<I", 1000) + b[3][10:]}),
        "60000 samples in": lambda b: b.update({3: b[3][:6] + struct.pack("<I", 60_000) + b[3][10:]}),
        "states 0 nV": lambda b: b.update({6: bytes(2) + b[6][2:]}),
        "differences 9": lambda b: b.update({6: b[6][:4] + b"\x09" + b[6][5:]}),
        "leads take": lambda b: b.update({6: b[6][:-2000]}),
        "announces 77 Huffman tables": lambda b: b.update({2: struct.pack("<H", 77)}),
        "is cut off": lambda b: b.update({2: struct.pack("<HH", 1, 9)}),
        "impossible code": lambda b: b.update({2: struct.pack("<HHBBBhI", 1, 1, 40, 40, 1, 0, 0)}),
        "switches to table 3": lambda b: b.update({2: struct.pack("<HHBBBhI", 1, 1, 1, 1, 0, 3, 0)}),
        "no Huffman code": lambda b: b.update({2: struct.pack("<HHBBBhI", 1, 1, 9, 9, 1, 0, 0)}),
        "section 4 or 5": lambda b: b.update({3: b[3][:1] + b"\x05" + b[3][2:]}),
    }
    for match, change in changes.items():
        path.write_bytes(_rewritten(whole, change))
        refused(path, match)
    path.write_bytes(_rewritten(whole, lambda bodies: None))
    assert read_ecg(path).num_leads == 12
    # A table that does nothing but switch would never end.
    path.write_bytes(_rewritten(whole, lambda b: b.update({2: struct.pack("<HHBBBhI", 1, 1, 1, 1, 0, 1, 0)})))
    refused(path, "no Huffman code|holds")


def _bodies(data):
    """Return the contents of the sections, found through the directory."""
    places = [struct.unpack_from("<HII", data, 22 + 10 * number) for number in range(1, 12)]
    return {number: data[place + 15 : place - 1 + length] for number, length, place in places if length}


def _rewritten(data, change):
    """Return a file with changed sections and right checksums."""
    bodies = _bodies(data)
    change(bodies)
    return scp_writer.scp_file(bodies)


def test_the_default_table(tmp_path):
    (codes,) = read_tables(struct.pack("<H", 19999), tmp_path)
    bits = {f"{code.bits:0{code.prefix}b}": (code.value, code.total) for code in codes}
    assert bits.pop("1111111110") == (0, 18) and bits.pop("1111111111") == (0, 26)
    assert {prefix: value for prefix, (value, _) in bits.items()} == {
        prefix: value for value, prefix in scp_writer.SCP_DEFAULT.items()
    }
    assert len(codes) == 19


def test_the_handheld_variant(tmp_path, refused):
    path = scp_writer.write_healforce(tmp_path)
    counts = np.clip(cart_files.ecg_counts(3, 400), -512, 511)
    record = read_ecg(path, lead_names=["I", "II", "III"])
    np.testing.assert_allclose(record.signal, counts * 0.01, atol=1e-6)
    assert record.sampling_rate == 150 and "Healforce" in record.metadata["layout"]
    refused(path, "does not name its 3 leads")
    refused(scp_writer.write_healforce(tmp_path, rate=2000), "breaks the standard")
