import numpy as np
import pytest
import torch

from ecg_transformers import STANDARD_LEADS, DeepECGSSLConfig, ECGFeatureExtractor, load_corpus
from ecg_transformers.models.deepecg_ssl.modeling_deepecg_ssl import find_real_tokens
from ecg_transformers.record import ECGRecord
from ecg_transformers.training.segment_pairs import SegmentPairCollator, SegmentPairs, cut_in_halves, with_window


@pytest.fixture(scope="module")
def dataset():
    return load_corpus("synthetic", num_patients=15, records_per_patient=3, seed=2)["train"]


@pytest.fixture(scope="module")
def extractor():
    return ECGFeatureExtractor.for_model_type("deepecg_ssl")


def counting_record(seconds, rate=250):
    """A record whose samples tell their place, in thousandths, where no step of a recipe changes them."""
    signal = np.arange(round(seconds * rate))[None] / 1000 + np.arange(12)[:, None]
    return ECGRecord(signal.astype(np.float32), rate, STANDARD_LEADS)


def places(values):
    return (values * 1000).round().int().tolist()


@pytest.fixture(scope="module")
def plain_extractor():
    return ECGFeatureExtractor(recipe=[{"step": "resample", "sampling_rate": 250}, {"step": "crop", "seconds": 10}])


def test_halves_of_a_recording():
    values = torch.arange(2 * 3 * 10.0).reshape(2, 3, 10)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 7:] = 0
    halves, half_mask = cut_in_halves(values, mask)
    assert torch.equal(halves[0], values[0, :, :5]) and torch.equal(halves[1], values[0, :, 5:])
    assert torch.equal(halves[2, :, :3], values[1, :, :3]) and torch.equal(halves[3, :, :3], values[1, :, 3:6])
    assert not halves[2:, :, 3:].any()
    assert half_mask.tolist() == [[1] * 5, [1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    blank, blank_mask = cut_in_halves(values, torch.zeros_like(mask))
    assert not blank.any() and not blank_mask.any()


def test_a_batch_of_halves(plain_extractor):
    collate = SegmentPairCollator(plain_extractor, lead_mask_probability=0.0, windows="first")
    rows = [
        {"ecgs": [counting_record(10)], "patient": 4, "window_seed": 1},
        {"ecgs": [counting_record(6)], "patient": 9, "window_seed": 2},
        {"ecgs": [counting_record(25)], "patient": 4, "window_seed": 3},
    ]
    batch = collate(rows)
    assert batch["input_values"].shape == (6, 12, 1250)
    assert batch["patient_ids"].tolist() == [4, 4, 9, 9, 4, 4]
    assert batch["segments"].tolist() == [0, 1, 0, 1, 0, 1]
    # Adjacent: the second goes on where the first ends
    assert places(batch["input_values"][:, 0, 0]) == [0, 1250, 0, 750, 0, 1250]
    assert batch["attention_mask"].sum(dim=1).tolist() == [1250, 1250, 750, 750, 1250, 1250]
    assert batch.keys() == {"input_values", "attention_mask", "patient_ids", "segments"}
    whole = collate(rows[::2])
    assert "attention_mask" not in whole
    shorter = SegmentPairCollator(plain_extractor, 2.0, lead_mask_probability=0.0, windows="random")(rows[2:])
    assert shorter["input_values"].shape == (2, 12, 500)
    start, second = places(shorter["input_values"][:, 0, 0])
    assert second == start + 500 and start > 0


def test_the_segment_decides_the_window_of_a_recipe_for_five_seconds():
    ecg_fm = ECGFeatureExtractor.for_model_type("deepecg_ssl", "ecg_fm")
    assert with_window(ecg_fm, 10).window_seconds == 10 and ecg_fm.window_seconds == 5
    batch = SegmentPairCollator(ecg_fm)([{"ecgs": [counting_record(10, 500)], "patient": 0, "window_seed": 0}])
    assert batch["input_values"].shape == (2, 12, 2500) and "attention_mask" not in batch


def test_pairs_of_recordings(dataset, extractor):
    pairs = SegmentPairs(dataset, seed=3, kind="records")
    assert len(pairs) == pairs.num_patients == len(dataset) // 3 and pairs.num_left_out == 0
    rows = pairs.__getitems__([0, 2])
    ids = [[ecg.metadata["record_id"] for ecg in row["ecgs"]] for row in rows]
    assert all(len(set(pair)) == 2 and pair[0][:7] == pair[1][:7] for pair in ids)
    again = pairs[2]
    assert [ecg.metadata["record_id"] for ecg in again["ecgs"]] == ids[1]
    seen = set()
    for epoch in range(12):
        pairs.set_epoch(epoch)
        seen.add(tuple(ecg.metadata["record_id"] for ecg in pairs[0]["ecgs"]))
    assert len(seen) > 3
    batch = SegmentPairCollator(extractor)(rows)
    assert batch["input_values"].shape == (4, 12, 2500)
    first, second = batch["patient_ids"][::2].tolist()
    assert first != second and batch["patient_ids"].tolist() == [first, first, second, second]


def test_patients_with_one_recording(dataset):
    some = dataset.select([0, 1, 2, 3, 6])
    pairs = SegmentPairs(some, kind="records")
    assert (len(pairs), pairs.num_left_out) == (1, 2)
    assert len(SegmentPairs(some)) == 5
    with pytest.raises(ValueError, match="None of the 3 patients has two recordings"):
        SegmentPairs(dataset.select([0, 3, 6]), kind="records")
    with pytest.raises(ValueError, match="'thirds'"):
        SegmentPairs(dataset, kind="thirds")


def test_hidden_leads_belong_to_the_pair(dataset, extractor):
    pairs = SegmentPairs(dataset, seed=1)
    collate = SegmentPairCollator(extractor)
    batch = collate(pairs.__getitems__(list(range(8))))
    hidden = (batch["input_values"] == 0).all(dim=2)
    assert 0.35 < hidden.float().mean() < 0.65
    # The halves of a pair lose leads of their own
    assert not torch.equal(hidden[::2], hidden[1::2])
    other = collate(pairs.__getitems__([5, 1]))
    assert torch.equal((other["input_values"] == 0).all(dim=2)[:2], hidden[10:12])
    pairs.set_epoch(1)
    assert not torch.equal((collate(pairs.__getitems__([5]))["input_values"] == 0).all(dim=2), hidden[10:12])
    kept = SegmentPairCollator(extractor, lead_mask_probability=1.0, keep_one_lead=True)(pairs.__getitems__([0, 1]))
    assert ((kept["input_values"] != 0).any(dim=2).sum(dim=1) == 1).all()


def test_masks_of_evaluation(plain_extractor):
    config = DeepECGSSLConfig(num_negatives=7)
    rows = [
        {"ecgs": [counting_record(10)], "patient": 0, "window_seed": 1},
        {"ecgs": [counting_record(5)], "patient": 1, "window_seed": 2},
    ]
    collate = SegmentPairCollator(plain_extractor, lead_mask_probability=0.0, windows="first", masks_for=config)
    batch, again = collate(rows), collate(rows)
    assert all(torch.equal(value, again[name]) for name, value in batch.items())
    real = find_real_tokens(batch["attention_mask"], config)
    counts = batch["mask_time_indices"].sum(dim=1)
    assert counts.unique().numel() == 1 and counts[0] > 10
    assert not (batch["mask_time_indices"] & ~real).any()
    assert batch["negative_indices"].shape == (4, counts[0], 7)
    other = collate([{**row, "window_seed": 5} for row in rows])
    assert not torch.equal(other["mask_time_indices"], batch["mask_time_indices"])


def test_settings_that_make_no_sense(extractor):
    with pytest.raises(ValueError, match="'all'"):
        SegmentPairCollator(extractor, windows="all")
    with pytest.raises(ValueError, match="length in seconds; got 0"):
        SegmentPairCollator(extractor, 0)
