import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecg_transformers.evaluation import PairedAUROC, bootstrap_intervals, bootstrap_statistic


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 3)) < 0.3).astype(float)
    targets[5, 1] = np.nan
    noise = rng.standard_normal((4, 120, 3))
    known = np.nan_to_num(targets)
    good, poor = known + noise[0], 0.3 * known + noise[1]
    return targets, {"good": good, "poor": poor, "several": 0.5 * known + noise[2:]}, np.repeat(np.arange(40), 3)


def macro(targets, scores):
    known = ~np.isnan(targets)
    return np.mean([roc_auc_score(t[k], s[k]) for t, s, k in zip(targets.T, scores.T, known.T, strict=True)])


def test_values_are_those_of_scikit_learn(data):
    targets, scores, groups = data
    compared = PairedAUROC(targets, scores, groups=groups, num_resamples=0)
    expected = {name: macro(targets, values) for name, values in scores.items() if name != "several"}
    expected["several"] = np.mean([macro(targets, run) for run in scores["several"]])
    for name, value in expected.items():
        assert compared.macro(name) == {
            "value": pytest.approx(value),
            "lower": None,
            "upper": None,
            "num_resamples": 0,
        }
    assert compared.difference("good", "poor")["value"] == pytest.approx(expected["good"] - expected["poor"])
    pairs = (("good", "poor"), ("several", "poor"))
    assert compared.difference_of_differences(*pairs)["value"] == pytest.approx(expected["good"] - expected["several"])


def test_intervals_are_those_of_the_bootstrap_module(data):
    targets, scores, groups = data
    compared = PairedAUROC(targets, scores, groups=groups, num_resamples=200, seed=3)
    probabilities = 1 / (1 + np.exp(-scores["good"]))
    expected = bootstrap_intervals(targets, probabilities, "auroc", groups=groups, num_resamples=200, seed=3)
    assert compared.macro("good") == pytest.approx(expected["auroc"]["macro"])


def test_the_interval_of_a_difference_is_paired(data):
    targets, scores, groups = data
    scores["equal"] = 2 * scores["good"] + 1
    compared = PairedAUROC(targets, scores, groups=groups, num_resamples=60)
    same = compared.difference("good", "equal")
    assert (same["value"], same["lower"], same["upper"]) == (0, 0, 0)
    expected = bootstrap_statistic(
        lambda t, a, b: macro(t, a) - macro(t, b),
        *(targets, scores["good"], scores["poor"]),
        groups=groups,
        num_resamples=60,
    )
    assert compared.difference("good", "poor") == pytest.approx(expected)


def test_labels_with_one_class_are_left_out(data):
    targets, scores, _ = data
    targets[:, 2] = 0
    compared = PairedAUROC(targets, scores, num_resamples=10, label_names=["a", "b", "c"])
    assert compared.per_label("good")["c"] is None
    assert compared.macro("good")["value"] == pytest.approx(macro(targets[:, :2], scores["good"][:, :2]))


def test_what_does_not_fit_is_refused(data):
    targets, scores, _ = data
    with pytest.raises(ValueError, match=r"'x' have shape \(120, 2\)"):
        PairedAUROC(targets, {"x": scores["good"][:, :2]})
    with pytest.raises(ValueError, match="NaN or infinity"):
        PairedAUROC(targets, {"x": scores["good"] * np.nan})
