"""Each part of the Challenge alone, and records that recur elsewhere."""

import inspect
import logging

import pytest
from test_challenge import AF, SINUS, record_ids, write_record

from ecg_transformers.corpora import corpus_function, label_names, list_corpora, load_corpus
from ecg_transformers.corpora.challenge import load_challenge
from ecg_transformers.corpora.record_names import NameSet, challenge_part, known_record
from ecg_transformers.corpora.splits import check_no_leak

PARTS = ("cpsc2018", "cpsc_extra", "georgia", "chapman_shaoxing", "ningbo", "ptb", "incart", "challenge_ptbxl")
FIRST_NAMES = ("A0001", "Q0001", "E00001", "JS00001", "JS10647", "S0001", "I0001", "HR00001")


def test_names_of_one_ecg():
    names = ("HR00001", "00001_hr", "00001_lr", "records100/00000/00001_lr", "a/HR00001.mat", r"c:\x\00001_hr.hea")
    assert {known_record(name) for name in names} == {("ptbxl", "1")}
    assert known_record("JS00042") == ("ecg-arrhythmia", "42")
    assert known_record("A0001") != known_record("A00001")
    assert [known_record(name) for name in ("1", "s0010_re", "HR1", "I01", "HR00001_2", "")] == [None] * 6
    assert [challenge_part(name) for name in FIRST_NAMES] == [*PARTS[:7], "ptb-xl"]
    assert (challenge_part("JS10646"), challenge_part("JS10647")) == ("chapman_shaoxing", "ningbo")
    assert [challenge_part(name) for name in ("A00001", "00001_hr", "x/00001_lr.hea")] == [None] * 3
    found = NameSet(["HR00007.hea", "mine.mat", "x"])
    assert [name in found for name in ("00007_lr", "HR00007", "mine", "x", "HR00008", "y")] == [True] * 4 + [False] * 2


def test_every_part_is_a_corpus_with_the_options_of_the_whole(tmp_path):
    assert set(PARTS) <= set(list_corpora())
    for name in FIRST_NAMES:
        for number in range(3):
            write_record(tmp_path / "mixed" / str(number), f"{name[:-1]}{int(name[-1]) + number}", [SINUS])
    options = [name for name in inspect.signature(load_challenge).parameters if "sources" not in name]
    for part, first in zip(PARTS, FIRST_NAMES, strict=True):
        function = corpus_function(part)
        assert list(inspect.signature(function).parameters) == options
        assert function.__doc__ and "Args:" in function.__doc__
        # The parts are told by the names of their records here.
        corpus = load_corpus(part, tmp_path, min_positives=1)
        assert record_ids(corpus) == [f"{first[:-1]}{int(first[-1]) + number}" for number in range(3)]
    with pytest.raises(ValueError, match="no option 'sources'"):
        load_corpus("georgia", tmp_path, sources=["ptb"])


def test_folders_come_before_names(tmp_path):
    for number in range(1, 5):
        write_record(tmp_path / "georgia", f"JS0000{number}", [SINUS])
        write_record(tmp_path / "ptb-diagnostic-ecg-database-1.0.0" / "patient001", f"s001{number}_re", None)
    assert len(record_ids(load_corpus("georgia", tmp_path, min_positives=1))) == 4
    with pytest.raises(ValueError, match="No records belong to chapman_shaoxing; parts in .*georgia"):
        load_corpus("chapman_shaoxing", tmp_path)
    with pytest.raises(ValueError, match="No records belong to ptb; parts in .*ptbdb"):
        load_corpus("ptb", tmp_path)


@pytest.fixture
def ptbxl_copy(tmp_path):
    """Forty records of PTB-XL's copy, two per patient, of which the last ten are not in the table, and ten others."""
    for number in range(1, 41):
        write_record(tmp_path / "ptb-xl", f"HR{number:05d}", [AF] if number % 2 else [SINUS])
    for number in range(1, 11):
        write_record(tmp_path / "georgia", f"E{number:05d}", [AF] if number % 2 else [SINUS])
    rows = [f"{number},{(number - 1) // 2}.0,{(number - 1) // 2 % 10 + 1}" for number in range(1, 31)]
    (tmp_path / "ptbxl_database.csv").write_text("\n".join(["ecg_id,patient_id,strat_fold", *rows]) + "\n")
    return tmp_path


def test_records_that_recur_are_left_out_by_name(ptbxl_copy, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("challenge", ptbxl_copy, exclude_records=["00001_hr", "2", "HR00003", "E00004", "new"])
    assert not {"HR00001", "HR00002", "HR00003", "E00004"} & set(record_ids(corpus))
    assert len(record_ids(corpus)) == 46
    assert "4 of 50 records are left out: named in `exclude_records`" in caplog.text
    (ptbxl_copy / "names.txt").write_text("HR00001\n00005_lr\n")
    (ptbxl_copy / "names.csv").write_text("split,record_id\ntest,HR00001\ntest,00005_lr\n")
    for name in ("names.txt", "names.csv"):
        corpus = load_corpus("challenge_ptbxl", ptbxl_copy, exclude_records=ptbxl_copy / name)
        assert len(record_ids(corpus)) == 38 and "HR00005" not in record_ids(corpus)
    (ptbxl_copy / "names.csv").write_text("split,name\ntest,HR00001\n")
    with pytest.raises(ValueError, match="no column record_id; it has split, name"):
        load_corpus("challenge", ptbxl_copy, exclude_records=ptbxl_copy / "names.csv")
    with pytest.raises(ValueError, match="`exclude_records` is a list of names.*HR00001"):
        load_corpus("challenge", ptbxl_copy, exclude_records="HR00001")


def test_records_that_recur_are_left_out_by_patient_and_fold(ptbxl_copy, caplog):
    table = ptbxl_copy / "ptbxl_database.csv"
    corpus = load_corpus("challenge", ptbxl_copy, ptbxl_database=table, exclude_patients=["ptbxl-0", "ptbxl-3"])
    gone = {f"HR{number:05d}" for number in (1, 2, 7, 8)}
    assert len(record_ids(corpus)) == 46 and not gone & set(record_ids(corpus))
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("challenge", ptbxl_copy, ptbxl_database=table, exclude_ptbxl_folds=[10])
    # Of 30 listed records two are in fold 10; ten are not listed.
    assert len(record_ids(corpus)) == 50 - 2 - 10
    assert 10 not in {fold for split in corpus.values() for fold in split["fold"]}
    assert "10 of 50 records are left out: of PTB-XL's copy that `ptbxl_database` does not list" in caplog.text
    for options, message in (
        ({"exclude_ptbxl_folds": [10]}, "need `ptbxl_database`"),
        ({"exclude_ptbxl_folds": 10, "ptbxl_database": table}, r"list of folds from 1 to 10, such as \[10\]; got 10"),
        ({"exclude_ptbxl_folds": [0], "ptbxl_database": table}, r"got \[0\]"),
        ({"exclude_patients": ["ptbxl-1"]}, "needs `ptbxl_database` or `patients_csv`"),
    ):
        with pytest.raises(ValueError, match=message):
            load_corpus("challenge", ptbxl_copy, **options)


def test_the_copy_keeps_the_splits_of_the_original(ptbxl_copy):
    table = ptbxl_copy / "ptbxl_database.csv"
    corpus = load_corpus("challenge_ptbxl", ptbxl_copy, ptbxl_database=table)
    folds = {split: {*corpus[split]["fold"]} for split in corpus}
    assert folds == {"train": {1, 2, 3, 4, 5, 6, 7, 8}, "validation": {9}, "test": {10}}
    assert corpus.num_rows == {"train": 26, "validation": 2, "test": 2}
    check_no_leak(corpus)
    mixed = load_corpus("challenge", ptbxl_copy, ptbxl_database=table, keep_ptbxl_folds=True)
    assert {name for name in mixed["test"]["record_id"] if name[0] == "H"} == {"HR00019", "HR00020"}
    assert all(any(name[0] == "E" for name in split["record_id"]) for split in mixed.values())
    assert sum(mixed.num_rows.values()) == 40
    plain = load_corpus("challenge_ptbxl", ptbxl_copy, ptbxl_database=table, keep_ptbxl_folds=False)
    assert sum(plain.num_rows.values()) == 40
    check_no_leak(plain)


def test_patients_that_the_challenge_does_not_tell(tmp_path, caplog):
    for number in range(1, 31):
        write_record(tmp_path / "ptb", f"S{number:04d}", [AF] if number % 2 else [SINUS])
    with caplog.at_level(logging.WARNING):
        load_corpus("ptb", tmp_path)
    assert "does not tell the patients of 30 records of ptb" in caplog.text
    caplog.clear()
    table = tmp_path / "patients.csv"
    table.write_text("record_id,patient_id\n" + "".join(f"S{n:04d},p{n // 4}\n" for n in range(1, 31)))
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("ptb", tmp_path, patients_csv=table)
    check_no_leak(corpus)
    assert "does not tell" not in caplog.text
    assert {patient for split in corpus.values() for patient in split["patient_id"]} == {f"p{n}" for n in range(8)}
    table.write_text("name\nS0001\n")
    with pytest.raises(ValueError, match="columns record_id and patient_id"):
        load_corpus("ptb", tmp_path, patients_csv=table)


class TestOnRealRecords:
    def test_parts(self, shared_data):
        counts = {
            part: len(record_ids(load_corpus(part, shared_data, min_positives=1)))
            for part in PARTS
            if part not in ("ptb", "incart", "cpsc2018")
        }
        assert counts == {
            "cpsc_extra": 17,
            "georgia": 19,
            "chapman_shaoxing": 12,
            "ningbo": 40,
            "challenge_ptbxl": 17,
        }
        cpsc = load_corpus("cpsc2018", shared_data / "challenge-2021" / "cpsc2018", label_set="scored")
        assert len(record_ids(cpsc)) == 10 and len(label_names(cpsc)) == 26
        lengths = {row["ecg"].duration_seconds for split in cpsc.values() for row in split}
        assert len(lengths) > 1 and min(lengths) >= 6

    def test_names_of_records_agree_with_their_folders(self, shared_data):
        for part in ("cpsc2018", "cpsc_extra", "georgia", "chapman_shaoxing", "ningbo", "ptb-xl"):
            for path in (shared_data / "challenge-2021" / part).glob("*.hea"):
                assert challenge_part(path.name) == part

    def test_patients_and_folds_of_the_copy(self, shared_data):
        table = shared_data / "ptb-xl" / "ptbxl_database.csv"
        corpus = load_corpus("challenge_ptbxl", shared_data, ptbxl_database=table, min_positives=1)
        rows = {row["record_id"]: (row["patient_id"], row["fold"]) for row in corpus["train"]}
        assert rows == {"HR00001": ("ptbxl-15709", 3), "HR00002": ("ptbxl-13243", 2)}
