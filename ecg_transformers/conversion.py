"""`convert_checkpoint`: from an original file or folder to one that the Auto classes open."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError

from .registration import MODELS, ModelEntry, find_model
from .restricted_unpickling import AttributeBag, load_without_running

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

# Names under which training scripts keep the weights and the configuration, ours first
_STATE_ENTRIES = ("model_state_dict", "state_dict", "model")
_CONFIG_ENTRIES = ("model_config", "config", "cfg")


class CheckpointConversionError(ValueError):
    """A checkpoint cannot be converted; the message names the file, the reason and the remedy."""


@dataclass
class _SourceCheckpoint:
    """An original checkpoint as read: configuration attributes, weights, and what else the file tells."""

    path: Path
    config: dict[str, Any] | None
    tensors: dict[str, torch.Tensor]
    entries: dict[str, Any] = field(default_factory=dict)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    model_type: str | None = None,
    overwrite: bool = False,
    label_names: Sequence[str] | str | Path | None = None,
    recipe: str | None = None,
    feature_extractor: ECGFeatureExtractor | None = None,
) -> Path:
    """Convert an original checkpoint into a folder that the Auto classes open.

    Nothing in the source is run: pickles are read by `load_without_running`. The folder is written beside its
    destination, opened again and compared, and only then takes its name.

    Args:
        source (`str` or `Path`): a folder with `config.json` and weights, or a torch file that holds both.
        destination (`str` or `Path`): folder to write `config.json`, `model.safetensors` and
            `preprocessor_config.json` to. It must be empty or absent, unless `overwrite`.
        model_type (`str`, *optional*): such as `"hubert_ecg"`; recognised from the source if not given.
        overwrite (`bool`): write into a folder that holds files. Files of other names stay.
        label_names (sequence of `str`, or path, *optional*): names of the labels in the order of the head, or a text
            file with one name per line. Without them the labels are those in the source, else `LABEL_0`, ...
        recipe (`str`, *optional*): name of the input recipe if it is not the model type's first, such as
            `"hubert_ecg_filter_first"`.
        feature_extractor ([`ECGFeatureExtractor`], *optional*): the extractor to save with the model. Without it, the
            one in the source folder is taken, else the recipe.

    Returns:
        `Path`: the destination.

    Raises:
        CheckpointConversionError: if the source is of no known model, is damaged, or its weights are not exactly those
            of the model: missing, unexpected and misshapen ones are listed.
        UnsafePickleError: if the source would run something.
        FileExistsError: if the destination holds files and `overwrite` is false.
        FileNotFoundError: if there is no such source.

    Example:
        ```python
        >>> from ecg_transformers import convert_checkpoint

        >>> convert_checkpoint("hubert_ecg_base.pt", "hubert-ecg-base")  # doctest: +SKIP
        ```
    """
    source, destination = Path(source), Path(destination)
    _check_destination(source, destination, overwrite)
    checkpoint = _read_source(source)
    entry = _find_entry(checkpoint, model_type)
    names = _read_label_names(label_names)
    converter = entry.import_part("convert")
    try:
        model_class, config, tensors = converter.convert(
            checkpoint.config or {}, checkpoint.tensors, checkpoint.entries, names
        )
        extractor = feature_extractor or _find_extractor(source, entry, config, recipe)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        # What a foreign file calls its configuration can be of any type
        raise CheckpointConversionError(f"{source} cannot be converted to {entry.model_type}: {error}") from error
    model = _build_model(source, model_class, config, tensors, converter.IGNORABLE_KEYS)

    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.part"
    partial.mkdir()
    try:
        model.save_pretrained(partial)
        extractor.save_pretrained(partial)
        _check_written(partial, model)
        _move_into_place(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return destination


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    if not source.exists():
        raise FileNotFoundError(f"There is no checkpoint {source}: give a file or a folder on this machine.")
    if destination.exists():
        if not destination.is_dir():
            raise FileExistsError(f"The destination {destination} is a file; name a folder.")
        if source.is_dir() and destination.samefile(source):
            raise FileExistsError(f"Source and destination are the same folder, {source}; name another destination.")
        if any(destination.iterdir()) and not overwrite:
            raise FileExistsError(
                f"{destination} is not empty; pass overwrite=True (`--overwrite`) to replace the model in it."
            )


def _read_source(source: Path) -> _SourceCheckpoint:
    if source.is_dir():
        return _read_folder(source)
    if source.suffix == ".safetensors":
        return _SourceCheckpoint(source, None, _read_tensors(source))
    content = load_without_running(source)
    if not isinstance(content, Mapping):
        raise CheckpointConversionError(
            f"{source} holds a {type(content).__name__}, not a dictionary with weights; it is no checkpoint."
        )
    state_entry = next((name for name in _STATE_ENTRIES if isinstance(content.get(name), Mapping)), None)
    state = content if state_entry is None else content[state_entry]
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointConversionError(f"{source} holds no weights; its entries are {list(map(str, content))}.")
    config_entry = next((name for name in _CONFIG_ENTRIES if name in content), None)
    config = None if state_entry is None or config_entry is None else content[config_entry]
    if isinstance(config, AttributeBag):
        config = vars(config)
    entries = {} if state_entry is None else {k: v for k, v in content.items() if k not in (state_entry, config_entry)}
    return _SourceCheckpoint(source, dict(config) if isinstance(config, Mapping) else None, tensors, entries)


def _read_folder(source: Path) -> _SourceCheckpoint:
    config_file = source / "config.json"
    if not config_file.is_file():
        raise CheckpointConversionError(f"{source} has no config.json; it is no model folder.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointConversionError(f"{config_file} is no JSON: {error}. Fetch it again.") from error
    if not isinstance(config, dict):
        raise CheckpointConversionError(f"{config_file} holds a {type(config).__name__}, not an object of settings.")
    files = sorted(source.glob("*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointConversionError(f"{source} has no weights: neither *.safetensors nor pytorch_model*.bin.")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in _read_tensors(file).items():
            if name in tensors:
                raise CheckpointConversionError(f"{source} holds `{name}` twice, in {[f.name for f in files]}.")
            tensors[name] = tensor
    return _SourceCheckpoint(source, config, tensors)


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix != ".safetensors":
        content = load_without_running(file)
        if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise CheckpointConversionError(f"{file} is no dictionary of weights.")
        return dict(content)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointConversionError(f"{file} is damaged or cut off ({error}); fetch it again.") from error


def _find_entry(checkpoint: _SourceCheckpoint, model_type: str | None) -> ModelEntry:
    if model_type is not None:
        return find_model(model_type)
    for entry in MODELS:
        if entry.import_part("convert").matches(checkpoint.config, checkpoint.tensors):
            return entry
    some = sorted(checkpoint.tensors)[:5]
    raise CheckpointConversionError(
        f"{checkpoint.path} is recognised as none of {[entry.model_type for entry in MODELS]}; its weights begin with "
        f"{some}. Pass `model_type` if you know it."
    )


def _read_label_names(label_names: Sequence[str] | str | Path | None) -> list[str] | None:
    if label_names is None:
        return None
    if isinstance(label_names, (str, Path)):
        lines = Path(label_names).read_text(encoding="utf-8").splitlines()
        label_names = [line.strip() for line in lines if line.strip()]
    return [str(name) for name in label_names]


def _find_extractor(
    source: Path, entry: ModelEntry, config: PreTrainedConfig, recipe: str | None
) -> ECGFeatureExtractor:
    from .feature_extraction.ecg_recipes import adapt_hubert_ecg_recipe
    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

    if recipe is None and source.is_dir() and (source / "preprocessor_config.json").is_file():
        return ECGFeatureExtractor.from_pretrained(source)
    extractor = ECGFeatureExtractor.for_model_type(entry.model_type, recipe)
    if entry.model_type != "hubert_ecg":
        return extractor
    adapted = adapt_hubert_ecg_recipe(extractor.recipe, config.conv_stride)
    return ECGFeatureExtractor(recipe=adapted, lead_names=extractor.lead_names)


def _build_model(
    source: Path,
    model_class: type,
    config: PreTrainedConfig,
    tensors: dict[str, torch.Tensor],
    ignorable: Sequence[str],
) -> PreTrainedModel:
    """Build the model and load exactly its weights."""
    model = model_class(config)
    expected = model.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected or name not in ignorable}
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": shapes,
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        hint = " For a model folder give the folder, which holds its configuration." if source.is_file() else ""
        raise CheckpointConversionError(
            f"The weights in {source} are not those of {model_class.__name__} with its configuration. {listed}. The "
            f"checkpoint is incomplete, altered, or its configuration belongs to another.{hint}"
        )
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointConversionError(f"The weights in {source} hold NaN or infinite values: {', '.join(broken)}.")
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(tensors)
    return model.eval()


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def _check_written(folder: Path, model: PreTrainedModel) -> None:
    """Open what was written and compare it with what was meant."""
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    problems = {kind: names for kind, names in info.items() if names}
    expected, written = model.state_dict(), again.state_dict()
    differing = [name for name, tensor in expected.items() if not torch.equal(tensor, written[name])]
    if problems or differing:
        raise CheckpointConversionError(
            f"The converted folder does not open as it was meant: {problems}, differing weights {differing}. Please "
            "report this with the checkpoint's name."
        )


def _move_into_place(partial: Path, destination: Path) -> None:
    if destination.exists() and any(destination.iterdir()):
        for file in partial.iterdir():
            os.replace(file, destination / file.name)
    else:
        os.replace(partial, destination)


__all__ = ["CheckpointConversionError", "convert_checkpoint"]
