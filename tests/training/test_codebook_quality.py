import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from ecg_transformers import ECGRecord
from ecg_transformers.training import Codebook
from ecg_transformers.training.codebook_quality import (
    effective_codes,
    measure_clusters,
    measure_purity,
    shard_classes,
)


def test_effective_codes():
    assert effective_codes(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert effective_codes(np.array([7, 0, 0])) == pytest.approx(1)
    assert effective_codes(np.array([1, 1, 2])) == pytest.approx(2**1.5)


def test_clusters_are_scored_on_a_sample():
    random = np.random.default_rng(0)
    which = random.integers(3, size=500)
    rows = np.eye(4)[which] + 0.05 * random.normal(size=(500, 4))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = measure_clusters(Codebook(torch.eye(4), inertia=0.01), rows)
    assert found["silhouette"] == pytest.approx(silhouette_score(rows, which), abs=1e-6) and found["silhouette"] > 0.8
    assert found["unused_codes"] == 1 and found["effective_codes"] == pytest.approx(3, abs=0.05)
    assert found["rows"] == 500 and found["inertia"] == 0.01
    one = measure_clusters(Codebook(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])), rows[which == 0])
    assert one["silhouette"] is None and one["unused_codes"] == 1


def test_purity():
    codes = np.array([0, 0, 0, 1, 1, 2, 2, 0])
    classes = np.array([1, 1, 0, 2, 2, 0, -1, -1])
    found = measure_purity(codes, classes, ["a", "b", "c"], 4)
    assert found["table"] == [[1, 2, 0], [0, 0, 2], [1, 0, 0], [0, 0, 0]]
    assert found["shards"] == 6 and found["purity"] == pytest.approx(5 / 6)
    assert found["most_frequent_class"] == pytest.approx(2 / 6)
    assert 0 < found["normalized_mutual_information"] < 1
    assert measure_purity(classes, classes, ["a", "b", "c"], 3)["purity"] == 1


def test_class_in_the_middle_of_a_shard():
    """A wave in lead II of a record at 250 Hz with two leads: shards 7.75 to 15.5 lie in the second lead."""
    record = ECGRecord(np.zeros((2, 1500), np.float32), 250, ["V1", "II"])
    marks = [{"lead": "II", "wave": "QRS", "onset": 0, "peak": 5, "offset": 249}]
    marks.append({"lead": "II", "wave": "T", "onset": 250, "peak": 260, "offset": 1499})
    found = shard_classes({"ecg": record, "delineation": marks}, "delineation")
    # Sample 32 of shard j is sample 64 j + 32 of the leads end to end, 496 each, that begin at 0.02 s
    seconds = (64 * np.arange(93) + 32 - 496 + 2) / 100
    inside = (64 * np.arange(93) + 32) // 496 == 1
    assert (found[~inside] == -1).all()
    assert (found[inside] == np.where(seconds[inside] < 1, 2, 3)).all() and 2 in found and 3 in found


def test_beats_count_in_all_leads():
    record = ECGRecord(np.zeros((2, 1000), np.float32), 200, ["II", "V5"])
    beats = [{"sample": sample, "symbol": "V", "aami": "V"} for sample in range(0, 1000, 100)]
    found = shard_classes({"ecg": record, "beats": beats}, "beats")
    rows = (64 * np.arange(93) + 32) // 496
    assert set(found[(rows == 1) | (rows == 10)]) == {2} and set(found[(rows != 1) & (rows != 10)]) == {-1}
