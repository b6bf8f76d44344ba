"""Model folders that are to be exported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from ..inference import ECGInference
from ..model_folders import load_feature_extractor, load_model
from ..registration import find_model
from .example_records import make_record, rows_of
from .source import ExportableModel, ExportSource

_HEAD = "ForSequenceClassification"


def load_source(folder: str | Path, features: bool, dynamic_length: bool | None = None) -> ExportSource:
    """Load a model folder for export.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        features (`bool`): features instead of the head's outputs.
        dynamic_length (`bool`, *optional*): whether records may have any length. Default: if the recipe cuts no
            windows.

    Raises:
        ValueError: if there is no such folder, it is of no model of this package, has no trained head, or its recipe
            makes records of any length and `dynamic_length` is off.
    """

    def check_config(config: Any) -> None:
        find_model(config.model_type)
        headless = config.architectures and not any(name.endswith(_HEAD) for name in config.architectures)
        if headless and not features:
            raise ValueError(
                f"{folder} holds a {config.architectures[0]}, which has no classification head. Fine-tune it first "
                "(training_scripts/finetune_classification.py), or export its features with features=True."
            )

    auto_class = AutoModel if features else AutoModelForSequenceClassification
    model = load_model(folder, auto_class, check_config, dtype=torch.float32)
    inference = ECGInference(model, load_feature_extractor(folder), features)
    whole = inference.extractor.window_seconds is None
    if whole and dynamic_length is False:
        raise ValueError(
            f"The recipe of {folder} cuts no windows, so its records have any length; leave `dynamic_length` alone."
        )
    reference = ExportableModel(model, features).eval()
    source = ExportSource(folder, inference, reference, whole or bool(dynamic_length), num_samples=0)
    source.num_samples = rows_of(source, make_record(source, 0))["input_values"].shape[-1]
    return source


def check_destination(path: str | Path, ending: str, overwrite: bool) -> Path:
    """Make sure that a file can be written before a model is loaded for it.

    Raises:
        ValueError: if the name has another ending.
        OSError: if the file exists and `overwrite` is off, or its folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix != ending:
        raise ValueError(f"{path}: expected a name that ends in {ending}.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it.")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {parent} does not exist; create it first.")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}.") from error
    return path
