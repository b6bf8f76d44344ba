"""The tiny DeepECG-SL of the checks that every model goes through."""

import torch
from torch import nn

from ecg_transformers import DeepECGSLConfig

SAMPLES = 320


def config(**overrides):
    settings = {
        "stem_channels": 4,
        "stage_blocks": ["fused", "fused", "depthwise", "depthwise"],
        "stage_channels": [4, 6, 6, 8],
        "stage_depths": [2, 1, 2, 2],
        "stage_kernels": [3, 5, 3, 5],
        "stage_strides": [1, 2, 2, 2],
        "stage_expansions": [1, 1, 3, 6],
        "stage_squeeze_ratios": [4, 2, 4, 3],
        "hidden_size": 16,
        "num_labels": 3,
        "problem_type": "multi_label_classification",
    }
    return DeepECGSLConfig(**{**settings, **overrides})


def inputs(records, padded=False):
    generator = torch.Generator().manual_seed(1)
    values = {"input_values": torch.randn(records, 12, SAMPLES, generator=generator)}
    if padded:
        mask = torch.ones(records, SAMPLES, dtype=torch.long)
        mask[:, SAMPLES // 2 :] = 0
        values["attention_mask"] = mask
    return values


def labels(auto_class, records):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 2, (records, 3), generator=generator).float()


def hold_batch_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
            module.train = lambda mode=True, module=module: module


SETTINGS = {
    "config": config,
    "inputs": inputs,
    "labels": labels,
    "deterministic": {"drop_path_rate": 0.0, "classifier_dropout": 0.0},
    "wrong": [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"num_leads": 0}, "num_leads"),
        ({"stem_channels": 0}, "stem_channels"),
        ({"stem_kernel": 4}, "stem_kernel"),
        ({"stem_stride": 0}, "stem_stride"),
        ({"stage_blocks": ["fused", "dense", "depthwise", "depthwise"]}, "stage_blocks"),
        ({"stage_channels": [4, 6, 6]}, "stage_channels"),
        ({"stage_channels": [4, 0, 6, 8]}, "stage_channels"),
        ({"stage_depths": [2, 1, 2, 0]}, "stage_depths"),
        ({"stage_depths": 2}, "stage_depths"),
        ({"stage_kernels": [3, 4, 3, 3]}, "stage_kernels"),
        ({"stage_strides": [0, 2, 2, 2]}, "stage_strides"),
        ({"stage_expansions": [6, 1, 3, 6]}, "stage_expansions"),
        ({"stage_squeeze_ratios": [5, 2, 4, 3]}, "stage_squeeze_ratios"),
        ({"stage_squeeze_ratios": [4, 2, -1, 3]}, "stage_squeeze_ratios"),
        ({"hidden_act": "rectangle"}, "hidden_act"),
        ({"batch_norm_eps": 0.0}, "batch_norm_eps"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"initializer_range": -1.0}, "initializer_range"),
        ({"classifier_head": "quadratic"}, "classifier_head"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
        ({"classifier_dropout": 1.1}, "classifier_dropout"),
        ({"pos_weight": [1.0, -1.0, 1.0]}, "pos_weight"),
    ],
    "fields": frozenset(
        """batch_norm_eps classifier_dropout classifier_head classifier_hidden_size drop_path_rate hidden_act
        hidden_size id2label initializer_range label2id model_type num_leads pos_weight problem_type stage_blocks
        stage_channels stage_depths stage_expansions stage_kernels stage_squeeze_ratios stage_strides stem_channels
        stem_kernel stem_stride transformers_version""".split()
    ),
    "has_attention": False,
    "token_dim": 2,
    "hold_batch_statistics": hold_batch_statistics,
}
