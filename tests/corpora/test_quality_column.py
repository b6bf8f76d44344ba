import datasets
import numpy as np
import pytest

import ecg_transformers as et
from ecg_transformers import ECGRecord, QualityLimits, add_quality, assess_quality, filter_by_quality, load_corpus
from ecg_transformers.corpora.columns import build_corpus, corpus_features, multi_label_feature
from ecg_transformers.corpora.quality_column import quality_feature, quality_values
from ecg_transformers.corpora.saved_corpus import save_parquet


def corpus_of(paths, extra=()):
    rows = [{"ecg": str(path), "labels": {"AF": 0.0}, "record_id": path.stem} for path in paths]
    rows += [{"ecg": str(path), "labels": {"AF": 1.0}, "record_id": path.name} for path in extra]
    parts = {"train": rows, "validation": rows[:1], "test": rows[:1]}
    return build_corpus(parts, corpus_features(multi_label_feature(["AF"])))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The synthetic recordings, of which number n lacks n leads."""
    folder = tmp_path_factory.mktemp("records")
    corpus = load_corpus("synthetic", num_patients=6, records_per_patient=1)
    records = [row["ecg"] for split in corpus.values() for row in split]
    written = []
    for number, record in enumerate(records):
        signal = record.signal.copy()
        signal[12 - number :] = 0.0
        altered = ECGRecord(signal, record.sampling_rate, record.lead_names)
        written.append(altered.save(folder / f"r{number}.npz"))
    return written


def test_the_column_holds_the_indices(paths):
    corpus = add_quality(corpus_of(paths))
    assert corpus["train"].features["quality"] == datasets.Features(q=quality_feature())["q"]
    for row, path in zip(corpus["train"], paths, strict=True):
        assessed = assess_quality(et.read_ecg(path))
        quality = row["quality"]
        assert quality["issues"] == assessed.issues and quality["power_line_hz"] == assessed.power_line_hz
        assert [lead["name"] for lead in quality["leads"]] == list(assessed.leads)
        for lead, expected in zip(quality["leads"], assessed.leads.values(), strict=True):
            assert lead["flat_fraction"] == pytest.approx(expected.flat_fraction)
            assert lead["noise_mv"] == pytest.approx(expected.noise_mv)
            assert lead["kurtosis"] == pytest.approx(expected.kurtosis)
    assert corpus["train"][0]["ecg"].num_leads == 12 and corpus["train"].features["labels"] is not None


def test_the_score_is_the_share_of_good_leads(paths):
    lenient = QualityLimits(wander_mv=99, noise_mv=99, power_line_mv=99, baseline_power=0, clipped_fraction=1)
    scores = [row["score"] for row in add_quality(corpus_of(paths), lenient)["train"]["quality"]]
    np.testing.assert_allclose(scores, [1 - number / 12 for number in range(6)], atol=1e-6)
    kept = filter_by_quality(corpus_of(paths), 9 / 12, lenient)
    assert kept["train"]["record_id"][:] == ["r0", "r1", "r2", "r3"]
    assert filter_by_quality(kept, 1.0)["train"]["record_id"][:] == ["r0"], "a column that is there is used"
    eight = et.read_ecg(paths[0]).select_leads(["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"])
    seven = ECGRecord(eight.signal[:7], eight.sampling_rate, eight.lead_names[:7])
    assert quality_values(eight, lenient)["score"] == 1 and quality_values(seven, lenient)["score"] == 1
    # Missing leads count from eight leads on; without II the limb leads do not follow from each other.
    whole = et.read_ecg(paths[0])
    eleven = quality_values(whole.select_leads([name for name in whole.lead_names if name != "V2"]), lenient)
    assert eleven["score"] == pytest.approx(11 / 12) and eleven["missing_leads"] == ["V2"]
    limb = whole.select_leads(["I", "aVR", "V1", "V2", "V3", "V4", "V5", "V6"])
    assert quality_values(limb, lenient)["score"] == pytest.approx(8 / 12)
    limb = whole.select_leads(["I", "V1", "V2", "V3", "V4", "V5", "V6"])
    assert quality_values(limb, lenient)["score"] == 1 and len(quality_values(limb, lenient)["missing_leads"]) == 5


def test_one_option_for_all_corpora(paths, tmp_path, caplog):
    save_parquet(corpus_of(paths), tmp_path)
    whole = load_corpus(tmp_path)
    assert load_corpus(tmp_path, min_quality=None).num_rows == whole.num_rows
    corpus = load_corpus(tmp_path, min_quality=0.7)
    assert corpus.num_rows["train"] < whole.num_rows["train"] and "quality below 0.7" in caplog.text
    assert all(row["score"] >= 0.7 for row in corpus["train"]["quality"])
    for value in (-0.1, 2, "high", True, float("nan")):
        with pytest.raises(ValueError, match="`min_quality` is a share of leads, a number from 0 to 1; got"):
            load_corpus(tmp_path, min_quality=value)
    with pytest.raises(ValueError, match="a number from 0 to 1; got 'high'"):
        load_corpus("no such corpus", min_quality="high")
    corpus.save_to_disk(str(tmp_path / "disk"))
    assert load_corpus(tmp_path / "disk")["train"]["quality"][0] == corpus["train"]["quality"][0]


def test_what_cannot_be_read_scores_nothing(paths, tmp_path):
    (tmp_path / "cut.npz").write_bytes(paths[0].read_bytes()[:500])
    corpus = corpus_of(paths[:2], [tmp_path / "cut.npz"])
    quality = add_quality(corpus)["train"]["quality"][2]
    assert quality["score"] == 0 and "cut.npz" in quality["issues"][0]
    assert filter_by_quality(corpus, 0.01)["train"].num_rows == 2
    stream = corpus["train"].to_iterable_dataset()
    rows = list(add_quality(stream))
    for row, expected in zip(rows, add_quality(corpus)["train"]["quality"], strict=True):
        assert row["quality"]["score"] == pytest.approx(expected["score"])
        assert row["quality"]["issues"] == expected["issues"]
    assert [row["ecg"] is None for row in rows] == [False, False, True]
    for rated in (stream, add_quality(stream), add_quality(add_quality(stream))):
        kept = filter_by_quality(rated, 0.01)
        assert [row["record_id"] for row in kept] == ["r0", "r1"]
        assert kept.features == add_quality(corpus)["train"].features
        assert isinstance(next(iter(kept))["ecg"], ECGRecord)
    bad = corpus_of([], [tmp_path / "cut.npz"])
    with pytest.raises(ValueError, match="None of the 1 records"):
        filter_by_quality(bad, 0.5)


def test_streams_and_single_splits(paths):
    data = corpus_of(paths)["train"]
    stream = filter_by_quality(data.to_iterable_dataset(), 0.7)
    assert [row["record_id"] for row in stream] == filter_by_quality(data, 0.7)["record_id"][:]
    assert "quality" in stream.features and isinstance(next(iter(stream))["ecg"], ECGRecord)
    assert add_quality(data, workers=2)["quality"][:] == add_quality(data)["quality"][:]
    with pytest.raises(ValueError, match="column `ecg`"):
        add_quality(data.remove_columns("ecg"))


def test_a_split_without_records(paths):
    corpus = build_corpus(
        {
            "train": [{"ecg": str(path), "labels": {"x": 0.0}, "record_id": path.name} for path in paths[:1]],
            "test": [],
        },
        corpus_features(multi_label_feature(["x"])),
    )
    rated = filter_by_quality(corpus, 0.0)
    assert rated.num_rows == {"train": 1, "validation": 0, "test": 0}
    assert {str(split.features) for split in rated.values()} == {str(add_quality(corpus)["train"].features)}
