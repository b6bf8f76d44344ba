import logging
import shutil

import numpy as np
import pytest
from mimic_iv_ecg_layout import NUMBERS, record_path, write_large_tables, write_record, write_tables

from ecg_transformers.corpora import ECG, label_names, load_corpus, problem_type
from ecg_transformers.corpora.mimic_iv_ecg import COLUMN_OF_MEASUREMENT
from ecg_transformers.corpora.splits import check_no_leak
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS

REPORT = ("Sinus rhythm", "Possible left atrial abnormality.", "", " ", 'T wave "peaking", leads V2, V3')
# Three patients with 3, 2, 1 records and seven with one each; the numbers of studies do not ascend.
STUDIES = [
    (10_000_032, 40_689_238, REPORT, NUMBERS),
    (10_000_032, 44_458_630, ("Sinus rhythm",), (29999, 29999, 29999, 190, 280, 560, 29999, 32767, 65535)),
    (10_000_032, 49_036_311, (), [""] * 9),
    (10_000_117, 45_090_959, ("Atrial fibrillation", "Abnormal ECG"), (650, 29999, 29999, *NUMBERS[3:8], -400)),
    (10_000_117, 48_446_569, ("Analysis error",), [29999] * 9),
    *((10_001_000 + n, 41_000_000 - n, (f"Finding {n}",), NUMBERS) for n in range(8)),
]


@pytest.fixture
def folder(tmp_path):
    write_tables(tmp_path, STUDIES)
    for subject, study, *_ in STUDIES:
        path = tmp_path / record_path(subject, study)
        path.parent.mkdir(parents=True)
        path.with_suffix(".hea").touch()
    return tmp_path


def rows_of(corpus):
    return {
        row["record_id"].removeprefix("row-"): row for split in corpus.values() for row in split.remove_columns("ecg")
    }


def test_reports_without_labels(folder):
    corpus = load_corpus("mimic_iv_ecg", data_dir=folder)
    assert "labels" not in corpus["train"].column_names
    rows = rows_of(corpus)
    assert len(rows) == len(STUDIES)
    assert rows["0"]["report"] == 'Sinus rhythm. Possible left atrial abnormality. T wave "peaking", leads V2, V3'
    assert rows["2"]["report"] is None and rows["3"]["report"] == "Atrial fibrillation. Abnormal ECG"
    assert rows["0"] | {"report": None} == dict.fromkeys(rows["0"]) | {"record_id": "row-0", "patient_id": "row-0"}
    check_no_leak(corpus)
    again = load_corpus("mimic_iv_ecg", data_dir=folder, task="measurements", split=(0.7, 0.15, 0.15))
    assert all(set(again[split]["record_id"]) <= set(corpus[split]["record_id"]) for split in corpus)


def test_identifiers_stay_in_the_set_unless_asked_for(folder):
    corpus = load_corpus("mimic_iv_ecg", data_dir=folder)
    told = {value for row in rows_of(corpus).values() for value in row.values() if value is not None}
    numbers = {str(number) for subject, study, *_ in STUDIES for number in (subject, study)}
    assert not any(number in value for value in told for number in numbers)
    assert [rows_of(corpus)[str(row)]["patient_id"] for row in range(6)] == [
        f"row-{row}" for row in (0, 0, 0, 3, 3, 5)
    ]
    linked = rows_of(load_corpus("mimic_iv_ecg", data_dir=folder, identifiers=True))
    assert linked["48446569"]["patient_id"] == "10000117"
    paths = load_corpus("mimic_iv_ecg", data_dir=folder, identifiers=True, split=(1, 0, 0))["train"]
    stored = paths.cast_column("ecg", ECG(decode=False))
    assert stored[1]["ecg"]["path"] == str(folder / record_path(10_000_032, 44_458_630)) + ".hea"


def test_leads_are_known_by_name(folder):
    """The files store aVF before aVL; lead number n of the file is n / 10 mV."""
    shutil.rmtree(folder / "files")
    for subject, study, *_ in STUDIES:
        write_record(folder, subject, study, np.arange(1, 13) / 10)
    record = load_corpus("mimic_iv_ecg", data_dir=folder)["train"][0]["ecg"]
    assert (record.sampling_rate, record.num_samples) == (500, 5000)
    ordered = record.select_leads(STANDARD_LEADS)
    expected = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    np.testing.assert_allclose(ordered.signal[:, 2500], expected, atol=1e-6)


def test_measurements(folder):
    corpus = load_corpus("mimic_iv_ecg", data_dir=folder, task="measurements")
    assert problem_type(corpus) == "regression" and label_names(corpus) == list(COLUMN_OF_MEASUREMENT)
    rows = rows_of(corpus)
    # Nothing was measured in records 2 and 4.
    assert sorted(rows, key=int) == ["0", "1", "3", "5", "6", "7", "8", "9", "10", "11", "12"]
    assert list(rows["0"]["labels"].values()) == list(NUMBERS)
    assert list(rows["1"]["labels"].values()) == [None, None, None, 190, 280, 560, None, None, None]
    assert list(rows["3"]["labels"].values()) == [650, None, None, *NUMBERS[3:8], None]
    some = load_corpus("mimic_iv_ecg", data_dir=folder, task="measurements", measurements=["p_axis_degrees"])
    assert rows_of(some)["0"]["labels"] == {"p_axis_degrees": 60} and "1" not in rows_of(some)
    with pytest.raises(ValueError, match="`measurements` is a list of rr_interval_ms, .*got \\['qt'\\]"):
        load_corpus("mimic_iv_ecg", data_dir=folder, task="measurements", measurements=["qt"])


def write_icd(folder, folds):
    lines = ["file_name,study_id,subject_id,age,gender,all_diag_all,fold,strat_fold"]
    diagnoses = ["['I4891', 'I10']", "['I10']", "[]", '"[""I5022"", \'E119\']"', "['Z87I48']"]
    for number, (subject, study, *_) in enumerate(STUDIES):
        told = diagnoses[number] if number < 5 else "['I480']"
        quoted = told if told.startswith('"') else f'"{told}"'
        gender = "F" if number % 2 else "M" if number else "missing"
        lines.append(f"x,{study},{subject},{52.5 if number else ''},{gender},{quoted},0,{folds[number]}")
    # Another order than that of record_list.csv, and a study that it lacks.
    lines[1:] = [*lines[:0:-1], 'x,1,2,50,M,"[]",0,3']
    (folder / "icd.csv").write_text("\n".join(lines) + "\n")
    return folder / "icd.csv"


def test_folds_and_diagnoses(folder, caplog):
    icd_csv = write_icd(folder, [3, 3, 3, 18, 18, 19, 19, 0, 1, 17, 5, 6, ""])
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv)
    assert "1 records have no fold" in caplog.text
    assert corpus["validation"]["record_id"][:] == ["row-3", "row-4"]
    assert corpus["test"]["record_id"][:] == ["row-5", "row-6"]
    assert corpus["train"]["fold"][:] == [3, 3, 3, 0, 1, 17, 5, 6]
    rows = rows_of(corpus)
    assert [rows[row]["sex"] for row in "012"] == [None, "female", "male"]
    assert [rows[row]["age"] for row in "01"] == [None, 52.5]
    codes = {"task": "icd", "icd_codes": ["I48", "I10", "I5022"]}
    labelled = load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv, **codes)
    labels = {name: list(row["labels"].values()) for name, row in rows_of(labelled).items()}
    # Record 2 has no diagnoses; the code of record 4 only contains I48.
    assert labels["0"] == [1, 1, 0] and labels["1"] == [0, 1, 0] and labels["3"] == [0, 0, 1]
    assert labels["4"] == [0, 0, 0] and labels["5"] == [1, 0, 0] and "2" not in labels
    with pytest.raises(ValueError, match="letters and digits without a dot.*'I48.1'"):
        load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv, task="icd", icd_codes=["I48.1"])
    with pytest.raises(ValueError, match="other tasks take no `icd_codes`"):
        load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv, icd_codes=["I48"])


def test_folds_that_split_a_patient(folder):
    icd_csv = write_icd(folder, [3, 19, 3, 18, 18, *range(8)])
    with pytest.raises(ValueError, match="'strat_fold' of `icd_csv` puts a patient into train"):
        load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv)
    with pytest.raises(ValueError, match="icd.csv with the columns .*fold"):
        (folder / "icd.csv").write_text("study_id,age\n1,2\n")
        load_corpus("mimic_iv_ecg", data_dir=folder, icd_csv=icd_csv, fold_column="fold")


def test_own_labels(folder):
    table = folder / "labels.csv"
    table.write_text("study_id,stenosis,effusion\n45090959,1,\n40689238,0,1\n48446569,,\n")
    corpus = load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=table, split=(1, 0, 0))
    assert problem_type(corpus) == "multi_label_classification"
    labels = {name: row["labels"] for name, row in rows_of(corpus).items()}
    assert labels == {"0": {"stenosis": 0, "effusion": 1}, "3": {"stenosis": 1, "effusion": None}}
    only = load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=table, label_columns=["effusion"])
    assert list(rows_of(only)) == ["0"]
    table.write_text("study_id,grade\n45090959,3\n")
    with pytest.raises(ValueError, match="'grade': labels are 0, 1 or blank; got 3"):
        load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=table)
    table.write_text("study_id,name\n45090959,x\n")
    with pytest.raises(ValueError, match="labels.csv with the columns study_id, name"):
        load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=table)
    with pytest.raises(ValueError, match="go together"):
        load_corpus("mimic_iv_ecg", data_dir=folder, task="labels")


def test_incomplete_copies(folder, caplog):
    shutil.rmtree(folder / "files" / "p1000" / "p10000117")
    with pytest.raises(ValueError, match="2 of 13 records looked for are missing.*skip_missing=True"):
        load_corpus("mimic_iv_ecg", data_dir=folder)
    assert sum(load_corpus("mimic_iv_ecg", data_dir=folder, skip_missing=True).num_rows.values()) == 11
    write_tables(folder, STUDIES, measurements=False)
    (folder / "machine_measurements.csv").unlink()
    with pytest.raises(ValueError, match="MIMIC-IV-ECG needs .*machine_measurements.csv"):
        load_corpus("mimic_iv_ecg", data_dir=folder, skip_missing=True)
    labels = folder / "labels.csv"
    labels.write_text("study_id,a\n40689238,1\n")
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=labels, skip_missing=True)
    assert "so there are no reports" in caplog.text and rows_of(corpus)["0"]["report"] is None
    labels.write_text("study_id,a\n1,1\n")
    with pytest.raises(ValueError, match="no study of record_list.csv"):
        load_corpus("mimic_iv_ecg", data_dir=folder, task="labels", labels_csv=labels, skip_missing=True)
    with open(folder / "record_list.csv", "a") as file:
        file.write(f"5,40689238,x,2180-07-23 08:44:00,{record_path(5, 40689238)}\n")
    with pytest.raises(ValueError, match="lists a study twice"):
        load_corpus("mimic_iv_ecg", data_dir=folder)


@pytest.mark.slow
def test_all_records_load(tmp_path):
    """As many rows as the real table; how long it takes is not asserted, as machines differ."""
    write_large_tables(tmp_path, 800_035, 161_352)
    with pytest.raises(ValueError, match=r"10[01] of 10[01] records looked for .*skip_missing"):
        load_corpus("mimic_iv_ecg", data_dir=tmp_path)
    import pyarrow.csv

    paths = pyarrow.csv.read_csv(tmp_path / "record_list.csv")["path"].to_pylist()
    for path in paths[:: len(paths) // 100]:
        file = (tmp_path / path).with_suffix(".hea")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    corpus = load_corpus("mimic_iv_ecg", data_dir=tmp_path, task="measurements")
    assert sum(corpus.num_rows.values()) == 800_035
    np.testing.assert_allclose(np.array(list(corpus.num_rows.values())) / 800_035, (0.7, 0.15, 0.15), atol=1e-4)
    check_no_leak({name: {"patient_id": set(split["patient_id"])} for name, split in corpus.items()})
