"""Models and processors for pipelines: loaded whole and from local code, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from ..model_folders import load_model, location_options, usable_device

_ADD_TOKENIZER = (
    "Put the files of the text encoder's tokenizer into the folder: "
    "AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(FOLDER), or convert again with a tokenizer. For the "
    "published D-BETA weights TOKENIZER is google/flan-t5-base."
)


def load_zero_shot_model(
    folder: str | Path, device: str | int | torch.device | None = "cpu", processor: Any = None, **options: Any
) -> tuple[PreTrainedModel, Any]:
    """Load a model with a text encoder, and its processor.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        device (*optional*, defaults to `"cpu"`): see `usable_device`.
        processor (*optional*): the processor, if not that of the folder.
        **options: passed to `from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`, and for the model
            `dtype` and `attn_implementation`.

    Returns:
        `tuple`: the model in evaluation mode on the device, and its processor. Code that a repository brings is never
        run.

    Raises:
        ValueError: if there is no such folder or device, the model has no text encoder, weights are missing, or the
            folder has no tokenizer. The message says what to do.
    """
    device = usable_device(device)
    model = load_model(folder, AutoModel, lambda config: check_text_encoder(config, folder), **options)
    if processor is None:
        processor = load_processor(folder, **location_options(options))
    return model.to(device), processor


def check_text_encoder(config: Any, folder: str | Path) -> None:
    """Make sure that a model can compare recordings with texts.

    Raises:
        ValueError: if it has no text encoder; the message says which models have one.
    """
    from ..registration import MODELS

    types = [entry.model_type for entry in MODELS if _reads_text(entry)]
    if config.model_type not in types:
        raise ValueError(
            f"{folder} holds a model of type {config.model_type!r}, which has no text encoder; zero-shot "
            f"classification needs one of {', '.join(types)}."
        )
    if getattr(config, "ecg_only", False):
        raise ValueError(
            f"{folder} holds the ECG branch of a {config.model_type} model only, as fine-tuning leaves it. Use the "
            "folder of the pretrained model, which has the text encoder."
        )


def _reads_text(entry: Any) -> bool:
    return hasattr(entry.get_model_class("AutoModel"), "get_text_features")


def load_processor(folder: str | Path, **options: Any) -> Any:
    """Load the processor of a model with a text encoder: feature extractor and tokenizer.

    Raises:
        ValueError: if the folder has no tokenizer, or a part cannot be read.
    """
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, **options)
    except OSError as error:
        # It says which tokenizer is missing and how to add it.
        raise ValueError(str(error)) from error
    check_processor(processor, folder)
    return processor


def check_processor(processor: Any, folder: str | Path) -> None:
    """Make sure that a processor has a feature extractor and a tokenizer.

    Raises:
        ValueError: if it has not; the message says how to add the tokenizer.
    """
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "feature_extractor", None) is None:
        raise ValueError(f"{folder} has no tokenizer. {_ADD_TOKENIZER}")
