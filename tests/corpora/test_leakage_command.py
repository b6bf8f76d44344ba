"""`ecg-transformers check-leakage` on real files."""

import csv
import json

import pytest

from ecg_transformers.cli import main


@pytest.fixture
def corpora(shared_data):
    return f"challenge={shared_data / 'challenge-2021'}", f"ptbxl={shared_data / 'ptb-xl'}"


def test_two_corpora(corpora, tmp_path, capsys):
    table = tmp_path / "shared.csv"
    assert main(["check-leakage", *corpora, "--other_options", "keep_unlabelled=true", "--output", str(table)]) == 1
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
        (["--one_options", "weight=3"], "no option 'weight'"),
        (["--output", "shared.xlsx"], "ends in .csv"),
    ],
)
def test_mistakes(corpora, capsys, options, message):
    assert main(["check-leakage", *corpora, "--no_signals", *options]) == 1
    assert message in capsys.readouterr().err


def test_one_corpus_has_no_other_split(corpora, capsys):
    assert main(["check-leakage", corpora[1], "--other_split", "test"]) == 1
    assert "need a second corpus" in capsys.readouterr().err
