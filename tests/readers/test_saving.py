import cart_files
import numpy as np
import pytest
import scp_writer
import wfdb

from ecg_transformers import STANDARD_LEADS, ECGRecord, find_ecg_files, read_ecg

FACTS = {
    "patient_id": "P 7",
    "age": 61.5,
    "sex": "female",
    "labels": ["426177001", "59118001"],
    "recorded_at": "2021-05-10T13:15:18",
}


def record_of(signal, rate=500, names=STANDARD_LEADS, **facts):
    return ECGRecord(signal, rate, tuple(names), FACTS | facts)


def test_npz_is_unchanged(tmp_path, write):
    signal = write.signal().astype(np.float32)
    signal[3, 10:20] = np.nan
    record = record_of(signal, 499.5, report="Sinus rhythm", statements=["Sinus rhythm"], nested={"a": [1, 2.5]})
    assert record.save(tmp_path / "a.npz") == tmp_path / "a.npz"
    again = read_ecg(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.signal, record.signal)
    assert (again.sampling_rate, again.lead_names) == (499.5, STANDARD_LEADS)
    assert {key: again.metadata[key] for key in record.metadata} == record.metadata


@pytest.mark.parametrize("units_per_mv", [200, 1000, 12.5, 4000])
def test_wfdb_to_half_a_step(tmp_path, write, units_per_mv):
    signal = write.signal().astype(np.float32)
    signal[3, 10:20] = np.nan
    signal[5] = 0
    record = record_of(signal, 400)
    again = read_ecg(record.save(tmp_path / "a-1_b.hea", units_per_mv=units_per_mv))
    np.testing.assert_array_equal(np.isnan(again.signal), np.isnan(record.signal))
    assert np.nanmax(np.abs(again.signal - record.signal)) <= 0.5 / units_per_mv + 1e-6
    assert (again.sampling_rate, again.lead_names) == (400, STANDARD_LEADS)
    assert {key: again.metadata[key] for key in FACTS} == FACTS
    assert again.metadata["record_id"] == "a-1_b" and len(find_ecg_files(tmp_path)) == 1
    # What was rounded once is not rounded again.
    once_more = read_ecg(again.save(tmp_path / "b.hea", units_per_mv=units_per_mv))
    np.testing.assert_array_equal(once_more.signal, again.signal)
    # The library agrees, checksums included.
    library = wfdb.rdrecord(str(tmp_path / "a-1_b"))
    np.testing.assert_allclose(library.p_signal.T, again.signal, atol=1e-6)
    assert library.comments[:2] == ["Age: 61.5", "Sex: Female"] and library.fs == 400
    digital = wfdb.rdrecord(str(tmp_path / "a-1_b"), physical=False)
    # The format's checksums have a sign, the library's have none.
    assert [one % 65536 for one in digital.checksum] == digital.calc_checksum()
    assert digital.init_value == digital.d_signal[0].tolist()


def test_large_samples_get_coarser_steps(tmp_path, write):
    signal = write.signal(3).astype(np.float32)
    signal[1] *= 25
    signal[1, 0] = -45.0
    again = read_ecg(record_of(signal, names=["I", "II", "V1"]).save(tmp_path / "a.hea"))
    assert wfdb.rdheader(str(tmp_path / "a")).adc_gain == [1000, 728, 1000]
    assert np.abs(again.signal - signal)[[0, 2]].max() <= 0.0005 + 1e-6
    assert np.abs(again.signal - signal)[1].max() <= 0.5 / 728 + 1e-6


def test_labels_with_commas(tmp_path, write):
    labels = ["Stemi: anterior wall", "Ventricular extrasystole, type: single pvc"]
    again = read_ecg(record_of(write.signal(), labels=labels).save(tmp_path / "a.hea"))
    assert again.metadata["labels"] == labels and again.metadata["age"] == 61.5
    assert read_ecg(record_of(write.signal(), labels=[]).save(tmp_path / "a.hea")).metadata["labels"] == []


@pytest.mark.parametrize("write_cart", [cart_files.write_philips, cart_files.write_dicom, scp_writer.write_scp])
@pytest.mark.parametrize("ending", [".npz", ".hea"])
def test_exports_of_carts_can_be_kept(tmp_path, write_cart, ending):
    record = read_ecg(write_cart(tmp_path))
    again = read_ecg(record.save(tmp_path / f"copy{ending}"))
    # Carts store steps of 5 uV, which 1 uV holds.
    np.testing.assert_allclose(again.signal, record.signal, atol=1e-6)
    for key in ("patient_id", "age", "sex", "recorded_at"):
        assert again.metadata[key] == record.metadata[key]


def test_real_records_come_back(tmp_path, shared_data):
    for name in (
        "ludb/data/104.hea",
        "sph-h5/SPH00001.h5",
        "muse-xml/muse_ecg1.xml",
        "challenge-2021/ningbo/JS20004.hea",
    ):
        record = read_ecg(shared_data / name)
        again = read_ecg(record.save(tmp_path / "a.hea"))
        assert np.abs(again.signal - record.signal).max() <= 0.0005 + 1e-6, name
        assert again.metadata.get("labels") == record.metadata.get("labels"), name


def test_what_cannot_be_written(tmp_path):
    record = record_of(np.zeros((12, 9)))
    with pytest.raises(ValueError, match="npz or .hea"):
        record.save(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="record is named"):
        record.save(tmp_path / "a b.hea")
    for units in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="units_per_mv"):
            record.save(tmp_path / "a.hea", units_per_mv=units)
    record.signal[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        record.save(tmp_path / "a.hea")
    record.signal[0, 0] = 1e6
    with pytest.raises(ValueError, match="16 bits"):
        record.save(tmp_path / "a.hea")
    with pytest.raises(ValueError, match="line break"):
        ECGRecord(np.zeros((1, 9)), 100, ["a\nb"]).save(tmp_path / "a.hea")
    with pytest.raises(OSError):
        record_of(np.zeros((12, 9))).save(tmp_path / "missing" / "a.hea")
    assert list(tmp_path.iterdir()) == []
