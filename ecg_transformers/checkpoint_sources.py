"""Reading what a converter starts from: weights, their configuration, and the files beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .restricted_unpickling import AttributeBag, load_without_running
from .torchscript_parameters import is_torchscript, load_torchscript_parameters

# Names under which training scripts keep the weights and the configuration, ours first
_STATE_ENTRIES = ("model_state_dict", "state_dict", "model")
_CONFIG_ENTRIES = ("model_config", "config", "cfg")
# Weights under the names of the Hub, whole or in parts
_HUB_WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin")
_ORIGINAL_ENDINGS = (".pt", ".pth", ".ckpt")
# What a trainer keeps beside the weights
_TRAINER_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state(_\d+)?|training_args)\.(pt|pth|bin)")
# The encoder before fine-tuning, published beside fine-tuned weights
_COMPANIONS = ("base_ssl.pt",)


class CheckpointConversionError(ValueError):
    """A checkpoint cannot be converted; the message names the file, the reason and the remedy."""


@dataclass
class SourceCheckpoint:
    """A checkpoint as read, before conversion.

    Args:
        path (`Path`): the file or folder.
        config (`dict`, *optional*): the configuration stored with the weights in their file, else `config.json`.
        tensors (`dict[str, torch.Tensor]`): the weights.
        entries (`dict`): what else the file of the weights holds; of a module that was pickled whole, `"modules"`, the
            plain attributes of its parts by their names.
        companions (mapping of `str` to `SourceCheckpoint`): other weight files of the folder by their names, each
            read when asked for.
        documents (mapping of `str` to `dict`): JSON files of the folder by their names, each read when asked for.
        folder (`Path`, *optional*): where the recipe and the tokenizer of this checkpoint would lie.
    """

    path: Path
    config: dict[str, Any] | None
    tensors: dict[str, torch.Tensor]
    entries: dict[str, Any] = field(default_factory=dict)
    companions: Mapping[str, SourceCheckpoint] = field(default_factory=dict)
    documents: Mapping[str, dict] = field(default_factory=dict)
    folder: Path | None = None


class _FilesByName(Mapping):
    """Files by name, each read when asked for: what a converter does not need may be large, foreign or damaged."""

    def __init__(self, files: list[Path], read: Callable[[Path], Any]):
        self._files = {file.name: file for file in files}
        self._read = read
        self._content: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._content:
            self._content[name] = self._read(self._files[name])
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files


def read_source(source: Path) -> SourceCheckpoint:
    """Read a checkpoint without running anything in it.

    Args:
        source (`Path`): a weight file, or a folder with one. In a folder, weights under the names of the Hub
            (`model.safetensors`, `pytorch_model.bin`, or their parts) come first, then `.pt`, `.pth` and `.ckpt`
            files, of which there may be one besides `base_ssl.pt`. A `config.json` belongs to weights that hold no
            configuration themselves.

    Raises:
        CheckpointConversionError: if there are no weights, several files could be meant, or one is damaged.
        UnsafePickleError: if a pickle would run something.
    """
    if source.is_dir():
        files = _weight_files(source)
        folder = source
    else:
        files, folder = [source], source.parent
    found = _read_parts(files)
    if source.is_dir():
        found.path = source
    others = [file for file in sorted(folder.iterdir()) if file not in files]
    found.companions = _FilesByName([file for file in others if _may_hold_weights(file)], _read_weight_file)
    found.documents = _FilesByName([file for file in others if file.suffix == ".json"], _read_document)
    if found.config is None and "config.json" in found.documents:
        found.config = found.documents["config.json"]
        found.folder = folder
    if source.is_dir():
        found.folder = folder
        if found.config is None and _is_hub_name(files[0]):
            raise CheckpointConversionError(
                f"{source} has no config.json, which says what {files[0].name} is; fetch it from where the weights "
                "come from."
            )
    return found


def _may_hold_weights(file: Path) -> bool:
    return file.suffix in (*_ORIGINAL_ENDINGS, ".safetensors", ".bin") and not _TRAINER_STATE.fullmatch(file.name)


def _is_hub_name(file: Path) -> bool:
    return any(re.fullmatch(pattern, file.name) for pattern in _HUB_WEIGHTS)


def _weight_files(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if _may_hold_weights(file)]
    for pattern in _HUB_WEIGHTS:
        named = [file for file in files if re.fullmatch(pattern, file.name)]
        if named:
            _check_parts(folder, named)
            return named
    for endings in (_ORIGINAL_ENDINGS, (".safetensors",)):
        named = [file for file in files if file.suffix in endings]
        main = [file for file in named if file.name not in _COMPANIONS] or named
        if len(main) > 1:
            raise CheckpointConversionError(
                f"{folder} holds several weight files, {[file.name for file in main]}; give the one that is meant "
                f"instead of the folder, e.g. {main[0]}. What lies beside it is still found."
            )
        if main:
            return main
    raise CheckpointConversionError(
        f"{folder} has no weights: none of model.safetensors, pytorch_model.bin, *.pt, *.pth, *.ckpt, *.safetensors."
    )


def _check_parts(folder: Path, files: list[Path]) -> None:
    totals = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.", file.name))}
    parts = [file for file in files if "-of-" in file.name]
    if len(totals) > 1 or (totals and len(parts) != max(totals)):
        raise CheckpointConversionError(
            f"{folder} holds {[file.name for file in parts]}, not all parts of one checkpoint; fetch the others."
        )


def _read_parts(files: list[Path]) -> SourceCheckpoint:
    found = _read_weight_file(files[0])
    for file in files[1:]:
        for name, tensor in _read_weight_file(file).tensors.items():
            if name in found.tensors:
                raise CheckpointConversionError(
                    f"{file.parent} holds `{name}` twice, in {[part.name for part in files]}."
                )
            found.tensors[name] = tensor
    return found


def _read_weight_file(file: Path) -> SourceCheckpoint:
    if file.suffix == ".safetensors":
        return SourceCheckpoint(file, None, _read_safetensors(file))
    content = load_torchscript_parameters(file) if is_torchscript(file) else load_without_running(file)
    if isinstance(content, AttributeBag):
        content = {"model": content}
    if not isinstance(content, Mapping):
        raise CheckpointConversionError(
            f"{file} holds a {type(content).__name__}, not a dictionary with weights; it is no checkpoint."
        )
    state_entry = next(
        (name for name in _STATE_ENTRIES if isinstance(content.get(name), (Mapping, AttributeBag))), None
    )
    state = content if state_entry is None else content[state_entry]
    modules = None
    if isinstance(state, AttributeBag):
        modules, state = module_settings(state), module_state(state)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointConversionError(f"{file} holds no weights; its entries are {list(map(str, content))[:20]}.")
    if not all(isinstance(name, str) for name in tensors):
        raise CheckpointConversionError(f"{file} holds weights without names: {list(tensors)[:5]}.")
    # Parallel and compiled training wrap the model, and save the name of the wrapper
    for wrapper in ("module.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    if state_entry is None:
        return SourceCheckpoint(file, None, tensors)
    config_entry = next((name for name in _CONFIG_ENTRIES if content.get(name) is not None), None)
    config = None if config_entry is None else content[config_entry]
    config = plain_settings(config)
    entries = {name: value for name, value in content.items() if name not in (state_entry, config_entry)}
    if modules is not None:
        entries["modules"] = modules
    return SourceCheckpoint(file, dict(config) if isinstance(config, Mapping) else None, tensors, entries)


def plain_settings(value: Any) -> Any:
    """Return settings as containers and numbers.

    Objects of unknown classes become dictionaries of their attributes, at the top only; those of omegaconf give the
    content that they wrap, at any depth. Interpolations stay the text that they are.
    """
    if isinstance(value, AttributeBag) and not value.qualified_name.startswith("omegaconf."):
        return vars(value)
    try:
        return _unwrapped(value, {})
    except RecursionError as error:
        raise CheckpointConversionError("The configuration in the checkpoint is nested too deeply.") from error


def _unwrapped(value: Any, done: dict[int, Any]) -> Any:
    wraps = isinstance(value, AttributeBag) and value.qualified_name.startswith("omegaconf.")
    if not wraps and not isinstance(value, (dict, list)):
        return value
    # What stands in several places is copied once, or a small file could ask for much memory
    if id(value) in done:
        if done[id(value)] is done:
            raise CheckpointConversionError("The configuration in the checkpoint holds itself; the file is damaged.")
        return done[id(value)]
    done[id(value)] = done
    if wraps:
        attributes = vars(value)
        plain = _unwrapped(attributes.get("_val" if "_val" in attributes else "_content"), done)
    elif isinstance(value, dict):
        plain = {key: _unwrapped(item, done) for key, item in value.items()}
    else:
        plain = [_unwrapped(item, done) for item in value]
    done[id(value)] = plain
    return plain


def module_state(bag: AttributeBag, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the state dictionary of a torch module that was pickled whole, read from its attributes."""
    attributes = vars(bag)
    skipped = attributes.get("_non_persistent_buffers_set") or ()
    state = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (attributes.get(kind) or {}).items():
            if isinstance(value, torch.Tensor) and not (kind == "_buffers" and name in skipped):
                state[prefix + name] = value.detach()
    for name, child in (attributes.get("_modules") or {}).items():
        if isinstance(child, AttributeBag):
            state |= module_state(child, f"{prefix}{name}.")
    return state


def module_settings(bag: AttributeBag, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return what the parts of a torch module that was pickled whole were made with, such as strides.

    Args:
        bag ([`AttributeBag`]): the module as read.
        prefix (`str`): put before the names of its parts.

    Returns:
        `dict[str, dict]`: name of a part, `""` for the whole -> its public attributes that are numbers, text, tuples.
    """
    kinds = (bool, int, float, str, tuple)
    plain = {name: value for name, value in vars(bag).items() if isinstance(value, kinds) and name[:1] != "_"}
    settings = {prefix.removesuffix("."): plain}
    for name, child in (vars(bag).get("_modules") or {}).items():
        if isinstance(child, AttributeBag):
            settings |= module_settings(child, f"{prefix}{name}.")
    return settings


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointConversionError(f"{file} is damaged or cut off ({error}); fetch it again.") from error


def _read_document(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointConversionError(f"{file} is no JSON: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise CheckpointConversionError(f"{file} holds a {type(content).__name__}, not an object of settings.")
    return content


__all__ = [
    "CheckpointConversionError",
    "SourceCheckpoint",
    "module_settings",
    "module_state",
    "plain_settings",
    "read_source",
]
