"""`ecg-transformers check-leakage` on real files."""

import csv
import json

import numpy as np
import pytest

from ecg_transformers import load_corpus
from ecg_transformers.cli import main


@pytest.fixture
def corpora(shared_data):
    return f"challenge={shared_data / 'challenge-2021'}", f"ptbxl={shared_data / 'ptb-xl'}"


def test_two_corpora(corpora, tmp_path, capsys):
    table = tmp_path / "shared.csv"
    assert main(["check-leakage", *corpora, "--output", str(table)]) == 1
    assert "HR00001 = 1 (name, signal, similarity 1.0000)" in capsys.readouterr().out
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["one_id"], row["other_id"], row["by"]) for row in rows} == {
        ("HR00001", "1", "name+signal"),
        ("HR00002", "2", "name+signal"),
    }
    assert main(["check-leakage", *corpora, "--other_split", "test", "--no_signals", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "records": 0,
        "patients": 0,
        "not_compared": 0,
        "compared": ["names", "patients"],
    }


def test_splits_of_a_corpus_and_folders_of_files(shared_data, corpora, capsys):
    assert main(["check-leakage", corpora[1]]) == 0
    assert "Nothing is shared." in capsys.readouterr().out
    folders = [str(shared_data / name) for name in ("dicom", "hl7-aecg")]
    assert main(["check-leakage", *folders]) == 1
    assert "Example = Example_aECG (signal, similarity 1.0000)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--other_split", "holdout"], "has the splits train, validation, test"),
        (["--one_options", "seed"], "--one_options takes key=value; got 'seed'"),
        (["--one_options", "data_dir=elsewhere"], "a corpus is given as NAME=FOLDER"),
        (["--one_options", "weight=3"], "no option 'weight'"),
        (["--output", "shared.xlsx"], "ends in .csv"),
    ],
)
def test_mistakes(corpora, capsys, options, message):
    assert main(["check-leakage", *corpora, "--no_signals", *options]) == 2
    assert message in capsys.readouterr().err


def test_one_corpus_has_no_other_split(corpora, capsys):
    assert main(["check-leakage", corpora[1], "--other_split", "test"]) == 2
    assert "need a second corpus" in capsys.readouterr().err


def test_a_folder_is_told_by_options_that_there_are(tmp_path, capsys):
    """Advice for callers of `load_corpus`, as options of the command: following it succeeds."""
    np.save(tmp_path / "bare.npy", np.random.default_rng(0).standard_normal((1000, 2)))
    command = ["check-leakage", str(tmp_path), str(tmp_path), "--one_options", "split=[1,0,0]"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "--one_options sampling_rate=" in told and "--one_options lead_names=" in told
    assert "--lead_names" not in told and "--sampling_rate" not in told

    (tmp_path / "torn.hea").write_text("torn 12 500 5000\n")
    files = ["sampling_rate=500", 'lead_names=["I","II"]', "units=mV"]
    command += [*files, "--other_options", *files, "split=[1,0,0]", "skip_unreadable=true"]
    assert main(command) == 2
    assert "--one_options skip_unreadable=true" in capsys.readouterr().err
    assert main([*command, "--one_options", "skip_unreadable=true"]) == 1


def test_no_error_counts_as_a_leak(corpora, tmp_path, capsys, monkeypatch):
    for arguments in (["nowhere"], ["ptbxl=nowhere"], [corpora[1], "--one_options", "task=all", "min_positives=1e9"]):
        assert main(["check-leakage", *arguments]) == 2
    with pytest.raises(SystemExit) as usage:
        main(["check-leakage", corpora[1], "--no_such_option"])
    assert usage.value.code == 2
    # Whatever nobody thought of, too
    monkeypatch.setattr("ecg_transformers.corpora.check_leakage", None)
    assert main(["check-leakage", corpora[1]]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_records_without_labels_are_compared_too(shared_data, tmp_path):
    """The superclasses of PTB-XL leave some records out; a copy of one of those is a copy."""
    folder = shared_data / "ptb-xl"
    labelled = load_corpus("ptbxl", data_dir=folder)
    known = {name for split in labelled.values() for name in split["record_id"]}
    whole = load_corpus("ptbxl", data_dir=folder, keep_unlabelled=True)
    row = next(row for split in whole.values() for row in split if row["record_id"] not in known)
    row["ecg"].save(tmp_path / "copy.npz")
    assert main(["check-leakage", str(tmp_path), f"ptbxl={folder}"]) == 1


def test_what_ptbxl_leaves_out_is_told(shared_data, caplog):
    with caplog.at_level("WARNING"):
        corpus = load_corpus("ptbxl", data_dir=shared_data / "ptb-xl")
    assert f"{90 - sum(corpus.num_rows.values())} of 90 records have no label" in caplog.text
