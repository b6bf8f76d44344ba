"""Conversion of DeepECG-SSL and ECG-FM checkpoints, as fairseq-signals writes them.

Two kinds exist: pretraining files, and fine-tuned files, whose encoder has a prefix and whose head is one of two. Both
hold the configuration of their training under `cfg`. Of a fine-tuned file that configuration may be the trainer's
defaults rather than the encoder's: the original builds the encoder from the pretraining file beside it
(`base_ssl.pt`), and so does this module. What the shapes of the weights tell is read from them; the rest is taken only
from a configuration that agrees with every shape.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch

from ...conversion import ConvertedCheckpoint, SourceCheckpoint
from ...labels.deepecg import describe_deepecg_head
from .configuration_deepecg_ssl import DeepECGSSLConfig
from .modeling_deepecg_ssl import DeepECGSSLForPreTraining, DeepECGSSLForSequenceClassification, DeepECGSSLModel

_PREFIX = "deepecg_ssl."
_BASE_FILE = "base_ssl.pt"
# Samples that the models read: 10 s at 250 Hz, or 5 s at 500 Hz
_WINDOW = 2500
# Parameters that a source may hold in excess: the mask vector, where the configuration masks nothing
IGNORABLE_KEYS = ("masked_spec_embed", _PREFIX + "masked_spec_embed")

# Patterns of the encoder's names; the first that matches renames
_ENCODER_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"mask_emb$", "masked_spec_embed"),
        (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
        (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
        (r"layer_norm\.", "feature_projection.layer_norm."),
        (r"post_extract_proj\.", "feature_projection.projection."),
        (r"conv_pos\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
        (r"conv_pos\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
        (r"conv_pos\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
        (r"encoder\.layer_norm\.", "encoder.layer_norm."),
        (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
        (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
        (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
        (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
        (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
    )
)
_PRETRAINING_NAMES = {
    "quantizer.vars": "quantizer.codevectors",
    "quantizer.weight_proj.weight": "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias": "quantizer.weight_proj.bias",
    "project_q.weight": "project_q.weight",
    "project_q.bias": "project_q.bias",
    "final_proj.weight": "project_hid.weight",
    "final_proj.bias": "project_hid.bias",
}
_BLOCK = "proj.pooler.cross_attention_block."
_ATTENTIVE_NAMES = {
    "proj.pooler.query_tokens": "classifier.query",
    **{
        old + kind: new + kind
        for old, new in (
            (_BLOCK + "norm1.", "classifier.token_norm."),
            (_BLOCK + "xattn.q.", "classifier.q_proj."),
            (_BLOCK + "xattn.proj.", "classifier.out_proj."),
            (_BLOCK + "norm2.", "classifier.pooled_norm."),
            (_BLOCK + "mlp.fc1.", "classifier.intermediate_dense."),
            (_BLOCK + "mlp.fc2.", "classifier.output_dense."),
            ("proj.linear.", "classifier.output."),
        )
        for kind in ("weight", "bias")
    },
}
_LINEAR_NAMES = {"proj.weight": "classifier.weight", "proj.bias": "classifier.bias"}

# Field of `cfg.model` -> ours: what the shapes do not tell and the result depends on
_STATED_GEOMETRY = {"encoder_attention_heads": "num_attention_heads", "layer_norm_first": "do_stable_layer_norm"}
# What the shapes tell
_SHAPED_GEOMETRY = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "in_d": "num_leads",
    "conv_bias": "conv_bias",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
}
_DROPOUTS = {
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "dropout_features": "feat_quantizer_dropout",
    "encoder_layerdrop": "layerdrop",
}
_PRETRAINING_SETTINGS = {
    "feature_grad_mult": "feature_grad_mult",
    "num_negatives": "num_negatives",
    "logit_temp": "contrastive_logits_temperature",
}
_EXTRACTOR_MODES = {"default": "group", "layer_norm": "layer"}
# Options of the original's model that have no counterpart here; a file that uses one has another architecture
_UNSUPPORTED = {"quantize_targets": True, "quantize_input": False, "same_quantizer": False, "target_glu": False}
# Options that only concern how the pretraining goes on
_OTHER_PRETRAINING = {
    "negatives_from_everywhere": False,
    "cross_sample_negatives": 0,
    "codebook_negatives": 0,
    "mask_selection": "static",
    "no_mask_overlap": False,
    "mask_channel_prob": 0.0,
    "infonce": True,
    "cmsc_weights": None,
}


def matches(checkpoint: SourceCheckpoint) -> bool:
    """Recognise a DeepECG-SSL or ECG-FM checkpoint."""
    return any(
        {
            prefix + "feature_extractor.conv_layers.0.0.weight",
            prefix + "conv_pos.pos_conv.0.bias",
            prefix + "encoder.layer_norm.weight",
            prefix + "encoder.layers.0.self_attn.q_proj.weight",
        }
        <= checkpoint.tensors.keys()
        for prefix in ("", "encoder.")
    )


def convert(checkpoint: SourceCheckpoint, label_names: Sequence[str] | None = None) -> ConvertedCheckpoint:
    """Give the weights our names and build the configuration that fits them.

    Weights in half precision, which the original's trainer saves and its model reads into float32, become float32.

    Args:
        checkpoint ([`SourceCheckpoint`]): as read from an original file or folder.
        label_names (sequence of `str`, *optional*): names of the labels of a fine-tuned checkpoint.

    Raises:
        ValueError: if the parts of the checkpoint do not fit together.
    """
    settings = _group(checkpoint.config, "model")
    is_finetuned = any(name.startswith("encoder.feature_extractor.") for name in checkpoint.tensors)
    prefix = "encoder." if is_finetuned else ""
    tensors = {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    encoder = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not name.startswith(("proj.", *_PRETRAINING_NAMES))
    }
    others = {name: tensor for name, tensor in tensors.items() if name.removeprefix(prefix) not in encoder}
    notes: list[str] = []
    fields = _geometry(checkpoint, encoder, settings, is_finetuned, notes)
    fields |= {ours: settings[name] for name, ours in _DROPOUTS.items() if settings.get(name) is not None}
    fields |= _mask_settings(settings, encoder, needed=bool(others) and not is_finetuned)
    renamed = {_PREFIX + our_name(name): tensor for name, tensor in encoder.items()}
    if is_finetuned:
        model_class = DeepECGSSLForSequenceClassification
        head_fields, head = _read_head(checkpoint, settings, others, label_names, notes)
        fields |= head_fields
        renamed |= head
    else:
        if label_names is not None:
            raise ValueError("`label_names` were given, but this checkpoint has no classification head.")
        model_class = DeepECGSSLForPreTraining if others else DeepECGSSLModel
        if others:
            fields |= _pretraining_settings(checkpoint, settings, others, notes)
            renamed |= {_PRETRAINING_NAMES.get(name, name): tensor for name, tensor in others.items()}
        else:
            renamed = {name.removeprefix(_PREFIX): tensor for name, tensor in renamed.items()}
    recipe = _find_recipe(checkpoint, fields, notes)
    config = DeepECGSSLConfig(**fields)
    if config.receptive_field > _WINDOW:
        raise ValueError(
            f"one token of its convolutions, with kernels {list(config.conv_kernel)} and strides "
            f"{list(config.conv_stride)}, takes {config.receptive_field} samples; the recordings of DeepECG-SSL and "
            f"ECG-FM have {_WINDOW}."
        )
    return ConvertedCheckpoint(model_class, config, renamed, recipe, notes)


def _group(config: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Return one group of settings, such as `cfg.model`; empty if there is none."""
    group = (config or {}).get(name)
    return dict(group) if isinstance(group, Mapping) else {}


def our_name(name: str) -> str:
    """Return our name of an encoder's original weight; the name itself if there is none."""
    for pattern, replacement in _ENCODER_NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def _geometry(
    checkpoint: SourceCheckpoint,
    encoder: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    is_finetuned: bool,
    notes: list[str],
) -> dict[str, Any]:
    """Return the fields of the architecture: those that the shapes tell, and the rest from a fitting configuration."""
    shaped = _read_shapes(encoder)
    sources = {f"the configuration in {checkpoint.path.name}": settings} if "encoder_layers" in settings else {}
    if is_finetuned:
        base = _find_base(checkpoint, settings)
        if base is not None:
            sources = {f"the configuration in {base.path.name}": _group(base.config, "model")}
    for source, stated in sources.items():
        wrong = _disagreements(stated, shaped)
        if not wrong:
            strides = [stride for _, _, stride in _read_convolutions(stated["conv_feature_layers"])]
            missing = [name for name in _STATED_GEOMETRY if name not in stated]
            if missing:
                raise ValueError(f"{source} does not state {', '.join(missing)}.")
            return {**shaped, "conv_stride": strides} | {ours: stated[name] for name, ours in _STATED_GEOMETRY.items()}
        remedy = (
            f" The configuration of a fine-tuned file may be the trainer's defaults: put the pretraining file that it "
            f"was made from beside it, as {_BASE_FILE}."
            if is_finetuned and stated is settings
            else " They belong to different checkpoints."
        )
        raise ValueError(f"{source} does not fit the weights: {'; '.join(wrong)}.{remedy}")
    published = DeepECGSSLConfig()
    if all(_plain(getattr(published, name)) == value for name, value in shaped.items()):
        notes.append(
            "The checkpoint holds no configuration. Its weights have the shapes of the published models, so their "
            "strides, attention heads and order of norms were taken."
        )
        return shaped
    raise ValueError(
        "it holds no configuration, and the shapes of its weights, which are not those of the published models, do "
        f"not tell strides and attention heads.{f' Put {_BASE_FILE} beside it.' if is_finetuned else ''}"
    )


def _find_base(checkpoint: SourceCheckpoint, settings: Mapping[str, Any]) -> SourceCheckpoint | None:
    """Return the pretraining file beside a fine-tuned one."""
    stated = settings.get("model_path")
    for name in (PurePath(stated).name if isinstance(stated, str) else None, _BASE_FILE):
        if name in checkpoint.companions:
            return checkpoint.companions[name]
    return None


def _read_shapes(encoder: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    convolutions = [
        encoder[f"feature_extractor.conv_layers.{index}.0.weight"]
        for index in range(_count(encoder, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight"))
    ]
    per_layer = "feature_extractor.conv_layers.0.2.1.weight" in encoder
    direction = next(
        (encoder[name] for name in encoder if re.search(r"pos_conv\.0\.(weight_v|.*original1)$", name)), None
    )
    if direction is None:
        raise ValueError("it has no weight of the positional convolution.")
    return {
        "num_leads": convolutions[0].shape[1],
        "conv_dim": [weight.shape[0] for weight in convolutions],
        "conv_kernel": [weight.shape[2] for weight in convolutions],
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in encoder,
        "feat_extract_norm": "layer" if per_layer else "group",
        "hidden_size": direction.shape[0],
        "num_hidden_layers": _count(encoder, r"encoder\.layers\.(\d+)\.fc1\.weight"),
        "intermediate_size": encoder["encoder.layers.0.fc1.weight"].shape[0],
        "num_conv_pos_embeddings": direction.shape[2],
        "num_conv_pos_embedding_groups": direction.shape[0] // direction.shape[1],
    }


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    found = sorted(int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name)))
    if found != list(range(len(found))):
        raise ValueError(f"its layers are numbered {found}; some are missing.")
    return len(found)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _disagreements(stated: Mapping[str, Any], shaped: Mapping[str, Any]) -> list[str]:
    """Tell what a configuration states otherwise than the shapes."""
    wrong = [
        f"`{name}` is {stated[name]} and the weights have {shaped[ours]}"
        for name, ours in _SHAPED_GEOMETRY.items()
        if name in stated and stated[name] != shaped[ours]
    ]
    mode = stated.get("extractor_mode", "default")
    if _EXTRACTOR_MODES.get(mode) != shaped["feat_extract_norm"]:
        wrong.append(f"`extractor_mode` is {mode!r} and the norms are those of {shaped['feat_extract_norm']!r}")
    convolutions = stated.get("conv_feature_layers")
    found = [list(pair) for pair in zip(shaped["conv_dim"], shaped["conv_kernel"], strict=True)]
    if convolutions is None or [[dim, kernel] for dim, kernel, _ in _read_convolutions(convolutions)] != found:
        wrong.append(f"`conv_feature_layers` is {convolutions!r} and the weights have (channels, kernel) {found}")
    return wrong


def _read_convolutions(text: Any) -> list[tuple[int, int, int]]:
    """Read `"[(256, 2, 2)] * 4"`: (channels, kernel, stride) of each convolution. Nothing is evaluated but + and *."""
    shown = repr(text) if len(repr(text)) <= 200 else repr(text)[:200] + "…"

    def read(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return read(node.body)
        if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10**6:
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [read(element) for element in node.elts]
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            left, right = read(node.left), read(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            if isinstance(node.op, ast.Mult) and {type(left), type(right)} == {list, int}:
                times, items = (left, right) if isinstance(left, int) else (right, left)
                if times * len(items) <= 1000:
                    return items * times
        raise ValueError(f"`conv_feature_layers` {shown} is no list of (channels, kernel, stride).")

    try:
        layers = read(ast.parse(text.strip(), mode="eval")) if isinstance(text, str) else list(text)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"`conv_feature_layers` {shown} is no list of (channels, kernel, stride).") from error
    layers = [tuple(layer) for layer in layers if isinstance(layer, (list, tuple))]
    if not layers or any(len(layer) != 3 for layer in layers):
        raise ValueError(f"`conv_feature_layers` {shown} is no list of (channels, kernel, stride).")
    return layers


def _mask_settings(settings: Mapping[str, Any], encoder: Mapping[str, torch.Tensor], needed: bool) -> dict[str, Any]:
    fields = {}
    if settings.get("mask_length") is not None:
        fields["mask_time_length"] = settings["mask_length"]
    if settings.get("mask_prob") is not None:
        fields["mask_time_prob"] = settings["mask_prob"]
    if not needed and "mask_emb" not in encoder:
        fields["mask_time_prob"] = 0.0
    elif not needed:
        fields["apply_spec_augment"] = bool(settings.get("apply_mask"))
    return fields


def _read_head(
    checkpoint: SourceCheckpoint,
    settings: Mapping[str, Any],
    head: Mapping[str, torch.Tensor],
    label_names: Sequence[str] | None,
    notes: list[str],
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the fields and the renamed weights of a classifier's head."""
    renamed: dict[str, torch.Tensor] = {}
    if "proj.pooler.query_tokens" in head:
        # The original always has 12 heads here
        fields: dict[str, Any] = {"classifier_head": "attentive", "classifier_num_heads": 12}
        names, last = _ATTENTIVE_NAMES, "proj.linear.weight"
        inner = head.get(_BLOCK + "mlp.fc1.weight")
        if inner is not None and inner.shape[0] != 4 * inner.shape[1]:
            fields["classifier_hidden_size"] = inner.shape[0]
        for kind in ("weight", "bias"):
            fused = head.get(f"{_BLOCK}xattn.kv.{kind}")
            if fused is not None:
                renamed[f"classifier.k_proj.{kind}"], renamed[f"classifier.v_proj.{kind}"] = (
                    part.clone() for part in fused.chunk(2)
                )
    else:
        fields, names, last = {"classifier_head": "linear"}, _LINEAR_NAMES, "proj.weight"
    if last not in head:
        raise ValueError(
            f"The head {sorted(head)} is none of DeepECG-SSL's: `proj.weight`, or `proj.pooler` and `proj.linear`."
        )
    renamed |= {names.get(name, name): tensor for name, tensor in head.items() if ".xattn.kv." not in name}
    num_labels = head[last].shape[0]
    stated = settings.get("num_labels")
    if stated is not None and stated != num_labels:
        raise ValueError(f"The checkpoint states {stated} labels and its head has {num_labels}.")
    if settings.get("final_dropout") is not None:
        fields["classifier_dropout"] = settings["final_dropout"]
    described, remarks = _describe_labels(checkpoint, num_labels, label_names)
    notes.extend(remarks)
    criterion = str(_group(checkpoint.config, "criterion").get("_name") or "")
    if "mse" in criterion:
        described["problem_type"] = "regression"
    elif criterion == "cross_entropy":
        described["problem_type"] = "single_label_classification"
    return fields | described, renamed


def _describe_labels(
    checkpoint: SourceCheckpoint, num_labels: int, label_names: Sequence[str] | None
) -> tuple[dict[str, Any], list[str]]:
    # The published files lie in folders that are called after the task
    path = checkpoint.path
    for name in (path.name if path.is_dir() else path.stem, path.resolve().parent.name):
        described = describe_deepecg_head("deepecg_ssl", num_labels, label_names, name)
        if "thresholds" in described[0]:
            return described
    return describe_deepecg_head("deepecg_ssl", num_labels, label_names)


def _pretraining_settings(
    checkpoint: SourceCheckpoint, settings: Mapping[str, Any], others: Mapping[str, torch.Tensor], notes: list[str]
) -> dict[str, Any]:
    """Return the fields of the pretraining: codebooks by shapes, the rest as stated."""
    for name, value in _UNSUPPORTED.items():
        if settings.get(name, value) != value:
            raise ValueError(f"`{name}` {settings[name]} is not supported; only {value} is.")
    criterion = _group(checkpoint.config, "criterion")
    options = {**settings, **criterion}
    unlike = [name for name, value in _OTHER_PRETRAINING.items() if options.get(name, value) != value]
    if unlike:
        stated = ", ".join(f"{name} {options[name]}" for name in unlike)
        notes.append(
            f"The pretraining used options that this model does not have, so it would go on without: {stated}."
        )
    missing = sorted(_PRETRAINING_NAMES.keys() - others.keys())
    if missing:
        raise ValueError(f"Of the parts of the pretraining it lacks {', '.join(missing)}.")
    codevectors, projection = others["quantizer.vars"], others["project_q.weight"]
    groups, rest = divmod(projection.shape[1], codevectors.shape[2])
    if rest or codevectors.shape[1] % max(groups, 1):
        raise ValueError(
            f"Codebooks {tuple(codevectors.shape)} and their projection {tuple(projection.shape)} do not fit together."
        )
    fields: dict[str, Any] = {
        "num_codevector_groups": groups,
        "num_codevectors_per_group": codevectors.shape[1] // groups,
        "codevector_dim": projection.shape[1],
        "proj_codevector_dim": projection.shape[0],
    }
    for name, ours in (("latent_groups", "num_codevector_groups"), ("latent_vars", "num_codevectors_per_group")):
        if settings.get(name, fields[ours]) != fields[ours]:
            raise ValueError(f"`{name}` is {settings[name]} and the codebooks have {fields[ours]}.")
    fields |= {ours: settings[name] for name, ours in _PRETRAINING_SETTINGS.items() if settings.get(name) is not None}
    if settings.get("latent_temp") is not None:
        names = ("max_gumbel_temperature", "min_gumbel_temperature", "gumbel_temperature_decay")
        fields |= dict(zip(names, _numbers(settings["latent_temp"], 3, "latent_temp"), strict=True))
    if criterion.get("loss_weights") is not None:
        names = ("diversity_loss_weight", "feature_penalty_weight")
        fields |= dict(zip(names, _numbers(criterion["loss_weights"], 2, "loss_weights"), strict=True))
    if criterion.get("temp") is not None:
        fields["cmsc_temperature"] = criterion["temp"]
    return fields


def _numbers(value: Any, count: int, name: str) -> list[float]:
    try:
        numbers = list(ast.literal_eval(value) if isinstance(value, str) else value)
    except (SyntaxError, TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"`{name}` holds {count} numbers; got {value!r}.")
    return numbers


def _find_recipe(checkpoint: SourceCheckpoint, fields: Mapping[str, Any], notes: list[str]) -> str | None:
    """Tell the recipe by the sampling rate that the task states; otherwise say what is assumed."""
    task = _group(checkpoint.config, "task")
    rates = {250: "deepecg_ssl", 500: "ecg_fm"}
    rate = task.get("sample_rate")
    if rate is not None and rate not in rates:
        raise ValueError(
            f"it was trained at {rate} Hz, for which there is no recipe; pass the `feature_extractor` of its training."
        )
    # Labels with published thresholds are DeepECG's
    if rate is None and "thresholds" not in fields:
        notes.append(
            "The checkpoint does not say its sampling rate. The recipe is DeepECG-SSL's (250 Hz, 10 s); ECG-FM's "
            "(500 Hz, 5 s) is `--recipe ecg_fm`."
        )
    if task.get("normalize") or task.get("filter"):
        used = " and ".join(name for name in ("filter", "normalize") if task.get(name))
        notes.append(f"It was trained on records after `{used}`, which the recipe does not hold.")
    if fields["num_leads"] != 12:
        notes.append(
            f"The model takes {fields['num_leads']} leads, and the recipe gives 12: pass a feature extractor."
        )
    return rates[rate or 250]
