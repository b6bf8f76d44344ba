import numpy as np
import pytest

from ecg_transformers.corpora import label_names, list_corpora, load_corpus, problem_type
from ecg_transformers.corpora.synthetic import DEFAULT_LABELS, SYNTHETIC_LABELS, synthetic
from ecg_transformers.record import ECGRecord

SMALL = {"sampling_rate": 50, "seconds": 2.0}


@pytest.fixture(scope="module")
def corpus():
    return synthetic(num_patients=5 * len(DEFAULT_LABELS), **SMALL)


def test_the_corpus_is_registered():
    assert "synthetic" in list_corpora()
    loaded = load_corpus("synthetic", num_patients=5, records_per_patient=1, seed=3, **SMALL)
    assert {name: len(split) for name, split in loaded.items()} == {"train": 3, "validation": 1, "test": 1}


def test_columns_labels_and_problem_type(corpus):
    assert list(corpus) == ["train", "validation", "test"]
    assert label_names(corpus) == list(DEFAULT_LABELS)
    assert problem_type(corpus) == "multi_label_classification"
    row = corpus["train"][0]
    assert isinstance(row["ecg"], ECGRecord) and row["ecg"].signal.shape == (12, 100)
    assert set(row["labels"].values()) <= {0.0, 1.0} and sum(row["labels"].values()) >= 1
    assert row["sex"] in ("female", "male") and 18 <= row["age"] <= 96
    assert row["ecg"].metadata["labels"] == [name for name in SYNTHETIC_LABELS if row["labels"].get(name)]
    assert row["ecg"].metadata["record_id"] == row["record_id"]
    assert row["report"]


def test_no_patient_is_in_two_splits(corpus):
    patients = {name: set(split["patient_id"]) for name, split in corpus.items()}
    assert not patients["train"] & patients["validation"]
    assert not patients["train"] & patients["test"]
    assert not patients["validation"] & patients["test"]
    assert sum(map(len, patients.values())) == 45
    everything = [name for split in corpus.values() for name in split["record_id"]]
    assert len(set(everything)) == len(everything) == 90


def test_each_label_has_positives_and_negatives_in_every_split(corpus):
    for split in corpus.values():
        for name in DEFAULT_LABELS:
            values = [labels[name] for labels in split["labels"]]
            assert 0 < sum(values) < len(values), name


def test_records_of_a_patient_share_age_sex_and_chief_finding(corpus):
    rows = {}
    for labels, patient, age, sex in zip(
        *(corpus["train"][name] for name in ("labels", "patient_id", "age", "sex")), strict=True
    ):
        rows.setdefault(patient, []).append((labels, age, sex))
    for first, second in rows.values():
        assert first[1:] == second[1:]
        assert any(first[0][name] and second[0][name] for name in DEFAULT_LABELS)


def test_the_same_seed_gives_the_same_corpus_and_another_does_not():
    first, again, other = (synthetic(num_patients=5, seed=seed, **SMALL)["train"] for seed in (4, 4, 5))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["ecg"].signal, b["ecg"].signal)
        assert a["labels"] == b["labels"]
    assert not np.array_equal(first[0]["ecg"].signal, other[0]["ecg"].signal)


def test_more_patients_and_records_leave_the_first_ones_as_they_were():
    few = synthetic(num_patients=5, records_per_patient=1, **SMALL)["train"]
    many = synthetic(num_patients=15, records_per_patient=3, **SMALL)["train"]
    rows = {row["record_id"]: row for row in many}
    for row in few:
        np.testing.assert_array_equal(row["ecg"].signal, rows[row["record_id"]]["ecg"].signal)
        assert row["labels"] == rows[row["record_id"]]["labels"]


def test_other_labels_can_be_asked_for():
    names = ["low_voltage", "left_ventricular_hypertrophy", "atrial_flutter"]
    corpus = synthetic(num_patients=15, records_per_patient=1, labels=names, **SMALL)
    assert label_names(corpus) == [name for name in SYNTHETIC_LABELS if name in names]
    for split in corpus.values():
        assert all(sum(labels[name] for labels in split["labels"]) > 0 for name in names)


def test_large_corpora_are_stored_in_chunks(monkeypatch):
    whole = synthetic(num_patients=10, **SMALL)
    monkeypatch.setattr("ecg_transformers.corpora.synthetic._CHUNK_BYTES", 3 * 12 * 100 * 4)
    chunked = synthetic(num_patients=10, **SMALL)
    assert chunked["train"].data.num_rows == whole["train"].data.num_rows
    assert list(chunked["train"]["record_id"]) == list(whole["train"]["record_id"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_patients": 2}, "`num_patients` is an integer of at least 3"),
        ({"records_per_patient": 0}, "`records_per_patient` is an integer of at least 1"),
        ({"seed": -1}, "`seed` is an integer of at least 0"),
        ({"labels": ["flutter"]}, "Known labels: sinus_rhythm"),
        ({"labels": []}, "at least one"),
        ({"sampling_rate": -5}, "`sampling_rate` is a positive number"),
    ],
)
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**{"num_patients": 5, **options})
