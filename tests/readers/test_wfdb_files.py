import socket

import numpy as np
import pytest
import wfdb

from ecg_transformers import STANDARD_LEADS, read_ecg
from ecg_transformers.readers import find_ecg_files

LEADS = ("I", "II", "V1")


def edit(header, old, new, count=1):
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, count))
    return header


@pytest.mark.parametrize("fmt", ["16", "24", "32", "61", "80", "160", "212", "310", "311", "516", "524", "508", "8"])
def test_every_storage_format_equals_the_library(tmp_path, write, fmt):
    limit = {"80": 100, "508": 100, "310": 400, "311": 400, "8": 60}.get(fmt, 1500)
    digital = np.round(write.signal(3, 997) * limit / 3).astype(np.int64)
    if fmt == "8":
        digital = np.cumsum(np.sign(np.diff(digital, prepend=0)), axis=1)
    header = write.wfdb(tmp_path, digital=digital, fmt=fmt, leads=LEADS, gain=200)
    record = read_ecg(header)
    expected = wfdb.rdrecord(str(header.with_suffix(""))).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(record.signal, expected)
    np.testing.assert_allclose(record.signal, digital / 200, atol=1e-6)
    assert record.sampling_rate == 500 and record.lead_names == LEADS


@pytest.mark.parametrize("fmt", ["16", "212", "24"])
def test_the_smallest_value_marks_a_missing_sample(tmp_path, write, fmt):
    digital = np.round(write.signal(3, 100) * 200).astype(np.int64)
    digital[1, 7:9] = {"16": -32768, "212": -2048, "24": -(2**23)}[fmt]
    record = read_ecg(write.wfdb(tmp_path, digital=digital, fmt=fmt, leads=LEADS, gain=200))
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[1, 7], [1, 8]]


def test_paths_that_name_a_record(tmp_path, write):
    header, digital = write.challenge(tmp_path)
    expected = (digital / 1000).astype(np.float32)
    for path in (header, str(header), header.with_suffix(""), header.with_suffix(".mat")):
        record = read_ecg(path)
        np.testing.assert_array_equal(record.signal, expected)
        assert record.lead_names == STANDARD_LEADS
    plain = write.wfdb(tmp_path, "plain")
    assert read_ecg(plain.with_suffix(".dat")).metadata["record_id"] == "plain"


def test_a_folder_whose_name_looks_like_a_chain_of_addresses(tmp_path, write):
    folder = tmp_path / "zip::s3:" / "a*b [1]"
    folder.mkdir(parents=True)
    digital = np.round(write.signal(3, 50) * 200).astype(np.int64)
    record = read_ecg(write.wfdb(tmp_path, digital=digital, fmt="212", leads=LEADS, gain=200))
    for file in tmp_path.glob("rec.*"):
        file.rename(folder / file.name)
    np.testing.assert_array_equal(read_ecg(folder / "rec.hea").signal, record.signal)


def test_record_line_that_ends_in_mat(tmp_path, write):
    header, digital = write.challenge(tmp_path, record_name="A0001.mat")
    record = read_ecg(header)
    np.testing.assert_array_equal(record.signal, (digital / 1000).astype(np.float32))
    assert record.metadata["record_id"] == "A0001"
    assert record.metadata["labels"] == ["59118001", "426783006"]


def test_gain_baseline_unit_and_zero_of_the_converter(tmp_path):
    np.arange(12, dtype="<i2").tofile(tmp_path / "a.dat")
    (tmp_path / "a.hea").write_bytes(
        b"a 4 250.5/1000(3) 3 10:20:30 02/03/2019\r\na.dat 16 500(4)/uV 12 0 0 0 0 V1\r\n"
        b"a.dat 16 2 11 6 0 0 0 lead II\r\na.dat 16 1e1/\xb5V 0 0 0 0 0 v2\r\n"
        b"a.dat 16 0.5(-2)/V 0 0 0 0 0 Vx\r\n# M\xfcller, Ren\xe9\r\n"
    )
    record = read_ecg(tmp_path / "a.hea")
    raw = np.arange(12).reshape(3, 4).T
    expected = [(raw[0] - 4) / 500e3, (raw[1] - 6) / 2, raw[2] / 10e3, (raw[3] + 2) / 0.5 * 1e3]
    np.testing.assert_allclose(record.signal, expected, rtol=1e-6)
    assert record.lead_names == ("V1", "II", "V2", "VX") and record.sampling_rate == 250.5
    assert record.metadata["recorded_at"] == "2019-03-02T10:20:30"
    assert record.metadata["comments"] == ["Müller, René"]


def test_a_unit_of_the_caller_must_be_that_of_the_header(tmp_path, write, refused):
    header = write.wfdb(tmp_path)
    refused(header, "in mV, the caller in uV", units="uV")
    expected = read_ecg(header, units="mV").signal
    header.write_text(header.read_text().replace("1000(0)/mV", "1(0)/uV"))
    np.testing.assert_allclose(read_ecg(header, units="uV").signal, expected, rtol=1e-6)
    refused(header, "in uV, the caller in mV", units="mV")


def test_signals_that_are_no_voltage_are_left_out_and_listed(tmp_path, write):
    header = write.wfdb(tmp_path, leads=("I", "II", "ABP"))
    header.write_text(
        header.read_text().replace("/mV 0 0", "/mV 0 0").replace("mV", "mmHg", 3).replace("mmHg", "mV", 2)
    )
    record = read_ecg(header)
    assert record.lead_names == ("I", "II")
    assert record.metadata["other_signals"] == ["ABP (mmHg)"]


def test_several_signal_files_and_several_samples_per_frame(tmp_path):
    first, second = np.arange(20, dtype="<i2"), np.arange(100, 140, dtype="<i2")
    first.tofile(tmp_path / "a.dat")
    second.tofile(tmp_path / "b.dat")
    (tmp_path / "r.hea").write_text("r 2 100 20\na.dat 16 1000/mV 0 0 0 0 0 I\nb.dat 16x1+40 1000/mV 0 0 0 0 0 II\n")
    record = read_ecg(tmp_path / "r.hea")
    np.testing.assert_allclose(record.signal, [first / 1000, second[20:] / 1000], rtol=1e-6)
    (tmp_path / "s.hea").write_text("s 1 100 20\nb.dat 16x2 1000/mV 0 0 0 0 0 II\n")
    record = read_ecg(tmp_path / "s.hea")
    np.testing.assert_allclose(record.signal[0], second / 1000, rtol=1e-6)
    assert record.sampling_rate == 200


def test_length_is_inferred_where_the_header_leaves_it_out(tmp_path, write):
    header = edit(write.wfdb(tmp_path), "rec 12 500 1000", "rec 12 500")
    assert read_ecg(header).num_samples == 1000


def test_segments_are_joined_and_gaps_are_missing_samples(tmp_path, write):
    one = np.round(write.signal(2, 40) * 200).astype(np.int64)
    two = np.round(write.signal(2, 60, seed=1) * 200).astype(np.int64)
    write.wfdb(tmp_path, "s1", one, leads=("I", "II"), gain=200)
    write.wfdb(tmp_path, "s2", two, fmt="212", leads=("II", "V1"), gain=200)
    (tmp_path / "whole.hea").write_text("whole/3 3 500 110\ns1 40\n~ 10\ns2 60\n# 50 F\n")
    record = read_ecg(tmp_path / "whole.hea")
    assert record.lead_names == ("I", "II", "V1") and record.num_samples == 110
    np.testing.assert_allclose(record.signal[1, :40], one[1] / 200, rtol=1e-6)
    np.testing.assert_allclose(record.signal[1:, 50:], two / 200, rtol=1e-6)
    assert np.isnan(record.signal[:, 40:50]).all() and np.isnan(record.signal[2, :40]).all()
    assert find_ecg_files(tmp_path) == [tmp_path / "whole.hea"]


def test_damaged_segmented_records(tmp_path, write, refused):
    write.wfdb(tmp_path, "s1", leads=LEADS)
    master = tmp_path / "m.hea"
    for text, match in (
        ("m/1 3 500 1000\n../s1 1000\n", "outside the header's own folder"),
        ("m/2 3 500 2000\ns1 1000\ns1 1000\n", "occurs twice"),
        ("m/1 3 500 999\ns1 999\n", "has 1000 samples"),
        ("m/2 3 500 1000000001000\ns1 1000\n~ 1000000000000\n", "claims"),
        ("m/1 3 500 1000\nabsent 1000\n", "is missing"),
        ("m/1 3 400 1000\ns1 1000\n", "400 Hz"),
        ("m/2 3 500 1000\ns1 1000\n", "announces 2 segments"),
        ("m/1 3 500 1000\nm 1000\n", "segmented again"),
    ):
        master.write_text(text)
        refused(master, match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("rec 12 500 1000", "rec 12 500 2000", "truncated or belongs"),
        ("rec 12 500 1000", "rec 12 500 900", "truncated or belongs"),
        ("rec 12 500 1000", "rec 12 500 1000000000000", "which take 24000000000000 bytes"),
        ("rec 12 500 1000", "rec 12 500 99999999999999999999", "number of samples"),
        ("rec 12 500 1000", "rec 12 500 -5", "number of samples"),
        ("rec 12 500 1000", "rec 11 500 1000", "announces 11 signals, 12 signal lines"),
        ("rec 12 500 1000", "rec 13 500 1000", "announces 13 signals"),
        ("rec 12 500 1000", "rec 999999999999 500 1000", "lacks the number of signals"),
        ("rec 12 500 1000", "rec 0 500 1000", "no signals"),
        ("rec 12 500 1000", "rec 12 0 1000", "sampling rate"),
        ("rec 12 500 1000", "rec 12 -500 1000", "sampling rate"),
        ("rec 12 500 1000", "rec 12 nan 1000", "sampling rate"),
        ("rec 12 500 1000", "rec 12 1e12 1000", "sampling rate"),
        ("rec 12 500 1000", "rec", "lacks the number of signals"),
        ("rec 12 500 1000", "rec 12", "does not state its sampling rate"),
        ("1000(0)/mV", "0(0)/mV", "gain of 0"),
        ("1000(0)/mV", "-200(0)/mV", "gain of -200"),
        ("1000(0)/mV", "nan(0)/mV", "gain is 'nan'"),
        ("1000(0)/mV", "1e999(0)/mV", "gain"),
        ("1000(0)/mV", "1e-300(0)/mV", "infinite samples"),
        ("rec.dat 16 ", "../rec.dat 16 ", "outside the header's own folder"),
        ("rec.dat 16 ", "/etc/passwd 16 ", "outside the header's own folder"),
        ("rec.dat 16 ", "..\\rec.dat 16 ", "outside the header's own folder"),
        ("rec.dat 16 ", ".. 16 ", "outside the header's own folder"),
        ("rec.dat 16 ", "- 16 ", "no signal file"),
        ("rec.dat 16 ", "other.dat 16 ", "is missing"),
        ("rec.dat 16 ", "rec.dat 212 ", "differ in format"),
        ("rec.dat 16 ", "rec.dat 17 ", "differ in format"),
        ("rec.dat 16 ", "rec.dat 16x0 ", "0 samples per frame"),
        ("rec.dat 16 ", "rec.dat 16x1000000 ", "several rates"),
        ("rec.dat 16 ", "rec.dat 16:5000 ", "skewed"),
        ("rec.dat 16 ", "rec.dat sixteen ", "lacks a storage format"),
        (" II\n", " I\n", "Lead names must differ"),
    ],
)
def test_damaged_headers(tmp_path, write, refused, old, new, match):
    refused(edit(write.wfdb(tmp_path), old, new), match)


def test_unknown_format_and_absurd_amplitude(tmp_path, write, refused):
    header = write.wfdb(tmp_path)
    text = header.read_text()
    header.write_text(text.replace(" 16 ", " 17 "))
    refused(header, "format 17 is not known")
    header.write_text(text.replace("1000(0)", "1(0)"))
    assert "gain" in refused(header, "absurd").remedy


def test_damaged_signal_files(tmp_path, write, refused):
    header = write.wfdb(tmp_path)
    data = header.with_suffix(".dat")
    whole = data.read_bytes()
    data.write_bytes(whole[:-2])
    refused(header, "truncated")
    data.write_bytes(b"")
    refused(header, "truncated")
    data.write_bytes(whole + bytes(100))
    refused(header, "truncated or belongs")
    data.unlink()
    refused(header, "rec.dat is missing")
    data.mkdir()
    refused(header, "no regular file")
    header.write_bytes(b"")
    refused(header, "empty")
    header.write_bytes(b"\n\n# nothing\n")
    refused(header, "no record line")
    header.write_bytes(bytes(range(256)))
    refused(header, "content is not that of")
    header.write_bytes(b"rec 12 500 1000\n" + b"a" * 5000)
    refused(header, "5000 characters")
    (tmp_path / "alone.dat").write_bytes(whole)
    refused(tmp_path / "alone.dat", "no header alone.hea")


def test_compressed_formats_claim_no_more_than_they_hold(tmp_path, write, refused):
    header = write.wfdb(tmp_path, fmt="516", leads=LEADS)
    refused(edit(header, "rec 3 500 1000", "rec 3 500 1000000000000"), "cannot be in the")
    (tmp_path / "rec.dat").write_bytes(b"fLaC" + bytes(2000))
    refused(edit(header, "1000000000000", "1000"), "damaged")


def test_no_network_is_touched(tmp_path, write, monkeypatch, refused):
    def forbidden(*arguments, **options):
        raise AssertionError("the network was used")

    header = write.wfdb(tmp_path, fmt="212", leads=LEADS, gain=200)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert read_ecg(header).num_leads == 3
    refused(edit(header, "rec.dat", "http://127.0.0.1/rec.dat"), "outside the header's own folder")
    refused(edit(header, "http://127.0.0.1/rec.dat", "s3:rec.dat"), "outside the header's own folder")


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        ("#Age: 74\n#Sex: Male\n#Dx: 1,2\n", {"age": 74.0, "sex": "male", "labels": ["1", "2"]}),
        ("# Age: 5\n# Sex: F\n# Dx: 1\n", {"age": 5.0, "sex": "female", "labels": ["1"]}),
        ("#Age: NaN\n#Sex: Unknown\n#Dx: Unknown\n", {"labels": []}),
        ("#Age: -1\n", {}),
        ("#Age: 300\n", {}),
        ("#Age: 0\n", {"age": 0.0}),
        ("# 69 M 1085 1629 x1\n# Aldomet, Inderal\n", {"age": 69.0, "sex": "male"}),
        ("# -1 F 1 2 x1\n", {"sex": "female"}),
        ("# age: 81\n# sex: female\n# Reason for admission: Myocardial infarction\n",
         {"age": 81.0, "sex": "female", "labels": ["Myocardial infarction"]}),
        ("#<age>: 75\n#<sex>: F\n#<diagnoses>:\n#Rhythm: Sinus rhythm.\n#P-synchrony. \n",
         {"age": 75.0, "sex": "female", "labels": ["Sinus rhythm", "P-synchrony"],
          "report": "Rhythm: Sinus rhythm. P-synchrony"}),
        ("# <age>: 65 <sex>: F <diagnoses> Coronary artery disease\n",
         {"age": 65.0, "sex": "female", "labels": ["Coronary artery disease"], "report": "Coronary artery disease"}),
        ("# Patient ID: 7\n# Exam ID: 8\n# Age: 66\n# Chagas label: True\n",
         {"patient_id": "7", "exam_id": "8", "age": 66.0, "labels": ["chagas=true"]}),
        ("# <subject_id>: 10000032\n", {"patient_id": "10000032"}),
    ],
)  # fmt: skip
def test_comments(tmp_path, write, comments, expected):
    header, _ = write.challenge(tmp_path, comments=comments)
    metadata = read_ecg(header).metadata
    told = ("age", "sex", "labels", "patient_id", "exam_id", "report")
    assert {key: metadata[key] for key in told if key in metadata} == expected
