import struct
import zlib

import numpy as np
import pytest
import scipy.io

from ecg_transformers import STANDARD_LEADS, read_ecg

HINTS = {"sampling_rate": 500, "lead_names": ["I", "II", "V1"]}
LABELS = "exam_id,age,is_male,1dAVb,RBBB,LBBB,SB,ST,AF,normal_ecg,save_file\n"


@pytest.mark.parametrize("compress", [False, True])
def test_code15(tmp_path, write, compress):
    signal = write.signal(rate=400).astype(np.float32)
    path = write.code15(tmp_path, signal=signal)
    scipy.io.savemat(path, {"feats": signal, "curr_sample_rate": 400}, do_compression=compress)
    record = read_ecg(path)
    np.testing.assert_array_equal(record.signal, signal)
    assert (record.sampling_rate, record.lead_names) == (400, STANDARD_LEADS)
    assert "labels" not in record.metadata and "CODE-15" in record.metadata["layout"]


def test_code15_labels_beside_the_file(tmp_path, write):
    path = write.code15(tmp_path)
    (tmp_path / "labels.csv").write_text(LABELS + "7,46,True,True,False,False,True,False,False,False,exam.mat\n")
    metadata = read_ecg(path).metadata
    assert metadata["labels"] == ["1dAVb", "SB"]
    assert (metadata["age"], metadata["sex"], metadata["exam_id"]) == (46.0, "male", "7")
    (tmp_path / "labels.csv").write_text(LABELS + "71,146,0,0,0,0,0,0,0,1,exam.mat\n")
    metadata = read_ecg(path).metadata
    assert metadata["labels"] == [] and metadata["sex"] == "female" and "age" not in metadata


def test_a_damaged_table_does_not_hide_the_recording(tmp_path, write):
    path = write.code15(tmp_path)
    (tmp_path / "labels.csv").mkdir()
    with pytest.warns(UserWarning, match="ECG labels of .*exam.mat are left out"):
        assert read_ecg(path).num_leads == 12


@pytest.mark.parametrize("compress", [False, True])
def test_cpsc2018(tmp_path, write, compress):
    record = read_ecg(write.cpsc(tmp_path, compress=compress))
    np.testing.assert_array_equal(record.signal, write.signal().astype(np.float32))
    assert (record.sampling_rate, record.lead_names) == (500, STANDARD_LEADS)
    assert (record.metadata["age"], record.metadata["sex"]) == (61.0, "female")


@pytest.mark.parametrize("level", ["4", "5"])
def test_plain_matrices(tmp_path, write, level, refused):
    signal = write.signal(3, 200)
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"leads": signal.T, "note": "x"} if level == "5" else {"leads": signal.T}, format=level)
    np.testing.assert_allclose(read_ecg(path, **HINTS).signal, signal, atol=1e-6)
    refused(path, "sampling rate", lead_names=HINTS["lead_names"])
    scipy.io.savemat(path, {"a": signal, "b": signal}, format=level)
    refused(path, "clearly the recording", **HINTS)


def test_level_73(tmp_path, write, refused):
    path = write.matlab_73(tmp_path)
    record = read_ecg(path, **HINTS)
    np.testing.assert_array_equal(record.signal, write.signal(3, 200).astype(np.float32))
    refused(path, "sampling rate", lead_names=HINTS["lead_names"])
    cpsc = read_ecg(write.matlab_73(tmp_path, "cpsc.mat", write.signal(), as_struct=True))
    np.testing.assert_array_equal(cpsc.signal, write.signal().astype(np.float32))
    assert (cpsc.sampling_rate, cpsc.metadata["age"], cpsc.metadata["sex"]) == (500, 61.0, "female")
    rate = {"curr_sample_rate": (np.int64([[400]]), "int64"), "feats": (write.signal(), "single")}
    refused(write.matlab_73(tmp_path, "two.mat", b=(write.signal(3, 200), "double")), "clearly the recording", **HINTS)
    assert read_ecg(write.matlab_73(tmp_path, "code15.mat", **rate)).sampling_rate == 400
    path.write_bytes(path.read_bytes()[:2000])
    refused(path, "damaged MATLAB 7.3", **HINTS)


def test_a_challenge_file_needs_its_header(tmp_path, write, refused):
    header, _ = write.challenge(tmp_path)
    header.unlink()
    assert ".hea" in refused(header.with_suffix(".mat"), "A0001.hea, which is not beside it").remedy
    header.write_text("X 1 500 10\nX.mat 16+24 1000/mV\n")
    refused(header.with_suffix(".mat"), "does not name it")


def test_contradictions(tmp_path, write, refused):
    path = write.code15(tmp_path, curr_sample_size=np.int64(77))
    refused(path, r"claims \[77\] samples")
    path = write.code15(tmp_path, rate=-400)
    refused(path, "-400")
    path = write.code15(tmp_path)
    refused(path, "file states a sampling rate of 400 Hz, the caller 500 Hz", sampling_rate=500)
    refused(path, "there are names for 2|lead_names has 2|holds 12 leads", lead_names=["I", "II"])
    scipy.io.savemat(path, {"feats": "text", "curr_sample_rate": 400})
    refused(path, "feats have shape")
    scipy.io.savemat(path, {"feats": write.signal(), "curr_sample_rate": "fast"})
    refused(path, "not one number")
    scipy.io.savemat(path, {"ECG": {"sex": "M", "age": 3, "data": "none"}})
    refused(path, "no numeric matrix")
    scipy.io.savemat(path, {"ECG": np.array([(1, 2, 3)] * 2, dtype=[("sex", "O"), ("age", "O"), ("data", "O")])})
    refused(path, "no numeric matrix")
    order = ["II", "I", *STANDARD_LEADS[2:]]
    assert read_ecg(write.code15(tmp_path), lead_names=order).lead_names[:2] == ("II", "I")


def test_damaged_files(tmp_path, write, refused):
    for path in (write.code15(tmp_path), write.cpsc(tmp_path), write.cpsc(tmp_path, "plain.mat", compress=False)):
        whole = path.read_bytes()
        for cut in (10, 100, 130, 200, len(whole) // 2, len(whole) - 3):
            path.write_bytes(whole[:cut])
            refused(path, "damaged|content is not that of|clearly the recording")
        path.write_bytes(b"\0" * len(whole))
        refused(path, "content is not that of|damaged|clearly")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    assert "-v7" in refused(path, "7.3").remedy


def test_claims_are_checked_before_memory_is_taken(tmp_path, write, refused):
    path = tmp_path / "a.mat"
    path.write_bytes(struct.pack("<5i", 0, 2**31 - 1, 2**31 - 1, 0, 4) + b"val\0" + bytes(800))
    refused(path, "claims 2147483647 x 2147483647")

    whole = write.cpsc(tmp_path, "b.mat", compress=False).read_bytes()
    dims = struct.pack("<2i", 12, 1000)
    assert whole.count(dims) == 1
    path.write_bytes(whole.replace(dims, struct.pack("<2i", 2**31 - 1, 2**31 - 1)))
    refused(path, "has 96000 bytes")
    single = struct.pack("<IIii", 5, 8, 1, 1)
    path.write_bytes(whole.replace(single, struct.pack("<IIii", 5, 8, 2**20, 2**30), 1))
    refused(path, "container of shape")

    bomb = zlib.compress(struct.pack("<II", 14, 300_000_000) + bytes(300_000_000), 9)
    path.write_bytes(whole[:128] + struct.pack("<II", 15, len(bomb)) + bomb)
    refused(path, "unpacks to far more")
    path.write_bytes(whole[:128] + struct.pack("<II", 14, 2**32 - 1) + bytes(100))
    refused(path, "claims 4294967295 bytes")
