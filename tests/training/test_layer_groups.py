import pytest
import torch
from torch import nn

from ecg_transformers import (
    DeepECGSLConfig,
    DeepECGSLForSequenceClassification,
    HubertECGConfig,
    HubertECGForSequenceClassification,
    HybridECGConfig,
    HybridECGForSequenceClassification,
)
from ecg_transformers.training import freeze_layers, layer_names, parameter_groups
from ecg_transformers.training.layer_groups import group_of_parameters
from ecg_transformers.training.run_arguments import parse_overrides


@pytest.fixture
def model(tiny_overrides):
    torch.manual_seed(0)
    return HubertECGForSequenceClassification(
        HubertECGConfig(**parse_overrides(tiny_overrides), num_labels=3, problem_type="multi_label_classification")
    )


def test_layers_are_listed_from_input_to_head(model):
    assert layer_names(model) == ["convolution", "projection", "positions", "layer.0", "layer.1", "head"]


def test_every_parameter_is_in_exactly_one_group(model):
    groups = parameter_groups(model, 1e-3, 0.01)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())


def test_learning_rate_falls_by_layer(model):
    groups = parameter_groups(model, 1e-3, 0.01, layerwise_lr_decay=0.5)
    rates = {group["layer"]: group["lr"] for group in groups}
    assert groups[0]["layer"] == "head"
    assert rates == pytest.approx(
        {"head": 1e-3, "layer.1": 5e-4, "layer.0": 2.5e-4, "positions": 1.25e-4, "projection": 6.25e-5}
        | {"convolution": 3.125e-5}
    )


def test_weight_decay_spares_biases_norms_and_gains(model):
    decayed = {id(p) for group in parameter_groups(model, 1e-3, 0.01) if group["decays"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names
    assert not any("norm" in name or name.endswith(("bias", "original0")) for name in names)
    assert any(name.endswith("original1") for name in names)
    for group in parameter_groups(model, 1e-3, 0.01):
        assert group["weight_decay"] == (0.01 if group["decays"] else 0.0)


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, ["convolution"]),
        ({"train_convolution": True}, []),
        ({"freeze_encoder": True}, ["convolution", "projection", "positions", "layer.0", "layer.1"]),
        ({"unfreeze_last": 1}, ["convolution", "projection", "positions", "layer.0"]),
        ({"unfreeze_last": 0}, ["convolution", "projection", "positions", "layer.0", "layer.1"]),
    ],
)
def test_freezing(model, options, frozen):
    assert freeze_layers(model, **options) == frozen
    groups = group_of_parameters(model)
    model.config.mask_time_prob = 0.0
    for name, parameter in model.named_parameters():
        if not name.endswith("masked_spec_embed"):
            assert parameter.requires_grad == (groups[name] not in frozen), name


def test_freezing_more_layers_than_there_are(model):
    with pytest.raises(ValueError, match="model has 2 layers"):
        freeze_layers(model, unfreeze_last=3)


def test_mask_vector_is_frozen_without_masking(model):
    model.config.mask_time_prob = 0.0
    freeze_layers(model, train_convolution=True)
    vectors = [p for name, p in model.named_parameters() if name.endswith("masked_spec_embed")]
    assert not any(p.requires_grad for p in vectors)


def test_nothing_to_train(model):
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(model, 1e-3, 0.01)


def test_unknown_model_type_has_encoder_and_head():
    class Other(nn.Module):
        base_model_prefix = "body"

        def __init__(self):
            super().__init__()
            self.body, self.top = nn.Linear(2, 2), nn.Linear(2, 1)
            self.config = type("Config", (), {"model_type": "other"})()

    assert layer_names(Other()) == ["encoder", "head"]


def test_the_layers_of_a_convolutional_network():
    config = DeepECGSLConfig(stage_depths=[1] * 6, num_labels=2, problem_type="multi_label_classification")
    model = DeepECGSLForSequenceClassification(config)
    layers = [f"layer.{number}" for number in range(6)]
    assert layer_names(model) == ["stem", *layers, "final", "head"]
    assert freeze_layers(model) == []
    # What lies between the last layer and the head learns with it
    assert freeze_layers(model, unfreeze_last=2) == ["stem", *layers[:4]]
    assert freeze_layers(model, freeze_encoder=True) == ["stem", *layers, "final"]
    freeze_layers(model)
    decayed = {id(p) for group in parameter_groups(model, 1e-3, 0.01) if group["decays"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert "classifier.weight" in names and not any("norm" in name or name.endswith("bias") for name in names)


@pytest.mark.parametrize("layout", ["all_leads", "per_lead"])
def test_the_layers_of_a_vision_transformer(layout):
    config = HybridECGConfig.from_size("tiny", num_hidden_layers=3, patch_layout=layout, num_labels=2)
    model = HybridECGForSequenceClassification(config)
    layers = [f"layer.{number}" for number in range(3)]
    assert layer_names(model) == ["stem", *layers, "final", "head"]
    # Nothing is frozen unless asked for: the stem is a linear map of patches
    assert freeze_layers(model) == []
    assert freeze_layers(model, unfreeze_last=1) == ["stem", *layers[:2]]
    assert freeze_layers(model, freeze_encoder=True) == ["stem", *layers, "final"]
