import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from code_writer import CODE15_LEADS, LABELS, NUM_SAMPLES, exam_signal, write_code15, write_code_test

from ecg_transformers import STANDARD_LEADS
from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.splits import check_no_leak


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code15")
    write_code15(folder, num_exams=120, num_parts=3)
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_csv(folder / "exams.csv", dtype={"exam_id": str, "patient_id": str}).set_index("exam_id")


@pytest.fixture
def changed(folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split}


def test_every_exam_with_its_own_signal_and_labels(folder, table):
    corpus = load_corpus("code15", folder)
    assert list(corpus) == ["train", "validation", "test"] and min(corpus.num_rows.values()) > 10
    assert label_names(corpus) == LABELS and problem_type(corpus) == "multi_label_classification"
    check_no_leak(corpus)
    rows = rows_of(corpus)
    assert set(rows) == set(table.index)
    for exam_id, row in rows.items():
        expected = table.loc[exam_id]
        record = row["ecg"]
        np.testing.assert_array_equal(record.signal, exam_signal(int(exam_id) % 8, CODE15_LEADS))
        assert (record.sampling_rate, record.lead_names) == (400, STANDARD_LEADS)
        assert record.metadata["record_id"] == exam_id
        assert row["labels"] == {name: float(expected[name]) for name in LABELS}
        assert row["patient_id"] == expected["patient_id"] and row["age"] == expected["age"]
        assert row["sex"] == ("male" if expected["is_male"] else "female")
        assert row["fold"] is None and row["report"] is None


@pytest.mark.parametrize(
    ("task", "column", "kind"),
    [
        ("age", "age", "regression"),
        ("death", "death", "multi_label_classification"),
        ("normal", "normal_ecg", "multi_label_classification"),
    ],
)
def test_tasks(folder, table, task, column, kind):
    corpus = load_corpus("code15", folder, task=task)
    assert problem_type(corpus) == kind and label_names(corpus) == [column]
    known = table[column].dropna()
    assert {key: row["labels"] for key, row in rows_of(corpus).items()} == {
        exam_id: {column: float(value)} for exam_id, value in known.items()
    }
    # A patient is in the same split whatever the task.
    split_of_patient = {
        patient: name for name, split in load_corpus("code15", folder).items() for patient in split["patient_id"]
    }
    for name, split in corpus.items():
        assert {split_of_patient[patient] for patient in split["patient_id"]} == {name}


def test_only_some_parts(folder, changed):
    (changed / "exams_part1.hdf5").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 parts of CODE-15 % .*exams_part1.hdf5 \(unpack exams_part1.zip\)"):
        load_corpus("code15", changed)
    some, everything = load_corpus("code15", changed, skip_missing=True), load_corpus("code15", folder)
    for split in everything:
        assert set(some[split]["record_id"]) < set(everything[split]["record_id"])
    assert not any("exams_part1" in path["path"] for path in some["train"].with_format("arrow")[:]["ecg"].to_pylist())


def test_blank_cells_and_impossible_ages(changed, table):
    exams = pd.read_csv(changed / "exams.csv", dtype=str, keep_default_na=False)
    exams.loc[0, ["age", "is_male", "patient_id", "1dAVb"]] = ""
    exams.loc[1, "age"] = "-1"
    exams.loc[2, LABELS] = ""
    exams.to_csv(changed / "exams.csv", index=False)
    rows = rows_of(load_corpus("code15", changed))
    first = rows[exams.loc[0, "exam_id"]]
    assert first["age"] is first["sex"] is first["patient_id"] is first["labels"]["1dAVb"] is None
    assert first["labels"]["AF"] is not None and rows[exams.loc[1, "exam_id"]]["age"] is None
    assert exams.loc[2, "exam_id"] not in rows


def test_damaged_copies(changed):
    with pytest.raises(ValueError, match="abnormalities.*got 'af'"):
        load_corpus("code15", changed, task="af")
    with h5py.File(changed / "exams_part2.hdf5", "r+") as file:
        file["exam_id"][0] = 10**9
    with pytest.raises(ValueError, match="exams_part2.hdf5 lacks 1 exams"):
        load_corpus("code15", changed)
    with h5py.File(changed / "exams_part2.hdf5", "r+") as file:
        del file["exam_id"]
        file["exam_id"] = [1]
    with pytest.raises(ValueError, match=r"exam_id of shape \(1,\) and tracings of shape"):
        load_corpus("code15", changed)
    (changed / "exams_part2.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="exams_part2.hdf5 is no part of CODE-15 %"):
        load_corpus("code15", changed)
    (changed / "exams.csv").write_text("exam_id,age\n1,2\n")
    with pytest.raises(ValueError, match="exams.csv with the columns is_male, 1dAVb"):
        load_corpus("code15", changed)
    (changed / "exams.csv").unlink()
    with pytest.raises(ValueError, match="CODE-15 % needs .*exams.csv"):
        load_corpus("code15", changed)


@pytest.mark.parametrize("name", ["code15", "code_test"])
def test_a_missing_library_names_the_extra(name, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'ecg-transformers\[hdf5\]'"):
        load_corpus(name, folder)


def test_code_test(tmp_path):
    gold = write_code_test(tmp_path)
    corpus = load_corpus("code_test", tmp_path)
    assert list(corpus) == ["test"] and len(corpus["test"]) == 827
    assert label_names(corpus) == LABELS
    attributes = pd.read_csv(tmp_path / "attributes.csv")
    for number in (0, 1, 2, 3, 826):
        row = corpus["test"][number]
        # Stored with aVL, aVF, aVR; read in the usual order.
        assert row["ecg"].lead_names == STANDARD_LEADS
        np.testing.assert_array_equal(row["ecg"].signal, exam_signal(number % 8, CODE15_LEADS))
        assert row["labels"] == {name: float(gold.loc[number, name]) for name in LABELS}
        assert (row["record_id"], row["age"]) == (str(number), attributes.loc[number, "age"])
        assert row["sex"] == {"M": "male", "F": "female"}[attributes.loc[number, "sex"]]
    for annotator in ("cardiologist2", "dnn"):
        read = pd.read_csv(tmp_path / "annotations" / f"{annotator}.csv")
        other = load_corpus("code_test", tmp_path, annotator=annotator)["test"]
        assert [labels["AF"] for labels in other["labels"]] == read["AF"].tolist() != gold["AF"].tolist()


def test_damaged_copies_of_code_test(tmp_path):
    write_code_test(tmp_path, num_exams=8)
    row = load_corpus("code_test", tmp_path)["test"][7]
    np.testing.assert_array_equal(row["ecg"].signal, exam_signal(7, CODE15_LEADS))
    with pytest.raises(ValueError, match="gold_standard.*got 'me'"):
        load_corpus("code_test", tmp_path, annotator="me")
    gold = tmp_path / "annotations" / "gold_standard.csv"
    gold.write_text(gold.read_text().replace("AF", "AFIB"))
    with pytest.raises(ValueError, match="lacks the columns AF"):
        load_corpus("code_test", tmp_path)
    gold.write_text("1dAVb,RBBB,LBBB,SB,AF,ST\n" + "0,0,0,0,0,2\n" * 8)
    with pytest.raises(ValueError, match="0 or 1; found 2"):
        load_corpus("code_test", tmp_path)
    (tmp_path / "attributes.csv").write_text("age,sex\n3,M\n")
    with pytest.raises(ValueError, match="attributes.csv has 1 rows for 8 recordings"):
        load_corpus("code_test", tmp_path)
    (tmp_path / "ecg_tracings.hdf5").unlink()
    with pytest.raises(ValueError, match="CODE-test needs .*ecg_tracings.hdf5"):
        load_corpus("code_test", tmp_path)


@pytest.mark.slow
def test_all_of_code15(tmp_path):
    # 345,779 exams load in 10 s and 500 MB, and a stream gives its first record within a second.
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "corpora.py"
    write_code15(tmp_path, 345_779, 18)
    for how in ("index", "stream"):
        command = [sys.executable, str(script), "--folder", str(tmp_path), "--measure", how]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(how, found)
        # The bounds on time are for processor time, which the company of other processes does not change much.
        assert found["load"][1] + found["first_record"][1] < 10 and found["megabytes"] < 500
        assert found["samples"] in NUM_SAMPLES
        if how == "stream":
            assert found["first_record"][1] < 1
    corpus = load_corpus("code15", tmp_path)
    assert sum(corpus.num_rows.values()) == 345_779
    check_no_leak(corpus)
    stream = load_corpus("code15", tmp_path, streaming=True)
    for split, data in corpus.items():
        ids = stream[split].select_columns(["record_id"])
        assert [row["record_id"] for row in ids] == data["record_id"][:]
