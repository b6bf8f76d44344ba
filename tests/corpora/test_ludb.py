import csv

import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.ludb import COLUMN_OF_TASK, waves_of_annotations
from ecg_transformers.corpora.sample_classes import WAVE_CLASSES, wave_classes
from ecg_transformers.corpora.splits import DEFAULT_FRACTIONS, check_no_leak
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS
from ecg_transformers.readers.wfdb_annotations import Annotations


@pytest.fixture
def folder(shared_data):
    return shared_data / "ludb"


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}


def test_rows(folder):
    corpus = load_corpus("ludb", data_dir=folder)
    # Each of many labels draws records its way: the sizes are near the shares, not on them.
    for name, share in zip(corpus, DEFAULT_FRACTIONS, strict=True):
        assert abs(corpus.num_rows[name] - 18 * share) <= 2, corpus.num_rows
    assert problem_type(corpus) == "multi_label_classification"
    check_no_leak(corpus)
    rows = rows_of(corpus)
    with open(folder / "ludb.csv", newline="") as file:
        listed = [row["ID"].strip() for row in csv.DictReader(file)]
    assert len(listed) == 18 and sorted(name for split in corpus.values() for name in split["record_id"]) == sorted(
        listed
    )
    first = rows["4"]
    assert (first["patient_id"], first["age"], first["sex"], first["fold"]) == ("4", 56.0, "male", None)
    assert {name for name, value in first["labels"].items() if value} == {
        "Sinus rhythm",
        "Electric axis of the heart: left axis deviation",
        "Incomplete right bundle branch block",
        "Left atrial hypertrophy",
        "Left ventricular hypertrophy",
        "Ischemia: inferior wall",
        "Scar formation: inferior wall",
        "Undefined ischemia/scar/supp.nstemi: inferior wall",
    }
    assert first["report"].startswith("Sinus rhythm. Electric axis of the heart: left axis deviation. Incomplete")
    record = next(row["ecg"] for split in corpus.values() for row in split if row["record_id"] == "4")
    assert (record.lead_names, record.sampling_rate, record.num_samples) == (STANDARD_LEADS, 500, 5000)


def test_labels_agree_with_the_headers(folder):
    """The headers list the same diagnoses with other capitals; the table adds that there is a pacemaker."""
    corpus = load_corpus("ludb", data_dir=folder)
    for split in corpus.values():
        for row in split:
            told = {label.lower() for label in row["ecg"].metadata["labels"]}
            labels = {name.lower() for name, value in row["labels"].items() if value == 1}
            assert labels - {"pacemaker presence, undefined"} == told, row["record_id"]


def test_tasks_and_details(folder):
    rhythms = load_corpus("ludb", data_dir=folder, task="rhythm")
    assert label_names(rhythms)[:2] == ["Atrial fibrillation", "Atrial flutter, typical"]
    positives = {name: sum(row["labels"][name] for row in rows_of(rhythms).values()) for name in label_names(rhythms)}
    # Sinus rhythm: 4, 7, 81, 90, 104, 140; records 127 and 140 have two rhythms.
    assert positives["Sinus rhythm"] == 6 and positives["Wandering atrial pacemaker"] == 2
    ischemia = load_corpus("ludb", data_dir=folder, task="ischemia", details=False, keep_unlabelled=False)
    assert label_names(ischemia) == ["Ischemia", "Scar formation", "Stemi", "Undefined ischemia/scar/supp.nstemi"]
    assert all(any(row["labels"].values()) for row in rows_of(ischemia).values())
    axis = load_corpus("ludb", data_dir=folder, task="axis", details=False, min_positives=5)
    assert label_names(axis) == [
        "Electric axis of the heart: horizontal",
        "Electric axis of the heart: left axis deviation",
    ]
    with pytest.raises(ValueError, match="'pacing' has 7 positive"):
        load_corpus("ludb", data_dir=folder, task="pacing", min_positives=7)
    with pytest.raises(ValueError, match="'rhythm', 'axis'"):
        load_corpus("ludb", data_dir=folder, task="st")


def test_delineation_fits_the_signal(folder):
    """In leads I and II, the steepest sample of nearly every marked QRS complex lies within it, not in P or T."""
    corpus = load_corpus("ludb", data_dir=folder)
    within = np.zeros(len(WAVE_CLASSES), dtype=int)
    for split in corpus.values():
        for row in split:
            record = row["ecg"]
            assert [mark["lead"] for mark in row["delineation"]] == sorted(
                (mark["lead"] for mark in row["delineation"]), key=STANDARD_LEADS.index
            )
            classes = wave_classes(row["delineation"], record.lead_names, record.num_samples)
            slope = np.abs(np.gradient(record.signal, axis=1))
            for lead in (0, 1):
                marked = np.flatnonzero(classes[lead] >= 0)
                steepest = marked[slope[lead, marked].argsort()[-10:]]
                within += np.bincount(classes[lead, steepest], minlength=len(WAVE_CLASSES))
    assert within.sum() == 360 and within[WAVE_CLASSES.index("QRS")] >= 0.9 * 360


def test_waves_are_off(folder, tmp_path):
    assert "delineation" not in load_corpus("ludb", data_dir=folder, delineation=False)["train"].features


def test_joining_borders_and_peaks():
    def waves(text):
        samples = np.arange(len(text), dtype=np.int64)
        found = waves_of_annotations(Annotations(samples, list(text), [""] * len(text)))
        return [(wave["wave"], wave["onset"], wave["peak"], wave["offset"]) for wave in found]

    assert waves("(p)(N)(t)") == [("P", 0, 1, 2), ("QRS", 3, 4, 5), ("T", 6, 7, 8)]
    # Paced QRS complexes lack the onset, others have it after their peak.
    assert waves("N)(t)") == [("QRS", None, 0, 1), ("T", 2, 3, 4)]
    assert waves("N()(t)") == [("QRS", 1, 0, 2), ("T", 3, 4, 5)]
    assert waves(")N(t(p") == [("QRS", None, 1, None), ("T", 2, 3, None), ("P", 4, 5, None)]


def copy_table(folder, target, rows=3):
    with open(folder / "ludb.csv", newline="") as file:
        table = list(csv.reader(file))
    with open(target / "ludb.csv", "w", newline="") as file:
        csv.writer(file).writerows(table[: rows + 1])


def test_incomplete_copies(folder, tmp_path):
    copy_table(folder, tmp_path)
    (tmp_path / "data").mkdir()
    for ending in ("hea", "dat", *(lead.lower() for lead in STANDARD_LEADS[:-1])):
        (tmp_path / "data" / f"7.{ending}").write_bytes((folder / "data" / f"7.{ending}").read_bytes())
    with pytest.raises(ValueError, match="2 of 3 records of ludb.csv .*4.hea.*skip_missing=True"):
        load_corpus("ludb", data_dir=tmp_path)
    with pytest.raises(ValueError, match="7.v6.*`delineation` is False"):
        load_corpus("ludb", data_dir=tmp_path, skip_missing=True)
    corpus = load_corpus("ludb", data_dir=tmp_path, skip_missing=True, delineation=False, split=(1, 0, 0))
    assert corpus["train"]["record_id"][:] == ["7"]
    (tmp_path / "ludb.csv").write_text("ID,Rhythms\n1,x\n")
    with pytest.raises(ValueError, match=f"lacks the columns {COLUMN_OF_TASK['axis']}"):
        load_corpus("ludb", data_dir=tmp_path)
    (tmp_path / "ludb.csv").unlink()
    with pytest.raises(ValueError, match="LUDB needs .*ludb.csv"):
        load_corpus("ludb", data_dir=tmp_path)
