"""Models and processors for pipelines: loaded whole and from local code, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor, PreTrainedModel

from ..model_folders import load_model, location_options, usable_device

_ADD_TOKENIZER = (
    "Put the files of the text encoder's tokenizer into the folder: "
    "AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(FOLDER), or convert again with a tokenizer. For the "
    "published D-BETA weights TOKENIZER is google/flan-t5-base."
)


class CheckedLoader:
    """A loader of models that can stand where transformers expects an Auto class.

    So `transformers.pipeline(task, model=folder)` refuses what `ecg_transformers.pipeline` refuses: a folder whose
    head would be random, code from a repository.
    """

    auto_class: Any = AutoModel

    @classmethod
    def check_config(cls, config: Any, folder: str | Path) -> None:
        """Refuse a model that cannot do the task before its weights are read."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> PreTrainedModel:
        """Load a model as `ecg_transformers.model_folders.load_model` does.

        Args:
            folder (`str` or `Path`): a model folder or Hub id.
            **options: of `from_pretrained`. What transformers' pipelines add for their own use is left out.
        """
        for name in ("_from_pipeline", "_commit_hash", "code_revision"):
            options.pop(name, None)
        return load_model(folder, cls.auto_class, lambda config: cls.check_config(config, folder), **options)


class ClassificationModelLoader(CheckedLoader):
    """Loads models with a trained classification head."""

    auto_class = AutoModelForSequenceClassification


class FeatureModelLoader(CheckedLoader):
    """Loads backbones."""


class ZeroShotModelLoader(CheckedLoader):
    """Loads models with a text encoder."""

    @classmethod
    def check_config(cls, config: Any, folder: str | Path) -> None:
        """Refuse a model without a text encoder."""
        check_text_encoder(config, folder)


def load_zero_shot_model(
    folder: str | Path, device: str | int | torch.device | None = "cpu", **options: Any
) -> tuple[PreTrainedModel, Any]:
    """Load a model with a text encoder, and its processor.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        device (*optional*, defaults to `"cpu"`): see `usable_device`.
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
    model = ZeroShotModelLoader.from_pretrained(folder, **options)
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
