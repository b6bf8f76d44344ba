"""The model of a pretraining run: from a checkpoint or from scratch, with its pretraining heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from .building import attention_arguments, build_extractor, config_from_size, load_config, load_weights
from .config_fields import check_fields, has_field, set_field
from .pretraining_arguments import PretrainingModelArguments
from .run_arguments import parse_overrides

logger = logging.get_logger(__name__)


@dataclass
class BuiltPretraining:
    """A model ready for pretraining, and what is worth telling about it.

    Args:
        model (`PreTrainedModel`): a `…ForPreTraining`.
        extractor (`ECGFeatureExtractor`): its preprocessing.
        base_model (`str`, *optional*): the checkpoint it comes from.
        new_parts (`list[str]`): parts that the checkpoint lacks and that start anew.
    """

    model: PreTrainedModel
    extractor: ECGFeatureExtractor
    base_model: str | None
    new_parts: list[str]


def build_for_pretraining(
    model_args: PretrainingModelArguments,
    model_class: type[PreTrainedModel],
    settings: Mapping[str, Any] | None = None,
    check: Callable[[PreTrainedConfig], None] | None = None,
) -> BuiltPretraining:
    """Build a model of a class from a checkpoint or a named size.

    Args:
        model_args (`PretrainingModelArguments`): checkpoint or size, changes to the configuration.
        model_class (type): a `…ForPreTraining`; its configuration class says which checkpoints fit.
        settings (mapping, *optional*): more fields of the configuration to set; `--config_overrides` goes before them.
        check (callable, *optional*): raises `ValueError` for configurations that cannot be pretrained.

    Raises:
        ValueError: if there is no such checkpoint, size or configuration field, or weights do not fit.
    """
    config_class = model_class.config_class
    if model_args.from_scratch:
        config = config_from_size(config_class.model_type, model_args.size)
    else:
        config = load_config(model_args)
        if not isinstance(config, config_class):
            raise ValueError(
                f"{model_args.model_name_or_path} holds a {config.model_type} model; this script pretrains "
                f"{config_class.model_type}."
            )
    for name, value in {**(settings or {}), **parse_overrides(model_args.config_overrides)}.items():
        if not has_field(config, name):
            raise ValueError(f"--config_overrides names {name!r}, which {config_class.__name__} does not have.")
        set_field(config, name, value)
    check_fields(config)
    if check is not None:
        check(config)
    new_parts: list[str] = []
    if model_args.from_scratch:
        model = model_class._from_config(config, **attention_arguments(model_args))
    else:
        model, new_parts = load_with_new_parts(model_args, config, model_class)
    return BuiltPretraining(model, build_extractor(model_args, config), model_args.model_name_or_path, new_parts)


def load_with_new_parts(
    model_args: PretrainingModelArguments, config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint's weights, and say which parts it lacks and so start anew.

    Raises:
        ValueError: if the weights cannot be read or do not fit.
    """
    model, missing = load_weights(model_args, config, model_class)
    new_parts = sorted({name.split(".")[0] for name in missing})
    if new_parts:
        logger.warning(f"{model_args.model_name_or_path} lacks {', '.join(new_parts)}, which start anew.")
    return model, new_parts
