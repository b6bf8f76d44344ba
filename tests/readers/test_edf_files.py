import cart_files
import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, find_ecg_files, read_ecg

COUNTS = cart_files.ecg_counts(3, 1000)


def patched(path, start, text):
    data = bytearray(path.read_bytes())
    data[start : start + len(text)] = text
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("unit", ["mV", "uV"])
def test_leads_are_found_by_label(tmp_path, unit):
    record = read_ecg(cart_files.write_edf(tmp_path, unit=unit))
    assert record.lead_names == ("I", "II", "V1") and record.sampling_rate == 500
    np.testing.assert_allclose(record.signal, COUNTS * cart_files.SCALE, atol=1e-5)
    facts = record.metadata
    assert facts["other_signals"] == ["Resp (%)", "EEG Fpz (uV)"] and facts["filters"] == "HP:0.05Hz"
    assert (facts["patient_id"], facts["age"], facts["sex"]) == ("E1", 59.0, "female")
    assert facts["recorded_at"] == "2020-01-02T10:20:30" and facts["device"] == "Cart7"
    assert facts["statements"] == ["AF"] and facts["layout"].startswith("EDF+, 3 of")


def test_labels(tmp_path, refused):
    write = cart_files.write_edf
    assert read_ecg(write(tmp_path, labels=("EKG", "V1-Ref", "ECG V2"))).lead_names == ("V1", "V2", "EKG")
    path = write(tmp_path, labels=("Ch1", "Ch2", "Ch3"))
    refused(path, "none of its labels names an ECG lead: 'Ch1'")
    path = write(tmp_path, labels=("Ch1", "Ch2", "Ch3"), others=False)
    record = read_ecg(path, lead_names=["II", "I", "V1"])
    np.testing.assert_allclose(record.signal[0], COUNTS[1] * 0.005, atol=1e-5)
    assert find_ecg_files(tmp_path) == []
    counts = cart_files.eight(cart_files.ecg_counts(12, 1000))
    record = read_ecg(write(tmp_path, counts=counts, labels=cart_files.STORED))
    assert record.lead_names == STANDARD_LEADS and len(record.metadata["derived_leads"]) == 4
    assert len(find_ecg_files(tmp_path)) == 1


def test_the_same_label_twice(tmp_path):
    # Of two signals of one name the first is kept.
    record = read_ecg(cart_files.write_edf(tmp_path, labels=("I", "II", "I")))
    assert record.lead_names == ("I", "II")
    np.testing.assert_allclose(record.signal[0], COUNTS[0] * 0.005, atol=1e-5)


def test_bdf(tmp_path):
    import edfio

    signals = [
        edfio.BdfSignal(x * 5.0, 500, label=name, physical_dimension="uV", physical_range=(-10000, 10000))
        for name, x in zip(("I", "II", "V1"), COUNTS, strict=True)
    ]
    edfio.Bdf(signals).write(tmp_path / "a.bdf")
    record = read_ecg(tmp_path / "a.bdf")
    np.testing.assert_allclose(record.signal, COUNTS * 0.005, atol=1e-5)
    assert record.metadata["layout"].startswith("BDF") and len(find_ecg_files(tmp_path)) == 1


def test_micro_signs(tmp_path):
    path = cart_files.write_edf(tmp_path, unit="uV", others=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"uV      ", b"\xb5V      "))
    np.testing.assert_allclose(read_ecg(path).signal, COUNTS * 0.005, atol=1e-5)


def test_damaged_files(tmp_path, refused):
    write = cart_files.write_edf
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "follow the header")
    refused(patched(write(tmp_path), 236, b"9999    "), "9999 data records")
    refused(patched(write(tmp_path), 236, b"-1      "), "-1 data records")
    refused(patched(write(tmp_path), 244, b"0       "), "data records of 0 s")
    refused(patched(write(tmp_path), 244, b"nan     "), "data records of nan s")
    refused(patched(write(tmp_path), 252, b"9999"), "states 9999 signals")
    refused(patched(write(tmp_path), 252, b"abcd"), "number of signals is 'abcd'")
    refused(patched(write(tmp_path), 192, b"EDF+D"), "interrupted")
    labels = 6
    samples = 256 + 216 * labels
    refused(patched(write(tmp_path), samples, b"-100    "), "data records of")
    digital_minimum = 256 + 120 * labels
    refused(patched(write(tmp_path), digital_minimum, b"2000    "), "which is no scale")
    refused(patched(write(tmp_path), 256 + 104 * labels, b"inf     "), "which is no scale|damaged")
    # Resampling is not reading: leads of two rates are refused.
    path = patched(write(tmp_path), 256 + 16 * 3, b"ECG V2          ")
    patched(path, 256 + 96 * labels + 8 * 3, b"mV      ")
    refused(path, "several sampling rates")
