import pickle

import numpy as np
import pytest
import wfdb

from ecg_transformers import ECG, ECGRecord, read_ecg
from ecg_transformers.readers.errors import ECGReadError
from ecg_transformers.readers.row_reference import RowReference, WindowReference, parse_reference


@pytest.fixture
def record():
    signal = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    return ECGRecord(signal, 250, ("I", "II", "V1"), {"record_id": "r", "age": 60.0})


def test_references_are_paths():
    window = WindowReference("/data/100.hea", 3600, 7200)
    assert str(window) == "/data/100.hea#samples:3600-7200" and window.name == "100.hea#samples:3600-7200"
    assert parse_reference(str(window)) == parse_reference(window) == pickle.loads(pickle.dumps(window)) == window
    assert parse_reference("a.hdf5#samples:3") == RowReference("a.hdf5", "samples", 3)
    for path in ("a.hea", "a.hea#samples:", "a.hea#samples:-3-4", "#samples:1-2", 7, b"a.hea#samples:1-2"):
        assert parse_reference(path) is None


def test_a_file_of_that_name_is_a_file(tmp_path, record, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record.save("r.npz").rename("r.npz#samples:1-2")
    assert read_ecg("r.npz#samples:1-2", format="npz").num_samples == 1000


@pytest.mark.parametrize("ending", ["npz", "hea"])
def test_windows_of_files(tmp_path, record, ending):
    whole = read_ecg(record.save(tmp_path / f"r.{ending}"))
    for start, stop in ((0, 1000), (0, 1), (333, 500), (999, 1000)):
        part = read_ecg(f"{tmp_path / 'r'}.{ending}#samples:{start}-{stop}")
        np.testing.assert_array_equal(part.signal, whole.signal[:, start:stop])
        assert (part.lead_names, part.sampling_rate) == (whole.lead_names, whole.sampling_rate)
        assert part.metadata["record_id"] == f"r:{start}-{stop}" and part.metadata["age"] == 60
        assert part.metadata["source"].endswith(f"r.{ending}#samples:{start}-{stop}")
    for start, stop in ((0, 1001), (5, 5), (6, 5)):
        with pytest.raises(ECGReadError, match=f"1000 samples, the window goes from {start} to {stop}"):
            read_ecg(f"{tmp_path / 'r'}.{ending}#samples:{start}-{stop}")
    with pytest.raises(ECGReadError, match="no such file"):
        read_ecg(tmp_path / "absent.hea#samples:0-10")


# How other formats than the library writes store samples: differences, most significant byte first, offset binary.
STORED = {
    "8": lambda samples: np.diff(samples, axis=0, prepend=samples[:1]).astype("i1"),
    "61": lambda samples: samples.astype(">i2"),
    "160": lambda samples: (samples + 32768).astype("<u2"),
}


@pytest.mark.parametrize("format", ["16", "24", "32", "80", "212", *STORED])
def test_windows_of_wfdb_formats(tmp_path, format):
    digital = np.cumsum(np.random.default_rng(1).integers(-3, 4, size=(901, 2)), axis=0).clip(-120, 120)
    if format in STORED:
        STORED[format](digital).tofile(tmp_path / "r.dat")
        lines = [
            f"r.dat {format} 200/mV 12 0 {digital[0, lead]} 0 0 {name}" for lead, name in enumerate(("MLII", "V5"))
        ]
        (tmp_path / "r.hea").write_text("\n".join(["r 2 360 901", *lines]) + "\n")
    else:
        facts = {"units": ["mV"] * 2, "adc_gain": [200] * 2, "baseline": [0] * 2, "sig_name": ["MLII", "V5"]}
        wfdb.wrsamp("r", fs=360, d_signal=digital, fmt=[format] * 2, write_dir=str(tmp_path), **facts)
    for start, stop in ((0, 10), (7, 300), (300, 901), (899, 900), (0, 901)):
        part = read_ecg(tmp_path / f"r.hea#samples:{start}-{stop}")
        np.testing.assert_allclose(part.signal, digital[start:stop].T / 200, atol=1e-6)


@pytest.mark.parametrize(("num_samples", "num_leads"), [(901, 1), (900, 1), (7, 3), (8, 3), (11, 2)])
def test_pairs_of_twelve_bits(tmp_path, num_samples, num_leads):
    """Format 212 is decoded by ourselves; windows may begin within a pair, and files end within one."""
    digital = np.random.default_rng(num_samples).integers(-2047, 2048, size=(num_samples, num_leads))
    digital[-1], digital[0] = 2047, -2047
    facts = {"units": ["mV"] * num_leads, "adc_gain": [200] * num_leads, "baseline": [10] * num_leads}
    names = [f"V{lead + 1}" for lead in range(num_leads)]
    wfdb.wrsamp(
        "r", fs=360, d_signal=digital, fmt=["212"] * num_leads, sig_name=names, write_dir=str(tmp_path), **facts
    )
    for start, stop in ((0, num_samples), (0, 1), (1, 4), (2, num_samples), (num_samples - 1, num_samples)):
        part = read_ecg(tmp_path / f"r.hea#samples:{start}-{stop}")
        np.testing.assert_allclose(part.signal, (digital[start:stop].T - 10) / 200, atol=1e-5)


def test_windows_of_a_long_record(shared_data):
    path = shared_data / "mit-bih" / "100.hea"
    whole = read_ecg(path)
    for start, stop in ((0, 3600), (12_345, 15_945), (646_401, 650_000)):
        part = read_ecg(f"{path}#samples:{start}-{stop}")
        np.testing.assert_array_equal(part.signal, whole.signal[:, start:stop])
        assert part.lead_names == ("MLII", "V5")


def test_windows_of_segments(tmp_path):
    signal = np.arange(2000, dtype=np.float32).reshape(2, 1000) / 100
    for number in range(2):
        part = ECGRecord(signal[:, 500 * number : 500 * (number + 1)], 100, ("I", "II"))
        part.save(tmp_path / f"p{number}.hea")
    (tmp_path / "m.hea").write_text("m/2 2 100 1000\np0 500\np1 500\n")
    part = read_ecg(tmp_path / "m.hea#samples:490-510")
    np.testing.assert_allclose(part.signal, signal[:, 490:510], atol=5e-4)


def test_windows_in_a_column(tmp_path, record):
    from datasets import Dataset, Features

    paths = [f"{record.save(tmp_path / 'r.hea')}#samples:{start}-{start + 100}" for start in (0, 450)]
    dataset = Dataset.from_dict({"ecg": paths}, features=Features({"ecg": ECG()}))
    np.testing.assert_allclose(dataset[1]["ecg"].signal, record.signal[:, 450:550], atol=5e-4)
    embedded = ECG().embed_storage(dataset.data["ecg"].combine_chunks()).to_pylist()
    assert [value["path"] for value in embedded] == ["r.hea#samples:0-100", "r.hea#samples:450-550"]
    again = ECG().decode_example(embedded[1])
    np.testing.assert_array_equal(again.signal, dataset[1]["ecg"].signal)
    assert again.metadata["record_id"] == "r:450-550"
