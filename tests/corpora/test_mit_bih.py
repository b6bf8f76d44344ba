import logging
from collections import Counter

import numpy as np
import pytest
import wfdb
from mit_bih_layout import RATE, regular_beats, write_record

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.mit_bih import BEAT_SYMBOLS, DS1, DS2, PACED, RECORDS, RHYTHMS
from ecg_transformers.corpora.sample_classes import AAMI_CLASSES, BEATS_FEATURE, beat_classes
from ecg_transformers.corpora.saved_corpus import save_parquet
from ecg_transformers.corpora.splits import check_no_leak


def load(folder, **options):
    return load_corpus("mit_bih", data_dir=folder, **{"skip_missing": True, **options})


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}


def positives(row):
    return [name for name, value in row["labels"].items() if value]


def test_halves():
    assert (len(DS1), len(DS2), len(PACED), len(set(RECORDS))) == (22, 22, 4, 48)


class TestOnTheRealRecord:
    """Record 100: 2239 normal, 33 atrial premature, 1 premature ventricular beat (the database's directory)."""

    @pytest.fixture
    def folder(self, shared_data):
        return shared_data / "mit-bih"

    def test_windows(self, folder):
        corpus = load(folder, split=(1, 0, 0), seconds=1805)
        (row,) = corpus["train"]
        assert row["record_id"] == "100:0-649800" and positives(row) == ["N", "S", "V"]
        # The last second of the half hour holds one beat more.
        assert Counter(beat["symbol"] for beat in row["beats"]) == {"N": 2238, "A": 33, "V": 1}
        assert (row["patient_id"], row["age"], row["sex"], row["fold"]) == ("100", 69.0, "male", 2)
        record = row["ecg"]
        assert (record.lead_names, record.sampling_rate, record.num_samples) == (("MLII", "V5"), 360, 649_800)

    def test_beats_stand_on_the_signal(self, folder):
        """Marks are near R peaks: MLII is there close to its largest value within half a second."""
        corpus = load(folder, split=(1, 0, 0))
        marked = wfdb.rdann(str(folder / "100"), "atr")
        beats = marked.sample[np.array(marked.symbol) != "+"]
        assert corpus.num_rows["train"] == 180
        assert sum(len(row["beats"]) for row in corpus["train"]) == (beats < 180 * 3600).sum()
        ratios = []
        for row in corpus["train"].select(range(0, 180, 20)):
            signal = row["ecg"].signal[0]
            for beat in row["beats"]:
                around = signal[max(0, beat["sample"] - 90) : beat["sample"] + 90]
                near = signal[max(0, beat["sample"] - 10) : beat["sample"] + 10].max()
                ratios.append(near - around.max())
        assert np.mean(np.abs(ratios) < 0.01) > 0.95

    def test_single_beats(self, folder):
        corpus = load(folder, task="single_beat", classes="symbols", seconds=0.5, split=(1, 0, 0))
        assert problem_type(corpus) == "single_label_classification" and label_names(corpus) == list(BEAT_SYMBOLS)
        counts = Counter(corpus["train"].features["labels"].int2str(corpus["train"]["labels"][:]))
        # The first beat, at 0.21 s, and the last have less than a quarter of a second beside them.
        assert counts == {"N": 2237, "A": 33, "V": 1}
        row = corpus["train"][int(corpus["train"]["labels"][:].index(BEAT_SYMBOLS.index("V")))]
        centre = [beat for beat in row["beats"] if beat["sample"] == 90]
        assert [beat["symbol"] for beat in centre] == ["V"] and row["ecg"].num_samples == 180

    def test_a_class_per_sample(self, folder):
        row = load(folder, split=(1, 0, 0))["train"][0]
        classes = beat_classes(row["beats"], 3600, 360)
        assert len(classes) == row["ecg"].num_samples and set(classes) == {-1, 0, 1}
        assert AAMI_CLASSES[classes[2044]] == "S" and AAMI_CLASSES[classes[1809]] == "N"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mit-bih")
    for name, symbols in {
        "101": "N",
        "106": "NNV",
        "108": "NL",
        "201": "NA",
        "100": "N",
        "202": "NV",
        "102": "/",
    }.items():
        write_record(folder, name, regular_beats(symbols=symbols), comment=f"{50 + int(name) % 10} F 1 2 x1")
    rhythms = ((0, "N"), (4000, "AFIB"), (9000, "N"))
    flutter = [(15_000, "["), (15_200, "!"), (15_400, "]")]
    write_record(folder, "207", regular_beats(symbols="NE"), rhythms, other=[*flutter, (300, "~"), (600, "x")])
    return folder


def test_inter_patient_split(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = load(folder, validation_share=0.3)
    records = {split: {name.split(":")[0] for name in rows["record_id"]} for split, rows in corpus.items()}
    assert records["test"] == {"100", "202"} and len(records["validation"]) >= 1
    assert records["train"] | records["validation"] == {"101", "106", "108", "201", "207"}
    assert not records["train"] & records["validation"]
    assert set(corpus["train"]["fold"]) | set(corpus["validation"]["fold"]) == {1} and set(corpus["test"]["fold"]) == {
        2
    }
    assert "records 201 (DS1) and 202 (DS2)" in caplog.text
    with pytest.raises(ValueError, match="1 patients of split 'test'"):
        check_no_leak(corpus)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        apart = load(folder, exclude_records=["201"])
    check_no_leak(apart)
    assert "one subject" not in caplog.text
    for name, text in (("names.txt", "201\n"), ("names.csv", "why,record_id\nsubject,201\n")):
        (tmp_path / name).write_text(text)
        from_file = load(folder, exclude_records=tmp_path / name)
        assert set(rows_of(from_file)) == set(rows_of(apart))
    check_no_leak(load(folder, split=(0.5, 0.25, 0.25)))
    paced = load(folder, include_paced=True)
    rows = [row for name, row in rows_of(paced).items() if name.startswith("102")]
    assert len(rows) == 6 and {row["fold"] for row in rows} == {None}
    assert all(positives(row) == ["Q"] for row in rows)
    assert not any(name.startswith("102") for name in paced["test"]["record_id"])


def test_labels_of_windows(folder):
    rows = rows_of(load(folder))
    assert len(rows) == 7 * 6 - 1
    assert positives(rows["106:3600-7200"]) == ["N", "V"] and positives(rows["108:0-3600"]) == ["N"]
    symbols = load(folder, classes="symbols")
    assert positives(rows_of(symbols)["108:0-3600"]) == ["N", "L"]
    beats = rows["106:3600-7200"]["beats"]
    assert [beat["sample"] for beat in beats] == list(range(150, 3600, 300))
    assert [beat["symbol"] for beat in beats] == list("NNV" * 4)
    assert rows["106:3600-7200"]["age"] == 56 and rows["106:3600-7200"]["sex"] == "female"
    # Noise and a blocked P wave are no beats.
    assert {beat["symbol"] for beat in rows["207:0-3600"]["beats"]} == {"N", "E"}


def test_rhythms_and_flutter(folder):
    rhythms = load(folder, task="rhythms")
    assert label_names(rhythms) == list(RHYTHMS)
    found = [positives(rows_of(rhythms)[f"207:{start}-{start + 3600}"]) for start in range(0, 21_600, 3600)]
    assert found == [["N"], ["AFIB", "N"], ["AFIB", "N"], ["N"], ["N"], ["N"]]
    # Flutter from 15,000 to 15,400.
    assert "207:14400-18000" in rows_of(rhythms) and "207:14400-18000" not in rows_of(load(folder))
    single = rows_of(load(folder, task="single_beat", seconds=1))
    centres = [int(name.split(":")[1].split("-")[0]) + 180 for name in single if name.startswith("207")]
    # Of 72 beats the first and the last are too near the ends, and three (14,850 to 15,450) too near the flutter.
    assert not any(15_000 - 180 < centre <= 15_400 + 180 for centre in centres) and len(centres) == 67


def test_signals_are_those_of_the_windows(folder):
    corpus = load(folder, seconds=5)
    row = next(row for row in corpus["test"] if row["record_id"] == "202:1800-3600")
    signal = row["ecg"].signal
    assert row["ecg"].lead_names == ("MLII", "V1") and signal.shape == (2, 5 * RATE)
    renamed = load(folder, seconds=5, mlii_as_ii=True)["test"]
    row_of = {row["record_id"]: row["ecg"] for row in renamed}
    assert row_of["202:1800-3600"].lead_names == ("II", "V1")
    np.testing.assert_array_equal(row_of["202:1800-3600"].signal, signal)
    for beat in row["beats"]:
        assert abs(signal[0, beat["sample"]] - (-1 if beat["symbol"] == "V" else 1)) < 0.05


def test_saved_and_opened_again(folder, tmp_path):
    corpus = load(folder, split=(0.6, 0.2, 0.2), mlii_as_ii=True)
    save_parquet(corpus, tmp_path / "packed")
    corpus.save_to_disk(tmp_path / "saved")
    for name in ("packed", "saved"):
        again = load_corpus(tmp_path / name)
        assert again.num_rows == corpus.num_rows and again["train"].features["beats"] == BEATS_FEATURE
        for one, other in zip(corpus["test"], again["test"], strict=True):
            records = one.pop("ecg"), other.pop("ecg")
            np.testing.assert_array_equal(records[0].signal, records[1].signal)
            assert one == other and records[1].lead_names == ("II", "V1")


def test_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="37 of 44 records .*103.hea.*skip_missing=True"):
        load_corpus("mit_bih", data_dir=folder)
    with pytest.raises(ValueError, match="60 s, got 100"):
        load(folder, seconds=100)
    with pytest.raises(ValueError, match="names 99; the records are 100, 101"):
        load(folder, exclude_records=["99"])
    with pytest.raises(ValueError, match="'inter_patient'"):
        load(folder, split="random")
    with pytest.raises(ValueError, match="Nothing is left"):
        load(tmp_path)
    with pytest.raises(ValueError, match="a list of names"):
        load(folder, exclude_records="201")
    write_record(tmp_path, "100", regular_beats())
    (tmp_path / "100.atr").write_bytes(b"\x01")
    with pytest.raises(ValueError, match="100.atr"):
        load(tmp_path)
