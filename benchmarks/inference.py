"""Inference speed: records per second of every model, against a named alternative in the same run.

For D-BETA, DeepECG-SSL and DeepECG-SL the alternative is the original's formulation written out plainly in torch
(`plain_formulations.py`) in fp32, with the same weights; for HuBERT-ECG it is the model itself in fp32 with eager
attention. The largest difference to the alternative's output is printed too. A GPU is used when there is one.

    python benchmarks/inference.py                                   # everything, many minutes on a CPU
    python benchmarks/inference.py --models dbeta --skip compile
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from plain_formulations import PlainECGEncoder, PlainEfficientNet
from torch import nn
from transformers import PreTrainedConfig

import ecg_transformers as et
from ecg_transformers.registration import find_model

# name, attention, dtype, compiled
VARIANTS = (
    ("fp32 eager", "eager", torch.float32, False),
    ("fp32 SDPA", "sdpa", torch.float32, False),
    ("bf16 SDPA", "sdpa", torch.bfloat16, False),
    ("fp32 compile", "sdpa", torch.float32, True),
    ("bf16 compile", "sdpa", torch.bfloat16, True),
)


def hubert_ecg(size: str) -> tuple[PreTrainedConfig, nn.Module, None, tuple[int, ...]]:
    """Return configuration, model, plain alternative and shape of one input."""
    config = et.HubertECGConfig.from_size(size)
    return config, et.HubertECGModel(config), None, (6000,)


def dbeta(size: str) -> tuple[PreTrainedConfig, nn.Module, nn.Module, tuple[int, ...]]:
    """The ECG branch without its pooler."""
    from ecg_transformers.models.dbeta.convert_dbeta import rename_ecg_encoder

    config = et.DBetaConfig(ecg_only=True)
    model, plain = et.DBetaModel(config), PlainECGEncoder(depth=8, class_token=True)
    model.ecg_model.encoder.load_state_dict(rename_ecg_encoder(plain.state_dict()))
    return config, model, plain, (12, 5000)


def deepecg_ssl(size: str) -> tuple[PreTrainedConfig, nn.Module, nn.Module, tuple[int, ...]]:
    """The encoder."""
    from ecg_transformers.models.deepecg_ssl.convert_deepecg_ssl import rename_encoder

    config = et.DeepECGSSLConfig()
    model, plain = et.DeepECGSSLModel(config), PlainECGEncoder(depth=12, class_token=False)
    model.load_state_dict(rename_encoder(plain.state_dict()))
    return config, model, plain, (12, 2500)


def deepecg_sl(size: str) -> tuple[PreTrainedConfig, nn.Module, nn.Module, tuple[int, ...]]:
    """The network with its head."""
    raise NotImplementedError
