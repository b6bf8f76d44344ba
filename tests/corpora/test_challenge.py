import csv
import logging
from collections import Counter

import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.challenge import read_header
from ecg_transformers.corpora.challenge_labels import EQUIVALENT_CODES, SCORED_ABBREVIATIONS, challenge_codes
from ecg_transformers.corpora.splits import check_no_leak

AF, SINUS, BRADY, RBBB, CRBBB = "164889003", "426783006", "426177001", "59118001", "713427006"


def write_record(folder, name, codes=(SINUS,), age="50", sex="Female", leads=("I", "II"), seconds=2, style="#"):
    folder.mkdir(parents=True, exist_ok=True)
    samples = 500 * seconds
    lines = [f"{name} {len(leads)} 500 {samples}"]
    lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    lines += [f"{style}Age: {age}", f"{style}Sex: {sex}"]
    lines += [] if codes is None else [f"{style}Dx: {','.join(codes)}"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    np.zeros((samples, len(leads)), "<i2").tofile(folder / f"{name}.dat")


@pytest.fixture
def corpus_dir(tmp_path):
    for number in range(40):
        codes = [AF] if number < 10 else [SINUS, RBBB] if number < 14 else [SINUS, CRBBB] if number < 20 else [BRADY]
        folder = tmp_path / ("georgia" if number % 2 else "WFDB_Ningbo") / f"g{number % 3}"
        write_record(folder, f"R{number:03d}", codes, style="# " if number % 4 else "#")
    return tmp_path


def positives(corpus, split=None):
    rows = [row for name in corpus if split in (None, name) for row in corpus[name]["labels"]]
    return {name: int(sum(row[name] or 0 for row in rows)) for name in label_names(corpus)}


def record_ids(corpus):
    return sorted(name for split in corpus for name in corpus[split]["record_id"])


def test_labels_counts_and_columns(corpus_dir):
    corpus = load_corpus("challenge", data_dir=corpus_dir)
    assert label_names(corpus) == ["AF", "NSR", "RBBB", "SB"]
    assert problem_type(corpus) == "multi_label_classification"
    assert positives(corpus) == {"AF": 10, "NSR": 10, "RBBB": 10, "SB": 20}
    assert corpus.num_rows == {"train": 28, "validation": 6, "test": 6}
    assert all(min(positives(corpus, split).values()) >= 1 for split in corpus)
    row = corpus["train"][0]
    assert list(row) == ["ecg", "labels", "record_id", "patient_id", "age", "sex", "fold", "report"]
    assert (row["age"], row["sex"], row["patient_id"], row["fold"]) == (50.0, "female", None, None)
    assert row["ecg"].metadata["record_id"] == row["record_id"]
    assert row["ecg"].lead_names == ("I", "II")
    check_no_leak(corpus)


def test_label_sets(corpus_dir):
    unmerged = load_corpus("challenge", data_dir=corpus_dir, label_set="all", merge_equivalent=False)
    assert positives(unmerged) == {"AF": 10, "CRBBB": 6, "NSR": 10, "RBBB": 4, "SB": 20}
    frequent = load_corpus("challenge", data_dir=corpus_dir, min_positives=11)
    assert positives(frequent) == {"SB": 20}
    assert sum(frequent.num_rows.values()) == 40
    only = load_corpus("challenge", data_dir=corpus_dir, min_positives=11, keep_unlabelled=False)
    assert sum(only.num_rows.values()) == 20
    scored = load_corpus("challenge", data_dir=corpus_dir, label_set="scored")
    assert len(label_names(scored)) == 26
    assert label_names(scored)[:6] == ["AF", "AFL", "BBB", "Brady", "LBBB", "RBBB"]
    assert positives(scored)["RBBB"] == 10
    assert (
        len(label_names(load_corpus("challenge", data_dir=corpus_dir, label_set="scored", merge_equivalent=False)))
        == 30
    )
    with pytest.raises(ValueError, match="No label has 50 .*SB \\(20\\)"):
        load_corpus("challenge", data_dir=corpus_dir, min_positives=50)
    with pytest.raises(ValueError, match="'frequent', 'scored', 'all'"):
        load_corpus("challenge", data_dir=corpus_dir, label_set="most")


def test_seed_decides_the_split(corpus_dir):
    first, again, other = (load_corpus("challenge", data_dir=corpus_dir, seed=seed) for seed in (0, 0, 1))
    assert first["test"]["record_id"][:] == again["test"]["record_id"][:]
    assert first["test"]["record_id"][:] != other["test"]["record_id"][:]
    assert load_corpus("challenge", data_dir=corpus_dir, split=(0.5, 0.25, 0.25)).num_rows["test"] == 10


def test_sources(corpus_dir):
    georgia = load_corpus("challenge", data_dir=corpus_dir, sources=["georgia"], min_positives=1)
    assert record_ids(georgia) == [f"R{number:03d}" for number in range(1, 40, 2)]
    rest = load_corpus("challenge", data_dir=corpus_dir, exclude_sources=["georgia"], min_positives=1)
    assert record_ids(rest) == [f"R{number:03d}" for number in range(0, 40, 2)]
    assert record_ids(
        load_corpus("challenge", data_dir=corpus_dir, sources=["WFDB_Ningbo"], min_positives=1)
    ) == record_ids(rest)
    alone = load_corpus("challenge", data_dir=corpus_dir / "georgia", sources=["georgia"], min_positives=1)
    assert record_ids(alone) == record_ids(georgia)
    with pytest.raises(ValueError, match="No records belong to hefei; parts in .*georgia"):
        load_corpus("challenge", data_dir=corpus_dir, sources=["hefei"])
    with pytest.raises(ValueError, match="is a list"):
        load_corpus("challenge", data_dir=corpus_dir, sources="georgia")


def test_copies_count_once(corpus_dir, caplog):
    write_record(corpus_dir / "aaa_reduced", "R001", [AF], leads=("I",))
    write_record(corpus_dir / "zzz_more", "R002", [AF], leads=("I", "II", "V1"))
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("challenge", data_dir=corpus_dir)
    assert len(record_ids(corpus)) == 40
    assert "2 records have the name of another" in caplog.text and "R001.hea" in caplog.text
    rows = {row["record_id"]: row["ecg"].num_leads for split in corpus.values() for row in split}
    assert (rows["R001"], rows["R002"]) == (2, 3)


def test_unknown_labels_ages_and_sexes(tmp_path):
    write_record(tmp_path, "A", None, age="NaN", sex="Unknown")
    write_record(tmp_path, "B", [SINUS], age="300", sex="m")
    for name in "CDE":
        write_record(tmp_path, name, [SINUS])
    corpus = load_corpus("challenge", data_dir=tmp_path, min_positives=1)
    rows = {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}
    assert rows["A"]["labels"] == {"NSR": None} and rows["A"]["age"] is None and rows["A"]["sex"] is None
    assert rows["B"]["labels"] == {"NSR": 1.0} and rows["B"]["age"] is None and rows["B"]["sex"] == "male"


def test_short_and_broken_records(corpus_dir, caplog):
    write_record(corpus_dir, "SHORT", [AF], seconds=1)
    corpus = load_corpus("challenge", data_dir=corpus_dir, min_seconds=2)
    assert "SHORT" not in record_ids(corpus) and "1 of 41 records are shorter" in caplog.text
    (corpus_dir / "EMPTY.hea").write_text("")
    (corpus_dir / "LIES.hea").write_text("LIES 12 500 5000\nLIES.dat 16 1000/mV 16 0 0 0 0 I\n")
    (corpus_dir / "GONE.hea").write_text("GONE 1 500 5000\nGONE.dat 16 1000/mV 16 0 0 0 0 I\n")
    (corpus_dir / "UP.hea").write_text("UP 1 500 5000\n../UP.dat 16 1000/mV 16 0 0 0 0 I\n")
    with pytest.raises(ValueError, match="4 of 45 records are missing or unreadable.*EMPTY.hea.*skip_unreadable=True"):
        load_corpus("challenge", data_dir=corpus_dir)
    assert len(record_ids(load_corpus("challenge", data_dir=corpus_dir, skip_unreadable=True))) == 41


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="no .hea files"):
        load_corpus("challenge", data_dir=tmp_path)
    with pytest.raises(ValueError, match="needs a folder"):
        load_corpus("challenge", data_dir=tmp_path / "missing")


def test_names_of_codes_without_and_with_mapping(tmp_path):
    for name in "ABCDEF":
        write_record(tmp_path / "part", name, ["55827005", "123"])
    assert label_names(load_corpus("challenge", data_dir=tmp_path, label_set="all")) == ["123", "55827005"]
    (tmp_path / "dx_mapping_unscored.csv").write_text("Dx,SNOMED CT Code,Abbreviation\nvoltages,55827005,LVHV\n")
    assert label_names(load_corpus("challenge", data_dir=tmp_path, label_set="all")) == ["123", "LVHV"]
    assert label_names(load_corpus("challenge", data_dir=tmp_path / "part", label_set="all")) == ["123", "LVHV"]
    (tmp_path / "dx_mapping_unscored.csv").write_text("code,name\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns SNOMEDCTCode"):
        load_corpus("challenge", data_dir=tmp_path, label_set="all")


def test_patients_of_the_ptbxl_copy(tmp_path):
    for number in range(1, 31):
        write_record(tmp_path / "ptb-xl", f"HR{number:05d}", [AF] if number % 2 else [SINUS])
    table = tmp_path / "ptbxl_database.csv"
    table.write_text(
        "ecg_id,patient_id,strat_fold\n" + "".join(f"{n},{n // 3}.0,{n % 10 + 1}\n" for n in range(1, 31))
    )
    corpus = load_corpus("challenge", data_dir=tmp_path, ptbxl_database=table)
    check_no_leak(corpus)
    row = corpus["train"][0]
    number = int(row["record_id"][2:])
    assert (row["patient_id"], row["fold"]) == (f"ptbxl-{number // 3}", number % 10 + 1)
    with pytest.raises(ValueError, match="ptbxl_database.csv of PTB-XL"):
        load_corpus("challenge", data_dir=tmp_path, ptbxl_database=tmp_path / "none.csv")


def test_codes_of_labels_are_the_classes_of_the_challenge():
    assert challenge_codes(["AF", "RBBB", "123", "426783006"]) == {
        "AF": AF,
        "RBBB": "713427006|59118001",
        "426783006": SINUS,
    }


class TestOnRealRecords:
    @pytest.fixture
    def folder(self, shared_data):
        return shared_data / "challenge-2021"

    @pytest.fixture
    def listed(self, shared_data):
        with open(shared_data / "index.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["path"].startswith("challenge-2021/")]
        return {
            row["path"].rsplit("/")[-1][:-4]: row["labels"].split(";")
            for row in rows
            if "reduced_leads" not in row["path"]
        }

    def test_counts_agree_with_the_index(self, folder, listed):
        corpus = load_corpus("challenge", data_dir=folder, label_set="all", merge_equivalent=False)
        assert record_ids(corpus) == sorted(listed)
        counts = Counter(code for codes in listed.values() for code in set(codes))
        with open(folder / "dx_mapping_scored.csv") as scored, open(folder / "dx_mapping_unscored.csv") as unscored:
            names = {
                row["SNOMEDCTCode"]: row["Abbreviation"] for file in (scored, unscored) for row in csv.DictReader(file)
            }
        assert positives(corpus) == {names.get(code, code): count for code, count in counts.items()}

    def test_frequent_labels_reach_every_split(self, folder, listed):
        corpus = load_corpus("challenge", data_dir=folder)
        merged = Counter(
            frozenset(next((pair for pair in EQUIVALENT_CODES.values() if code in pair), (code,)))
            for codes in listed.values()
            for code in set(codes)
        )
        assert len(label_names(corpus)) == sum(count >= 8 for count in merged.values()) == 12
        assert positives(corpus)["SB"] == 26
        assert all(min(positives(corpus, split).values()) >= 1 for split in corpus)
        assert corpus.num_rows == {"train": 81, "validation": 17, "test": 17}

    def test_records_decode_and_reduced_copies_are_gone(self, folder):
        corpus = load_corpus("challenge", data_dir=folder)
        for split in corpus.values():
            for row in split:
                record = row["ecg"]
                assert (record.num_leads, record.sampling_rate) == (12, 500)
                assert record.metadata["record_id"] == row["record_id"]
                assert record.metadata.get("age") == row["age"]
                assert record.metadata.get("sex") == row["sex"]

    def test_parts_are_known_by_name(self, folder):
        parts = {
            part: len(record_ids(load_corpus("challenge", data_dir=folder, sources=[part], min_positives=1)))
            for part in ("cpsc2018", "cpsc_extra", "georgia", "ptb-xl", "chapman_shaoxing", "ningbo")
        }
        assert parts == {
            "cpsc2018": 10,
            "cpsc_extra": 17,
            "georgia": 19,
            "ptb-xl": 17,
            "chapman_shaoxing": 12,
            "ningbo": 40,
        }

    def test_odd_headers(self, folder):
        header = read_header(folder / "georgia_odd_header" / "E01137.hea")
        assert (header.record_id, header.num_leads, header.seconds, header.problem) == ("E01137", 12, 10.0, "")
        assert header.codes == [BRADY]

    def test_own_table_agrees_with_the_challenge(self, folder):
        with open(folder / "dx_mapping_scored.csv") as file:
            rows = list(csv.DictReader(file))
        assert {row["SNOMEDCTCode"]: row["Abbreviation"] for row in rows} == SCORED_ABBREVIATIONS
        noted = {row["SNOMEDCTCode"] for row in rows if row["Notes"].strip()}
        assert noted == {code for pair in EQUIVALENT_CODES.values() for code in pair}
        corpus = load_corpus("challenge", data_dir=folder, label_set="scored")
        with open(folder / "weights.csv", newline="") as file:
            classes = next(csv.reader(file))[1:]
        assert {frozenset(code.split("|")) for code in challenge_codes(label_names(corpus)).values()} == {
            frozenset(name.split("|")) for name in classes
        }
