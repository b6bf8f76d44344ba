"""The tiny Hybrid ECG of the checks that every model goes through."""

import pytest
import torch

from ecg_transformers import HybridECGConfig, HybridECGForPreTraining

# Sixteen patches, and a rest
SAMPLES = 131
TOKENS = 16
PATCH = 8

LAYOUTS = ("all_leads", "per_lead")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_pooling = pytest.mark.parametrize("pooling", ["cls", "mean"])


def config(**overrides):
    settings = {
        "patch_size": PATCH,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "decoder_hidden_size": 12,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 24,
        "projection_size": 8,
        "num_labels": 3,
        "problem_type": "multi_label_classification",
    }
    return HybridECGConfig(**{**settings, **overrides})


def inputs(records, padded=False):
    generator = torch.Generator().manual_seed(1)
    values = {
        "input_values": torch.randn(records, 12, SAMPLES, generator=generator),
        "view_values": torch.randn(records, 2, 12, SAMPLES, generator=generator),
    }
    if padded:
        mask = torch.ones(records, SAMPLES, dtype=torch.long)
        mask[:, SAMPLES // 2 :] = 0
        values["attention_mask"] = mask
        mask = torch.ones(records, 2, SAMPLES, dtype=torch.long)
        mask[::2, 1, SAMPLES // 2 :] = 0
        values["view_attention_mask"] = mask
    return values


def build(model_class=HybridECGForPreTraining, seed=0, **overrides):
    torch.manual_seed(seed)
    return model_class(config(**overrides)).eval()


def batch(records=4, padded=False, absent=()):
    values = inputs(records, padded)
    for row, lead in absent:
        values["input_values"][row, lead] = 0.7
        values["view_values"][row, :, lead] = -0.2
    return values


def labels(auto_class, records):
    generator = torch.Generator().manual_seed(2)
    if auto_class == "AutoModelForPreTraining":
        return {"noise": torch.rand(records, TOKENS, generator=generator)}
    return torch.randint(0, 2, (records, 3), generator=generator).float()


SETTINGS = {
    "config": config,
    "inputs": inputs,
    "labels": labels,
    "deterministic": {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0},
    # Views are told from those of the same batch
    "additive": {"AutoModelForPreTraining": {"contrastive_loss_weight": 0.0}},
    "joint_outputs": ("loss", "reconstruction_loss", "contrastive_loss"),
    "wrong": [
        ({"num_leads": 0}, "num_leads"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 12.5}, "patch_size"),
        ({"patch_layout": "columns"}, "patch_layout"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"decoder_num_attention_heads": 5}, "decoder_num_attention_heads"),
        ({"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers"),
        ({"hidden_act": "rectangle"}, "hidden_act"),
        ({"layer_norm_eps": -1}, "layer_norm_eps"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps"),
        ({"initializer_range": -1}, "initializer_range"),
        ({"initializer_range": float("nan")}, "initializer_range"),
        ({"residual_initializer_scale": 0}, "residual_initializer_scale"),
        ({"hidden_dropout": -0.1}, "hidden_dropout"),
        ({"attention_dropout": 1.5}, "attention_dropout"),
        ({"pooling": "max"}, "pooling"),
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_strategy": "blocks"}, "mask_strategy"),
        ({"mask_strategy": "lead"}, "patch_layout"),
        ({"mask_span_length": 0}, "mask_span_length"),
        ({"mask_short_span_length": 6}, "mask_short_span_length"),
        ({"mask_long_span_share": 1.1}, "mask_long_span_share"),
        ({"normalize_targets": "yes"}, "normalize_targets"),
        ({"reconstruction_loss_weight": -1.0}, "reconstruction_loss_weight"),
        ({"contrastive_loss_weight": "0.1"}, "contrastive_loss_weight"),
        ({"reconstruction_loss_weight": 0, "contrastive_loss_weight": 0}, "contrastive_loss_weight"),
        ({"reconstruction_loss_weight": float("inf")}, "reconstruction_loss_weight"),
        ({"contrastive_loss_weight": float("inf")}, "contrastive_loss_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"projection_size": 0}, "projection_size"),
        ({"classifier_head": "quadratic"}, "classifier_head"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
        ({"classifier_dropout": 1.1}, "classifier_dropout"),
        ({"pos_weight": [1.0, -1.0, 1.0]}, "pos_weight"),
        ({"pos_weight": [1.0, float("inf"), 1.0]}, "pos_weight"),
    ],
    "fields": frozenset(
        """attention_dropout classifier_dropout classifier_head classifier_hidden_size contrastive_loss_weight
        decoder_hidden_size decoder_intermediate_size decoder_num_attention_heads decoder_num_hidden_layers hidden_act
        hidden_dropout hidden_size id2label initializer_range intermediate_size label2id layer_norm_eps
        mask_long_span_share mask_ratio mask_short_span_length mask_span_length mask_strategy model_type
        normalize_targets num_attention_heads num_hidden_layers num_leads patch_layout patch_size pooling pos_weight
        problem_type projection_size reconstruction_loss_weight residual_initializer_scale
        temperature transformers_version""".split()
    ),
}
