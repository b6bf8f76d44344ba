import csv
import struct

import numpy as np
import pytest
import wfdb

from ecg_transformers import STANDARD_LEADS, ECGReadError, canonical_lead_name, read_ecg
from ecg_transformers.readers import find_ecg_files

# What these files do not tell.
HINTS = {
    "scp-ecg/healforce_62.scp": {"lead_names": ["A", "B", "C"]},
    "misc/J123456_10sec.txt": {"sampling_rate": 500, "units": "uV"},
    "misc/e0103.csv": {"sampling_rate": 250, "units": "mV", "lead_names": ["V4"]},
}

# Sources whose files (or the tables that the reader consults) tell the labels exactly as the index has them.
LABELLED = ("challenge-2021", "challenge-2025", "code15-mat", "sph-h5")


# The index has the stored leads; III, aVR, aVL and aVF follow from them.
EIGHT_LEADS = "I II V1 V2 V3 V4 V5 V6"


def rows_of(folder):
    with open(folder / "index.csv", newline="") as file:
        yield from csv.DictReader(file)


def read_row(folder, row):
    hints = dict(HINTS.get(row["path"], {}))
    if row["path"].endswith(".txt"):
        hints["lead_names"] = row["lead_names"].split()
    return read_ecg(folder / row["path"], **hints)


def test_every_record_reads_as_the_index_says(shared_data):
    count = 0
    for row in rows_of(shared_data):
        record = read_row(shared_data, row)
        path, count = row["path"], count + 1
        assert record.sampling_rate == float(row["sampling_rate_hz"]), path
        assert record.duration_seconds == pytest.approx(float(row["seconds"]), abs=1e-3), path
        if row["lead_names"] == EIGHT_LEADS:
            assert record.lead_names == STANDARD_LEADS and len(record.metadata["derived_leads"]) == 4, path
            continue
        assert record.num_leads == int(row["n_leads"]) and "derived_leads" not in record.metadata, path
        if "?" not in row["lead_names"]:
            assert list(record.lead_names) == [canonical_lead_name(name) for name in row["lead_names"].split()], path
        assert record.signal.dtype == np.float32 and not np.isinf(record.signal).any(), path
        assert 0.1 < np.nanmax(np.abs(record.signal)) < 34, path
        if row["source"].startswith(LABELLED):
            assert ";".join(record.metadata["labels"]) == row["labels"], path
            assert record.metadata.get("sex") in ("female", "male"), path
        age = record.metadata.get("age")
        assert age is None or (isinstance(age, float) and 0 <= age <= 120), path
    assert count == 349


def test_ludb_labels_hold_the_statements_of_the_table(shared_data):
    for row in rows_of(shared_data):
        if row["source"] != "ludb":
            continue
        labels = {label.lower() for label in read_row(shared_data, row).metadata["labels"]}
        # The header leaves out one statement of the table, and calls the axis by its full name.
        wanted = {
            label.lower().replace("axis ", "electric axis of the heart: ", label.startswith("axis "))
            for label in row["labels"].split(";")
        } - {"pacemaker presence, undefined"}
        missing = wanted - labels
        assert len(missing) <= len(wanted) // 4 and row["labels"].split(";")[0].lower() in labels, (
            row["path"],
            missing,
        )


def test_every_wfdb_record_equals_the_library(shared_data):
    for row in rows_of(shared_data):
        if not row["format"].startswith("WFDB") or "odd_header" in row["path"]:
            continue
        expected = wfdb.rdrecord(str(shared_data / row["path"][: -len(".hea")])).p_signal.T.astype(np.float32)
        np.testing.assert_array_equal(read_row(shared_data, row).signal, expected, err_msg=row["path"])


def test_samples_computed_by_hand(shared_data):
    raw = np.fromfile(shared_data / "ptb-xl/records500/00000/00001_hr.dat", "<i2").reshape(5000, 12).T
    np.testing.assert_array_equal(
        read_ecg(shared_data / "ptb-xl/records500/00000/00001_hr.hea").signal, (raw / 1000).astype(np.float32)
    )

    # LUDB record 104, lead avl: gain 4440, baseline 24, first value 390.
    ludb = read_ecg(shared_data / "ludb/data/104.hea")
    assert ludb.signal[ludb.lead_names.index("aVL"), 0] == np.float32((390 - 24) / 4440)

    # MIT-BIH 100, two 12-bit samples in three bytes: 995 and 1011, gain 200, zero of the converter 1024.
    mit = read_ecg(shared_data / "mit-bih/100.hea")
    low, middle, high = (shared_data / "mit-bih/100.dat").read_bytes()[:3]
    assert (low | (middle & 0x0F) << 8, high | (middle >> 4) << 8) == (995, 1011)
    np.testing.assert_array_equal(mit.signal[:, 0], np.float32([(995 - 1024) / 200, (1011 - 1024) / 200]))
    assert mit.num_samples == 650_000
    assert (mit.metadata["age"], mit.metadata["sex"]) == (69.0, "male")

    # PTB s0010_re: Frank's leads are in a second file, three to a frame.
    ptb = read_ecg(shared_data / "ptbdb/s0010_re.hea")
    frank = np.fromfile(shared_data / "ptbdb/s0010_re.xyz", "<i2").reshape(-1, 3).T
    np.testing.assert_array_equal(ptb.signal[12:], (frank / 2000).astype(np.float32))
    assert ptb.lead_names[12:] == ("VX", "VY", "VZ")
    assert ptb.metadata["labels"] == ["Myocardial infarction"] and ptb.metadata["age"] == 81.0


@pytest.mark.parametrize(("name", "gain", "age"), [("E00018", 4880, 82.0), ("E01137", 1000, 64.0)])
def test_headers_that_the_library_refuses(shared_data, name, gain, age):
    header = shared_data / f"challenge-2021/georgia_odd_header/{name}.hea"
    with pytest.raises(ValueError):
        wfdb.rdheader(str(header.with_suffix("")))
    data = header.with_suffix(".mat").read_bytes()
    _, leads, samples, _, name_length = struct.unpack("<5i", data[:20])
    values = np.frombuffer(data, "<i2", offset=20 + name_length).reshape(samples, leads).T
    record = read_ecg(header)
    np.testing.assert_array_equal(record.signal, (values / gain).astype(np.float32))
    assert record.metadata["record_id"] == name and record.metadata["age"] == age
    np.testing.assert_array_equal(read_ecg(header.with_suffix(".mat")).signal, record.signal)


def test_text_samples(shared_data):
    path = shared_data / "misc/J123456_10sec.txt"
    record = read_row(shared_data, next(row for row in rows_of(shared_data) if row["path"].endswith(".txt")))
    expected = np.array([line.split() for line in path.read_text().splitlines()[5:]], dtype=float).T / 1000
    np.testing.assert_allclose(record.signal, expected, rtol=1e-6)
    # III = II - I holds in the file to rounding, so the unit and the order of columns are right.
    assert np.abs(record.signal[2] - (record.signal[1] - record.signal[0])).max() < 0.003
    with pytest.raises(ECGReadError, match="does not state its sampling rate"):
        read_ecg(path)
    with pytest.raises(ECGReadError, match="absurd"):
        read_ecg(path, sampling_rate=500, units="mV", lead_names=record.lead_names)


def test_three_formats_of_one_ecg_agree(shared_data):
    records = [
        read_ecg(shared_data / name)
        for name in ("hl7-aecg/Example_aECG.xml", "dicom/Example.dcm", "scp-ecg/Example.scp")
    ]
    for record in records:
        assert record.lead_names == STANDARD_LEADS and record.sampling_rate == 500
        np.testing.assert_array_equal(record.signal, records[0].signal)
        facts = record.metadata
        assert (facts["patient_id"], facts["sex"]) == ("SBJ-123", "male")
        assert facts["recorded_at"] == "2002-11-22T09:10:00" and "ELI250" in facts["device"]
    # Stored to 2.5 uV; the limb leads were derived before storing.
    counts = records[0].signal / np.float32(0.0025)
    assert np.abs(counts - np.round(counts)).max() < 1e-3
    one, two, three, right, left, foot = records[0].signal[:6]
    assert np.abs(three - (two - one)).max() < 0.003 and np.abs(right + (one + two) / 2).max() < 0.003
    assert np.abs(left - (one - two / 2)).max() < 0.003 and np.abs(foot - (two - one / 2)).max() < 0.003


def test_a_philips_ecg_and_its_conversion_agree(shared_data):
    philips = read_ecg(shared_data / "philips-xml/ad4d3d80-d165_1-04_orig.xml")
    hl7 = read_ecg(shared_data / "hl7-aecg/ad4d3d80-d165_1-04_converted_aecg.xml")
    assert philips.lead_names == hl7.lead_names and philips.signal.shape == hl7.signal.shape
    # The conversion by the vendor's program changed values by up to four counts of 5 uV.
    assert np.abs(philips.signal - hl7.signal).max() < 0.0201
    assert (philips.metadata["age"], philips.metadata["sex"]) == (hl7.metadata["age"], hl7.metadata["sex"])
    assert philips.metadata["recorded_at"] == hl7.metadata["recorded_at"]
    assert "SINUS BRADYCARDIA" in philips.metadata["report"] and "SINUS BRADYCARDIA" in hl7.metadata["report"]


def test_philips_records_end_with_a_pulse_of_one_millivolt(shared_data):
    sierraecg = pytest.importorskip("sierraecg")
    for path in sorted((shared_data / "philips-xml").glob("*.xml")):
        record = read_ecg(path)
        assert 10.5 < record.metadata["no_ecg_after_seconds"] <= 10.6
        np.testing.assert_array_equal(record.signal[:, 5350:5450], np.ones((12, 100), dtype=np.float32))
        assert not record.signal[:, 5450:].any()
        library = np.stack([lead.samples for lead in sierraecg.read_file(str(path)).leads])
        np.testing.assert_allclose(record.signal, library * 0.005, atol=1e-5)


def test_muse_amplitudes(shared_data):
    for path in sorted((shared_data / "muse-xml").glob("*.xml")):
        record = read_ecg(path)
        counts = record.select_leads(EIGHT_LEADS.split()).signal / np.float32(0.00488)
        assert np.abs(counts - np.round(counts)).max() < 1e-2
        assert record.metadata["statements"] and record.metadata["device"] == "GE MAC55"
        np.testing.assert_allclose(record.signal[2], record.signal[1] - record.signal[0], atol=1e-6)


def test_the_handheld_recorder(shared_data):
    path = shared_data / "scp-ecg/healforce_62.scp"
    with pytest.raises(ECGReadError, match="does not name its 3 leads"):
        read_ecg(path)
    signal = read_row(shared_data, {"path": "scp-ecg/healforce_62.scp"}).signal
    # Einthoven's law holds between the three channels to two counts, so they were told apart correctly.
    assert np.median(np.abs(signal[1] - signal[0] - signal[2])) < 0.0191 < 0.2 * signal.std()


def test_the_folder_lists_each_record_once(shared_data):
    found = {str(path.relative_to(shared_data)) for path in find_ecg_files(shared_data)}
    assert found == {row["path"] for row in rows_of(shared_data)}
