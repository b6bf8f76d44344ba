"""Model folders travel alone, so each holds the loss of its classifier; this keeps the copies the same."""

import inspect
import re

import pytest

from ecg_transformers.registration import MODELS, find_model

METHODS = ("_loss", "_problem_type", "_check_label_count")


def source(model_type: str, method: str) -> str:
    head = find_model(model_type).get_model_class("AutoModelForSequenceClassification")
    return re.sub(r"_masked_mean|_mean_of_known|joint_mean", "mean_of", inspect.getsource(getattr(head, method)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", [entry.model_type for entry in MODELS if entry.model_type != "hubert_ecg"])
def test_every_classifier_computes_the_same_loss(model_type, method):
    assert source(model_type, method) == source("hubert_ecg", method)
