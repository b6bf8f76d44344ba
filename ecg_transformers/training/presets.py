"""Named settings that are known to work."""

from __future__ import annotations

import os
from typing import Any

from .arguments import (
    DataArguments,
    EvaluationArguments,
    FinetuningArguments,
    ModelArguments,
    parse_finetuning_arguments,
)

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
    arguments = []
    for name, value in {**DEMO_SETTINGS, "output_dir": os.fspath(output_dir), **changes}.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        arguments += [f"--{name}", *map(str, values)]
    return parse_finetuning_arguments(arguments)
