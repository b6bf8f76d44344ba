import json

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from ecg_transformers.evaluation import (
    auroc,
    average_precision,
    confusion_counts,
    multilabel_metrics,
    per_label_metrics,
    singlelabel_metrics,
)

SCORES = ("auroc", "auprc", "f1", "recall", "precision", "specificity")


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "hubert_ecg" / "metrics"
    return np.load(folder / "inputs.npz"), json.loads((folder / "expected.json").read_text())


def random_problem(seed, records=300, labels=6, decimals=2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((records, labels)) < rng.uniform(0.05, 0.6, labels)).astype(float)
    probabilities = np.clip(rng.normal(0.35 + 0.25 * targets, 0.2), 0, 1)
    return targets, np.round(probabilities, decimals)


def test_golden_point_estimates(case):
    inputs, expected = case
    scores = per_label_metrics(inputs["labels"], inputs["probabilities"])
    summary = multilabel_metrics(inputs["labels"], inputs["probabilities"])
    for name in SCORES:
        np.testing.assert_allclose(scores[name], expected["point_estimates"][name]["per_label"], atol=1e-5)
        assert summary[f"macro_{name}"] == pytest.approx(expected["point_estimates"][name]["macro"], abs=1e-5)


def test_golden_one_class_labels_agree_with_the_reference_when_asked(case):
    inputs, expected = case
    scores = per_label_metrics(inputs["edge_labels"], inputs["edge_probabilities"], undefined="zero")
    for name in SCORES:
        np.testing.assert_allclose(scores[name], expected["edge_point_estimates"][name]["per_label"], atol=1e-5)


def test_golden_one_class_labels_are_missing_by_default(case):
    inputs, expected = case
    # Deliberate difference: the reference scores labels 1 (no positive) and 2 (no negative) and averages them in.
    scores = per_label_metrics(inputs["edge_labels"], inputs["edge_probabilities"])
    for name in SCORES:
        assert scores[name][0] == pytest.approx(expected["edge_point_estimates"][name]["per_label"][0], abs=1e-5)
        assert np.isnan(scores[name][1:]).all()
    summary = multilabel_metrics(inputs["edge_labels"], inputs["edge_probabilities"], ["a", "b", "c"])
    assert summary["num_missing_labels"] == 2
    assert summary["missing_labels"] == ["b", "c"]
    assert summary["macro_auroc"] == pytest.approx(expected["edge_point_estimates"]["auroc"]["per_label"][0], abs=1e-5)
    assert summary["per_label"]["b"]["auroc"] is None
    assert summary["per_label"]["b"]["true_negatives"] == 26


@pytest.mark.parametrize("decimals", [1, 2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_scikit_learn_with_ties_and_unknown_targets(seed, decimals):
    targets, probabilities = random_problem(seed, decimals=decimals)
    unknown = np.random.default_rng(seed + 100).random(targets.shape) < 0.1
    targets[unknown] = np.nan
    thresholds = np.linspace(0.2, 0.7, targets.shape[1])
    scores = per_label_metrics(targets, probabilities, thresholds)
    for label in range(targets.shape[1]):
        known = ~unknown[:, label]
        true, score = targets[known, label], probabilities[known, label]
        decision = score > thresholds[label]
        expected = {
            "auroc": reference.roc_auc_score(true, score),
            "auprc": reference.average_precision_score(true, score),
            "f1": reference.f1_score(true, decision),
            "recall": reference.recall_score(true, decision),
            "precision": reference.precision_score(true, decision, zero_division=0),
            "specificity": reference.recall_score(true, decision, pos_label=0),
        }
        for name, value in expected.items():
            assert scores[name][label] == pytest.approx(value, abs=1e-12), name
        assert scores["num_unknown"][label] == unknown[:, label].sum()


def test_decision_is_strictly_above_the_threshold():
    counts = per_label_metrics([[1], [1], [0], [0]], [[0.5], [0.6], [0.5], [0.4]])
    assert counts["true_positives"].tolist() == [1]
    assert counts["false_positives"].tolist() == [0]


def test_never_predicted_label_scores_zero_and_stays_in_the_macro():
    summary = multilabel_metrics([[1, 1], [0, 0]], [[0.9, 0.4], [0.1, 0.3]])
    assert summary["per_label"]["label_1"]["precision"] == 0
    assert summary["macro_precision"] == 0.5


def test_thresholds_by_name_and_plain_result_is_json():
    targets, probabilities = random_problem(0, labels=2)
    targets[:, 1] = 0
    by_name = multilabel_metrics(targets, probabilities, ["a", "b"], {"b": 0.2, "a": 0.7})
    by_position = multilabel_metrics(targets, probabilities, ["a", "b"], [0.7, 0.2])
    assert by_name == by_position
    assert json.loads(json.dumps(by_name, allow_nan=False)) == by_name


def test_areas_take_logits_and_torch_tensors_of_low_precision():
    targets, probabilities = random_problem(1)
    logits = np.log(np.clip(probabilities, 1e-3, 1 - 1e-3) / (1 - np.clip(probabilities, 1e-3, 1 - 1e-3)))
    np.testing.assert_allclose(auroc(targets, logits), per_label_metrics(targets, probabilities)["auroc"], atol=2e-3)
    halved = torch.tensor(probabilities, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_allclose(
        average_precision(torch.tensor(targets), halved), average_precision(targets, halved.detach().double().numpy())
    )


def test_none_is_unknown():
    with_none = per_label_metrics([[1], [0], [None]], [[0.9], [0.2], [0.4]])
    assert with_none["auroc"].tolist() == [1.0]
    assert with_none["num_unknown"].tolist() == [1]


def test_all_unknown_label_is_missing():
    summary = multilabel_metrics([[np.nan, 1], [np.nan, 0]], [[0.9, 0.9], [0.1, 0.1]])
    assert summary["per_label"]["label_0"]["auroc"] is None
    assert summary["macro_auroc"] == 1.0
    only_missing = multilabel_metrics([[np.nan], [1]], [[0.9], [0.1]])
    assert only_missing["macro_auroc"] is None


def test_confusion_counts():
    counts = confusion_counts([[1, 0], [0, np.nan], [1, 1]], [[1, 1], [1, 1], [0, 1]])
    assert counts["true_positives"].tolist() == [1, 1]
    assert counts["false_positives"].tolist() == [1, 1]
    assert counts["false_negatives"].tolist() == [1, 0]
    assert counts["num_unknown"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("targets", "probabilities", "options", "message"),
    [
        ([[1, 0]], [[1.2, 0.1]], {}, "between 0 and 1.*sigmoid"),
        ([[1, 0]], [[-0.1, 0.1]], {}, "between 0 and 1"),
        ([[1, 0]], [[np.nan, 0.1]], {}, "finite"),
        ([[1, 0]], [[0.5]], {}, r"shape \(1, 1\)"),
        ([[2, 0]], [[0.5, 0.5]], {}, "0, 1 or NaN"),
        ([[0.5, 0]], [[0.5, 0.5]], {}, "0, 1 or NaN"),
        ([[1, 0], [1]], [[0.5, 0.5]], {}, "rectangular"),
        ([["yes", "no"]], [[0.5, 0.5]], {}, "rectangular array of numbers"),
        ([], [], {}, "empty"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), {}, "records, labels"),
        ([[1, 0]], [[0.5, 0.5]], {"label_names": ["a"]}, "need 2 names"),
        ([[1, 0]], [[0.5, 0.5]], {"label_names": ["a", "a"]}, "must differ"),
        ([[1, 0]], [[0.5, 0.5]], {"thresholds": [0.5]}, "one number or one per label"),
        ([[1, 0]], [[0.5, 0.5]], {"thresholds": 1.5}, "between 0 and 1"),
        ([[1, 0]], [[0.5, 0.5]], {"thresholds": {"label_0": 0.5}}, "No threshold for"),
        ([[1, 0]], [[0.5, 0.5]], {"undefined": "nan"}, "'missing'"),
    ],
)
def test_bad_input_is_explained(targets, probabilities, options, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics(targets, probabilities, **options)


def test_confusion_counts_want_decisions():
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        confusion_counts([[1]], [[0.7]])
    with pytest.raises(ValueError, match="finite"):
        confusion_counts([[1]], [[np.nan]])


def test_single_label_equals_scikit_learn():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 4, 200)
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    scores = singlelabel_metrics(targets, probabilities, list("abcd"))
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(targets, predicted))
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    assert scores["macro_auroc"] == pytest.approx(
        reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    )
    assert scores["confusion_matrix"] == reference.confusion_matrix(targets, predicted).tolist()
    assert scores["per_label"]["a"]["num_positives"] == (targets == 0).sum()


def test_single_label_leaves_out_unknown_records_and_counts_absent_classes():
    probabilities = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]]
    scores = singlelabel_metrics([0, 1, -100, np.nan], probabilities, ["a", "b", "c"])
    assert scores["num_records"] == 2
    assert scores["num_unknown"] == 2
    assert scores["accuracy"] == scores["balanced_accuracy"] == 1.0
    assert scores["missing_labels"] == ["c"]
    assert scores["per_label"]["a"]["threshold"] is None
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize(
    ("targets", "probabilities", "message"),
    [
        ([0, 3], [[0.5, 0.5], [0.5, 0.5]], "whole numbers from 0 to 1"),
        ([0, 0.5], [[0.5, 0.5], [0.5, 0.5]], "whole numbers"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "whole numbers"),
        ([0], [[0.9, 0.9]], "sum to 1.*softmax"),
        ([0], [[2.0, -1.0]], "Apply softmax"),
        ([0], [0.5], "classes >= 2"),
        ([-100], [[0.5, 0.5]], "Every single-label target is unknown"),
        ([0, 1], [[0.5, 0.5]], "same records"),
    ],
)
def test_bad_single_label_input_is_explained(targets, probabilities, message):
    with pytest.raises(ValueError, match=message):
        singlelabel_metrics(targets, probabilities)
