"""The model, tokenizer and preprocessing of a D-BETA pretraining run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, T5Config, T5EncoderModel

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..models.dbeta.configuration_dbeta import DBetaConfig
from ..models.dbeta.modeling_dbeta import DBetaForPreTraining
from .building import attention_arguments, build_extractor, config_from_size, load_config
from .config_fields import check_fields, has_field, set_field
from .pretraining_arguments import PretrainingModelArguments, ReportArguments
from .pretraining_building import load_with_new_parts
from .report_tokenizer import train_report_tokenizer
from .run_arguments import parse_overrides

# Fields that DBetaConfig derives from another where they are left out.
_DERIVED_FIELDS = {
    "hidden_size": ("cross_modal_config.hidden_size", "cross_modal_config.intermediate_size"),
    "decoder_config.hidden_size": ("decoder_config.intermediate_size",),
    "ecg_config.conv_kernel": ("decoder_config.patch_size",),
    "ecg_config.conv_stride": ("decoder_config.patch_size",),
}


@dataclass
class BuiltDBeta:
    """A D-BETA ready for pretraining, and what is worth telling about it.

    Args:
        model (`DBetaForPreTraining`): the model.
        extractor (`ECGFeatureExtractor`): its preprocessing.
        tokenizer: its tokenizer.
        base_model (`str`, *optional*): the checkpoint it comes from.
        new_parts (`list[str]`): parts that the checkpoint lacks and that start anew.
    """

    model: PreTrainedModel
    extractor: ECGFeatureExtractor
    tokenizer: Any
    base_model: str | None
    new_parts: list[str]


def build_tokenizer(
    model_args: PretrainingModelArguments, report_args: ReportArguments, reports: Sequence[str]
) -> Any:
    """Load the tokenizer that the arguments name, or learn one.

    Args:
        model_args (`PretrainingModelArguments`): the checkpoint.
        report_args (`ReportArguments`): tokenizer, text encoder, size of the vocabulary.
        reports (sequence of `str`): the cleaned training reports.

    Returns:
        A tokenizer of transformers.

    Raises:
        ValueError: if there is no such tokenizer, or arguments contradict each other.
    """
    if report_args.text_encoder is not None and not model_args.from_scratch:
        raise ValueError("--text_encoder is for training from scratch; a checkpoint has its own text encoder.")
    source = report_args.tokenizer or report_args.text_encoder or model_args.model_name_or_path
    if source is None:
        return train_report_tokenizer(reports, report_args.vocab_size)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No tokenizer can be loaded from {source!r}; name one with --tokenizer (a folder or Hub id; for "
            f"published weights google/flan-t5-base). {error}"
        ) from error


def build_dbeta(model_args: PretrainingModelArguments, report_args: ReportArguments, tokenizer: Any) -> BuiltDBeta:
    """Build the model of a run.

    Args:
        model_args (`PretrainingModelArguments`): checkpoint or size.
        report_args (`ReportArguments`): the text encoder to start from.
        tokenizer: the run's tokenizer.

    Returns:
        `BuiltDBeta`.

    Raises:
        ValueError: if there is no such checkpoint, size or configuration field, or weights do not fit.
    """
    overrides = parse_overrides(model_args.config_overrides)
    if model_args.from_scratch:
        config = _config_from_scratch(model_args, report_args, overrides, len(tokenizer))
        model = DBetaForPreTraining._from_config(config, **attention_arguments(model_args))
        if report_args.text_encoder is not None:
            _load_text_encoder(model, report_args.text_encoder)
        new_parts: list[str] = []
    else:
        config = _config_of_checkpoint(model_args, overrides)
        model, new_parts = load_with_new_parts(model_args, config, DBetaForPreTraining)
    known = model.config.text_config.vocab_size
    if len(tokenizer) > known:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the text encoder knows {known}. Take the tokenizer that "
            "belongs to it."
        )
    return BuiltDBeta(model, build_extractor(model_args, config), tokenizer, model_args.model_name_or_path, new_parts)


def _config_from_scratch(
    model_args: PretrainingModelArguments, report_args: ReportArguments, overrides: dict[str, Any], tokens: int
) -> DBetaConfig:
    fields = config_from_size("dbeta", model_args.size).to_dict()
    # Follows from the text encoder.
    fields.pop("vocab_size", None)
    if report_args.text_encoder is not None:
        fields["text_config"] = _text_config(report_args.text_encoder).to_dict()
    else:
        fields["text_config"]["vocab_size"] = tokens
    for name in overrides:
        for derived in _DERIVED_FIELDS.get(name, ()):
            part, field = derived.split(".")
            fields[part].pop(field, None)
    for name, value in overrides.items():
        *parts, field = name.split(".")
        target = fields
        for part in parts:
            target = target.get(part)
            if not isinstance(target, dict):
                break
        if not isinstance(target, dict) or (field not in target and field not in _OPTIONAL_FIELDS):
            raise ValueError(f"--config_overrides names {name!r}, which {DBetaConfig.__name__} does not have.")
        target[field] = value
    try:
        return DBetaConfig.from_dict(fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"--config_overrides {overrides} does not fit {DBetaConfig.__name__}: {error}") from error


_OPTIONAL_FIELDS = {"vocab_size", *(field.split(".")[1] for names in _DERIVED_FIELDS.values() for field in names)}


def load_dbeta_config(model_args: PretrainingModelArguments) -> DBetaConfig:
    """Load the configuration of the checkpoint that the arguments name.

    Raises:
        ValueError: if there is none, or it is no whole D-BETA.
    """
    config = load_config(model_args)
    if not isinstance(config, DBetaConfig):
        raise ValueError(
            f"{model_args.model_name_or_path} holds a {config.model_type} model; this script pretrains dbeta."
        )
    if config.ecg_only:
        raise ValueError(
            f"{model_args.model_name_or_path} holds the ECG branch only (a fine-tuned classifier); pretraining goes "
            "on from a whole D-BETA model."
        )
    return config


def _config_of_checkpoint(model_args: PretrainingModelArguments, overrides: dict[str, Any]) -> DBetaConfig:
    config = load_dbeta_config(model_args)
    for name, value in overrides.items():
        if not has_field(config, name):
            raise ValueError(f"--config_overrides names {name!r}, which {DBetaConfig.__name__} does not have.")
        set_field(config, name, value)
    check_fields(config)
    return config


def _text_config(source: str) -> T5Config:
    try:
        config = T5Config.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--text_encoder {source} is neither a folder nor a Hub id of a T5 that can be reached from here: {error}"
        ) from error
    if config.model_type != "t5" or not config.d_model:
        raise ValueError(f"--text_encoder {source} holds a {config.model_type} model; a T5 is needed.")
    return config


def _load_text_encoder(model: DBetaForPreTraining, source: str) -> None:
    """Copy the weights of a pretrained T5 encoder into the model."""
    try:
        encoder, info = T5EncoderModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"The weights of --text_encoder {source} cannot be loaded: {error}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
        raise ValueError(f"--text_encoder {source} lacks {len(lacking)} tensors: {', '.join(lacking[:3])}.")
    model.dbeta.text_encoder.load_state_dict(encoder.state_dict())
