import sys

import h5py
import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, read_ecg

HINTS = {"sampling_rate": 500, "lead_names": ["I", "II", "V1"]}


def test_sph(tmp_path, write):
    signal = write.signal().astype(np.float16)
    record = read_ecg(write.sph(tmp_path, signal=signal))
    np.testing.assert_array_equal(record.signal, signal.astype(np.float32))
    assert (record.sampling_rate, record.lead_names) == (500, STANDARD_LEADS)
    assert "SPH" in record.metadata["layout"] and "labels" not in record.metadata


def test_sph_table_beside_the_file(tmp_path, write, refused):
    path = write.sph(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text('ECG_ID,AHA_Code,Patient_ID,Age,Sex,fs,SNOMEDCTCode\nSPH1.h5,22;23,S1,55,M,500,"426177001,4"\n')
    metadata = read_ecg(path).metadata
    expected = {
        "labels": ["426177001", "4"],
        "aha_codes": ["22", "23"],
        "age": 55.0,
        "sex": "male",
        "patient_id": "S1",
    }
    assert {key: metadata[key] for key in expected} == expected
    table.write_text("ECG_ID,AHA_Code,Patient_ID,Age,Sex\nSPH1,60+310;147,S1,55,F\n")
    assert read_ecg(path).metadata["labels"] == ["60+310", "147"]
    table.write_text("ECG_ID,fs\nSPH1,fast\n")
    refused(path, "damaged or not understood")


def test_one_plain_dataset(tmp_path, write, refused):
    path, signal = tmp_path / "a.h5", write.signal(3, 200)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("group/leads", data=signal.T * 1000)
    record = read_ecg(path, units="uV", **HINTS)
    np.testing.assert_allclose(record.signal, signal, atol=1e-6)
    assert record.metadata["layout"] == "dataset group/leads, (samples, leads)"
    refused(path, "sampling rate", lead_names=HINTS["lead_names"])
    refused(path, "absurd", **HINTS)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("leads", data=signal)
        dataset.attrs.update({"fs": 257, "lead_names": ["I", "II", "aVF"], "units": "mV"})
    record = read_ecg(path)
    assert (record.sampling_rate, record.lead_names) == (257, ("I", "II", "aVF"))


def test_files_that_are_no_single_recording(tmp_path, write, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["tracings"] = np.zeros((5, 100, 12))
        file["exam_id"] = np.array([b"a"])
    refused(path, r"tracings \(5, 100, 12\)", **HINTS)
    with h5py.File(path, "w") as file:
        file["other"] = h5py.ExternalLink("elsewhere.h5", "/ecg")
    refused(path, "is a link", **HINTS)
    with h5py.File(path, "w") as file:
        file.create_dataset("ecg", (12, 100), "<f4", external=[(str(tmp_path / "raw.bin"), 0, 4800)])
    refused(path, "in other files", **HINTS)
    layout = h5py.VirtualLayout((3, 100), "<f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "ecg", (3, 100))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("ecg", layout)
    refused(path, "in other files", **HINTS)


def test_claims_are_checked_before_memory_is_taken(tmp_path, write, refused):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("ecg", (12, 10**12), "<f2", chunks=(12, 1000), compression="gzip")
    refused(path, "claims shape", **HINTS)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("ecg", (12, 5000), "<f2", chunks=(12, 1000), compression="gzip")
        dataset[:, :4000] = write.signal(12, 4000)
    refused(path, "claims shape", **HINTS)
    with h5py.File(path, "w") as file:
        file.create_dataset("ecg", data=np.zeros((12, 10_000_000), "<f2"), chunks=(12, 100_000), compression="gzip")
    refused(path, "claims shape", **HINTS)


def test_damaged_files(tmp_path, write, refused):
    path = write.sph(tmp_path)
    whole = path.read_bytes()
    for cut in (20, 600, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        refused(path, "damaged")
    path.write_bytes(b"no HDF5 here")
    refused(path, "content is not that of a hdf5 file")
    signal = write.signal().astype(np.float16)
    signal[3] = np.nan
    refused(write.sph(tmp_path, signal=signal), "aVR")


def test_a_missing_library_names_the_extra(tmp_path, write, monkeypatch):
    path = write.sph(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'ecg-transformers\[hdf5\]'"):
        read_ecg(path)
