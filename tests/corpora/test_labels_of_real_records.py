"""What the corpora say of the real records is what their list says, which was made without the package."""

import csv

import pytest

from ecg_transformers.corpora import load_corpus


@pytest.fixture(scope="module")
def listed(shared_data):
    with open(shared_data / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    def of_source(source):
        return [row for row in rows if row["source"] == source]

    return of_source


def rows_of(name, data_dir, **options):
    corpus = load_corpus(name, data_dir=data_dir, **options)
    return {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}


def present(row):
    return {name for name, value in row["labels"].items() if value}


def stem(row):
    return row["path"].rsplit("/", 1)[-1].split(".")[0]


@pytest.mark.parametrize("rate", [500, 100])
def test_ptbxl(shared_data, listed, rate):
    options = {"task": "all", "sampling_rate": rate, "keep_unlabelled": True, "skip_missing": True}
    rows = rows_of("ptbxl", shared_data / "ptb-xl", **options)
    expected = {str(int(stem(row)[:5])): set(row["labels"].split(";")) for row in listed("ptb-xl")}
    assert len(rows) == (90 if rate == 500 else 45)
    assert {name: present(row) for name, row in rows.items()} == {name: expected[name] for name in rows}


@pytest.mark.parametrize("task", ["brugada", "basal_pattern", "sudden_death"])
def test_brugada_huca(shared_data, listed, task):
    rows = rows_of("brugada_huca", shared_data / "brugada-huca", task=task)
    told = {stem(row): dict(part.split("=") for part in row["labels"].split(";")) for row in listed("brugada-huca")}
    known = {"0": set(), "1": {task}}
    expected = {name: known[facts[task]] for name, facts in told.items() if facts[task] in known}
    assert {name: present(row) for name, row in rows.items() if name in expected} == expected and expected


def test_ptbdb(shared_data, listed):
    rows = rows_of("ptbdb", shared_data / "ptbdb", min_positives=1, split=(1, 0, 0))
    (expected,) = listed("ptbdb")
    assert [expected["labels"].startswith(name) for name in present(rows["s0010_re"])] == [True]


def test_mit_bih(shared_data, listed):
    rows = rows_of("mit_bih", shared_data / "mit-bih", classes="symbols", skip_missing=True)
    (expected,) = listed("mit-bih")
    found = {beat["symbol"] for row in rows.values() for beat in row["beats"]}
    assert found == set(expected["labels"].split(": ")[1].split(";"))


def test_challenge_2025(shared_data, listed):
    rows = rows_of("challenge2025", shared_data / "challenge-2025-code15")
    expected = {stem(row): row["labels"] == "chagas=true" for row in listed("challenge-2025-code15")}
    assert {name: bool(row["labels"]["chagas"]) for name, row in rows.items()} == expected


def test_ludb_first_statements(shared_data, listed):
    rows = rows_of("ludb", shared_data / "ludb")
    for row in listed("ludb"):
        rhythm = row["labels"].split(";")[0].lower()
        assert rhythm in {name.lower() for name in present(rows[stem(row)])}, row["path"]
