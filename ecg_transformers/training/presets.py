"""Named settings that are known to work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .arguments import (
    CorpusArguments,
    DataArguments,
    EvaluationArguments,
    FinetuningArguments,
    ModelArguments,
    parse_finetuning_arguments,
)

if TYPE_CHECKING:
    from .augmentation_settings import AugmentationArguments
    from .hybrid_ecg_arguments import (
        HybridModelArguments,
        HybridPretrainingArguments,
        ViewArguments,
        ViewAugmentationArguments,
    )
    from .pretraining_arguments import PretrainingArguments, PretrainingModelArguments, ReportArguments

# A small HuBERT-ECG that learns the nine findings of the synthetic corpus from scratch in about a minute on two CPU
# cores. Its windows and tokens are those of the published sizes; only widths and depth are smaller.
DEMO_SETTINGS: dict[str, Any] = {
    "corpus": "synthetic",
    "corpus_options": ["num_patients=600", "records_per_patient=2"],
    "model_type": "hubert_ecg",
    "size": "tiny",
    "dropout": 0.0,
    "learning_rate": 4e-3,
    "num_train_epochs": 14,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "evaluate_untrained": True,
    "seed": 42,
    # One core computes, the other prepares batches: faster than two threads for a model this small.
    "cpu_threads": 1,
    "dataloader_num_workers": 1,
}

# A small D-BETA that learns in a few minutes on two CPU cores to name the nine findings of the synthetic corpus from
# its reports alone. The share of removed tokens is D-BETA's. Not D-BETA's: the weight of the contrastive loss, whose
# mean over all pairs of a batch is small beside the others; one statement of a report at a time; a quarter of the
# reports mismatched, not half, so that a batch has more matching pairs; few candidates, since the corpus has only some
# sixty different reports; no lead masking, with which so small a model learns more slowly.
DBETA_DEMO_SETTINGS: dict[str, Any] = {
    "corpus": "synthetic",
    "corpus_options": ["num_patients=600", "records_per_patient=2"],
    "size": "tiny",
    "config_overrides": "ets_loss_weight=30",
    "vocab_size": 300,
    "statements": "one",
    "negative_share": 0.25,
    "negative_candidates": 8,
    "lead_mask_probability": 0.0,
    "learning_rate": 3e-3,
    "max_steps": 800,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "eval_strategy": "steps",
    "eval_steps": 200,
    "metric_for_best_model": "ets_loss",
    "seed": 42,
    "cpu_threads": 1,
    "dataloader_num_workers": 1,
}
# What `--preset` of training_scripts/pretrain_dbeta.py knows.
DBETA_PRESETS = {"demo": DBETA_DEMO_SETTINGS}

# A small Hybrid ECG that learns from the synthetic corpus without labels in a few minutes on two CPU cores. Not the
# script's defaults, since steps are few: a size below "tiny", a higher rate, a contrast that weighs as much as the
# reconstruction, and views in which P waves survive the muscle noise and most leads are left.
HYBRID_ECG_DEMO_SETTINGS: dict[str, Any] = {
    "corpus": "synthetic",
    "corpus_options": ["num_patients=600", "records_per_patient=2"],
    "size": "demo",
    "contrastive_loss_weight": 1.0,
    "emg_mv": 0.02,
    "lead_loss_probability": 0.2,
    "learning_rate": 2e-3,
    "warmup_steps": 0.1,
    "max_steps": 400,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "picture_steps": 100,
    "probe": True,
    "seed": 42,
    "cpu_threads": 1,
    "dataloader_num_workers": 1,
}
# The size "tiny" on the same records, ten minutes of computing. Twelve layers learn little in so few steps unless they
# start near the identity and go slowly.
HYBRID_ECG_TINY_SETTINGS: dict[str, Any] = {
    **HYBRID_ECG_DEMO_SETTINGS,
    "size": "tiny",
    "config_overrides": "residual_initializer_scale=0.2",
    "learning_rate": 5e-4,
    "max_steps": 750,
    "bf16": True,
    "eval_steps": 250,
    "picture_steps": 250,
}
# What `--preset` of training_scripts/pretrain_hybrid_ecg.py knows.
HYBRID_ECG_PRESETS = {"demo": HYBRID_ECG_DEMO_SETTINGS, "tiny": HYBRID_ECG_TINY_SETTINGS}

# A small HuBERT-ECG that learns from the synthetic corpus without labels, in two iterations and a few minutes on two
# CPU cores. Not HuBERT-ECG's: a size below "tiny", normalised before attention and initialised for its width; a loss
# that counts tokens which are not masked as much as masked ones, as features are made without a mask; no dropout; a
# higher rate.
HUBERT_ECG_DEMO_CORPUS: dict[str, Any] = {
    "corpus": "synthetic",
    "corpus_options": ["num_patients=600", "records_per_patient=2"],
}
# Of the first and the second iteration
HUBERT_ECG_DEMO_CODES: tuple[dict[str, Any], ...] = (
    {"descriptors": "mfcc", "clusters": [100]},
    {"layer": 1, "clusters": [200]},
)
_HUBERT_ECG_DEMO_TRAINING: dict[str, Any] = {
    "config_overrides": "alpha=0.5,hidden_dropout=0,attention_dropout=0,activation_dropout=0,feat_proj_dropout=0,"
    "final_dropout=0,layerdrop=0",
    "max_steps": 400,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "per_device_eval_batch_size": 64,
    "cpu_threads": 1,
    "dataloader_num_workers": 1,
}
# What makes it a matter of seconds
HUBERT_ECG_SHORT_TRAINING: dict[str, Any] = {"max_steps": 4, "eval_steps": 2}
HUBERT_ECG_DEMO_TRAINING: tuple[dict[str, Any], ...] = (
    {"size": "demo", "learning_rate": 4e-3, **_HUBERT_ECG_DEMO_TRAINING},
    {"learning_rate": 2e-3, **_HUBERT_ECG_DEMO_TRAINING},
)


def demo_arguments(
    output_dir: str | os.PathLike, **changes: Any
) -> tuple[ModelArguments, DataArguments, EvaluationArguments, FinetuningArguments]:
    """Return the arguments of the demonstration run.

    Args:
        output_dir (`str` or path): folder for the model.
        **changes: arguments by name that differ from `DEMO_SETTINGS`, for example `num_train_epochs=2`.

    Returns:
        What `finetune` takes.

    Example:
        >>> result = finetune(*demo_arguments("runs/demo"))
    """
    return parse_finetuning_arguments(command_line({**DEMO_SETTINGS, "output_dir": os.fspath(output_dir), **changes}))


def dbeta_demo_arguments(
    output_dir: str | os.PathLike, **changes: Any
) -> tuple[PretrainingModelArguments, CorpusArguments, ReportArguments, PretrainingArguments, AugmentationArguments]:
    """Return the arguments of D-BETA's demonstration run, which `--preset demo` of its script is.

    Args:
        output_dir (`str` or path): folder for the model.
        **changes: arguments by name that differ from `DBETA_DEMO_SETTINGS`.

    Returns:
        What `pretrain_dbeta` takes.

    Example:
        >>> result = pretrain_dbeta(*dbeta_demo_arguments("runs/dbeta"))
    """
    from .pretraining_arguments import parse_dbeta_pretraining_arguments

    settings = {**DBETA_DEMO_SETTINGS, "output_dir": os.fspath(output_dir), **changes}
    return parse_dbeta_pretraining_arguments(command_line(settings))


def hybrid_ecg_demo_arguments(
    output_dir: str | os.PathLike, **changes: Any
) -> tuple[
    HybridModelArguments, CorpusArguments, ViewArguments, HybridPretrainingArguments, ViewAugmentationArguments
]:
    """Return the arguments of Hybrid ECG's demonstration run, which `--preset demo` of its script is.

    Args:
        output_dir (`str` or path): folder for the model.
        **changes: arguments by name that differ from `HYBRID_ECG_DEMO_SETTINGS`.

    Returns:
        What `pretrain_hybrid_ecg` takes.

    Example:
        >>> result = pretrain_hybrid_ecg(*hybrid_ecg_demo_arguments("runs/hybrid"))
    """
    from .hybrid_ecg_arguments import parse_hybrid_ecg_pretraining_arguments

    settings = {**HYBRID_ECG_DEMO_SETTINGS, "output_dir": os.fspath(output_dir), **changes}
    return parse_hybrid_ecg_pretraining_arguments(command_line(settings))


def command_line(settings: Mapping[str, Any]) -> list[str]:
    """Return settings by name as the arguments of a command."""
    arguments = []
    for name, value in settings.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        arguments += [f"--{name}", *map(str, values)]
    return arguments
