"""What a run leaves behind besides the model: facts, metrics and predictions, written in one piece or not at all."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import written_atomically
from ..private_values import without_private_values

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "test_predictions.csv"
_PACKAGES = ("ecg-transformers", "torch", "transformers", "accelerate", "datasets", "evaluate", "numpy", "scipy")
# Endings of the names of measures that belong to the learning curve of training too
_PARTS = ("_loss", "_accuracy", "_penalty", "_perplexity", "_temperature", "alignment", "uniformity")
_PATHS = (
    "output_dir",
    "data_dir",
    "ecg_dir",
    "train_csv",
    "validation_csv",
    "test_csv",
    "challenge_weights",
    "descriptions",
    "logging_dir",
    "resume_from_checkpoint",
)
# Folders or Hub ids.
_PATHS_OR_NAMES = ("corpus", "model_name_or_path", "model", "tokenizer", "text_encoder", "negative_embedder")


# Follow from other arguments or from the machine.
_DERIVED = (
    "accelerator_config",
    "activation_checkpointing",
    "gradient_checkpointing",
    "debug",
    "disable_tqdm",
    "dataloader_pin_memory",
    "do_eval",
    "overwrite_output_dir",
    "report_to",
    "use_cpu",
)


def to_plain(value: Any) -> Any:
    """Bring NumPy values, paths and enumerations to what JSON can hold; NaN and infinity become `None`."""
    if isinstance(value, dict):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if hasattr(value, "value"):
        return to_plain(value.value)
    return str(value)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(to_plain(content), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_atomically(path, newline="") as file:
        file.write(text)


def write_predictions(
    path: Path,
    record_ids: Sequence[str | None],
    patient_ids: Sequence[str | None],
    label_names: Sequence[str],
    targets: np.ndarray,
    predictions: np.ndarray,
    decisions: np.ndarray | None,
    problem_type: str,
) -> None:
    """Write one row per record: identity, and per label truth, prediction and, for classifiers, decision."""
    kind = "value" if problem_type == "regression" else "probability"
    header = ["record_id", "patient_id"]
    single = problem_type == "single_label_classification"
    if single:
        header += ["true_class", "predicted_class", *(f"{name}_probability" for name in label_names)]
    else:
        for name in label_names:
            header += [f"{name}_true", f"{name}_{kind}"] + ([f"{name}_predicted"] if decisions is not None else [])
    lines = [header]
    for row in range(len(predictions)):
        cells: list[Any] = [record_ids[row] or "", patient_ids[row] or ""]
        if single:
            known = 0 <= targets[row] < len(label_names)
            cells += [label_names[targets[row]] if known else "", label_names[int(predictions[row].argmax())]]
            cells += [f"{value:.6g}" for value in predictions[row]]
        else:
            for column in range(len(label_names)):
                target = targets[row, column]
                cells += ["" if np.isnan(target) else f"{target:g}", f"{predictions[row, column]:.6g}"]
                cells += [int(decisions[row, column])] if decisions is not None else []
        lines.append(cells)
    with written_atomically(path, newline="") as file:
        csv.writer(file).writerows(lines)


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware."""
    import torch

    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU"
    return {
        "versions": versions,
        "platform": platform.system(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def describe_arguments(*arguments: Any) -> dict[str, dict[str, Any]]:
    """Return the arguments that differ from their defaults, by class; of paths the last part only, and no tokens.

    A model folder is published with this record in it; where files lay on somebody's disk does not belong there.
    """
    record = {}
    for group in arguments:
        entries = {}
        for entry in dataclasses.fields(group):
            value = getattr(group, entry.name, None)
            if entry.default_factory is not dataclasses.MISSING:
                default = entry.default_factory()
            else:
                default = entry.default
            if not entry.init or value == default or "token" in entry.name or (entry.name in _DERIVED and not value):
                continue
            if entry.name in _DERIVED and entry.name != "report_to":
                continue
            if entry.name in (*_PATHS, *_PATHS_OR_NAMES):
                named = value if isinstance(value, list) else [value]
                named = [_last_part(part, entry.name in _PATHS) for part in named]
                value = named if isinstance(value, list) else named[0]
            entries[entry.name] = without_private_values(to_plain(value))
        record[type(group).__name__] = entries
    return record


def _last_part(value: Any, is_path: bool) -> Any:
    """Return the last part of a path, and a name as it is."""
    return Path(str(value)).name if is_path or os.path.isdir(str(value)) else value


def learning_curve(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Condense `TrainerState.log_history` to one entry per evaluation.

    Returns:
        `list[dict]`: `epoch`, `step`, `training_loss` (the last one logged before; likewise its parts and accuracies,
        where they are logged), `validation_loss`, and the validation metrics by name; only training losses where there
        was no evaluation.
    """
    curve, training_loss, rate, parts = [], None, None, {}
    evaluated = any("eval_loss" in entry for entry in log_history)
    for entry in log_history:
        if "loss" in entry:
            training_loss, rate = entry["loss"], entry.get("learning_rate")
            parts = {f"training_{key}": entry[key] for key in entry if key.endswith(_PARTS)}
            if not evaluated:
                curve.append(
                    {"epoch": entry.get("epoch"), "step": entry.get("step"), "training_loss": training_loss, **parts}
                )
        elif "eval_loss" in entry:
            ignored = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
            metrics = {
                key.removeprefix("eval_"): value
                for key, value in entry.items()
                if key.startswith("eval_") and key not in ignored and "preparation_time" not in key
            }
            curve.append(
                {
                    "epoch": entry.get("epoch"),
                    "step": entry.get("step"),
                    "training_loss": training_loss,
                    "learning_rate": rate,
                    "validation_loss": entry["eval_loss"],
                    **parts,
                    **metrics,
                }
            )
    return curve


def move_files(source: Path, destination: Path) -> None:
    """Move the files of a folder into another, each in one step, `config.json` last: it makes the folder a model."""
    names = sorted(os.listdir(source), key=lambda name: (name == "config.json", name))
    for name in names:
        os.chmod(source / name, 0o644)
        os.replace(source / name, destination / name)
    shutil.rmtree(source)
