"""The model of a run: from a checkpoint or from scratch, with the head that the corpus needs."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..registration import MODELS, find_model
from .arguments import ModelArguments
from .config_fields import check_fields, get_field, has_field, set_field
from .run_arguments import parse_overrides

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ModelHooks:
    """What the arguments of the script mean for one model type: names of configuration fields, and sizes of our own.

    A field of a part has the part's name before it: `"ecg_config.hidden_dropout"`.

    Args:
        head (`str`, *optional*): field that names the head.
        dropout (`tuple[str, ...]`): fields of the encoder's dropout.
        head_dropout (`str`, *optional*): field of the dropout before the head.
        layerdrop (`str`, *optional*): field of the probability of skipping a layer.
        pos_weight (`str`, *optional*): field of the weights of the positives in the loss.
        learning_rates (`dict[str, float]`): default rates of a run from a `"checkpoint"`, of one where the
            `"head"` alone learns, and of one from `"scratch"`.
        sizes (`dict[str, dict]`): sizes besides those of the configuration's `from_size`.
    """

    head: str | None = "classifier_head"
    dropout: tuple[str, ...] = ("hidden_dropout", "attention_dropout", "activation_dropout")
    head_dropout: str | None = "classifier_dropout"
    layerdrop: str | None = "layerdrop"
    pos_weight: str | None = "pos_weight"
    # HuBERT-ECG's authors (1e-5), and ours from scratch
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {"checkpoint": 1e-5, "head": 1e-5, "scratch": 5e-4}
    )
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)


MODEL_HOOKS = {
    "hubert_ecg": ModelHooks(
        dropout=("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
        sizes={
            # For demonstrations and tests on a CPU (ours).
            "tiny": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "classifier_proj_size": 32,
                "conv_dim": [32, 48, 64, 64, 64],
                "num_conv_pos_embeddings": 32,
                "num_conv_pos_embedding_groups": 8,
            },
            # For the demonstration of pretraining (ours): normalised before attention and initialised for its width,
            # so that few steps are enough.
            "demo": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "classifier_proj_size": 32,
                "conv_dim": [16, 24, 32, 32, 32],
                "do_stable_layer_norm": True,
                "initializer_range": 0.1,
                "num_conv_pos_embeddings": 32,
                "num_conv_pos_embedding_groups": 4,
            },
        },
    ),
    "dbeta": ModelHooks(
        dropout=(
            "ecg_config.hidden_dropout",
            "ecg_config.attention_dropout",
            "ecg_config.activation_dropout",
            "ecg_config.feat_proj_dropout",
        ),
        layerdrop="ecg_config.layerdrop",
        # The head: linear probes of arXiv 2410.02131. The others are ours; for fine-tuning no rate is published.
        learning_rates={"checkpoint": 1e-5, "head": 1e-3, "scratch": 5e-4},
        sizes={
            # For demonstrations and tests on a CPU (ours). Tokens of 64 samples, a quarter of the published number;
            # normalised before attention, and initialised for its width: it learns much faster so.
            "tiny": {
                "initializer_range": 0.1,
                "ecg_config": {
                    "hidden_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 128,
                    "conv_dim": [32, 32, 48, 64],
                    "conv_kernel": [4, 4, 2, 2],
                    "conv_stride": [4, 4, 2, 2],
                    "do_stable_layer_norm": True,
                    "initializer_range": 0.1,
                    "num_conv_pos_embeddings": 32,
                    "num_conv_pos_embedding_groups": 8,
                },
                "text_config": {
                    "vocab_size": 512,
                    "d_model": 64,
                    "d_kv": 16,
                    "d_ff": 128,
                    "num_layers": 2,
                    "num_heads": 4,
                    "feed_forward_proj": "gated-gelu",
                },
                "cross_modal_config": {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1},
                "decoder_config": {
                    "hidden_size": 48,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 4,
                    "fusion_layer": 1,
                    "initializer_range": 0.1,
                },
                "hidden_size": 64,
            },
        },
    ),
    "deepecg_ssl": ModelHooks(
        dropout=("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
        # Fine-tuning: medRxiv 10.1101/2025.03.02.25322575. The others are ours, the head's that of D-BETA's probes.
        learning_rates={"checkpoint": 5e-5, "head": 1e-3, "scratch": 5e-4},
        sizes={
            # For demonstrations and tests on a CPU (ours).
            "tiny": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "conv_dim": [32, 48, 64, 96],
                "num_conv_pos_embeddings": 32,
                "num_conv_pos_embedding_groups": 8,
                "num_codevectors_per_group": 32,
                "codevector_dim": 32,
                "proj_codevector_dim": 32,
                "num_negatives": 20,
                "classifier_num_heads": 4,
            },
        },
    ),
    "deepecg_sl": ModelHooks(
        dropout=(),
        layerdrop="drop_path_rate",
        # medRxiv 10.1101/2025.03.02.25322575; from scratch ours
        learning_rates={"checkpoint": 1e-3, "head": 1e-2, "scratch": 1e-3},
        sizes={
            # For demonstrations and tests on a CPU (ours).
            "tiny": {
                "stem_channels": 8,
                "stage_blocks": ["fused", "fused", "depthwise"],
                "stage_channels": [8, 16, 32],
                "stage_depths": [1, 2, 2],
                "stage_kernels": [5, 5, 3],
                "stage_strides": [2, 2, 2],
                "stage_expansions": [1, 1, 4],
                "stage_squeeze_ratios": [4, 4, 4],
                "hidden_size": 64,
                "drop_path_rate": 0.1,
            },
        },
    ),
    "hybrid_ecg": ModelHooks(
        dropout=("hidden_dropout", "attention_dropout"),
        layerdrop=None,
        # Fine-tuning: ST-MEM's 1e-3 for batches of 256, brought to the 64 of a run by default. The others are ours,
        # the head's that of D-BETA's probes.
        learning_rates={"checkpoint": 2.5e-4, "head": 1e-3, "scratch": 5e-4},
        sizes={
            # For demonstrations and tests on a CPU (ours); "tiny" is a size of the configuration's own.
            "demo": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "decoder_hidden_size": 48,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 4,
                "decoder_intermediate_size": 96,
                "projection_size": 32,
            },
        },
    ),
}


@dataclass
class BuiltModel:
    """A model ready for training, and what is worth telling about it.

    Args:
        model (`PreTrainedModel`): with a head for the labels of the corpus.
        extractor (`ECGFeatureExtractor`): the model's preprocessing.
        base_model (`str`, *optional*): the checkpoint it comes from.
        head_is_new (`bool`): whether the head was initialised.
    """

    model: PreTrainedModel
    extractor: ECGFeatureExtractor
    base_model: str | None
    head_is_new: bool


def hooks_of(model_type: str) -> ModelHooks:
    """Return the hooks of a model type; a type without a row gets the usual names."""
    return MODEL_HOOKS.get(model_type, ModelHooks())


def default_learning_rate(arguments: ModelArguments) -> float:
    """Return the learning rate of a run that does not ask for one.

    Raises:
        ValueError: if there is no such checkpoint or model type.
    """
    if arguments.from_scratch:
        return hooks_of(find_model(arguments.model_type).model_type).learning_rates["scratch"]
    head_only = arguments.freeze_encoder or arguments.unfreeze_last == 0
    return hooks_of(load_config(arguments).model_type).learning_rates["head" if head_only else "checkpoint"]


def input_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the arguments of a model's `forward`."""
    return list(inspect.signature(model.forward).parameters)


def build_model(
    arguments: ModelArguments, label_names: Sequence[str], problem_type: str, pos_weight: Sequence[float] | None = None
) -> BuiltModel:
    """Build the model of a run.

    Args:
        arguments (`ModelArguments`): checkpoint or size, head, dropout.
        label_names (sequence of `str`): one output each.
        problem_type (`str`): as in `config.problem_type`.
        pos_weight (sequence of `float`, *optional*): weights of the positives in the multi-label loss.

    Returns:
        `BuiltModel`.

    Raises:
        ValueError: if there is no such checkpoint, model type, size or configuration field, or weights do not fit.
    """
    if arguments.from_scratch:
        config = config_from_size(arguments.model_type, arguments.size)
    else:
        config = load_config(arguments)
    overrides = parse_overrides(arguments.config_overrides)
    unknown = [name for name in overrides if not has_field(config, name)]
    if unknown:
        raise ValueError(f"--config_overrides names {unknown}, which {type(config).__name__} does not have.")
    had_head = not arguments.from_scratch and any(
        name.endswith("ForSequenceClassification") for name in config.architectures or ()
    )
    old_labels = [config.id2label[index] for index in sorted(config.id2label)] if had_head else None
    old_problem, old_head = config.problem_type, get_field(config, hooks_of(config.model_type).head or "")

    settings = {**_settings(arguments, config, had_head), **overrides}
    _update(config, settings, label_names, problem_type, pos_weight)
    extractor = build_extractor(arguments, config)
    if arguments.from_scratch:
        model = AutoModelForSequenceClassification.from_config(config, **attention_arguments(arguments))
        return BuiltModel(model, extractor, None, True)

    model, _ = load_weights(arguments, config)
    same_head = old_head == get_field(config, hooks_of(config.model_type).head or "")
    keeps_head = old_labels == list(label_names) and old_problem == problem_type and same_head
    if had_head and not keeps_head:
        reinitialize_head(model)
        logger.warning(
            f"The head of {arguments.model_name_or_path} predicts {_shorten(old_labels)} ({old_problem}); the corpus "
            "has "
            f"{_shorten(list(label_names))} ({problem_type}). The encoder is kept, the head starts anew."
        )
    return BuiltModel(model, extractor, arguments.model_name_or_path, not (had_head and keeps_head))


def build_untrained(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Return a randomly initialised model of a configuration, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(copy.deepcopy(config))


@torch.no_grad()
def reinitialize_head(model: PreTrainedModel) -> None:
    """Draw the parameters outside the base model anew."""
    prefix = model.base_model_prefix
    for name, module in model.named_modules():
        if name == "" or name == prefix or name.startswith(f"{prefix}."):
            continue
        # Initialisation leaves loaded tensors alone; the marks say which were loaded.
        for target in (module, *module.parameters(recurse=False)):
            if hasattr(target, "_is_hf_initialized"):
                del target._is_hf_initialized
        model._init_weights(module)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:4]))
    return f"{len(names)} labels ({shown}{', ...' if len(names) > 4 else ''})"


def config_from_size(model_type: str, size: str | None) -> PreTrainedConfig:
    """Return the configuration of a named size: one of `MODEL_HOOKS` or of the configuration's own.

    Raises:
        ValueError: if there is no such model type or size.
    """
    config_class = find_model(model_type).get_config_class()
    own_sizes = hooks_of(model_type).sizes
    if size is None:
        return config_class()
    if size in own_sizes:
        # A copy: configurations may keep the lists and dictionaries that they are given.
        return config_class(**copy.deepcopy(own_sizes[size]))
    try:
        return config_class.from_size(size)
    except ValueError as error:
        raise ValueError(f"--size {size}: {error} In training also {sorted(own_sizes)}.") from error


def load_config(arguments: ModelArguments) -> PreTrainedConfig:
    """Load the configuration of the checkpoint that the arguments name.

    Raises:
        ValueError: if there is none, or it is of a model that this package does not have.
    """
    try:
        config = AutoConfig.from_pretrained(arguments.model_name_or_path, revision=arguments.revision)
    except (OSError, ValueError) as error:
        if os.path.isdir(arguments.model_name_or_path):
            raise ValueError(f"{arguments.model_name_or_path} is no usable checkpoint folder: {error}") from error
        raise ValueError(
            f"--model_name_or_path {arguments.model_name_or_path} is neither a folder nor a model on the Hub that can "
            "be "
            f"reached from here: {error}"
        ) from error
    known = [entry.model_type for entry in MODELS]
    if config.model_type not in known:
        raise ValueError(
            f"{arguments.model_name_or_path} holds a model of type {config.model_type!r}; this package has {known}. "
            "Original "
            "checkpoints are converted with `ecg-transformers convert`."
        )
    return config


def _settings(arguments: ModelArguments, config: PreTrainedConfig, had_head: bool) -> dict[str, Any]:
    """Translate the arguments into fields of the configuration."""
    hooks = hooks_of(config.model_type)
    settings: dict[str, Any] = {}
    dropout = arguments.dropout
    if dropout is None and not arguments.from_scratch and not had_head:
        # HuBERT-ECG is fine-tuned without dropout in the encoder; its published configurations are those of
        # pretraining.
        dropout = 0.0
    if dropout is not None:
        settings.update({name: dropout for name in hooks.dropout if has_field(config, name)})
    for argument, name in (
        ("head", hooks.head),
        ("head_dropout", hooks.head_dropout),
        ("layerdrop", hooks.layerdrop),
    ):
        value = getattr(arguments, argument)
        if value is None:
            continue
        if name is None or not has_field(config, name):
            raise ValueError(f"--{argument} does not apply to the model type {config.model_type!r}.")
        settings[name] = value
    if hasattr(config, "mask_time_prob"):
        settings["mask_time_prob"] = arguments.mask_time_prob
        if arguments.mask_time_prob and hasattr(config, "apply_spec_augment"):
            settings["apply_spec_augment"] = True
    elif arguments.mask_time_prob:
        raise ValueError(f"--mask_time_prob does not apply to the model type {config.model_type!r}.")
    return settings


def _update(
    config: PreTrainedConfig,
    settings: dict[str, Any],
    label_names: Sequence[str],
    problem_type: str,
    pos_weight: Sequence[float] | None,
) -> None:
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    config.problem_type = problem_type
    field_name = hooks_of(config.model_type).pos_weight
    if field_name is not None and hasattr(config, field_name):
        setattr(config, field_name, None if pos_weight is None else [float(weight) for weight in pos_weight])
    elif pos_weight is not None:
        logger.warning(f"The model type {config.model_type!r} has no weights of positives; --pos_weight is ignored.")
    # What an earlier fine-tuning chose belongs to its labels.
    outdated = ["thresholds", "threshold_criterion", "threshold_source"]
    if any(
        name not in label_names for names in (getattr(config, "label_groups", None) or {}).values() for name in names
    ):
        outdated.append("label_groups")
    for name in outdated:
        if hasattr(config, name):
            delattr(config, name)
    for name, value in settings.items():
        set_field(config, name, value)
    check_fields(config)


def attention_arguments(arguments: ModelArguments) -> dict[str, str]:
    """Return what a model class takes to use the attention that the arguments name."""
    return {"attn_implementation": arguments.attn_implementation} if arguments.attn_implementation else {}


def build_extractor(arguments: ModelArguments, config: PreTrainedConfig) -> ECGFeatureExtractor:
    """Return the preprocessing of the run: the checkpoint's, or a recipe of the model type."""
    if arguments.from_scratch or arguments.recipe is not None:
        return ECGFeatureExtractor.for_model_type(config.model_type, recipe=arguments.recipe, config=config)
    return ECGFeatureExtractor.from_pretrained(arguments.model_name_or_path, revision=arguments.revision)


def load_weights(
    arguments: ModelArguments, config: PreTrainedConfig, model_class: Any = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint's weights into a model whose heads may be new.

    Args:
        arguments (`ModelArguments`): the checkpoint.
        config (`PreTrainedConfig`): of the model.
        model_class (*optional*): class of the model.

    Returns:
        `tuple` of the model and the names of its tensors that the checkpoint lacks or has in other shapes.

    Raises:
        ValueError: if the weights cannot be read, or tensors of the base model are among those.
    """
    # transformers reports every missing key at length; whether they may be missing is decided below.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(
            arguments.model_name_or_path,
            config=config,
            revision=arguments.revision,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **attention_arguments(arguments),
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"The weights of {arguments.model_name_or_path} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    lacking = [*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])]
    wrong = [key for key in lacking if key.startswith(f"{model.base_model_prefix}.")]
    if wrong:
        raise ValueError(
            f"{arguments.model_name_or_path} lacks {len(wrong)} tensors of the encoder, or has them in other shapes: "
            f"{', '.join(sorted(wrong)[:5])}. Its config.json and --config_overrides must describe its weights."
        )
    return model, lacking
