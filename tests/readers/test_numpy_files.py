import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from ecg_transformers import ECGReadError, ECGRecord, find_ecg_files, read_ecg
from ecg_transformers.readers.numpy_files import record_from_npz_bytes, record_to_npz_bytes, save_npz

LEADS = ("I", "II", "V1")
HINTS = {"sampling_rate": 500, "lead_names": LEADS}


def npy_bytes(shape, descr="<f4", data=b""):
    header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int16", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bare_arrays(tmp_path, write, dtype, order):
    signal = np.round(write.signal(3, 200) * 20).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(signal, order=order))
    record = read_ecg(tmp_path / "a.npy", **HINTS)
    np.testing.assert_array_equal(record.signal, signal.astype(np.float32))
    assert (record.sampling_rate, record.lead_names) == (500, LEADS)
    assert record.metadata["layout"] == "(leads, samples)"
    np.save(tmp_path / "b.npy", signal.T)
    turned = read_ecg(tmp_path / "b.npy", **HINTS)
    np.testing.assert_array_equal(turned.signal, record.signal)
    assert turned.metadata["layout"] == "(samples, leads)"


def test_axes_of_length_one_are_dropped(tmp_path, write):
    signal = write.signal(3, 200)
    for index, shape in enumerate(((3, 200, 1), (1, 3, 200), (1, 3, 1, 200), (200, 3, 1))):
        np.save(tmp_path / f"{index}.npy", (signal if shape[-2:] != (3, 1) else signal.T).reshape(shape))
        np.testing.assert_array_equal(read_ecg(tmp_path / f"{index}.npy", **HINTS).signal, signal.astype(np.float32))
    np.save(tmp_path / "one.npy", signal[0].reshape(1, 1, 200))
    single = read_ecg(tmp_path / "one.npy", sampling_rate=500, lead_names=["II"])
    np.testing.assert_array_equal(single.signal[0], signal[0].astype(np.float32))
    assert len(find_ecg_files(tmp_path)) == 5


def test_one_lead_and_other_units(tmp_path, write):
    signal = write.signal(1, 200)[0]
    np.save(tmp_path / "a.npy", signal * 1000)
    record = read_ecg(tmp_path / "a.npy", sampling_rate=250, lead_names=["ii"], units="uV")
    np.testing.assert_allclose(record.signal[0], signal, rtol=1e-5, atol=1e-7)
    assert record.lead_names == ("II",)


def test_nothing_is_guessed(tmp_path, write, refused):
    path = tmp_path / "a.npy"
    np.save(path, write.signal(3, 200))
    assert "sampling_rate=" in refused(path, "does not state its sampling rate", lead_names=LEADS).remedy
    assert "3 names" in refused(path, "does not name its 3 leads", sampling_rate=500).remedy
    refused(path, "there are names for 2", sampling_rate=500, lead_names=["I", "II"])
    refused(path, "no voltage", units="adu", **HINTS)
    np.save(path, write.signal(3, 200) * 1000)
    assert 'units="uV"' in refused(path, "absurd", **HINTS).remedy


def test_arrays_that_are_no_recording(tmp_path, refused):
    path = tmp_path / "a.npy"
    for array, match in (
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((3, 0)), "shape"),
        (np.zeros((3, 9), complex), "complex"),
        (np.array([["a"]]), "type <U1"),
        (np.zeros((3, 9), bool), "bool"),
        (np.full((3, 9), np.nan), "every sample is missing"),
        (np.full((3, 9), np.inf), "infinite"),
        (np.full((3, 9), 1e300), "infinite"),
    ):
        np.save(path, array)
        refused(path, match, **HINTS)


def test_a_lead_without_samples(tmp_path, write, refused):
    signal = write.signal(3, 200)
    signal[1] = np.nan
    signal[0, :5] = np.nan
    path = tmp_path / "a.npy"
    np.save(path, signal)
    assert "drop_nan_leads" in refused(path, "every sample is missing.* in lead II", **HINTS).remedy
    record = read_ecg(path, drop_nan_leads=True, **HINTS)
    assert record.lead_names == ("I", "V1") and record.metadata["dropped_leads"] == ["II"]
    assert np.isnan(record.signal).sum() == 5
    np.save(path, np.full((3, 9), np.nan))
    refused(path, "I, II, V1", drop_nan_leads=True, **HINTS)


class Harmful:
    def __reduce__(self):
        return (print, ("a pickle ran",))


def test_no_pickle_runs(tmp_path, refused, capsys):
    objects = np.array([Harmful()], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    refused(tmp_path / "a.npy", "pickle", **HINTS)
    np.savez(tmp_path / "a.npz", signal=objects)
    refused(tmp_path / "a.npz", "'signal': .*pickle", **HINTS)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harmful()))
    refused(tmp_path / "b.npy", "content is not that of", **HINTS)
    refused(tmp_path / "b.npy", "damaged", format="npy", **HINTS)
    assert "a pickle ran" not in capsys.readouterr().out


def test_claims_are_checked_before_memory_is_taken(tmp_path, refused):
    path = tmp_path / "a.npy"
    for shape, descr, data, match in (
        ((12, 10**12), "<f4", bytes(480), "480 follow"),
        ((10**9, 10**9, 10**9), "<f4", b"", "follow"),
        ((-3, 9), "<f4", bytes(108), "shape"),
        ((3, 9), "<f4", bytes(100), "100 follow"),
        ((3, 9), "<f4", bytes(120), "120 follow"),
        ((3, 9), "V2000000000", b"", "type"),
        ((3, 9), [("a", "<f4")], bytes(108), "type"),
        ((3, 9), "what", bytes(108), "damaged"),
    ):
        path.write_bytes(npy_bytes(shape, descr, data))
        refused(path, match, **HINTS)
    path.write_bytes(npy_bytes((3, 9))[:40])
    refused(path, "damaged", **HINTS)
    path.write_bytes(npy_bytes((3, 9)).replace(b"\x01\x00", b"\x09\x00", 1))
    refused(path, "version", **HINTS)


def test_own_archives_keep_everything(tmp_path, write):
    signal = write.signal(3, 200).astype(np.float32)
    signal[0, 3] = np.nan
    metadata = {"record_id": "x", "age": np.float32(50), "labels": ["a", "ü"], "vector": np.arange(2), "none": None}
    record = ECGRecord(signal, 257.5, LEADS, metadata)
    data = record_to_npz_bytes(record)
    assert data == record_to_npz_bytes(record)
    path = save_npz(record, tmp_path / "x.npz")
    assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]
    for again in (record_from_npz_bytes(data), read_ecg(path)):
        np.testing.assert_array_equal(again.signal, signal)
        assert again.signal.dtype == np.float32
        assert (again.sampling_rate, again.lead_names) == (257.5, LEADS)
        expected = {"record_id": "x", "age": 50.0, "labels": ["a", "ü"], "vector": [0, 1]}
        assert {key: again.metadata[key] for key in expected} == expected


def test_saving_replaces_in_one_step_and_refuses_what_json_cannot_hold(tmp_path, write):
    record = ECGRecord(write.signal(3, 50), 500, LEADS)
    path = save_npz(record, tmp_path / "x.npz")
    before = path.read_bytes()
    record.metadata["thing"] = object()
    with pytest.raises(TypeError, match="object has no JSON form"):
        save_npz(record, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="end in .npz"):
        save_npz(record, tmp_path / "x.bin")


def test_a_record_with_an_empty_lead_survives_as_bytes(write):
    signal = write.signal(3, 50)
    signal[2] = np.nan
    again = record_from_npz_bytes(record_to_npz_bytes(ECGRecord(signal, 500, LEADS)))
    assert np.isnan(again.signal[2]).all()


def test_archives_of_others(tmp_path, write, refused):
    signal, path = write.signal(3, 200), tmp_path / "a.npz"
    np.savez_compressed(path, ecg=signal * 1000, fs=500, leads=np.array(LEADS), units="uV", age=50)
    record = read_ecg(path)
    np.testing.assert_allclose(record.signal, signal, atol=1e-6)
    np.savez(path, whatever=signal.T)
    np.testing.assert_allclose(read_ecg(path, **HINTS).signal, signal, atol=1e-6)
    np.savez(path, one=signal, two=signal)
    refused(path, "clearly the recording", **HINTS)
    np.savez(path, signal=signal, sampling_rate=[500, 250])
    refused(path, "sampling rate is an array", **HINTS)
    np.savez(path, signal=signal, sampling_rate=500, lead_names=np.arange(3))
    refused(path, "lead names are of type")
    np.savez(path, signal=signal, sampling_rate=500, lead_names=np.array(LEADS[:2]))
    refused(path, "names 2")
    np.savez(path, signal=signal, sampling_rate=-500, lead_names=np.array(LEADS))
    refused(path, "-500")
    np.savez(path, signal=signal, metadata=np.array("{no json"))
    refused(path, "no JSON", **HINTS)
    np.savez(path, signal=signal, metadata=np.array(json.dumps([1])))
    assert read_ecg(path, **HINTS).metadata["record_id"] == "a"


def test_damaged_archives(tmp_path, write, refused):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, signal=write.signal(3, 200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "damaged", **HINTS)
    path.write_bytes(whole.replace(whole[200:210], bytes(10)))
    refused(path, "damaged", **HINTS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "nothing")
    refused(path, "no arrays", **HINTS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("signal.npy", npy_bytes((3, 40_000_000), "<i1", bytes(120_000_000)))
    refused(path, "unpack to", **HINTS)
    with pytest.raises(ECGReadError, match="damaged"):
        record_from_npz_bytes(whole[:100])
    buffer = io.BytesIO()
    np.savez(buffer, signal=np.zeros((1, 5)))
    with pytest.raises(ECGReadError, match="lacks lead_names, sampling_rate"):
        record_from_npz_bytes(buffer.getvalue())
