"""The PTB diagnostic database: its one real record here, and its layout as described."""

import shutil

import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus
from ecg_transformers.corpora.splits import check_no_leak

REASONS = ("Myocardial infarction", "Healthy control", "Heart failure (NYHA 2)", "n/a")
LEADS = "i ii iii avr avl avf v1 v2 v3 v4 v5 v6".split()


def write_record(folder, name, reason, samples=1000):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} 15 1000 {samples}"]
    lines += [f"{name}.dat 16 2000 16 0 0 0 0 {lead}" for lead in LEADS]
    lines += [f"{name}.xyz 16 2000 16 0 0 0 0 {lead}" for lead in ("vx", "vy", "vz")]
    comments = ["age: 63", "sex: male", "ECG date: 01/10/1990", "Diagnose:"]
    comments += [] if reason is None else [f"Reason for admission: {reason}"]
    (folder / f"{name}.hea").write_text("\n".join([*lines, "", *(f"# {line}" for line in comments)]) + "\n")
    np.full((samples, 12), 2000, "<i2").tofile(folder / f"{name}.dat")
    np.full((samples, 3), -1000, "<i2").tofile(folder / f"{name}.xyz")


@pytest.fixture
def folder(tmp_path):
    for patient in range(1, 41):
        for record in range(1 + patient % 3):
            name = f"s{10 * patient + record:04d}_re"
            write_record(tmp_path / f"patient{patient:03d}", name, REASONS[patient % 4])
    return tmp_path


def rows_of(corpus):
    return [row for split in corpus.values() for row in split]


def test_patients_labels_and_leads(folder):
    corpus = load_corpus("ptbdb", folder)
    assert label_names(corpus) == ["Healthy control", "Heart failure", "Myocardial infarction"]
    rows = {row["record_id"]: row for row in rows_of(corpus)}
    assert len(rows) == sum(1 + patient % 3 for patient in range(1, 41))
    for name, row in rows.items():
        patient = int(name[1:4])
        assert row["patient_id"] == str(patient) and (row["age"], row["sex"]) == (63.0, "male")
        reason = REASONS[patient % 4].split(" (")[0]
        expected = {label: None if reason == "n/a" else float(label == reason) for label in label_names(corpus)}
        assert row["labels"] == expected
    record = rows["s0010_re"]["ecg"]
    assert record.lead_names[:4] == ("I", "II", "III", "aVR") and record.num_leads == 15
    assert record.sampling_rate == 1000 and set(record.signal[0]) == {1.0} and set(record.signal[-1]) == {-0.5}
    check_no_leak(corpus)
    assert min(corpus.num_rows.values()) > 5


def test_options(folder, caplog):
    labelled = load_corpus("ptbdb", folder, keep_unlabelled=False)
    assert all(sum(row["labels"].values()) == 1 for row in rows_of(labelled))
    write_record(folder / "patient050", "s0500_re", "Myocarditis")
    write_record(folder / "loose", "s0501_re", None)
    assert "Myocarditis" not in label_names(load_corpus("ptbdb", folder))
    assert "1 of " in caplog.text and "in no folder called patient001" in caplog.text
    assert "Myocarditis" in label_names(load_corpus("ptbdb", folder, min_positives=1))
    with pytest.raises(ValueError, match=r"No reason for admission has 99 records; the most frequent are .*\("):
        load_corpus("ptbdb", folder, min_positives=99)
    (folder / "patient050" / "s0500_re.xyz").unlink()
    with pytest.raises(ValueError, match="s0500_re.xyz is not there.*skip_unreadable=True"):
        load_corpus("ptbdb", folder)
    assert "s0500_re" not in {row["record_id"] for row in rows_of(load_corpus("ptbdb", folder, skip_unreadable=True))}
    (folder / "nothing").mkdir()
    with pytest.raises(ValueError, match="no .hea files"):
        load_corpus("ptbdb", folder / "nothing")


def test_real_record(shared_data, tmp_path):
    shutil.copytree(shared_data / "ptbdb", tmp_path / "patient001")
    corpus = load_corpus("ptbdb", tmp_path, min_positives=1)
    (row,) = rows_of(corpus)
    assert (row["record_id"], row["patient_id"], row["age"], row["sex"]) == ("s0010_re", "1", 81.0, "female")
    assert row["labels"] == {"Myocardial infarction": 1.0}
    assert (row["ecg"].num_leads, row["ecg"].num_samples) == (15, 38400)
    assert row["ecg"].lead_names[-3:] == ("VX", "VY", "VZ")
