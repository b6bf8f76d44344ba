import warnings

import numpy as np
import pytest

from ecg_transformers.evaluation import ChallengeWeights, challenge_score, per_label_metrics, select_thresholds


def random_problem(seed=0, records=150, labels=4):
    rng = np.random.default_rng(seed)
    targets = (rng.random((records, labels)) < 0.3).astype(float)
    probabilities = np.round(np.clip(rng.normal(0.2 + 0.2 * targets, 0.15), 0, 1), 2)
    return targets, probabilities


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion", ["f1", "youden"])
def test_no_threshold_is_better(criterion, seed):
    targets, probabilities = random_problem(seed)
    targets[::9, 0] = np.nan

    def value(thresholds):
        scores = per_label_metrics(targets, probabilities, thresholds)
        return scores["f1"] if criterion == "f1" else scores["recall"] + scores["specificity"] - 1

    chosen = value(select_thresholds(targets, probabilities, criterion))
    for threshold in np.arange(-0.005, 1, 0.01).clip(0):
        assert (chosen >= value(threshold) - 1e-12).all()


def test_one_class_labels_get_one_half_and_are_named():
    targets, probabilities = random_problem()
    targets[:, 1] = 0
    targets[:, 2] = np.where(targets[:, 2] == 1, 1, np.nan)
    with pytest.warns(UserWarning, match="2 labels do not have both classes.*0.5: b, c"):
        thresholds = select_thresholds(targets, probabilities, label_names=list("abcd"))
    assert thresholds[1] == thresholds[2] == 0.5


def test_equally_good_cuts_take_the_one_nearest_one_half():
    targets = [[0], [0], [1], [1]]
    assert select_thresholds(targets, [[0.0], [0.2], [0.9], [1.0]])[0] == pytest.approx(0.55)
    # No cut separates equal probabilities, and at 0 none is above any threshold.
    assert select_thresholds(targets, [[0.0]] * 4)[0] == 0.5
    assert select_thresholds([[0], [1]], [[0.3], [0.3]])[0] < 0.3


def test_neighbouring_floats_are_separated():
    low = 0.3
    high = np.nextafter(low, 1)
    threshold = select_thresholds([[0], [1]], [[low], [high]])[0]
    assert low <= threshold < high


def test_challenge_thresholds_beat_the_others_and_are_locally_best():
    targets, probabilities = random_problem(1, labels=5)
    names = list("abcde")
    rng = np.random.default_rng(2)
    values = rng.uniform(0, 0.5, (4, 4))
    np.fill_diagonal(values, 1)
    weights = ChallengeWeights(("a", "b|e", "c", "normal"), values)

    def score(thresholds):
        return challenge_score(targets, probabilities > thresholds, weights, names, "normal")

    chosen = select_thresholds(targets, probabilities, "challenge", label_names=names, challenge_weights=weights)
    by_f1 = select_thresholds(targets, probabilities, "f1", label_names=names)
    assert chosen[3] == by_f1[3]
    assert score(chosen) > score(by_f1)
    for label in range(5):
        for threshold in np.arange(0.005, 1, 0.01):
            other = chosen.copy()
            other[label] = threshold
            assert score(other) <= score(chosen) + 1e-9


def test_bad_input_is_explained():
    targets, probabilities = random_problem()
    with pytest.raises(ValueError, match="'f1', 'youden' or 'challenge'"):
        select_thresholds(targets, probabilities, "gmean")
    with pytest.raises(ValueError, match="needs `challenge_weights`"):
        select_thresholds(targets, probabilities, "challenge")
    with pytest.raises(ValueError, match="between 0 and 1"):
        select_thresholds(targets, probabilities + 1)


def test_no_warning_when_all_labels_have_both_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_thresholds(*random_problem())
