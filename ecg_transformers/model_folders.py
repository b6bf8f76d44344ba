"""Model folders: loaded whole and by local code only, or refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedModel
from transformers.utils import logging

from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

_OF_MODEL = ("dtype", "attn_implementation", "device_map")


def usable_device(device: str | int | torch.device | None) -> torch.device:
    """Return a device that works here; `None` means the first GPU, else the CPU, and -1 the CPU.

    Raises:
        ValueError: if the device does not exist or cannot be used.
    """
    if device is None:
        device = 0 if torch.cuda.is_available() else "cpu"
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    try:
        # The device `meta` makes tensors, which hold nothing.
        torch.empty(1, device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {str(device)!r} cannot be used here: {reason}") from error


def load_model(
    folder: str | Path,
    auto_class: Any,
    check_config: Callable[[Any], None] | None = None,
    config: Any = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a model whose every weight is in the folder. Code that a folder or repository brings is never run.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        auto_class: `AutoModel`, `AutoModelForSequenceClassification`, ...
        check_config (callable, *optional*): called with the configuration before weights are read.
        config (`PreTrainedConfig`, *optional*): the configuration, if not that of the folder.
        **options: passed to `from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`, `dtype`,
            `attn_implementation`.

    Returns:
        `PreTrainedModel` in evaluation mode.

    Raises:
        ValueError: if there is no such folder, its files cannot be used, `trust_remote_code` is asked for, or weights
            are missing, which would be random: the message says what to do.
    """
    _refuse_remote_code(options)
    path = Path(folder)
    if len(path.parts) > 1 and not path.exists() and (len(path.parts) != 2 or path.parent.is_dir()):
        raise ValueError(f"There is no model folder {folder}.")
    try:
        config = config or AutoConfig.from_pretrained(folder, trust_remote_code=False, **location_options(options))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is neither a model folder nor a model on the Hub that can be used: {error}"
        ) from error
    if check_config is not None:
        check_config(config)
    previous, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # What is missing is told below; a head that embeddings do not need is no news.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, loading = auto_class.from_pretrained(
            folder, config=config, output_loading_info=True, trust_remote_code=False, **options
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"The weights of {folder} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(previous)
        if progress:
            logging.enable_progress_bar()
    _check_missing(folder, model, sorted(loading["missing_keys"]))
    return model.eval()


def _check_missing(folder: str | Path, model: PreTrainedModel, missing: list[str]) -> None:
    if not missing:
        return
    inner = f"{model.base_model_prefix}."
    of_head = [] if model.base_model is model else [name for name in missing if not name.startswith(inner)]
    if of_head:
        raise ValueError(
            f"{folder} holds no trained classification head ({', '.join(of_head[:3])} would be random). Fine-tune "
            "it first (training_scripts/finetune_classification.py), or ask for embeddings."
        )
    raise ValueError(
        f"{folder} lacks {len(missing)} tensors of the model ({', '.join(missing[:3])}, ...), which would be random; "
        "convert it again."
    )


def load_feature_extractor(folder: str | Path, **options: Any) -> ECGFeatureExtractor:
    """Load the preprocessing of a model; that of its model type where the folder tells none.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        **options: passed to `from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: if the folder's recipe cannot be read, or is no recipe for ECGs.
    """
    _refuse_remote_code(options)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False, **options)
    except OSError:
        # Published without a recipe
        extractor = ECGFeatureExtractor.from_pretrained(folder, **options)
    if not isinstance(extractor, ECGFeatureExtractor):
        raise ValueError(f"{folder} preprocesses by {type(extractor).__name__}, which reads no ECGs.")
    return extractor


def location_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of `from_pretrained` that tell where files are, without those of models."""
    return {name: value for name, value in options.items() if name not in _OF_MODEL}


def _refuse_remote_code(options: dict[str, Any]) -> None:
    if options.pop("trust_remote_code", None):
        raise ValueError("Code from a repository is never run here; leave trust_remote_code out.")
