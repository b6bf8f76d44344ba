import logging

import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.splits import check_no_leak
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS


def labels_of(corpus):
    return {row["record_id"]: row["labels"] for split in corpus.values() for row in split.remove_columns("ecg")}


def test_real_records(shared_data):
    corpus = load_corpus("brugada_huca", data_dir=shared_data / "brugada-huca", task="all")
    assert label_names(corpus) == ["brugada", "basal_pattern", "sudden_death"]
    assert problem_type(corpus) == "multi_label_classification"
    assert sum(corpus.num_rows.values()) == 9
    check_no_leak(corpus)
    labels = labels_of(corpus)
    assert labels["188981"] == {"brugada": 1, "basal_pattern": 1, "sudden_death": 0}
    assert labels["251972"] == {"brugada": 0, "basal_pattern": 0, "sudden_death": 0}
    for split in corpus.values():
        for row in split:
            record = row["ecg"]
            assert (record.lead_names, record.sampling_rate, record.num_samples) == (STANDARD_LEADS, 100, 1200)
            assert record.metadata["record_id"] == row["record_id"] == row["patient_id"]


def write_corpus(folder, rows, columns="patient_id,basal_pattern,sudden_death,brugada"):
    (folder / "metadata.csv").write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    for patient, *_ in rows:
        (folder / "files" / str(patient)).mkdir(parents=True)
        (folder / "files" / str(patient) / f"{patient}.hea").write_text("")
    return folder


@pytest.mark.parametrize(("other", "value"), [("unknown", None), ("positive", 1.0), ("negative", 0.0)])
def test_other_values(tmp_path, caplog, other, value):
    folder = write_corpus(tmp_path, [(1, 0, 0, 1), (2, 1, 1, 2), (3, 0, "", 0), (4, 0, 0, 0)])
    with caplog.at_level(logging.WARNING):
        labels = labels_of(load_corpus("brugada_huca", data_dir=folder, task="all", other=other))
    assert "1 subjects have a label other than 0 and 1" in caplog.text and other in caplog.text
    assert labels["2"] == {"brugada": value, "basal_pattern": 1, "sudden_death": 1}
    assert labels["3"] == {"brugada": 0, "basal_pattern": 0, "sudden_death": None}
    assert labels_of(load_corpus("brugada_huca", data_dir=folder))["1"] == {"brugada": 1}


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="needs .*metadata.csv"):
        load_corpus("brugada_huca", data_dir=tmp_path)
    folder = write_corpus(tmp_path, [(1, 0, 0, 1), (2, 0, 0, "yes")])
    with pytest.raises(ValueError, match="brugada = 'yes' for subject 2"):
        load_corpus("brugada_huca", data_dir=folder)
    with pytest.raises(ValueError, match="'unknown', 'positive', 'negative'"):
        load_corpus("brugada_huca", data_dir=folder, other="none")
    (folder / "files" / "2" / "2.hea").unlink()
    with pytest.raises(ValueError, match="1 of 2 records of metadata.csv .*2.hea"):
        load_corpus("brugada_huca", data_dir=folder)
    (folder / "metadata.csv").write_text("patient_id,brugada\n1,0\n")
    with pytest.raises(ValueError, match="lacks the columns basal_pattern, sudden_death"):
        load_corpus("brugada_huca", data_dir=folder)
