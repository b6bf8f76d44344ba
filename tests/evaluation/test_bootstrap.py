import json
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecg_transformers.evaluation import (
    bootstrap_intervals,
    bootstrap_statistic,
    per_label_metrics,
    regression_metrics,
    singlelabel_metrics,
)

SCORES = ("auroc", "auprc", "f1", "recall", "precision", "specificity")


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "hubert_ecg" / "metrics"
    return np.load(folder / "inputs.npz"), json.loads((folder / "expected.json").read_text())


def random_problem(seed=0, records=120, labels=4):
    rng = np.random.default_rng(seed)
    targets = (rng.random((records, labels)) < 0.3).astype(float)
    probabilities = np.round(np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1), 2)
    return targets, probabilities


def limits(interval, side):
    return np.array([row[side] for row in interval["per_label"].values()], dtype=float)


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_golden_percentile_interval(case, side):
    inputs, expected = case
    intervals = bootstrap_intervals(
        inputs["labels"], inputs["probabilities"], indices=inputs["bootstrap_indices"], level=0.95
    )
    for name in SCORES:
        np.testing.assert_allclose(
            limits(intervals[name], side), expected["bootstrap"]["per_label"][name][side], atol=1e-5
        )
        macro = expected["bootstrap"]["macro"][name][side]
        assert intervals[name]["macro"][side] == pytest.approx(macro, abs=1e-5)


def test_golden_empirical_bootstrap_is_the_basic_method(case):
    inputs, expected = case
    intervals = bootstrap_intervals(
        inputs["labels"], inputs["probabilities"], indices=inputs["bootstrap_indices"], method="basic"
    )
    for name, sides in expected["bootstrap"]["true_empirical_bootstrap_for_comparison"]["per_label"].items():
        for side, values in sides.items():
            np.testing.assert_allclose(limits(intervals[name], side), values, atol=1e-5)


@pytest.mark.parametrize("undefined", ["missing", "zero"])
def test_all_at_once_equals_a_loop_over_resamples(undefined):
    targets, probabilities = random_problem()
    targets[::7, 1] = np.nan
    targets[:, 3] = 0
    # Two positives: some resamples hold none of them.
    targets[:2, 3] = 1
    indices = np.random.default_rng(5).integers(0, len(targets), (60, 90))
    samples = [per_label_metrics(targets[rows], probabilities[rows], undefined=undefined) for rows in indices]
    intervals = bootstrap_intervals(targets, probabilities, indices=indices, level=0.9, undefined=undefined)
    for name in SCORES:
        values = np.array([sample[name] for sample in samples])
        np.testing.assert_allclose(limits(intervals[name], "lower"), np.nanquantile(values, 0.05, axis=0), atol=1e-12)
        np.testing.assert_allclose(limits(intervals[name], "upper"), np.nanquantile(values, 0.95, axis=0), atol=1e-12)
        np.testing.assert_array_equal(limits(intervals[name], "num_resamples"), (~np.isnan(values)).sum(axis=0))
        macro = np.nanmean(values, axis=1)
        assert intervals[name]["macro"]["lower"] == pytest.approx(np.quantile(macro, 0.05), abs=1e-12)
    if undefined == "missing":
        assert intervals["auroc"]["per_label"]["label_3"]["num_resamples"] < 60


def test_areas_of_resamples_equal_scikit_learn():
    targets, probabilities = random_problem(2)
    indices = np.random.default_rng(6).integers(0, len(targets), (1, len(targets)))
    intervals = bootstrap_intervals(targets, probabilities, ["auroc", "auprc"], indices=indices)
    rows = indices[0]
    for label in range(targets.shape[1]):
        drawn = targets[rows, label], probabilities[rows, label]
        assert limits(intervals["auroc"], "lower")[label] == pytest.approx(roc_auc_score(*drawn), abs=1e-12)
        assert limits(intervals["auprc"], "upper")[label] == pytest.approx(average_precision_score(*drawn), abs=1e-12)


def test_seed_fixes_the_resamples_and_results_are_json():
    targets, probabilities = random_problem()
    first = bootstrap_intervals(targets, probabilities, "auroc", num_resamples=50, seed=1)
    assert first == bootstrap_intervals(targets, probabilities, "auroc", num_resamples=50, seed=1)
    assert first != bootstrap_intervals(targets, probabilities, "auroc", num_resamples=50, seed=2)
    json.dumps(first, allow_nan=False)


def test_missing_label_has_no_interval():
    targets, probabilities = random_problem()
    targets[:, 0] = 1
    interval = bootstrap_intervals(targets, probabilities, "auroc", num_resamples=20)["auroc"]
    assert interval["per_label"]["label_0"] == {"value": None, "lower": None, "upper": None, "num_resamples": 0}
    assert interval["macro"]["lower"] is not None


def test_interval_width_is_that_of_the_standard_error():
    # Recall of 1000 positives at 0.8: standard error sqrt(0.8 * 0.2 / 1000), 1.96 of them on each side.
    targets = np.ones((2000, 1))
    targets[1000:] = 0
    probabilities = np.full((2000, 1), 0.1)
    probabilities[:800] = 0.9
    interval = bootstrap_intervals(targets, probabilities, "recall", num_resamples=4000)["recall"]["macro"]
    expected = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert interval["upper"] - interval["lower"] == pytest.approx(expected, rel=0.06)


def test_whole_patients_are_drawn():
    # Ten copies of each record: drawn record by record the interval is too narrow by sqrt(10).
    targets, probabilities = random_problem(records=60, labels=1)
    patients = np.repeat([f"patient {index}" for index in range(60)], 10)
    many = [np.repeat(array, 10, axis=0) for array in (targets, probabilities)]
    options = {"num_resamples": 2000}
    single = bootstrap_intervals(targets, probabilities, "auroc", **options)["auroc"]["macro"]
    grouped = bootstrap_intervals(*many, "auroc", groups=patients, **options)["auroc"]["macro"]
    ungrouped = bootstrap_intervals(*many, "auroc", **options)["auroc"]["macro"]

    def width(interval):
        return interval["upper"] - interval["lower"]

    assert width(grouped) == pytest.approx(width(single), rel=0.1)
    assert width(ungrouped) < 0.5 * width(grouped)


def test_strata_keep_their_size():
    targets, probabilities = random_problem(records=40, labels=2)
    strata = np.arange(40) % 3

    def sizes(drawn):
        return np.bincount(drawn, minlength=3).astype(float)

    result = bootstrap_statistic(sizes, strata, num_resamples=20, stratify=strata)
    np.testing.assert_array_equal(result["lower"], sizes(strata))
    np.testing.assert_array_equal(result["upper"], sizes(strata))
    intervals = bootstrap_intervals(targets, probabilities, "recall", stratify=True, num_resamples=30)
    assert all(row["num_resamples"] == 30 for row in intervals["recall"]["per_label"].values())


def test_many_records_go_through_in_blocks():
    rng = np.random.default_rng(0)
    targets = (rng.random((30_000, 1)) < 0.3).astype(float)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1)
    interval = bootstrap_intervals(targets, probabilities, "auroc", num_resamples=40)["auroc"]["macro"]
    assert interval["num_resamples"] == 40
    assert interval["lower"] < interval["value"] < interval["upper"]


def test_a_thousand_resamples_take_seconds():
    targets, probabilities = random_problem(records=2000, labels=26)
    start = time.perf_counter()
    bootstrap_intervals(targets, probabilities)
    # About 0.4 s on one core; a loop over scikit-learn takes minutes.
    assert time.perf_counter() - start < 10


def test_single_label_targets():
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 3, 90).astype(float)
    probabilities = rng.dirichlet(np.ones(3), 90) * 0.5 + 0.5 * np.eye(3)[targets.astype(int)]
    targets[:5] = -100
    intervals = bootstrap_intervals(targets, probabilities, label_names=list("abc"), num_resamples=30)
    scores = singlelabel_metrics(targets, probabilities, list("abc"))
    for name in SCORES:
        assert intervals[name]["macro"]["value"] == pytest.approx(scores[f"macro_{name}"])
        assert intervals[name]["per_label"]["b"]["value"] == pytest.approx(scores["per_label"]["b"][name])


def test_statistic_of_any_kind():
    rng = np.random.default_rng(7)
    targets = rng.normal(60, 10, 80)
    predictions = targets + rng.normal(0, 5, 80)
    result = bootstrap_statistic(lambda t, p: regression_metrics(t, p)["mae"], targets, predictions, num_resamples=200)
    error = np.abs(targets - predictions)
    half_width = 1.96 * error.std() / np.sqrt(80)
    assert result["lower"] == pytest.approx(error.mean() - half_width, abs=0.3 * half_width)
    assert result["upper"] == pytest.approx(error.mean() + half_width, abs=0.3 * half_width)
    missing = bootstrap_statistic(lambda t: None, targets, num_resamples=5)
    assert missing == {"value": None, "lower": None, "upper": None, "num_resamples": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "accuracy"}, "Unknown metrics"),
        ({"metrics": []}, "Unknown metrics"),
        ({"num_resamples": 0}, "at least 1"),
        ({"level": 95}, "coverage between 0 and 1"),
        ({"method": "bca"}, "'percentile' or 'basic'"),
        ({"indices": np.zeros((2, 3))}, "whole numbers"),
        ({"indices": np.full((2, 3), 120)}, r"lie in 0\.\.119"),
        ({"indices": np.zeros((2, 3), int), "groups": np.zeros(120)}, "pass either"),
        ({"groups": np.zeros(3)}, "one patient per record"),
        ({"groups": [None, *map(str, range(119))]}, "no patient for 1 of 120"),
        ({"groups": [np.nan, *range(119)]}, "no patient for 1 of 120"),
        ({"stratify": np.zeros(3)}, "one stratum per record"),
        ({"stratify": True, "groups": np.arange(120) // 10}, "several strata"),
    ],
)
def test_bad_options_are_explained(options, message):
    targets, probabilities = random_problem()
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(targets, probabilities, **options)


def test_statistic_wants_arrays_of_equal_length():
    with pytest.raises(ValueError, match="same number of records"):
        bootstrap_statistic(np.mean, np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least one array"):
        bootstrap_statistic(np.mean)
