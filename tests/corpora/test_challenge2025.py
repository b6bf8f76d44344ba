"""The Challenge of 2025: CODE-15 % on real records, the other sources on records written by the description."""

import csv
import logging

import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.splits import check_no_leak

LEADS = "I II III AVR AVL AVF V1 V2 V3 V4 V5 V6".split()


def write_record(folder, name, comments, rate=400, samples=400):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} 12 {rate} {samples}", *(f"{name}.dat 16 1000(0)/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    (folder / f"{name}.hea").write_text("\n".join([*lines, *(f"# {line}" for line in comments)]) + "\n")
    np.ones((samples, 12), "<i2").tofile(folder / f"{name}.dat")


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        told = [f"Age: {20 + number}", "Sex: Female", f"Chagas label: {number % 4 == 0}", "Source: CODE-15%"]
        write_record(tmp_path / "code15_output" / "part0", f"{number}", told)
    for number in range(10):
        told = ["Age: 60", "Sex: Male", "Chagas label: True", "Source: SaMi-Trop"]
        # The numbers of the two sources are independent: 0 to 9 are there twice.
        write_record(tmp_path / "samitrop_output", f"{number}", told)
        told = ["Age: 50", "Sex: Male", "Chagas label: False", "Source: PTB-XL"]
        write_record(tmp_path / "ptbxl_output", f"{number + 1:05d}_hr", told, rate=500)
    return tmp_path


def rows_of(corpus):
    return [row | {"split": name} for name, part in corpus.items() for row in part.remove_columns("ecg")]


def test_sources_labels_and_columns(folder):
    corpus = load_corpus("challenge2025", folder)
    assert label_names(corpus) == ["chagas"] and problem_type(corpus) == "multi_label_classification"
    rows = rows_of(corpus)
    assert {(row["source"], row["record_id"]) for row in rows} == {
        *(("code15", str(number)) for number in range(20)),
        *(("samitrop", str(number)) for number in range(10)),
        *(("ptbxl", f"{number:05d}_hr") for number in range(1, 11)),
    }
    positive = {
        source: sum(row["labels"]["chagas"] for row in rows if row["source"] == source)
        for source in ("code15", "samitrop", "ptbxl")
    }
    assert positive == {"code15": 5, "samitrop": 10, "ptbxl": 0}
    assert {(row["age"], row["sex"]) for row in rows if row["source"] == "samitrop"} == {(60.0, "male")}
    assert corpus["train"][0]["ecg"].lead_names[3] == "aVR"
    only = load_corpus("challenge2025", folder, sources=["samitrop", "ptbxl"])
    assert sum(only.num_rows.values()) == 20
    with pytest.raises(ValueError, match="'code15', 'samitrop', 'ptbxl'; got 'hospital'"):
        load_corpus("challenge2025", folder, sources=["hospital"])


def test_weak_labels(folder, caplog):
    def sources(options):
        return {name: {*part["source"]} for name, part in load_corpus("challenge2025", folder, **options).items()}

    everywhere = sources({})
    assert "code15" in everywhere["test"]
    strong = {"samitrop", "ptbxl"}
    with caplog.at_level(logging.WARNING):
        assert sources({"weak_labels": "train"}) == {
            "train": {"code15", *strong},
            "validation": strong,
            "test": strong,
        }
    assert "split test all negatives are from ptbxl and all positives from samitrop" in caplog.text
    assert "split train" not in caplog.text
    assert set().union(*sources({"weak_labels": "drop"}).values()) == strong
    rows = rows_of(load_corpus("challenge2025", folder, weak_labels="unknown"))
    assert len(rows) == 40
    assert {row["labels"]["chagas"] for row in rows if row["source"] == "code15"} == {None}
    assert {row["labels"]["chagas"] for row in rows if row["source"] != "code15"} == {0.0, 1.0}
    with pytest.raises(ValueError, match="`weak_labels` is one of"):
        load_corpus("challenge2025", folder, weak_labels="soft")


def test_patients_from_tables(folder):
    (folder / "labels.csv").write_text(
        "exam_id,patient_id,chagas\n" + "".join(f"{n},{n // 3},{n % 4 == 0}\n" for n in range(20))
    )
    (folder / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,strat_fold\n" + "".join(f"{n},{n // 2},{n}\n" for n in range(1, 11))
    )
    options = {"labels_csv": folder / "labels.csv", "ptbxl_database": folder / "ptbxl_database.csv"}
    corpus = load_corpus("challenge2025", folder, **options)
    rows = {(row["source"], row["record_id"]): row for row in rows_of(corpus)}
    assert rows["code15", "7"]["patient_id"] == "code15-2"
    assert (rows["ptbxl", "00009_hr"]["patient_id"], rows["ptbxl", "00009_hr"]["fold"]) == ("ptbxl-4", 9)
    assert rows["samitrop", "7"]["patient_id"] is None
    check_no_leak({name: {"patient_id": part["patient_id"]} for name, part in corpus.items()})
    (folder / "labels.csv").write_text("exam_id,chagas\n1,True\n")
    with pytest.raises(ValueError, match="another Chagas label of the record: 0.0 and 1.0"):
        load_corpus("challenge2025", folder, **options)
    (folder / "labels.csv").write_text("id,chagas\n1,True\n")
    with pytest.raises(ValueError, match="columns exam_id, chagas"):
        load_corpus("challenge2025", folder, **options)


def test_recurring_and_repeated_records(folder):
    names = {row["record_id"] for row in rows_of(load_corpus("challenge2025", folder, exclude_records=["HR00003"]))}
    assert "00003_hr" not in names and "00004_hr" in names
    write_record(folder / "again" / "code15", "4", ["Chagas label: True"])
    with pytest.raises(ValueError, match=r"1 records are there more than once: 4 \(code15\)"):
        load_corpus("challenge2025", folder)


def test_what_is_left_out_is_counted(folder, caplog):
    def told(**options):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_corpus("challenge2025", folder, **options)
        return [line for line in caplog.messages if "left out" in line]

    assert told() == []
    assert told(sources=["code15", "ptbxl"]) == [
        "10 of 40 records are left out: of samitrop, which `sources` does not name."
    ]
    assert told(exclude_records=["HR00003", "7", "absent"]) == [
        "3 of 40 records are left out: named in `exclude_records`."
    ]
    assert told(weak_labels="drop") == ["20 of 40 records are left out: with weak labels, by `weak_labels`."]


def test_sources_without_a_source_line(tmp_path):
    write_record(tmp_path / "samitrop_output", "12", ["Chagas label: True"])
    write_record(tmp_path / "x", "00012_hr", ["Chagas label: False"])
    write_record(tmp_path / "x", "13", ["Exam ID: 13", "Chagas label: True"])
    write_record(tmp_path / "x", "14", ["Exam ID: 14"])
    rows = {row["record_id"]: row for row in rows_of(load_corpus("challenge2025", tmp_path))}
    assert {name: row["source"] for name, row in rows.items()} == {
        "12": "samitrop",
        "00012_hr": "ptbxl",
        "13": "code15",
        "14": "code15",
    }
    assert rows["14"]["labels"] == {"chagas": None}
    write_record(tmp_path / "x", "15", ["Chagas label: True"])
    with pytest.raises(ValueError, match="15.hea has no line `# Source:`.*folder called code15, samitrop or ptbxl"):
        load_corpus("challenge2025", tmp_path)
    write_record(tmp_path / "x", "15", ["Chagas label: True", "Source: Hospital"])
    with pytest.raises(ValueError, match="the source 'Hospital'; the Challenge of 2025 has"):
        load_corpus("challenge2025", tmp_path)
    write_record(tmp_path / "x", "15", ["Chagas label: Maybe", "Source: CODE-15%"])
    with pytest.raises(ValueError, match="Chagas label 'maybe'; it is True or False"):
        load_corpus("challenge2025", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .hea files"):
        load_corpus("challenge2025", tmp_path / "empty")


class TestOnRealRecords:
    @pytest.fixture
    def real(self, shared_data):
        return shared_data / "challenge-2025-code15"

    def test_all_records(self, real):
        corpus = load_corpus("challenge2025", real, labels_csv=real / "labels.csv")
        with open(real / "labels.csv", newline="") as file:
            listed = {row["exam_id"]: row for row in csv.DictReader(file)}
        rows = [row | {"split": name} for name, part in corpus.items() for row in part]
        assert {row["record_id"] for row in rows} == set(listed) and len(rows) == 30
        for row in rows:
            told, record = listed[row["record_id"]], row["ecg"]
            assert row["labels"]["chagas"] == float(told["chagas"] == "True")
            assert row["patient_id"] == f"code15-{told['patient_id']}" and row["source"] == "code15"
            assert (record.sampling_rate, record.num_leads) == (400, 12)
            assert record.num_samples == int(told["n_samples"])
            assert record.metadata["age"] == row["age"] and record.metadata["sex"] == row["sex"]
            assert record.metadata["labels"] == [f"chagas={told['chagas'].lower()}"]
            # The Challenge's conversion took the zeros away that filled up the rows of CODE-15 %.
            assert record.signal[:, 0].any() and record.signal[:, -1].any()
        check_no_leak(corpus)
        assert all({0.0, 1.0} <= {value["chagas"] for value in part["labels"]} for part in corpus.values())
