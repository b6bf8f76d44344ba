import cart_files
import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, find_ecg_files, read_ecg

COUNTS = cart_files.ecg_counts()


def lead(record, name):
    return record.signal[record.lead_names.index(name)]


@pytest.mark.parametrize("scheme", ["MDC", "SCPECG", "words"])
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("implicit", [True, False])
def test_codes_and_encodings(tmp_path, scheme, bits, implicit):
    record = read_ecg(cart_files.write_dicom(tmp_path, scheme=scheme, bits=bits, implicit=implicit))
    assert record.lead_names == STANDARD_LEADS
    np.testing.assert_allclose(record.signal, COUNTS * cart_files.SCALE, atol=1e-6)


def test_order_is_by_name_and_eight_leads_become_twelve(tmp_path):
    names = ("V6", "II", "V1", "I", "V2", "V5", "V3", "V4")
    counts = COUNTS[[cart_files.STANDARD.index(name) for name in names]]
    record = read_ecg(cart_files.write_dicom(tmp_path, counts=counts, names=names))
    assert record.lead_names == STANDARD_LEADS and record.metadata["derived_leads"] == ["III", "aVR", "aVL", "aVF"]
    np.testing.assert_allclose(lead(record, "V6"), COUNTS[11] * 0.005, atol=1e-6)
    np.testing.assert_allclose(lead(record, "aVF"), (COUNTS[1] - COUNTS[0] / 2) * 0.005, atol=1e-6)


@pytest.mark.parametrize(("unit", "sensitivity"), [("uV", 5), ("mV", 0.005), ("nV", 5000), ("V", 5e-6)])
def test_units(tmp_path, unit, sensitivity):
    record = read_ecg(cart_files.write_dicom(tmp_path, unit=unit, sensitivity=sensitivity))
    np.testing.assert_allclose(record.signal, COUNTS * 0.005, atol=1e-6)


def test_correction_and_baseline(tmp_path):
    group = cart_files.dicom_group(COUNTS, cart_files.STANDARD)
    for channel in group.ChannelDefinitionSequence:
        channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = 2, 100
    record = read_ecg(cart_files.write_dicom(tmp_path, groups=[group]))
    np.testing.assert_allclose(record.signal, COUNTS * 0.01 + 0.1, atol=1e-6)


def test_samples_without_a_scale_need_the_caller(tmp_path, refused):
    path = cart_files.write_dicom(tmp_path, sensitivity=None)
    refused(path, "no channel sensitivity")
    np.testing.assert_allclose(read_ecg(path, units="uV").signal, COUNTS * 0.001, atol=1e-6)


@pytest.mark.parametrize(("padding", "missing"), [(-32768, 40), (0, 0), (32767, 0)])
def test_padding_values(tmp_path, padding, missing):
    counts = COUNTS.copy()
    if missing:
        counts[:, -missing:] = padding
    value = np.int16(padding).tobytes()
    record = read_ecg(cart_files.write_dicom(tmp_path, counts=counts, WaveformPaddingValue=value))
    assert np.isnan(record.signal).sum() == 12 * missing
    np.testing.assert_allclose(record.signal[:, : 600 - missing], COUNTS[:, : 600 - missing] * 0.005, atol=1e-6)


def test_groups(tmp_path):
    make, names = cart_files.dicom_group, cart_files.STANDARD
    # As the page is printed: four times three leads, each 1.2 s; and the averaged beats.
    groups = [make(COUNTS[row : row + 3], names[row : row + 3], start=400 * row) for row in (0, 3, 6, 9)]
    median = make(COUNTS[:, :100] * 7, names, WaveformOriginality="DERIVED", MultiplexGroupLabel="MEDIAN BEAT")
    record = read_ecg(cart_files.write_dicom(tmp_path, groups=[*groups, median]))
    assert record.num_samples == 2400 and record.metadata["gaps"] and "4 of 5" in record.metadata["layout"]
    for row, name in enumerate(names):
        start = 600 * (row // 3)
        np.testing.assert_allclose(lead(record, name)[start : start + 600], COUNTS[row] * 0.005, atol=1e-6)
    # Leads of one recording in two groups, and a rhythm strip of lead II over the whole time.
    strip = np.tile(COUNTS[1], 4)[None]
    groups = [make(COUNTS[:8], names[:8]), make(COUNTS[8:], names[8:]), make(strip, ["II"])]
    record = read_ecg(cart_files.write_dicom(tmp_path, groups=groups))
    np.testing.assert_allclose(lead(record, "II"), strip[0] * 0.005, atol=1e-6)
    np.testing.assert_allclose(lead(record, "V6")[:600], COUNTS[11] * 0.005, atol=1e-6)
    assert np.isnan(lead(record, "V6")[600:]).all()


def test_other_channels_are_named(tmp_path):
    group = cart_files.dicom_group(COUNTS[:3], ["I", "II", "V1"])
    group.ChannelDefinitionSequence[2].ChannelSensitivityUnitsSequence[0].CodeValue = "mm[Hg]"
    group.ChannelDefinitionSequence[2].ChannelSensitivityUnitsSequence[0].CodeMeaning = "pressure"
    record = read_ecg(cart_files.write_dicom(tmp_path, groups=[group]))
    assert record.lead_names == ("I", "II") and record.metadata["other_signals"] == ["V1 (mm[Hg])"]


def test_metadata(tmp_path):
    facts = read_ecg(cart_files.write_dicom(tmp_path)).metadata
    assert (facts["patient_id"], facts["age"], facts["sex"]) == ("D1", 45.0, "female")
    assert facts["recorded_at"] == "2021-11-22T09:10:00" and facts["statements"] == ["Sinus rhythm"]
    assert facts["device"] == "Acme"


def test_files_that_are_refused(tmp_path, refused):
    import pydicom

    write, names = cart_files.write_dicom, cart_files.STANDARD
    refused(write(tmp_path, NumberOfWaveformSamples=700), "16800 bytes; it holds 14400")
    refused(write(tmp_path, NumberOfWaveformChannels=11), r"11 channels \(12 defined\)")
    refused(write(tmp_path, NumberOfWaveformSamples=2**32 - 1), "it holds 14400")
    refused(write(tmp_path, SamplingFrequency=0), "0 Hz")
    refused(write(tmp_path, WaveformSampleInterpretation="MB", WaveformBitsAllocated=8), "kind 'MB'")
    refused(write(tmp_path, groups=[]), "holds no waveforms")
    group = cart_files.dicom_group(COUNTS, names, scheme="words")
    group.ChannelDefinitionSequence[0].ChannelSourceSequence[0].CodeMeaning = ""
    path = write(tmp_path, groups=[group])
    refused(path, "does not say which lead")
    assert read_ecg(path, lead_names=names).lead_names == STANDARD_LEADS
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, "truncated|damaged")
    # An image is DICOM, too; it is no record, and reading it says so.
    dataset = pydicom.dcmread(write(tmp_path, "image.dcm"))
    del dataset.WaveformSequence
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.save_as(tmp_path / "image.dcm")
    refused(tmp_path / "image.dcm", "CT Image")
    assert find_ecg_files(tmp_path) == [path]


def test_deflated_files(tmp_path, refused):
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = pydicom.dcmread(cart_files.write_dicom(tmp_path))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "small.dcm")
    np.testing.assert_allclose(read_ecg(tmp_path / "small.dcm").signal, COUNTS * 0.005, atol=1e-6)
    dataset.WaveformSequence[0].WaveformData = bytes(200 * 2**20)
    dataset.save_as(tmp_path / "bomb.dcm")
    assert (tmp_path / "bomb.dcm").stat().st_size < 2**20
    refused(tmp_path / "bomb.dcm", "unpacks to more than")
