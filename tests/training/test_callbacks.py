import types

import pytest
import torch
from torch import nn

from ecg_transformers.training import DynamicRegularizerCallback
from ecg_transformers.training.callbacks import dropout_settings


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = 0.0
        self.weight = nn.Parameter(torch.ones(2, 2))


@pytest.fixture
def run():
    model = nn.Sequential(nn.Dropout(0.1), Attention())
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[1].weight], "weight_decay": 0.01, "decays": True},
            {"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0, "decays": False},
        ]
    )
    return {"model": model, "optimizer": optimizer}


ARGUMENTS = types.SimpleNamespace(weight_decay=0.01)


def evaluate(callback, run, *losses):
    for loss in losses:
        callback.on_evaluate(ARGUMENTS, None, None, metrics={"eval_loss": loss}, **run)
    decay = [group["weight_decay"] for group in run["optimizer"].param_groups]
    return decay, run["model"][0].p, run["model"][1].dropout


def test_penalties_and_rewards(run):
    callback = DynamicRegularizerCallback()
    callback.on_train_begin(ARGUMENTS, None, None, **run)
    # A first evaluation improves on nothing; values at or below their floor stay.
    assert evaluate(callback, run, 1.0) == ([0.01, 0.0], 0.1, 0.0)
    # Less than 1e-3 better is a penalty.
    decay, first, second = evaluate(callback, run, 0.9995)
    assert decay == pytest.approx([0.05, 0.0]) and (first, second) == pytest.approx((0.15, 0.05))
    decay, first, second = evaluate(callback, run, 1.2, 1.1, 1.0, 1.0)
    assert decay == pytest.approx([0.25, 0.0]) and (first, second) == pytest.approx((0.3, 0.25))
    decay, first, second = evaluate(callback, run, 0.5)
    assert decay == pytest.approx([0.05, 0.0]) and (first, second) == pytest.approx((0.25, 0.2))
    decay, first, second = evaluate(callback, run, 0.4, 0.3, 0.2, 0.1)
    assert decay == pytest.approx([0.01, 0.0]) and (first, second) == pytest.approx((0.1, 0.1))


def test_state_survives_a_checkpoint(run):
    callback = DynamicRegularizerCallback(dropout_step=0.1)
    callback.on_train_begin(ARGUMENTS, None, None, **run)
    evaluate(callback, run, 1.0, 1.0)
    state = callback.state()
    fresh = nn.Sequential(nn.Dropout(0.1), Attention())
    restored = DynamicRegularizerCallback.from_state(state)
    restored.on_train_begin(ARGUMENTS, None, None, model=fresh, optimizer=run["optimizer"])
    assert fresh[0].p == pytest.approx(0.2) and fresh[1].dropout == pytest.approx(0.1)
    assert restored.state() == state


def test_all_dropout_of_a_model_is_found(tiny_overrides):
    from ecg_transformers import HubertECGConfig, HubertECGForSequenceClassification
    from ecg_transformers.training.run_arguments import parse_overrides

    config = HubertECGConfig(**parse_overrides(tiny_overrides), attention_dropout=0.3, hidden_dropout=0.2)
    settings = {name: get() for name, get, _ in dropout_settings(HubertECGForSequenceClassification(config))}
    assert settings["hubert_ecg.encoder.layers.0.attention"] == 0.3
    assert settings["hubert_ecg.encoder.layers.1.dropout"] == 0.2 and settings["dropout"] == 0.1
