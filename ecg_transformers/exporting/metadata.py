"""What an exported file tells of itself: the input recipe above all, without which it is of no use."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from .source import ExportSource

# Name of the extra file in a torch.export program
PROGRAM_METADATA = "metadata.json"

_MEANINGS = {
    "input_values": "what ECGFeatureExtractor makes of a recording by preprocessor_config",
    "attention_mask": "over samples: 1 real, 0 padding",
    "lead_mask": "1 where a lead carries signal",
    "logits": "one per label",
    "values": "one per label",
    "features": "get_ecg_features: one vector per window",
}
# Of config.json, as they are there
_DECISIONS = ("thresholds", "threshold_criterion", "label_groups", "eval_windows", "window_aggregation")


def make_metadata(
    source: ExportSource, inputs: dict[str, torch.Tensor], outputs: dict[str, Any], **facts: Any
) -> dict[str, str]:
    """Describe an export in strings; what is no plain text is JSON.

    Args:
        source ([`ExportSource`]): the model.
        inputs (`dict[str, torch.Tensor]`): an example.
        outputs (`dict[str, np.ndarray]`): what comes of it.
        **facts: more entries, as `opset` and `dtype`; `None` is left out.

    Returns:
        `dict[str, str]`: `preprocessor_config` (the whole file, so its recipe, lead order and rate), `inputs` and
        `outputs` (shape, type and meaning of each), `model_type`, `labels`, `thresholds` and what else decides,
        `license` and `base_model` if the card of the folder names them, versions.
    """
    from .. import __version__
    from ..publishing.licences import licence_of_folder

    config = source.inference.model.config
    extractor = source.extractor
    entries: dict[str, Any] = {
        "description": "ECG model for research, not a medical device. Feed it what ECGFeatureExtractor of the Python "
        "package ecg_transformers, or your own implementation of the recipe in preprocessor_config, makes of ECGs.",
        "model_type": config.model_type,
        "architecture": type(source.inference.model).__name__,
        "preprocessor_config": json.loads(extractor.to_json_string()),
        "lead_names": list(extractor.lead_names),
        "input_sampling_rate": extractor.sampling_rate,
        "window_seconds": extractor.window_seconds,
        "inputs": {name: _describe(source, name, inputs[name]) for name in source.reference.input_names},
        "outputs": {name: _describe(source, name, outputs[name]) for name in source.reference.output_names},
    }
    if not source.reference.features:
        problem = config.problem_type or "multi_label_classification"
        entries |= {"labels": source.inference.label_names, "problem_type": problem}
        entries |= {name: getattr(config, name, None) for name in _DECISIONS}
    entries |= {"license": licence_of_folder(source.folder), "base_model": _base_model(source.folder)}
    entries |= {"ecg_transformers_version": __version__, "torch_version": torch.__version__, **facts}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in entries.items()
        if value is not None
    }


def _describe(source: ExportSource, name: str, value: Any) -> dict[str, Any]:
    shape: list[int | str] = ["batch", *value.shape[1:]]
    if source.dynamic_length and name in ("input_values", "attention_mask"):
        shape[-1] = "samples"
    meaning = _MEANINGS.get(name)
    if name == "probabilities":
        single = source.inference.model.config.problem_type == "single_label_classification"
        meaning = f"{'softmax' if single else 'sigmoid'} of the logits"
    return {"shape": shape, "dtype": str(value.dtype).removeprefix("torch."), "meaning": meaning}


def _base_model(folder: str | Path) -> str | None:
    import yaml
    from huggingface_hub import metadata_load

    try:
        found = (metadata_load(Path(folder) / "README.md") or {}).get("base_model")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, str) else None


def read_export_metadata(path: str | Path) -> dict[str, str]:
    """Return what an exported file tells of itself, without building its model.

    ONNX Runtime gives the same as `session.get_modelmeta().custom_metadata_map`.

    Args:
        path (`str` or `Path`): an `.onnx` or `.pt2` file.

    Raises:
        ValueError: if it is no such file, or one that this package did not write.
    """
    path = Path(path)
    entries = _of_program(path) if path.suffix == ".pt2" else _of_onnx(path)
    if "preprocessor_config" not in entries:
        raise ValueError(
            f"{path} holds no preprocessor_config; it was not written by ecg_transformers, or lost its metadata."
        )
    return entries


def _of_onnx(path: Path) -> dict[str, str]:
    from .onnx_tools import import_onnx

    onnx = import_onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:
        # protobuf's own error class depends on its implementation
        raise ValueError(f"{path} is no ONNX file, or damaged: {error}") from error
    return {entry.key: entry.value for entry in model.metadata_props}


def _of_program(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if Path(name).name == PROGRAM_METADATA]
            return json.loads(archive.read(names[0])) if names else {}
    except (zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no torch.export program, or damaged: {error}") from error


def describe_export(path: str | Path) -> dict[str, Any]:
    """Return what an exported file is, as JSON-like values, for the command `info`.

    Raises:
        ValueError: if it is no export of this package.
    """
    described: dict[str, Any] = {"path": str(path), "export": Path(path).suffix.removeprefix(".")}
    for name, value in read_export_metadata(path).items():
        try:
            described[name] = json.loads(value)
        except json.JSONDecodeError:
            described[name] = value
    return described
