"""What two corpora share, on real files: names, patients, signals."""

import shutil

import numpy as np
import pytest
from code_writer import write_code15
from datasets import DatasetDict

import ecg_transformers as et
from ecg_transformers import ECGRecord, check_leakage, load_corpus
from ecg_transformers.corpora.columns import corpus_features, multi_label_feature
from ecg_transformers.corpora.splits import check_no_leak


def beats(seed, seconds=6, rate=200):
    """A record of two leads whose beats come at random times: as different from others as real ones are."""
    rng = np.random.default_rng(seed)
    times = np.arange(seconds * rate) / rate
    starts = np.cumsum(rng.uniform(0.5, 1.1, 20))
    wave = sum(np.exp(-((times - start) ** 2) / 0.0008) for start in starts)
    return ECGRecord(np.stack([wave, 0.5 * wave + 0.1 * rng.standard_normal(len(wave))]), rate, ["I", "II"])


def make_corpus(rows_of_split, name=None):
    """A corpus of (record_id, patient_id, seed) that `load_corpus` might have given."""
    from ecg_transformers.corpora.columns import build_corpus

    corpus = build_corpus(
        {
            split: [
                {"ecg": beats(seed), "labels": {"x": 0.0}, "record_id": record, "patient_id": patient}
                for record, patient, seed in rows
            ]
            for split, rows in rows_of_split.items()
        },
        corpus_features(multi_label_feature(["x"])),
    )
    corpus = DatasetDict({split: part for split, part in corpus.items() if len(part)})
    for part in corpus.values():
        part.info.dataset_name = name
    return corpus


def found(report):
    return {(match.one_id, match.other_id, match.by) for match in report.records}


class TestNames:
    def test_names_of_one_ecg_in_any_corpus(self):
        one = make_corpus({"train": [("HR00001", None, 1), ("HR00002", None, 2), ("JS00001", None, 3)]}, "challenge")
        # PTB-XL's own table calls its records by their numbers; 3 of LUDB is another ECG.
        for name, expected in (("ptbxl", {("HR00001", "1", ("name",))}), ("ludb", set())):
            other = make_corpus({"test": [("1", None, 1), ("3", None, 4)]}, name)
            report = check_leakage(one, other, signals=False)
            assert found(report) == expected and report.found == bool(expected)
        assert str(report).endswith("Nothing is shared.")
        other = make_corpus({"test": [("00001_hr", None, 1), ("00003_lr", None, 4)]})
        report = check_leakage(one, other, signals=False)
        assert found(report) == {("HR00001", "00001_hr", ("name",))}
        match = report.records[0]
        assert (match.one_split, match.one_row, match.other_split, match.other_row) == ("train", 0, "test", 0)
        assert match.similarity is None

    def test_other_names_count_within_one_numbering(self):
        def shared(first, second):
            corpora = [make_corpus({"train": [("17", None, 1), ("x", None, 2)]}, name) for name in (first, second)]
            return {name for name, _, _ in found(check_leakage(*corpora, signals=False))}

        assert shared("code15", "ludb") == set()
        assert shared("code15", None) == set()
        assert shared("code15", "code15") == shared(None, None) == {"17", "x"}

    def test_one_name_with_two_signals_is_told(self):
        one = make_corpus({"train": [("A0001", None, 1), ("A0002", None, 2)]}, "challenge")
        other = make_corpus({"train": [("A0001", None, 1), ("A0002", None, 9)]}, "cpsc2018")
        report = check_leakage(one, other)
        assert found(report) == {("A0001", "A0001", ("name", "signal")), ("A0002", "A0002", ("name",))}
        assert "1 of these have one name, but signals that differ, such as A0002" in str(report)

    def test_rows_without_a_name(self):
        one = [beats(1), beats(2)]
        report = check_leakage(one, [beats(3), beats(2)])
        assert found(report) == {("row 1", "row 1", ("signal",))}


def test_a_corpus_knows_its_name(shared_data):
    folder = shared_data / "ptb-xl"
    plain = load_corpus("ptbxl", folder)
    stream = load_corpus("ptbxl", folder, streaming=True)
    for corpus in (plain, plain.filter(lambda row: row["age"] is not None), stream):
        assert {split.info.dataset_name for split in corpus.values()} == {"ptbxl"}
    georgia = shared_data / "challenge-2021" / "georgia_odd_header"
    good = load_corpus("georgia", georgia, min_positives=1, min_quality=0.1)
    assert good["train"].info.dataset_name == "georgia"
    for corpus in (load_corpus("folder", folder / "records500", read_files=False), load_corpus(folder / "records100")):
        assert not {"folder", "ptbxl"} & {split.info.dataset_name for split in corpus.values()}


class TestPatients:
    def patients(self, first, second, first_name, second_name):
        one = make_corpus({"train": [("a", first, 1)]}, first_name)
        other = make_corpus({"train": [("b", second, 2)]}, second_name)
        return [match.patient for match in check_leakage(one, other, signals=False).patients]

    def test_numbers_count_within_one_numbering(self):
        assert self.patients("7", "7", "ptbxl", "ptbxl") == ["ptbxl-7"]
        assert self.patients("ptbxl-7", "7", "challenge", "ptbxl") == ["ptbxl-7"]
        assert self.patients("code15-7", "7", "challenge2025", "code15") == ["code15-7"]
        assert self.patients("code15-7", "7", "challenge2025", "ptbxl") == []
        assert self.patients("7", "7", "ludb", "sph") == []
        assert self.patients("7", "7", "sph", None) == []
        # Data of one's own on both sides are one numbering.
        assert self.patients("7", "7", None, None) == ["7"]

    def test_all_records_of_a_shared_patient(self):
        rows = [("a", "p", 1), ("b", "q", 2), ("c", "p", 3)]
        corpus = make_corpus({"train": rows, "validation": [("d", "p", 4)], "test": [("e", "r", 5)]})
        report = check_leakage(corpus)
        assert report.records == []
        assert report.patients[0].one == [("train", 0, "a"), ("train", 2, "c")]
        assert report.patients[0].other == [("validation", 0, "d")]
        assert "train and validation: 1 patient\nPatients: p" in str(report)
        table = report.table()
        assert table[["kind", "by", "one_split", "one_records", "other_records"]].to_numpy().tolist() == [
            ["patient", "p", "train", 2, 1]
        ]
        clean = report.without_leaks(corpus)
        assert clean.num_rows == {"train": 1, "validation": 1, "test": 1}
        check_no_leak(clean)
        assert not check_leakage(clean).found


class TestSignals:
    def test_splits_of_a_corpus(self):
        corpus = make_corpus(
            {
                "train": [("a", "1", 1), ("b", "2", 2), ("c", "3", 3)],
                "validation": [("d", "4", 4), ("e", "5", 2)],
                "test": [("f", "6", 3), ("g", "7", 3)],
            }
        )
        report = check_leakage(corpus)
        assert found(report) == {
            ("b", "e", ("signal",)),
            ("c", "f", ("signal",)),
            ("c", "g", ("signal",)),
        }
        assert report.within and report.num_records == (7, 7)
        assert report.record_ids() == ["b", "c"] and report.record_ids("other") == ["e", "f", "g"]
        assert report.rows() == {"train": {1, 2}}
        clean = report.without_leaks(corpus)
        assert clean["train"]["record_id"][:] == ["a"] and clean.num_rows["test"] == 2
        # Copies within a split are no leak.
        assert not check_leakage(clean).found
        assert check_leakage(corpus, names=False, patients=False, signals=True).compared == ("signals",)

    def test_a_split_a_stream_and_files(self, tmp_path):
        corpus = make_corpus({"train": [("a", None, 1), ("b", None, 2)], "test": [("c", None, 3)]})
        for number in (2, 5):
            beats(number).save(tmp_path / f"{number}.hea")
        files = sorted(tmp_path.glob("*.hea"))
        expected = {("b", "2", ("signal",))}
        assert found(check_leakage(corpus, files)) == expected
        assert found(check_leakage(corpus["train"], files)) == expected
        # A stream of embedded records cannot be read twice; of files it can.
        assert found(check_leakage(corpus["train"].to_iterable_dataset(), files)) == expected
        paths = corpus["train"].remove_columns("ecg").add_column("ecg", [str(files[0]), str(files[1])])
        paths = paths.cast_column("ecg", et.ECG())
        report = check_leakage(paths.to_iterable_dataset(), [beats(5)])
        assert found(report) == {("b", "row 0", ("signal",))}
        report = check_leakage(paths, files)
        assert found(report) == {("a", "2", ("file", "signal")), ("b", "5", ("file", "signal"))}
        assert report.without_leaks(paths).num_rows == 0
        with pytest.raises(ValueError, match="pass what was compared"):
            report.without_leaks(DatasetDict(other=paths))
        with pytest.raises(ValueError, match="'one' or 'other'; got 'both'"):
            report.rows("both")

    def test_records_that_cannot_be_compared(self, tmp_path):
        beats(1).save(tmp_path / "whole.hea")
        beats(2).save(tmp_path / "cut.hea")
        with open(tmp_path / "cut.dat", "r+b") as file:
            file.truncate(100)
        short = ECGRecord(beats(3).signal[:, :100], 200, ["I", "II"])
        report = check_leakage([tmp_path / "whole.hea", tmp_path / "cut.hea", short], [beats(1)])
        assert found(report) == {("whole", "row 0", ("signal",))}
        assert [name for name, _ in report.not_compared] == ["cut", "row 2"]
        assert "The signals of 2 records were not compared, such as cut: " in str(report)

    def test_refusals(self):
        corpus = make_corpus({"train": [("a", None, 1)]})
        with pytest.raises(ValueError, match="compares the splits of a corpus"):
            check_leakage(corpus)
        with pytest.raises(ValueError, match="are all False"):
            check_leakage(corpus, corpus, names=False, patients=False, signals=False)
        with pytest.raises(ValueError, match="takes corpora, splits, and sequences.*int"):
            check_leakage(corpus, [3])
        with pytest.raises(ValueError, match="column `ecg` of the feature ECG"):
            check_leakage(corpus, corpus["train"].remove_columns("ecg"))


class TestOnRealRecords:
    def test_two_rates_of_ptbxl(self, shared_data):
        high, low = (
            load_corpus(
                "ptbxl", shared_data / "ptb-xl", sampling_rate=rate, keep_unlabelled=True, skip_missing=rate == 100
            )
            for rate in (500, 100)
        )
        assert not check_leakage(high).found
        report = check_leakage(low, high, names=False, patients=False)
        assert len(report.records) == 45
        assert all(match.one_id == match.other_id and match.by == ("signal",) for match in report.records)
        assert min(match.similarity for match in report.records) > 0.999
        whole = check_leakage(low, high)
        assert {match.by for match in whole.records} == {("name", "signal")}
        assert {match.patient for match in whole.patients} == {
            f"ptbxl-{patient}" for split in low.values() for patient in split["patient_id"]
        }
        rest = whole.without_leaks(high, side="other")
        assert sum(rest.num_rows.values()) == 90 - len(
            [
                1
                for split in high.values()
                for patient in split["patient_id"]
                if f"ptbxl-{patient}" in {match.patient for match in whole.patients}
            ]
        )
        assert not check_leakage(low, rest).found

    def test_the_challenges_copy_of_ptbxl(self, shared_data):
        folder, table = shared_data / "challenge-2021", shared_data / "ptb-xl" / "ptbxl_database.csv"
        challenge = load_corpus("challenge", folder, ptbxl_database=table)
        ptbxl = load_corpus("ptbxl", shared_data / "ptb-xl", keep_unlabelled=True)
        report = check_leakage(challenge, ptbxl)
        assert found(report) == {
            ("HR00001", "1", ("name", "signal")),
            ("HR00002", "2", ("name", "signal")),
        }
        assert {match.patient for match in report.patients} == {"ptbxl-15709", "ptbxl-13243"}
        without = load_corpus("challenge", folder, ptbxl_database=table, exclude_records=report.record_ids())
        assert sum(without.num_rows.values()) == sum(challenge.num_rows.values()) - 2
        assert not check_leakage(without, ptbxl).found

    def test_one_ecg_in_several_formats(self, shared_data, tmp_path):
        # Under names of their own, so that signals alone tell.
        for number, path in enumerate(
            ("dicom/Example.dcm", "hl7-aecg/Example_aECG.xml", "philips-xml/ad4d3d80-d165_1-04_orig.xml")
        ):
            shutil.copy(shared_data / path, tmp_path / f"{number}.{path.rsplit('.')[-1]}")
        others = ["scp-ecg/Example.scp", "hl7-aecg/ad4d3d80-d165_1-04_converted_aecg.xml", "muse-xml/muse_ecg1.xml"]
        report = check_leakage(sorted(tmp_path.iterdir()), [shared_data / path for path in others])
        assert found(report) == {
            ("0", "Example", ("signal",)),
            ("1", "Example", ("signal",)),
            ("2", "ad4d3d80-d165_1-04_converted_aecg", ("signal",)),
        }

    def test_reduced_leads(self, shared_data):
        folder = shared_data / "challenge-2021"
        whole = load_corpus("challenge", folder, exclude_sources=["reduced_leads"])
        reduced = load_corpus("challenge", folder / "reduced_leads" / "two_leads", min_positives=1)
        report = check_leakage(reduced, whole, names=False)
        assert {(one, other) for one, other, _ in found(report)} == {
            (name, name) for name in ("HR06000", "HR06002", "JS20000")
        }

    def test_the_challenge_of_2025(self, shared_data):
        folder = shared_data / "challenge-2025-code15"
        first, second = (load_corpus("challenge2025", folder, seed=seed) for seed in (0, 1))
        assert not check_leakage(first).found
        report = check_leakage(first["train"], second["test"])
        shared = {*first["train"]["record_id"]} & {*second["test"]["record_id"]}
        assert shared and {match.one_id for match in report.records} == shared
        assert {match.by for match in report.records} == {("file", "name", "signal")}


def test_code15_and_the_challenge_of_2025(tmp_path):
    """Zero-padded rows of HDF5 parts against WFDB copies without the zeros, as the Challenge made them."""
    write_code15(tmp_path / "code15", num_exams=12, num_parts=2)
    code = load_corpus("code15", tmp_path / "code15")
    rows = [row for split in code.values() for row in split][:4]
    (tmp_path / "challenge").mkdir()
    for row in rows:
        path = row["ecg"].save(tmp_path / "challenge" / f"{row['record_id']}.hea")
        path.write_text(
            "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
            + f"\n# Patient ID: {row['patient_id']}\n# Chagas label: False\n# Source: CODE-15%\n"
        )
    challenge = load_corpus("challenge2025", tmp_path / "challenge")
    for data in (code, load_corpus("code15", tmp_path / "code15", streaming=True)):
        report = check_leakage(challenge, data)
        names = {row["record_id"] for row in rows}
        assert {(one, other) for one, other, by in found(report) if by == ("name", "signal")} == {
            (name, name) for name in names
        }
        assert {match.patient for match in report.patients} == {f"code15-{row['patient_id']}" for row in rows}
