import numpy as np
import pytest

from ecg_transformers import load_corpus
from ecg_transformers.training.arguments import CorpusArguments
from ecg_transformers.training.report_corpus import load_report_corpus


def test_synthetic_corpus(corpus_folder):
    corpus = load_report_corpus(CorpusArguments(corpus=str(corpus_folder)))
    assert set(corpus.splits) == {"train", "validation"}
    facts = corpus.facts["splits"]["train"]
    assert facts["records"] == facts["patients"] == 30 == len(corpus.reports["train"]) and not facts["without_report"]
    assert facts["different_reports"] == len(set(corpus.reports["train"])) > 5
    raw = load_corpus(str(corpus_folder))["train"]["report"]
    assert corpus.reports["train"] == [report.lower() for report in raw]
    assert corpus.digest("train") != corpus.digest("validation")


def test_ptbxl_keeps_records_without_a_label_of_the_task(shared_data):
    arguments = CorpusArguments(corpus="ptbxl", data_dir=str(shared_data / "ptb-xl"), task="rhythm")
    corpus = load_report_corpus(arguments)
    labelled = load_corpus("ptbxl", data_dir=shared_data / "ptb-xl", task="rhythm")
    everything = load_corpus("ptbxl", data_dir=shared_data / "ptb-xl", task="rhythm", keep_unlabelled=True)
    assert len(corpus.splits["train"]) == len(everything["train"]) >= len(labelled["train"])
    assert arguments.corpus_options == []
    assert all(report == report.lower().strip() for report in corpus.reports["train"])
    arguments.corpus_options = ["keep_unlabelled=false"]
    assert len(load_report_corpus(arguments).splits["train"]) == len(labelled["train"])


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        np.save(tmp_path / f"r{number}.npy", rng.normal(size=(12, 1000)).astype(np.float32))

    def make(header, lines):
        (tmp_path / "records.csv").write_text("\n".join([header, *lines]) + "\n")
        return CorpusArguments(
            corpus="table",
            data_dir=str(tmp_path),
            train_csv="records.csv",
            sampling_rate=100,
            corpus_options=["lead_names=standard", "units=mV", "split=[0.5, 0.25, 0.25]"],
        )

    return make


def test_table_of_files_and_reports_needs_no_labels(table, caplog):
    lines = [f'r{number}.npy,"Report {number}, EKG"' for number in range(7)] + ["r7.npy,"]
    corpus = load_report_corpus(table("filename,report", lines))
    facts = corpus.facts["splits"]
    assert facts["train"]["records"] + facts["validation"]["records"] >= 5
    assert sum(part["without_report"] for part in facts.values()) <= 1
    assert corpus.reports["train"][0].endswith(", ecg")
    assert "labels" not in corpus.splits["train"].column_names
    assert corpus.splits["train"][0]["ecg"].signal.shape == (12, 1000)


def test_columns_that_are_no_labels_do_not_matter(table):
    lines = [f"r{number}.npy,note {number},report {number}" for number in range(8)]
    corpus = load_report_corpus(table("filename,note,report", lines))
    assert len(corpus.reports["train"]) == 4


def test_records_without_report_are_counted(table, caplog):
    lines = [f"r{number}.npy,{'***' if number % 2 else f'report {number}'}" for number in range(8)]
    with caplog.at_level("WARNING"):
        corpus = load_report_corpus(table("filename,report", lines))
    left = sum(part["without_report"] for part in corpus.facts["splits"].values())
    assert left > 0 and len(corpus.reports["train"]) == len(corpus.splits["train"])


def test_a_corpus_without_reports_is_refused(table, shared_data):
    with pytest.raises(ValueError, match="No training record .* has a report"):
        load_report_corpus(table("filename,report", [f"r{number}.npy," for number in range(8)]))
    with pytest.raises(ValueError, match="No training record .* has a report"):
        load_report_corpus(CorpusArguments(corpus="challenge", data_dir=str(shared_data / "challenge-2021")))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("Report", r"it has filename, Report\. Rename the column 'Report' to 'report'"),
        ("note", "it has filename, note"),
    ],
)
def test_a_table_without_the_column_is_refused(table, column, words):
    arguments = table(f"filename,{column}", [f"r{number}.npy,text {number}" for number in range(8)])
    with pytest.raises(ValueError, match=f"The table records.csv has no column `report`; {words}"):
        load_report_corpus(arguments)


def test_a_data_set_without_the_column_is_refused(corpus_folder, tmp_path):
    corpus = load_corpus(str(corpus_folder)).remove_columns("report")
    corpus.save_to_disk(str(tmp_path / "without"))
    with pytest.raises(ValueError, match="no column `report`"):
        load_report_corpus(CorpusArguments(corpus=str(tmp_path / "without")))
