"""Tokenizers of converted models: where they are taken from, and whether they fit the text encoder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint_sources import CheckpointConversionError
from .registration import ModelEntry

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# What makes a tokenizer, and what may lie beside it
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
_OTHER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def takes_text(entry: ModelEntry, config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration takes texts."""
    return entry.processor_class is not None and not getattr(config, "ecg_only", False)


def find_tokenizer(
    folder: Path | None,
    entry: ModelEntry,
    config: PreTrainedConfig,
    given: str | Path | PreTrainedTokenizerBase | None,
) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a converted model, or `None` if it takes no texts or none is there.

    Args:
        folder (`Path`, *optional*): of the source; its tokenizer is taken if none is given.
        entry ([`ModelEntry`]): the model.
        config (`PreTrainedConfig`): its configuration.
        given (tokenizer, `str` or `Path`, *optional*): what the caller asks for.

    Raises:
        CheckpointConversionError: if the tokenizer cannot be loaded, does not fit the text encoder, or the model takes
            no texts.
    """
    if not takes_text(entry, config):
        if given is not None:
            kind = entry.model_type if entry.processor_class is None else f"{entry.model_type} without text encoder"
            raise CheckpointConversionError(f"A tokenizer was given, but {kind} takes no texts; leave it out.")
        return None
    if given is None:
        if folder is None or not has_tokenizer(folder):
            return None
        tokenizer, name = _load_from_source(folder), str(folder)
    elif isinstance(given, (str, Path)):
        tokenizer, name = _load(given), str(given)
    else:
        tokenizer, name = given, f"given ({type(given).__name__})"
    _check_fit(tokenizer, name, config)
    return tokenizer


def _load(source: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        # A damaged file can fail in any way
        raise CheckpointConversionError(
            f"The tokenizer {source} cannot be loaded ({type(error).__name__}: {error}). Give a folder with "
            "tokenizer.json, or a Hub id that this machine can reach or has in its cache."
        ) from error


def _load_from_source(folder: Path) -> PreTrainedTokenizerBase:
    # The configuration of an original beside it would mislead AutoTokenizer
    with tempfile.TemporaryDirectory() as clean:
        for name in (*_TOKENIZER_FILES, *_OTHER_FILES):
            if (folder / name).is_file():
                shutil.copy(folder / name, clean)
        if not (folder / "tokenizer_config.json").is_file():
            raise CheckpointConversionError(
                f"{folder} holds a tokenizer without tokenizer_config.json, which says of what kind it is; fetch that "
                "file too, or give the tokenizer by `tokenizer=` (`--tokenizer`)."
            )
        try:
            return _load(clean)
        except CheckpointConversionError as error:
            raise CheckpointConversionError(str(error).replace(clean, str(folder))) from error


def _check_fit(tokenizer: PreTrainedTokenizerBase, name: str, config: PreTrainedConfig) -> None:
    text_config = config.text_config
    largest = max(tokenizer.get_vocab().values())
    if largest >= text_config.vocab_size:
        raise CheckpointConversionError(
            f"The tokenizer {name} has tokens up to number {largest}, the text encoder {text_config.vocab_size} rows: "
            "it belongs to another model."
        )
    for role in ("pad_token_id", "eos_token_id"):
        expected = getattr(text_config, role, None)
        if getattr(tokenizer, role) != expected:
            raise CheckpointConversionError(
                f"`{role}` of the tokenizer {name} is {getattr(tokenizer, role)}, that of the text encoder is "
                f"{expected}: it belongs to another model."
            )
