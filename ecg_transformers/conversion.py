"""`convert_checkpoint`: from an original file or folder to one that the Auto classes open."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import logging

from .checkpoint_sources import CheckpointConversionError, SourceCheckpoint, read_source
from .conversion_tokenizers import find_tokenizer, has_tokenizer, takes_text
from .publishing.converted_card import write_card_of_converted
from .publishing.licences import LICENCE_OF_PUBLISHED_WEIGHTS, licence_of_folder
from .registration import MODELS, ModelEntry, find_model
from .restricted_unpickling import UnsafePickleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

logger = logging.get_logger(__name__)

# Fields of a configuration that tell of the session that saved it, or of code beside it
_SESSION_FIELDS = ("architectures", "auto_map", "custom_pipelines", "transformers_version", "_name_or_path")

_PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")

# What a foreign file calls its configuration can be of any type and size
_FOREIGN_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, SyntaxError, MemoryError),
    StrictDataclassError,
)


@dataclass
class ConvertedCheckpoint:
    """What a converter makes of a [`SourceCheckpoint`].

    Args:
        model_class (`type`): the class that the weights belong to.
        config (`PreTrainedConfig`): its configuration.
        tensors (`dict[str, torch.Tensor]`): exactly the entries of the model's state dictionary, under its names.
        recipe (`str`, *optional*): the input recipe, if it is not the model type's first.
        notes (`list[str]`): what the user should know about the result.
    """

    model_class: type
    config: PreTrainedConfig
    tensors: dict[str, torch.Tensor]
    recipe: str | None = None
    notes: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    model_type: str | None = None,
    overwrite: bool = False,
    label_names: Sequence[str] | str | Path | None = None,
    recipe: str | None = None,
    feature_extractor: ECGFeatureExtractor | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    on_note: Callable[[str], Any] | None = None,
) -> Path:
    """Convert an original checkpoint into a folder that the Auto classes open.

    Nothing in the source is run: pickles are read by `load_without_running`. The folder is written beside its
    destination, opened again and compared, and only then takes its name.

    Args:
        source (`str` or `Path`): a folder with weights and their `config.json`, or a torch file that holds both. Of
            a file, the `config.json` beside it is taken if it holds no configuration itself.
        destination (`str` or `Path`): folder to write `config.json`, `model.safetensors` and
            `preprocessor_config.json` to, and where there is no card yet, a short `README.md` that names the source
            and its licence, if that is known (from the source's card, or that of the authors' weights); a folder of
            this package without licence gets none. It must be empty or absent, unless `overwrite`.
        model_type (`str`, *optional*): such as `"hubert_ecg"`; recognised from the source if not given.
        overwrite (`bool`): write into a folder that holds files. Files of other names stay.
        label_names (sequence of `str`, or path, *optional*): names of the labels in the order of the head, or a text
            file with one name per line. Without them the labels are those in the source, else `LABEL_0`, ...
        recipe (`str`, *optional*): name of the input recipe if it is not the model type's first, such as
            `"hubert_ecg_filter_first"`.
        feature_extractor ([`ECGFeatureExtractor`], *optional*): the extractor to save with the model. Without it, the
            one in the source folder is taken, else the recipe.
        tokenizer (`str`, `Path` or tokenizer, *optional*): for models that take texts (D-BETA): the tokenizer, its
            folder, or its Hub id. Without it, the one in the source folder is taken; if there is none, the folder is
            written without, and a note says which is needed.
        on_note (callable, *optional*): called with each note on the result; they are logged if not given.

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
    checkpoint = read_source(source)
    entry = _find_entry(checkpoint, model_type)
    converted = _convert(checkpoint, entry, _read_label_names(label_names))
    extractor = feature_extractor or _find_extractor(checkpoint, entry, converted, recipe)
    found = find_tokenizer(checkpoint.folder, entry, converted.config, tokenizer)
    model = _build_model(checkpoint, entry, converted)
    notes = list(converted.notes)
    if found is None and takes_text(entry, converted.config) and not has_tokenizer(destination):
        describe = entry.import_part("processing").describe_missing_tokenizer
        notes.append(describe(destination, converted.config.text_config.vocab_size))

    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.part"
    partial.mkdir()
    try:
        model.save_pretrained(partial)
        processor = extractor if found is None else entry.get_processor_class()(extractor, found)
        processor.save_pretrained(partial)
        _check_written(partial, model)
        licence, original = _licence(checkpoint, entry), not _is_ours(checkpoint, entry)
        if (licence is not None or original) and not (destination / "README.md").exists():
            write_card_of_converted(partial, destination.name, source, entry.model_type, licence, original)
        _move_into_place(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for note in notes:
        (on_note or logger.warning)(note)
    return destination


def _licence(checkpoint: SourceCheckpoint, entry: ModelEntry) -> str | None:
    """Return the licence that the source's card names, else of originals that of the authors' weights."""
    named = licence_of_folder(checkpoint.folder)
    if named is not None or _is_ours(checkpoint, entry):
        return named
    return LICENCE_OF_PUBLISHED_WEIGHTS.get(entry.model_type)


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    if not source.exists():
        raise FileNotFoundError(f"There is no checkpoint {source}: give a file or a folder on this machine.")
    if destination.exists():
        if not destination.is_dir():
            raise FileExistsError(f"The destination {destination} is a file; name a folder.")
        if source.is_dir() and destination.samefile(source):
            raise FileExistsError(f"Source and destination are the same folder, {source}; name another destination.")
        if any(destination.iterdir()) and not overwrite:
            raise FileExistsError(f"{destination} is not empty; pass overwrite=True to replace the model in it.")


def _find_entry(checkpoint: SourceCheckpoint, model_type: str | None) -> ModelEntry:
    if model_type is not None:
        return find_model(model_type)
    for entry in MODELS:
        if _is_ours(checkpoint, entry):
            return entry
    for entry in MODELS:
        try:
            if entry.has_originals and entry.import_part("convert").matches(checkpoint):
                return entry
        except _FOREIGN_ERRORS as error:
            raise _cannot_be_converted(checkpoint, entry, error) from error
    some = sorted(checkpoint.tensors)[:5]
    raise CheckpointConversionError(
        f"{checkpoint.path} is recognised as none of {[entry.model_type for entry in MODELS]}; its weights begin with "
        f"{some}. Pass `model_type` if you know it."
    )


def _is_ours(checkpoint: SourceCheckpoint, entry: ModelEntry) -> bool:
    """Whether this package saved the checkpoint: then its names are those of the model already."""
    config = checkpoint.config or {}
    architectures = config.get("architectures")
    return (
        config.get("model_type") == entry.model_type
        and isinstance(architectures, list)
        and len(architectures) == 1
        and architectures[0] in entry.model_classes.values()
    )


def _convert(checkpoint: SourceCheckpoint, entry: ModelEntry, names: list[str] | None) -> ConvertedCheckpoint:
    try:
        if _is_ours(checkpoint, entry):
            return _take_over(checkpoint, entry, names)
        if not entry.has_originals:
            raise CheckpointConversionError(
                f"{checkpoint.path} was not saved by this package, and nobody else has published weights of the model "
                f"type {entry.model_type!r}. Leave `model_type` out, or give a folder with the config.json that was "
                "saved with the weights."
            )
        return entry.import_part("convert").convert(checkpoint, names)
    except (UnsafePickleError, CheckpointConversionError):
        raise
    except _FOREIGN_ERRORS as error:
        raise _cannot_be_converted(checkpoint, entry, error) from error


def _cannot_be_converted(checkpoint: SourceCheckpoint, entry: ModelEntry, error: Exception) -> Exception:
    # The errors of converters and configurations speak for themselves, others need their type
    told = str(error) if isinstance(error, (ValueError, StrictDataclassError)) else f"{type(error).__name__}: {error}"
    return CheckpointConversionError(f"{checkpoint.path} cannot be converted to {entry.model_type}: {told}")


def _take_over(checkpoint: SourceCheckpoint, entry: ModelEntry, names: list[str] | None) -> ConvertedCheckpoint:
    """Take a checkpoint of our own as it is, with every field of its configuration."""
    auto_class = next(
        key for key, name in entry.model_classes.items() if name == checkpoint.config["architectures"][0]
    )
    settings = {name: value for name, value in checkpoint.config.items() if name not in _SESSION_FIELDS}
    config = entry.get_config_class().from_dict(settings)
    if names is not None:
        if auto_class != "AutoModelForSequenceClassification":
            raise ValueError("`label_names` were given, but this checkpoint has no classification head.")
        _rename_labels(config, names)
    return ConvertedCheckpoint(entry.get_model_class(auto_class), config, checkpoint.tensors)


def _rename_labels(config: PreTrainedConfig, names: list[str]) -> None:
    """Give the labels other names, in the fields that speak of labels too."""
    old = [config.id2label[index] for index in sorted(config.id2label)]
    if len(names) != len(old) or len(set(names)) != len(old):
        raise ValueError(
            f"The head has {len(old)} labels; `label_names` holds {len(names)} names, {len(set(names))} of them "
            "different."
        )
    renamed = dict(zip(old, names, strict=True))
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if isinstance(getattr(config, "thresholds", None), Mapping):
        config.thresholds = {renamed.get(name, name): value for name, value in config.thresholds.items()}
    if isinstance(getattr(config, "label_groups", None), Mapping):
        config.label_groups = {
            group: [renamed.get(name, name) for name in members] for group, members in config.label_groups.items()
        }


def _read_label_names(label_names: Sequence[str] | str | Path | None) -> list[str] | None:
    if label_names is None:
        return None
    if isinstance(label_names, (str, Path)):
        lines = Path(label_names).read_text(encoding="utf-8").splitlines()
        label_names = [line.strip() for line in lines if line.strip()]
    return [str(name) for name in label_names]


def _find_extractor(
    checkpoint: SourceCheckpoint, entry: ModelEntry, converted: ConvertedCheckpoint, recipe: str | None
) -> ECGFeatureExtractor:
    from .feature_extraction.feature_extraction_ecg import RECIPE_FILES, ECGFeatureExtractor

    folder = checkpoint.folder
    try:
        if recipe is None and folder is not None and any((folder / name).is_file() for name in RECIPE_FILES):
            return ECGFeatureExtractor.from_pretrained(folder)
        return ECGFeatureExtractor.for_model_type(entry.model_type, recipe or converted.recipe, converted.config)
    except (*_FOREIGN_ERRORS, OSError) as error:
        raise _cannot_be_converted(checkpoint, entry, error) from error


def _build_model(checkpoint: SourceCheckpoint, entry: ModelEntry, converted: ConvertedCheckpoint) -> PreTrainedModel:
    """Build the model and load exactly its weights."""
    model_class, config = converted.model_class, converted.config
    ignorable = entry.import_part("convert").IGNORABLE_KEYS if entry.has_originals else ()
    if config.problem_type not in _PROBLEM_TYPES:
        raise CheckpointConversionError(
            f"`problem_type` in the configuration of {checkpoint.path} is {config.problem_type!r}; expected one of "
            f"{_PROBLEM_TYPES[1:]}, or none."
        )
    _check_depth(checkpoint, config.to_dict())
    try:
        # Without memory first: a configuration may ask for any size
        with torch.device("meta"):
            empty = model_class(config)
    except _FOREIGN_ERRORS as error:
        raise _cannot_be_converted(checkpoint, entry, error) from error
    expected = empty.state_dict()
    tensors = {name: value for name, value in converted.tensors.items() if name in expected or name not in ignorable}
    _fill_tied(checkpoint, tensors, empty.all_tied_weights_keys)
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    # What was trained is in floating point; other kinds would be cast, complex ones to their real parts
    kinds = [
        f"{name} {tensors[name].dtype}"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].is_floating_point() and not tensors[name].is_floating_point()
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": shapes,
        "not in floating point": kinds,
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise CheckpointConversionError(
            f"The weights in {checkpoint.path} are not those of {model_class.__name__} with its configuration. "
            f"{listed}. The checkpoint is incomplete, altered, or its configuration belongs to another; the files of "
            f"one model, config.json included, lie in one folder.{''.join(f' {note}' for note in converted.notes)}"
        )
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointConversionError(
            f"The weights in {checkpoint.path} hold NaN or infinite values: {_some(broken)}. Fetch them again."
        )
    model = model_class(config)
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(tensors)
    return model.eval()


def _fill_tied(checkpoint: SourceCheckpoint, tensors: dict[str, torch.Tensor], tied: Mapping[str, str]) -> None:
    """Complete weights that are one tensor under two names; a file may hold either or both."""
    for name, other in tied.items():
        if name in tensors and other in tensors and not torch.equal(tensors[name], tensors[other]):
            raise CheckpointConversionError(
                f"`{name}` and `{other}` are one tensor in the model and differ in {checkpoint.path}; the file was "
                "altered. Fetch it again."
            )
        for absent, present in ((name, other), (other, name)):
            if absent not in tensors and present in tensors:
                tensors[absent] = tensors[present]


def _check_depth(checkpoint: SourceCheckpoint, settings: Mapping[str, Any]) -> None:
    """Refuse numbers of layers that no weights can fill, before they are built."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _check_depth(checkpoint, value)
        elif re.search(r"layers?$", str(name)) and type(value) is int and value > max(1000, len(checkpoint.tensors)):
            raise CheckpointConversionError(
                f"The configuration of {checkpoint.path} gives `{name}` {value}; its {len(checkpoint.tensors)} "
                "weights cannot fill as many layers. The configuration belongs to another checkpoint."
            )


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


__all__ = ["CheckpointConversionError", "ConvertedCheckpoint", "SourceCheckpoint", "convert_checkpoint"]
