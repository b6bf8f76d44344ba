import numpy as np
import pytest
from scipy.special import expit, softmax
from transformers import EvalPrediction

from ecg_transformers.evaluation import (
    ChallengeWeights,
    challenge_score,
    make_compute_metrics,
    multilabel_metrics,
    regression_metrics,
    singlelabel_metrics,
)
from ecg_transformers.evaluation.trainer_metrics import logits_to_probabilities


def test_multi_label():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(np.float32)
    targets[:, 2] = 0
    targets[4, 0] = np.nan
    logits = rng.normal(size=(60, 3)).astype(np.float32) + targets.round()
    logits = np.nan_to_num(logits)
    thresholds = {"a": 0.4, "b": 0.6, "c": 0.5}
    weights = ChallengeWeights(("a", "b"), [[1, 0.5], [0.5, 1]])
    compute = make_compute_metrics(
        list("abc"),
        "multi_label_classification",
        thresholds,
        per_label=True,
        challenge_weights=weights,
        normal_class="a",
    )
    flat = compute(EvalPrediction(predictions=(logits, np.zeros(3)), label_ids=targets))
    probabilities = expit(logits.astype(np.float64))
    expected = multilabel_metrics(targets, probabilities, list("abc"), thresholds)
    assert flat["macro_auroc"] == pytest.approx(expected["macro_auroc"])
    assert flat["f1/b"] == pytest.approx(expected["per_label"]["b"]["f1"])
    assert flat["num_missing_labels"] == 1
    assert "auroc/c" not in flat
    score = challenge_score(targets, probabilities > [0.4, 0.6, 0.5], weights, list("abc"), "a")
    assert flat["challenge_score"] == pytest.approx(score)
    assert all(type(value) is float for value in flat.values())


def test_single_label():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, 50)
    logits = rng.normal(size=(50, 3)) * 40
    flat = make_compute_metrics(list("abc"), "single_label_classification")(
        EvalPrediction(predictions=logits, label_ids=targets)
    )
    expected = singlelabel_metrics(targets, softmax(logits, axis=1))
    assert flat["accuracy"] == expected["accuracy"]
    assert flat["macro_auroc"] == pytest.approx(expected["macro_auroc"])


def test_regression():
    targets, predictions = np.array([1.0, 2.0, 4.0]), np.array([[1.5], [2.0], [3.0]])
    compute = make_compute_metrics(["age"], "regression", per_label=True)
    flat = compute(EvalPrediction(predictions=predictions, label_ids=targets))
    assert flat["mae"] == flat["mae/age"] == 0.5
    assert flat["r2"] == regression_metrics(targets, predictions[:, 0])["r2"]


def test_macro_key_exists_when_every_label_is_missing():
    compute = make_compute_metrics(["a"], "multi_label_classification")
    flat = compute(EvalPrediction(predictions=np.zeros((2, 1)), label_ids=np.ones((2, 1))))
    assert np.isnan(flat["macro_auroc"])


def test_probabilities_of_extreme_logits():
    logits = np.array([[-800.0, -30.0, 0.0, 30.0, 800.0]])
    probabilities = logits_to_probabilities(logits, "multi_label_classification")
    np.testing.assert_allclose(probabilities, expit(logits), rtol=1e-12)
    single = logits_to_probabilities(logits, "single_label_classification")
    np.testing.assert_allclose(single, [[0, 0, 0, 0, 1]], atol=1e-12)
    with pytest.raises(ValueError, match="no probabilities"):
        logits_to_probabilities(logits, "regression")


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="must be one of"):
        make_compute_metrics(["a"], "multilabel")
    with pytest.raises(ValueError, match="defined for multi-label"):
        make_compute_metrics(["a"], "regression", challenge_weights=ChallengeWeights(("a",), [[1]]))
    with pytest.raises(ValueError, match="shape"):
        compute = make_compute_metrics(["a", "b"], "multi_label_classification")
        compute(EvalPrediction(predictions=np.zeros((2, 3)), label_ids=np.zeros((2, 2))))
