"""Model folders that bring their code along, for people without this package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..files import written_atomically
from ..registration import ModelEntry

# Of the folder of a model; the recipe is in the second
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"


def code_files(entry: ModelEntry) -> list[Path]:
    """Return the files that a model needs where this package is not installed.

    Args:
        entry ([`ModelEntry`]): the model.

    Returns:
        `list[Path]`: configuration, models, feature extractor, processor where it has one, and whatever these import
        from their own folders; their names are unique, since they come to lie in one folder.
    """
    from ..feature_extraction import feature_extraction_ecg

    modules = [entry.import_part("configuration"), entry.import_part("modeling"), feature_extraction_ecg]
    if entry.processor_class is not None:
        modules.append(entry.import_part("processing"))
    found = [module.__file__ for module in modules]
    found += [file for start in list(found) for file in get_relative_import_files(start)]
    return sorted({Path(file).resolve() for file in found}, key=lambda file: file.name)


def auto_maps(entry: ModelEntry) -> dict[str, dict[str, str]]:
    """Return what tells the Auto classes of transformers which class is in which file.

    Args:
        entry ([`ModelEntry`]): the model.

    Returns:
        `dict[str, dict[str, str]]`: name of a JSON file of the model folder -> its `auto_map`, with every Auto class
        that the model is registered with.
    """
    model_type = entry.model_type
    models = {auto_class: f"modeling_{model_type}.{name}" for auto_class, name in entry.model_classes.items()}
    extractor = "feature_extraction_ecg.ECGFeatureExtractor"
    processor = f"processing_{model_type}.{entry.processor_class}" if entry.processor_class else extractor
    inputs = {"AutoFeatureExtractor": extractor, "AutoProcessor": processor}
    return {
        _CONFIG: {"AutoConfig": f"configuration_{model_type}.{entry.config_class}", **models},
        _PREPROCESSOR: inputs,
    }


def include_code(folder: str | Path, entry: ModelEntry) -> list[str]:
    """Add the code of a model to its folder, so that it opens with `trust_remote_code=True` without this package.

    Where the package is imported, its own classes are taken all the same.

    Args:
        folder (`str` or `Path`): with `config.json` and `preprocessor_config.json`, which are completed.
        entry ([`ModelEntry`]): the model in it.

    Returns:
        `list[str]`: names of the code files written.
    """
    folder = Path(folder)
    files = code_files(entry)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for name, classes in auto_maps(entry).items():
        set_auto_map(folder / name, classes)
    return [file.name for file in files]


def set_auto_map(path: Path, classes: dict[str, str] | None) -> None:
    """Set the `auto_map` of a JSON file, or remove it: without code files beside it, it leads nowhere."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if classes is None and "auto_map" not in content:
        return
    content.pop("auto_map", None)
    if classes is not None:
        content["auto_map"] = classes
    with written_atomically(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
