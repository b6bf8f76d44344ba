import numpy as np
import pytest
import torch

from ecg_transformers.evaluation import aggregate_windows
from ecg_transformers.evaluation.trainer_metrics import logits_to_probabilities
from ecg_transformers.training import aggregate_logits

INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


@pytest.fixture
def logits():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("method", ["mean", "max"])
def test_multi_label_logits_are_those_of_combined_probabilities(logits, method):
    combined = aggregate_logits(logits, INDEX, method)
    expected = aggregate_windows(logits_to_probabilities(logits, "multi_label_classification"), INDEX, method)
    np.testing.assert_allclose(logits_to_probabilities(combined, "multi_label_classification"), expected, atol=1e-12)


def test_single_label_mean(logits):
    combined = aggregate_logits(logits, INDEX, "mean", "single_label_classification")
    expected = aggregate_windows(logits_to_probabilities(logits, "single_label_classification"), INDEX, "mean")
    np.testing.assert_allclose(logits_to_probabilities(combined, "single_label_classification"), expected, atol=1e-12)


def test_single_label_maximum_sums_to_one(logits):
    combined = aggregate_logits(logits, INDEX, "max", "single_label_classification")
    expected = aggregate_windows(logits_to_probabilities(logits, "single_label_classification"), INDEX, "max")
    probabilities = logits_to_probabilities(combined, "single_label_classification")
    np.testing.assert_allclose(probabilities, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)


def test_regression_values_are_averaged(logits):
    np.testing.assert_allclose(
        aggregate_logits(logits, INDEX, "mean", "regression"), aggregate_windows(logits.double(), INDEX), atol=1e-12
    )


def test_certain_predictions_keep_their_rank():
    combined = aggregate_logits(torch.tensor([[80.0], [80.0], [90.0], [90.0], [-90.0], [-90.0]]), INDEX // 1)
    assert combined.isfinite().all()
    one_window_each = aggregate_logits(torch.tensor([[80.0], [90.0], [-90.0]]), torch.arange(3))
    torch.testing.assert_close(one_window_each, torch.tensor([[80.0], [90.0], [-90.0]], dtype=torch.float64))


def test_unknown_method(logits):
    with pytest.raises(ValueError, match="'mean' or 'max'"):
        aggregate_logits(logits, INDEX, "median")
