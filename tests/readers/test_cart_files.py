"""What all formats of carts have in common, and the XML formats one by one."""

import shutil
import subprocess
import sys

import cart_files
import numpy as np
import pytest
import scp_writer

from ecg_transformers import STANDARD_LEADS, ECGReadError, find_ecg_files, read_ecg
from ecg_transformers.readers import list_readers
from ecg_transformers.readers.xml_document import MAX_DEPTH, root_name

COUNTS = cart_files.ecg_counts()

# format -> writer of twelve leads, of which all or eight are stored
WRITERS = {
    "philips-xml": cart_files.write_philips,
    "muse-xml": lambda folder, name="x.xml": cart_files.write_muse(folder, name),
    "hl7-aecg": cart_files.write_hl7,
    "schiller-xml": cart_files.write_schiller,
    "dicom": cart_files.write_dicom,
    "scp-ecg": scp_writer.write_scp,
    "edf": lambda folder, name="x.edf": cart_files.write_edf(folder, name, COUNTS[:, :600], cart_files.STANDARD),
}


def expected(counts=COUNTS, names=cart_files.STANDARD):
    return {name: row * cart_files.SCALE for name, row in zip(names, counts, strict=True)}


def check(record, wanted, atol=1e-6):
    assert set(record.lead_names) == set(wanted)
    for name, row in zip(record.lead_names, record.signal, strict=True):
        np.testing.assert_allclose(row, wanted[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("format", WRITERS)
def test_the_same_ecg_in_every_format(tmp_path, format):
    path = WRITERS[format](tmp_path)
    record = read_ecg(path)
    assert record.metadata["format"] == format and record.lead_names == STANDARD_LEADS
    assert record.sampling_rate == 500 and record.metadata["layout"]
    stored = expected()
    if format == "muse-xml":
        # III, aVR, aVL and aVF were rounded when they were made; here they follow exactly.
        assert record.metadata["derived_leads"] == ["III", "aVR", "aVL", "aVF"]
        check(record, stored, atol=1.01 * cart_files.SCALE)
        stored = {name: row for name, row in stored.items() if name in cart_files.STORED}
        check(record.select_leads(cart_files.STORED), stored)
    else:
        assert "derived_leads" not in record.metadata
        check(record, stored)
    assert record.metadata["sex"] in ("female", "male") and 40 < record.metadata["age"] < 70
    assert record.metadata["recorded_at"][10] == "T" and record.metadata["patient_id"] and record.metadata["device"]
    assert record.metadata["statements"] and record.metadata["report"]
    # Names of persons stay in the file.
    assert "doe" not in str(record.metadata).lower() and "clark" not in str(record.metadata).lower()


@pytest.mark.parametrize("format", WRITERS)
def test_files_are_known_by_their_content(tmp_path, format):
    path = WRITERS[format](tmp_path)
    for name in ("no_extension", "1.2.840.113619.2", "export.ecg", "wrong.csv", "UPPER.XML", "other.dcm"):
        copy = tmp_path / name
        shutil.copyfile(path, copy)
        record = read_ecg(copy)
        assert record.metadata["format"] == format and record.num_leads == 12, name
    assert len(find_ecg_files(tmp_path)) == 7
    with pytest.raises(ECGReadError):
        read_ecg(path, format="wfdb")


@pytest.mark.parametrize("format", WRITERS)
def test_names_of_the_caller(tmp_path, refused, format):
    path = WRITERS[format](tmp_path)
    assert read_ecg(path, lead_names=STANDARD_LEADS).lead_names == STANDARD_LEADS
    refused(path, "lead_names", lead_names=["I", "II"])
    refused(
        path,
        "row 1 is lead I in the file",
        lead_names=read_ecg(path).lead_names[::-1][: 8 if "muse" in format else 12],
    )
    refused(path, "states its samples in", units="V")
    refused(path, "states a sampling rate", sampling_rate=250)


def test_names_for_unknown_leads(tmp_path, refused):
    path = cart_files.write_hl7(tmp_path, counts=COUNTS[:3], names=("V1", "X7", "I"))
    assert read_ecg(path).lead_names == ("I", "V1", "X7")
    record = read_ecg(path, lead_names=["V1", "II", "I"])
    assert record.lead_names == ("I", "II", "V1")
    check(record, {"V1": COUNTS[0] * 0.005, "II": COUNTS[1] * 0.005, "I": COUNTS[2] * 0.005})


def test_other_files_are_not_listed(tmp_path, write):
    (tmp_path / "settings.xml").write_text("<settings><a/></settings>")
    (tmp_path / "page.xhtml").write_text("<html/>")
    (tmp_path / "notes.md").write_text("# ECG")
    (tmp_path / "picture.bin").write_bytes(bytes(5000))
    (tmp_path / "empty.xml").write_bytes(b"")
    assert find_ecg_files(tmp_path) == []
    with pytest.raises(ECGReadError, match="not that of a .*xml"):
        read_ecg(tmp_path / "settings.xml")
    with pytest.raises(ECGReadError, match="not supported"):
        read_ecg(tmp_path / "picture.bin")
    # A truncated export is listed, so that reading it tells what is wrong.
    path = cart_files.write_philips(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    assert find_ecg_files(tmp_path) == [path]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"<a/>", "a"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- <no> --><!DOCTYPE r SYSTEM 'x.dtd'>\n<r b='1'>", "r"),
        (b"<!DOCTYPE r [ <!ELEMENT r (s)> ]><ns:r>", "r"),
        ("<?xml version='1.0' encoding='utf-16'?><r>".encode("utf-16"), "r"),
        ("<r>".encode("utf-16-be"), "r"),
        (b"<com.x.Y-z_1 a=''>", "com.x.Y-z_1"),
        (b"plain text", None),
        (b"<!-- never ends", None),
        (b"", None),
    ],
)
def test_root_elements(head, name):
    assert root_name(head) == name


def test_a_missing_library_names_the_extra(tmp_path):
    paths = {
        "defusedxml": cart_files.write_muse(tmp_path),
        "pydicom": cart_files.write_dicom(tmp_path),
        "edfio": cart_files.write_edf(tmp_path),
    }
    program = (
        f"import sys; sys.modules |= dict.fromkeys({list(paths)})\n"
        "from ecg_transformers import find_ecg_files, read_ecg\n"
        f"found = find_ecg_files({str(tmp_path)!r})\n"
        "for path in found:\n"
        "    try: read_ecg(path)\n"
        "    except ImportError as error: print(error)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    lines = output.splitlines()
    assert len(lines) == 3 and all("pip install 'ecg-transformers[formats]'" in line for line in lines)
    assert all(any(library in line for line in lines) for library in paths)


def test_formats_are_listed():
    readers = list_readers()
    assert {name: readers[name] for name in WRITERS} == {
        "philips-xml": (".xml",),
        "muse-xml": (".xml",),
        "hl7-aecg": (".xml",),
        "schiller-xml": (".xml",),
        "dicom": (".dcm", ".dicom"),
        "scp-ecg": (".scp",),
        "edf": (".edf", ".bdf"),
    }


BOMB = '<?xml version="1.0"?><!DOCTYPE {root} [<!ENTITY a "aaaaaaaaaa">{more}]><{root}>&{last};</{root}>'


@pytest.mark.parametrize("root", ["restingecgdata", "RestingECG", "AnnotatedECG", "SchillerEDI"])
def test_entities_are_refused(tmp_path, refused, root):
    more = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    path = tmp_path / "bomb.xml"
    path.write_text(BOMB.format(root=root, more=more, last="i"))
    refused(path, "entities")
    secret = tmp_path / "secret.txt"
    secret.write_text("50")
    path.write_text(BOMB.format(root=root, more=f'<!ENTITY s SYSTEM "{secret.as_uri()}">', last="s"))
    refused(path, "entities")
    path.write_text(f"<{root}>" + "<a>" * (MAX_DEPTH + 1))
    refused(path, "within each other")
    path.write_text(f"<{root}><a></{root}>")
    refused(path, "damaged or truncated")


# Philips


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
@pytest.mark.parametrize(("packing", "differences"), [("XLI", True), ("Uncompressed", True), ("Uncompressed", False)])
def test_philips_versions(tmp_path, version, packing, differences):
    encoding = "utf-8" if version == "1.03" else "utf-16"
    path = cart_files.write_philips(tmp_path, "p.xml", COUNTS, version, packing, differences, encoding)
    record = read_ecg(path)
    check(record, expected())
    assert record.metadata["age"] == 50.0 and record.metadata["labels"] == ["SB"]
    assert record.metadata["statements"] == ["Sinus bradycardia, rate<60"]
    assert record.metadata["recorded_at"] == "2008-12-23T19:44:46" and record.metadata["severity"]
    assert ("differences" in record.metadata["layout"]) == (packing != "XLI" and differences)


@pytest.mark.parametrize("seed", range(5))
def test_xli_equals_the_library(tmp_path, seed):
    sierraecg = pytest.importorskip("sierraecg")
    counts = cart_files.ecg_counts(seed=seed) + np.random.default_rng(seed).integers(-900, 900, (12, 1))
    path = cart_files.write_philips(tmp_path, counts=counts)
    library = np.stack([lead.samples for lead in sierraecg.read_file(str(path)).leads])
    np.testing.assert_array_equal(library, counts)
    np.testing.assert_allclose(read_ecg(path).signal, library * 0.005, atol=1e-5)


def test_the_calibration_pulse_is_told(tmp_path):
    counts = np.concatenate([COUNTS, np.tile(np.repeat([0, 200, 0], [50, 100, 50]), (12, 1))], axis=1)
    record = read_ecg(cart_files.write_philips(tmp_path, counts=counts))
    assert record.num_samples == 800 and record.metadata["no_ecg_after_seconds"] == 1.2
    assert "no_ecg_after_seconds" not in read_ecg(cart_files.write_philips(tmp_path)).metadata


def test_philips_names_more_leads_than_it_has(tmp_path):
    path = cart_files.write_philips(tmp_path, leadlabels=" ".join([*cart_files.STANDARD, "V3R", "V7"]))
    check(read_ecg(path), expected())


def test_philips_that_declares_the_wrong_encoding(tmp_path):
    path = cart_files.write_philips(tmp_path)
    path.write_bytes(path.read_bytes().decode("utf-16").encode("utf-8"))
    check(read_ecg(path), expected())


def test_damaged_philips_files(tmp_path, refused):
    write = cart_files.write_philips
    refused(write(tmp_path, version="1.01"), "schema version is '1.01'")
    refused(write(tmp_path, durationperchannel=60_000), "unpacks to 600 samples; 30000")
    refused(write(tmp_path, durationperchannel=10**9), "cannot be packed")
    refused(write(tmp_path, durationperchannel="x"), "length .* is 'x'")
    refused(write(tmp_path, packing="Uncompressed", durationperchannel=2000), "1000 samples take 24000 bytes")
    refused(write(tmp_path, compression="ZIP"), "packed with 'ZIP'")
    refused(write(tmp_path, dataencoding="Hex"), "encoded as 'Hex'")
    refused(write(tmp_path, numberofleads=13), "announces 13 leads and names 12")
    refused(write(tmp_path, bitspersample=12), "have 12 bits")
    refused(write(tmp_path, resolution=0), "0 uV per bit")
    path = write(tmp_path, version="1.03", encoding="utf-8")
    path.write_text(path.read_text().replace("STD-12", "EASI"))
    refused(path, "does not name its leads")
    assert read_ecg(path, lead_names=cart_files.STANDARD).num_leads == 12


# MUSE


def test_muse(tmp_path, refused):
    record = read_ecg(cart_files.write_muse(tmp_path))
    metadata = record.metadata
    assert metadata["statements"] == ["Sinus rhythm with pauses", "Abnormal ECG"]
    assert metadata["report"] == "Sinus rhythm with pauses. Abnormal ECG"
    assert metadata["filters"] == "high-pass 0.16 Hz, low-pass 150 Hz"
    assert metadata["recorded_at"] == "2021-05-10T13:15:18" and metadata["age"] == 60.0 and metadata["sex"] == "male"
    limb = {name: record.signal[record.lead_names.index(name)] for name in record.lead_names}
    np.testing.assert_allclose(limb["III"], limb["II"] - limb["I"], atol=1e-6)
    np.testing.assert_allclose(limb["aVR"], -(limb["I"] + limb["II"]) / 2, atol=1e-6)

    write = cart_files.write_muse
    assert read_ecg(write(tmp_path, counts=COUNTS, names=cart_files.STANDARD)).metadata.get("derived_leads") is None
    assert read_ecg(write(tmp_path, counts=COUNTS[:2], names=["I", "II"])).lead_names == ("I", "II")
    for unit, factor in (("MILLIVOLTS", 1000), ("NANOVOLTS", 1e-3), ("MICROVOLTS", 1)):
        scale = {"LeadAmplitudeUnits": unit, "LeadAmplitudeUnitsPerBit": 5e-3 * 1000 / factor}
        check(read_ecg(write(tmp_path, **scale)).select_leads(["V1"]), {"V1": COUNTS[6] * 0.005})
    assert read_ecg(write(tmp_path, LeadDataCRC32="")).num_samples == 600
    refused(write(tmp_path, LeadDataCRC32=12345), "do not match their checksum")
    refused(write(tmp_path, LeadSampleCountTotal=700), "holds 1200 bytes for 700 samples")
    refused(write(tmp_path, LeadSampleSize=4), "samples of 4 bytes")
    refused(write(tmp_path, LeadAmplitudeUnits="MMHG"), "unit 'mmhg'")
    refused(write(tmp_path, LeadAmplitudeUnitsPerBit=""), "LeadAmplitudeUnitsPerBit .* is missing")
    refused(write(tmp_path, WaveFormData="?*"), "no base64")
    path = write(tmp_path)
    path.write_text(path.read_text().replace("Rhythm<", "Rhythmless<"))
    refused(path, "holds no rhythm .*Median")


def test_missing_muse_samples(tmp_path):
    counts = cart_files.eight(COUNTS)
    counts[7, 100:150] = -32768
    record = read_ecg(cart_files.write_muse(tmp_path, counts=counts, LeadOff="TRUE"))
    assert np.flatnonzero(np.isnan(record.signal).any(axis=0)).tolist() == list(range(100, 150))
    assert np.isnan(record.signal[record.lead_names.index("V6")]).sum() == 50
    assert record.metadata["leads_off"] == list(cart_files.STORED)


def test_leads_at_different_times(tmp_path):
    offsets = [0, 0, 400, 400, 400, 400, 400, 400]
    record = read_ecg(cart_files.write_muse(tmp_path, offsets=offsets))
    assert record.num_samples == 800 and record.metadata["gaps"]
    lead = dict(zip(record.lead_names, record.signal, strict=True))
    assert np.isnan(lead["I"][600:]).all() and np.isnan(lead["V1"][:200]).all()
    np.testing.assert_allclose(lead["V1"][200:], COUNTS[6] * 0.005, atol=1e-6)
    with pytest.raises(ECGReadError, match="times span"):
        read_ecg(cart_files.write_muse(tmp_path, offsets=[10**9] + [0] * 7))


# HL7


@pytest.mark.parametrize(
    ("increment", "rate"), [(("2", "ms"), 500), (("2000", "us"), 500), (("0.00390625", "s"), 256)]
)
def test_hl7_time_axis(tmp_path, increment, rate):
    record = read_ecg(cart_files.write_hl7(tmp_path, increment=increment))
    assert record.sampling_rate == rate
    check(record, expected())


@pytest.mark.parametrize("unit", ["uV", "mV", "nV"])
def test_hl7_units(tmp_path, unit):
    check(read_ecg(cart_files.write_hl7(tmp_path, unit=unit)), expected())


def test_hl7_series(tmp_path, refused):
    series = cart_files.hl7_series
    # Four groups of three leads, 2.5 s after each other, as the page is printed.
    groups = [
        series(COUNTS[row : row + 3], cart_files.STANDARD[row : row + 3], head=f"200211220910{n * 1.2:06.3f}")
        for n, row in enumerate((0, 3, 6, 9))
    ]
    record = read_ecg(cart_files.write_hl7(tmp_path, series="".join(groups)))
    assert record.lead_names == STANDARD_LEADS and record.num_samples == 2400
    for row in range(12):
        start = 600 * (row // 3)
        np.testing.assert_allclose(record.signal[row, start : start + 600], COUNTS[row] * 0.005, atol=1e-6)
        assert np.isnan(record.signal[row]).sum() == 1800
    # A representative beat beside the rhythm is left out; another signal is named.
    other = cart_files.hl7_sequence(
        "MDC_PRESS_BLD", '<value><scale value="1" unit="mmHg"/><digits>1 2</digits></value>'
    )
    both = series(COUNTS, cart_files.STANDARD, extra=other)
    both += series(COUNTS[:, :50] * 9, cart_files.STANDARD, kind="REPRESENTATIVE_BEAT")
    record = read_ecg(cart_files.write_hl7(tmp_path, series=both))
    check(record, expected())
    assert record.metadata["other_signals"] == ["MDC_PRESS_BLD"] and record.metadata["age"] == 49.0
    assert record.metadata["statements"] == ["Normal ECG"] and record.metadata["device"] == "Mortara ELI250"
    refused(cart_files.write_hl7(tmp_path, increment=("2", "min")), "unit 'min'")
    refused(cart_files.write_hl7(tmp_path, increment=("0", "s")), "time increment is 0")
    refused(cart_files.write_hl7(tmp_path, unit="mmHg"), "no voltage")
    refused(cart_files.write_hl7(tmp_path, series=""), "holds no samples")
    path = cart_files.write_hl7(tmp_path)
    path.write_text(path.read_text().replace("<digits>", "<digits>many "))
    refused(path, "no number")


# Schiller


def test_schiller(tmp_path, refused):
    record = read_ecg(cart_files.write_schiller(tmp_path))
    assert record.metadata["statements"] == ["Sinus rhythm", "Left axis"]
    assert record.metadata["recorded_at"] == "2006-05-02T14:06:10" and record.metadata["age"] == 56.0
    assert record.metadata["filters"] == "highpass cutoff freq 0.05"
    refused(cart_files.write_schiller(tmp_path, samplecount=601), "announces 601 samples and holds 600")
    refused(cart_files.write_schiller(tmp_path, datastype="BASE64"), "stored as 'BASE64'")
    refused(cart_files.write_schiller(tmp_path, data="1,2,x"), "no number")
    path = cart_files.write_schiller(tmp_path)
    path.write_text(path.read_text().replace("<units>UV", "<units>KG"))
    refused(path, "no voltage")
    path.write_text(path.read_text().replace("ECG_RHYTHMS", "VIDEO"))
    refused(path, "holds no rhythm")
