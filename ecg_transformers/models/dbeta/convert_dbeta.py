"""Conversion of the original D-BETA checkpoints: `{"model": weights}` with a `config.json` of the form `{"model": …}`.

The file holds the whole pretraining model, its T5 encoder included. A `t5_config.json` beside it describes that
encoder; without one it is google/flan-t5-base, as in the published model.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedConfig, T5Config

from ...conversion import ConvertedCheckpoint, SourceCheckpoint
from .configuration_dbeta import DBetaConfig
from .modeling_dbeta import DBetaForPreTraining, sinusoidal_positions

# The original drops it too: a remnant of masking in the encoder, which D-BETA does not do
IGNORABLE_KEYS = ("ecg_encoder.mask_emb",)
T5_DOCUMENT = "t5_config.json"

_MOST_CONVOLUTIONS = 100
_EXTRACTOR_MODES = {"default": "group", "layer_norm": "layer"}

# Original setting -> field of a part of our configuration. They have no default here: weights do not tell them all.
_GEOMETRY = {
    "ecg_config": {
        "encoder_layers": "num_hidden_layers",
        "encoder_embed_dim": "hidden_size",
        "encoder_ffn_embed_dim": "intermediate_size",
        "encoder_attention_heads": "num_attention_heads",
        "conv_pos": "num_conv_pos_embeddings",
        "conv_pos_groups": "num_conv_pos_embedding_groups",
    },
    "cross_modal_config": {"num_top_layer": "num_hidden_layers", "num_heads": "num_attention_heads"},
    "decoder_config": {
        "mem_decoder_hidden_dim": "hidden_size",
        "mem_decoder_num_layers": "num_hidden_layers",
        "mem_decoder_num_heads": "num_attention_heads",
        "mem_layer": "fusion_layer",
    },
}
# The same for settings with a default
_OPTIONAL = {
    "ecg_config": {
        "in_d": "num_leads",
        "conv_bias": "conv_bias",
        "layer_norm_first": "do_stable_layer_norm",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "dropout_input": "feat_proj_dropout",
        "encoder_layerdrop": "layerdrop",
        "activation_fn": "hidden_act",
    },
    "cross_modal_config": {"drop_rate": ("hidden_dropout_prob", "attention_probs_dropout_prob")},
    "decoder_config": {"mem_prob": "mask_ratio"},
}
# Settings that change what the model computes, and that D-BETA leaves off
_REFUSED = {
    "normalize": "its input is normalised, which the recipe of D-BETA does not do",
    "filter": "its input is filtered, which the recipe of D-BETA does not do",
    "apply_mask": "its encoder masks spans of tokens",
}
# Settings without effect on the model: names, paths, unused fields, augmentation, the masking that is refused above
_WITHOUT_EFFECT = re.compile(
    "_name|all_gather|data|args|lead_masking|dropout_features|(no_)?mask_.+|load_pretrained_weights"
    "|pretrained_model_path|num_layers|max_text_size"
)

_FUSED_PROJECTION = re.compile(r"(mem_head\.layers\.\d+\.self_attn)\.in_proj_(weight|bias)")
_POSITIONS = "mim_head.decoder_pos_embed.pe"
# Pattern of an original name -> our name; the first that matches decides
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"class_embedding$", r"dbeta.class_embedding"),
        (
            r"ecg_encoder\.feature_extractor\.conv_layers\.(\d+)\.0\.",
            r"dbeta.ecg_encoder.feature_extractor.conv_layers.\1.conv.",
        ),
        (
            r"ecg_encoder\.feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(?=weight|bias)",
            r"dbeta.ecg_encoder.feature_extractor.conv_layers.\1.layer_norm.",
        ),
        (r"ecg_encoder\.layer_norm\.", r"dbeta.ecg_encoder.feature_projection.layer_norm."),
        (r"ecg_encoder\.post_extract_proj\.", r"dbeta.ecg_encoder.feature_projection.projection."),
        (r"ecg_encoder\.conv_pos\.pos_conv\.0\.bias$", r"dbeta.ecg_encoder.pos_conv_embed.conv.bias"),
        (
            r"ecg_encoder\.conv_pos\.pos_conv\.0\.weight_g$",
            r"dbeta.ecg_encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        ),
        (
            r"ecg_encoder\.conv_pos\.pos_conv\.0\.weight_v$",
            r"dbeta.ecg_encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        ),
        (r"ecg_encoder\.encoder\.layer_norm\.", r"dbeta.ecg_encoder.layer_norm."),
        (r"ecg_encoder\.encoder\.layers\.(\d+)\.self_attn\.", r"dbeta.ecg_encoder.layers.\1.attention."),
        (r"ecg_encoder\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"dbeta.ecg_encoder.layers.\1.layer_norm."),
        (
            r"ecg_encoder\.encoder\.layers\.(\d+)\.fc1\.",
            r"dbeta.ecg_encoder.layers.\1.feed_forward.intermediate_dense.",
        ),
        (r"ecg_encoder\.encoder\.layers\.(\d+)\.fc2\.", r"dbeta.ecg_encoder.layers.\1.feed_forward.output_dense."),
        (r"ecg_encoder\.encoder\.layers\.(\d+)\.final_layer_norm\.", r"dbeta.ecg_encoder.layers.\1.final_layer_norm."),
        (r"language_encoder\.", r"dbeta.text_encoder."),
        (r"multi_modal_language_proj\.", r"dbeta.text_projection."),
        (r"multi_modal_ecg_proj\.", r"dbeta.ecg_projection."),
        (r"unimodal_language_pooler\.", r"dbeta.text_pooler."),
        (r"unimodal_ecg_pooler\.", r"dbeta.ecg_pooler."),
        (r"modality_type_embeddings\.", r"dbeta.fusion.modality_embeddings."),
        (r"multi_modal_language_layers\.", r"dbeta.fusion.text_layers."),
        (r"multi_modal_ecg_layers\.", r"dbeta.fusion.ecg_layers."),
        (r"multi_modal_language_pooler\.", r"dbeta.fusion.text_pooler."),
        (r"multi_modal_ecg_pooler\.", r"dbeta.fusion.ecg_pooler."),
        (r"mlm_head\.bias$", r"mlm_head.decoder.bias"),
        (r"mim_head\.mask_token$", r"mem_head.mask_token"),
        (r"mim_head\.decoder_embed\.", r"mem_head.projection."),
        (r"mim_head\.decoder\.resblocks\.(\d+)\.attn\.", r"mem_head.layers.\1.self_attn."),
        (r"mim_head\.decoder\.resblocks\.(\d+)\.ln_([12])\.", r"mem_head.layers.\1.layer_norm\2."),
        (r"mim_head\.decoder\.resblocks\.(\d+)\.mlp\.c_fc\.", r"mem_head.layers.\1.mlp.fc1."),
        (r"mim_head\.decoder\.resblocks\.(\d+)\.mlp\.c_proj\.", r"mem_head.layers.\1.mlp.fc2."),
        (r"mim_head\.decoder_norm\.", r"mem_head.layer_norm."),
        (r"mim_head\.decoder_pred\.", r"mem_head.prediction."),
        (r"itm_head\.fc\.", r"etm_head."),
    )
)


def matches(checkpoint: SourceCheckpoint) -> bool:
    """Recognise an original D-BETA checkpoint."""
    return {"class_embedding", "multi_modal_ecg_proj.weight"} <= checkpoint.tensors.keys()


def convert(checkpoint: SourceCheckpoint, label_names: Sequence[str] | None = None) -> ConvertedCheckpoint:
    """Give the weights our names and build the configuration that fits them.

    Args:
        checkpoint ([`SourceCheckpoint`]): as read from an original file or folder.
        label_names (sequence of `str`, *optional*): not used; the original has no classification head.

    Raises:
        ValueError: if the parts of the checkpoint do not fit together, or it was trained otherwise than D-BETA.
    """
    if label_names is not None:
        raise ValueError("`label_names` were given, but this checkpoint has no classification head.")
    if not checkpoint.config:
        raise ValueError(
            "a D-BETA checkpoint does not tell its architecture; put the config.json that was published with it "
            "beside it, and give the folder."
        )
    settings = checkpoint.config.get("model", checkpoint.config)
    if not isinstance(settings, Mapping):
        raise ValueError(f"`model` in config.json holds a {type(settings).__name__}, not settings.")
    t5_settings = checkpoint.documents.get(T5_DOCUMENT)
    config, notes = convert_settings(settings, t5_settings)
    if t5_settings is None:
        notes.append(
            f"No {T5_DOCUMENT} lies beside the weights, so the text encoder is taken to be google/flan-t5-base."
        )
    return ConvertedCheckpoint(DBetaForPreTraining, config, rename_tensors(checkpoint.tensors), notes=notes)


def convert_settings(
    settings: Mapping[str, Any], t5_settings: Mapping[str, Any] | None = None
) -> tuple[DBetaConfig, list[str]]:
    """Translate the original's configuration.

    Args:
        settings (`dict`): what the original's `config.json` holds under `model`.
        t5_settings (`dict`, *optional*): the configuration of the text encoder; google/flan-t5-base if not given.

    Returns:
        [`DBetaConfig`] and notes on settings without counterpart.

    Raises:
        ValueError: if a setting is missing or means another model.
    """
    required = [name for names in _GEOMETRY.values() for name in names]
    required += ["conv_feature_layers", "hidden_dim", "vocab_size"]
    missing = [name for name in required if settings.get(name) is None]
    if missing:
        raise ValueError(f"config.json lacks {missing}; it is not the one of this checkpoint. Fetch it again.")
    for name, reason in _REFUSED.items():
        if settings.get(name):
            raise ValueError(f"config.json says `{name}` {settings[name]!r}: {reason}. This variant is not supported.")
    mode = settings.get("extractor_mode") or "default"
    if mode not in _EXTRACTOR_MODES:
        raise ValueError(f"`extractor_mode` is one of {list(_EXTRACTOR_MODES)}; got {mode!r}.")

    parts: dict[str, dict[str, Any]] = {"ecg_config": {}, "cross_modal_config": {}, "decoder_config": {}}
    for table in (_GEOMETRY, _OPTIONAL):
        for part, names in table.items():
            for name, ours in names.items():
                if settings.get(name) is not None:
                    for target in (ours,) if isinstance(ours, str) else ours:
                        parts[part][target] = settings[name]
    layers = parse_conv_layers(settings["conv_feature_layers"])
    for position, name in enumerate(("conv_dim", "conv_kernel", "conv_stride")):
        parts["ecg_config"][name] = [layer[position] for layer in layers]
    parts["ecg_config"]["feat_extract_norm"] = _EXTRACTOR_MODES[mode]
    config = DBetaConfig(
        hidden_size=settings["hidden_dim"],
        vocab_size=settings["vocab_size"],
        text_config=None if t5_settings is None else _t5_config(t5_settings),
        **parts,
    )
    return config, _notes(settings, required)


def _t5_config(settings: Mapping[str, Any]) -> T5Config:
    if settings.get("model_type", "t5") != "t5":
        raise ValueError(f"{T5_DOCUMENT} describes a model of type {settings['model_type']!r}, not a T5.")
    # What PreTrainedConfig itself knows describes a session
    known = {field.name for field in fields(T5Config)} - {field.name for field in fields(PreTrainedConfig)}
    return T5Config(**{name: value for name, value in settings.items() if name in known and value is not None})


def _notes(settings: Mapping[str, Any], required: Sequence[str]) -> list[str]:
    notes = []
    if settings.get("feature_grad_mult", 1.0) != 1.0:
        notes.append(
            f"The original scaled the gradient of its convolutions by {settings['feature_grad_mult']}; here it is not "
            "scaled. The outputs are the same."
        )
    understood = {*required, "extractor_mode", "feature_grad_mult", *_REFUSED}
    understood |= {name for names in _OPTIONAL.values() for name in names}
    unknown = sorted(
        str(name) for name in settings if name not in understood and not _WITHOUT_EFFECT.fullmatch(str(name))
    )
    if unknown:
        notes.append(f"config.json holds settings that no known D-BETA has and that were not used: {unknown}.")
    return notes


def parse_conv_layers(expression: Any) -> list[tuple[int, int, int]]:
    """Read the original's list of convolutions, a Python expression such as `"[(256, 2, 2)] * 4"`, without running it.

    Returns:
        `list[tuple[int, int, int]]`: channels, kernel and stride of each.

    Raises:
        ValueError: if it is anything else than a list of triples of integers, sums of such lists, and multiples.
    """
    error = ValueError(
        f"`conv_feature_layers` is a list of (channels, kernel, stride) such as '[(256, 2, 2)] * 4'; got "
        f"{str(expression)[:100]!r}."
    )

    def evaluate(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [evaluate(element) for element in node.elts]
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            left, right = evaluate(node.left), evaluate(node.right)
            if isinstance(node.op, ast.Add):
                if isinstance(left, list) and isinstance(right, list):
                    return left + right
                raise error
            if isinstance(left, int):
                left, right = right, left
            if not isinstance(left, list) or not isinstance(right, int) or len(left) * right > _MOST_CONVOLUTIONS:
                raise error
            return left * right
        raise error

    if isinstance(expression, str):
        try:
            expression = evaluate(ast.parse(expression.strip(), mode="eval").body)
        except (SyntaxError, RecursionError, MemoryError) as cause:
            raise error from cause
    if (
        not isinstance(expression, (list, tuple))
        or not 1 <= len(expression) <= _MOST_CONVOLUTIONS
        or not all(isinstance(layer, (list, tuple)) and len(layer) == 3 for layer in expression)
        or not all(type(value) is int for layer in expression for value in layer)
    ):
        raise error
    return [tuple(layer) for layer in expression]


def rename_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under our names; what has no counterpart keeps its own.

    Raises:
        ValueError: if the fixed positions of the decoder are not the ones that the model computes.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name == _POSITIONS:
            _check_positions(tensor)
            continue
        name = our_name(name)
        fused = _FUSED_PROJECTION.fullmatch(name)
        if fused and tensor.ndim and tensor.shape[0] % 3 == 0:
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                # Clones, so that no two weights share memory
                renamed[f"{fused[1]}.{part}_proj.{fused[2]}"] = value.clone()
        else:
            renamed[name] = tensor
    return renamed


def our_name(name: str) -> str:
    """Return our name of an original weight; the name itself if there is none."""
    for pattern, replacement in _NAMES:
        found = pattern.match(name)
        if found:
            return found.expand(replacement) + name[found.end() :]
    return name


def _check_positions(positions: torch.Tensor) -> None:
    if positions.ndim == 3 and positions.shape[0] == 1:
        expected = sinusoidal_positions(positions.shape[1], positions.shape[2])
        tolerance = 1e-3 if positions.dtype in (torch.float32, torch.float64) else 1e-2
        if torch.allclose(positions[0].float(), expected, rtol=0, atol=tolerance):
            return
    raise ValueError(
        f"`{_POSITIONS}` of shape {tuple(positions.shape)} does not hold the fixed positions of D-BETA (sines in even "
        "columns, cosines in odd ones); the checkpoint was altered or is of another model."
    )
