import h5py
import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS
from ecg_transformers.corpora import label_names, load_corpus
from ecg_transformers.corpora.splits import check_no_leak

CODES = ["1", "22;23", "60+310;147", "60", "60+310+346", "60+346+310;1", "23", ""]
# Category, Code, Description, as the data set's page shows the columns.
BOOK = """Category,Code,Description
A,1,Normal ECG
C,22,Sinus bradycardia
C,23,Sinus arrhythmia
F,60,Ventricular premature complex(es)
M,147,T-wave abnormality
Modifier,310,Frequent
Modifier,346,Frequent
"""


def write_sph(folder, num_records=48):
    """Write SPH in its documented layout: records/*.h5, metadata.csv, code.csv."""
    (folder / "records").mkdir(parents=True)
    (folder / "code.csv").write_text(BOOK)
    lines = ["ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date"]
    for number in range(num_records):
        name = f"A{number:05d}"
        signal = np.full((12, 5000), 0.001 * number, dtype="<f2")
        with h5py.File(folder / "records" / f"{name}.h5", "w") as file:
            file["ecg"] = signal
        code = CODES[number % len(CODES)]
        lines.append(f"{name},{code},S{number // 2:05d},{20 + number},{'MF'[number % 2]},5000,2020-01-01")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_sph(tmp_path / "sph")


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split}


def positives(row):
    return {name for name, value in row["labels"].items() if value}


def test_statements(folder):
    corpus = load_corpus("sph", folder)
    names = ["Normal ECG", "Sinus bradycardia", "Sinus arrhythmia", "Ventricular premature complex(es)"]
    assert label_names(corpus) == [*names, "T-wave abnormality"]
    check_no_leak(corpus)
    assert 30 <= len(corpus["train"]) <= 36 and min(corpus.num_rows.values()) >= 6
    rows = rows_of(corpus)
    assert len(rows) == 48
    for number in range(48):
        row = rows[f"A{number:05d}"]
        assert row["ecg"].metadata["record_id"] == f"A{number:05d}"
        np.testing.assert_array_equal(row["ecg"].signal, np.float16(0.001 * number).astype(np.float32))
        assert (row["ecg"].sampling_rate, row["ecg"].lead_names) == (500, STANDARD_LEADS)
        assert (row["patient_id"], row["age"]) == (f"S{number // 2:05d}", 20.0 + number)
        assert row["sex"] == ("male", "female")[number % 2]
    assert positives(rows["A00001"]) == {"Sinus bradycardia", "Sinus arrhythmia"}
    assert positives(rows["A00002"]) == {"Ventricular premature complex(es)", "T-wave abnormality"}
    assert rows["A00002"]["report"] == "Ventricular premature complex(es) + Frequent; T-wave abnormality"
    assert set(rows["A00007"]["labels"].values()) == {None} and rows["A00007"]["report"] is None


def test_modifiers(folder):
    book = folder / "code.csv"
    qualified = load_corpus("sph", folder, task="qualified")
    premature = "Ventricular premature complex(es)"
    assert label_names(qualified)[3:6] == [
        premature,
        f"{premature} + Frequent",
        f"{premature} + Frequent + Frequent",
    ]
    book.unlink()
    qualified = load_corpus("sph", folder, task="qualified")
    assert label_names(qualified) == ["1", "22", "23", "60", "60+310", "60+310+346", "147"]
    rows = rows_of(qualified)
    # The order of modifiers means nothing.
    assert positives(rows["A00004"]) == {"60+310+346"} and positives(rows["A00005"]) == {"60+310+346", "1"}
    assert positives(rows["A00003"]) == {"60"} and rows["A00003"]["report"] is None
    corpus = load_corpus("sph", folder, task="all")
    assert label_names(corpus) == ["1", "22", "23", "60", "147", "310", "346"]
    assert positives(rows_of(corpus)["A00004"]) == {"60", "310", "346"}
    book.write_text(BOOK)
    # Two modifiers of the same words stay two labels.
    assert label_names(load_corpus("sph", folder, task="all"))[-2:] == ["Frequent (310)", "Frequent (346)"]


def test_options_and_damage(folder):
    assert label_names(load_corpus("sph", folder, min_positives=12)) == [
        "Normal ECG",
        "Sinus arrhythmia",
        "Ventricular premature complex(es)",
    ]
    with pytest.raises(ValueError, match="No label has 99 positive records"):
        load_corpus("sph", folder, min_positives=99)
    with pytest.raises(ValueError, match="'statements', 'all', 'qualified'"):
        load_corpus("sph", folder, task="modifiers")
    (folder / "records" / "A00003.h5").unlink()
    with pytest.raises(ValueError, match="1 of 48 records of metadata.csv are missing or unreadable: A00003"):
        load_corpus("sph", folder)
    assert sum(load_corpus("sph", folder, skip_missing=True).num_rows.values()) == 47
    (folder / "code.csv").write_text("Code,Description\none,Normal ECG\n")
    with pytest.raises(ValueError, match="column Code of .*code.csv holds numbers"):
        load_corpus("sph", folder, skip_missing=True)
    table = folder / "metadata.csv"
    table.write_text("ECG_ID,AHA_Code\nA00001,one\n")
    with pytest.raises(ValueError, match="lacks the columns Patient_ID, Age, Sex; it has ECG_ID, AHA_Code"):
        load_corpus("sph", folder)
    table.write_text("ECG_ID,AHA_Code,Patient_ID,Age,Sex\n")
    with pytest.raises(ValueError, match="needs rows and the columns ECG_ID, AHA_Code, Patient_ID"):
        load_corpus("sph", folder)
    table.write_text("ECG_ID,AHA_Code,Patient_ID,Age,Sex\nA00001,one,,,\n")
    with pytest.raises(ValueError, match="AHA_Code of A00001 is 'one'; expected numbers such as"):
        load_corpus("sph", folder)
    table.unlink()
    with pytest.raises(ValueError, match="SPH needs .*metadata.csv"):
        load_corpus("sph", folder)


def test_the_real_records(shared_data):
    corpus = load_corpus("sph", shared_data / "sph-h5", split=(0.5, 0.25, 0.25))
    rows = rows_of(corpus)
    assert set(rows) == {f"SPH{number:05d}" for number in (1, 2, 3, 6, 8, 9)}
    lengths = {name: row["ecg"].duration_seconds for name, row in rows.items()}
    assert lengths["SPH00001"] == 10 and lengths["SPH00002"] == 12 and lengths["SPH00003"] == 13
    first = rows["SPH00001"]
    assert positives(first) == {"22", "23"} and (first["patient_id"], first["age"]) == ("S00001", 55)
    for row in rows.values():
        assert row["ecg"].lead_names == STANDARD_LEADS and row["sex"] in ("male", "female")
        lead = {name: row["ecg"].signal[index] for index, name in enumerate(STANDARD_LEADS)}
        # Einthoven's law holds to the resolution of float16, which confirms the order of the limb leads.
        np.testing.assert_allclose(lead["III"], lead["II"] - lead["I"], atol=0.02)
        np.testing.assert_allclose(lead["aVF"], lead["II"] - lead["I"] / 2, atol=0.02)
