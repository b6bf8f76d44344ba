"""Conversion of the original HuBERT-ECG checkpoints.

Three kinds exist: folders as published on the Hub, pretraining `.pt` files, and fine-tuned `.pt` files with one of
three heads. Each holds the backbone under the names of transformers' HuBERT, so only the prefix and the heads are
renamed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedConfig

from ...conversion import ConvertedCheckpoint, SourceCheckpoint
from .configuration_hubert_ecg import HubertECGConfig
from .modeling_hubert_ecg import HubertECGForPreTraining, HubertECGForSequenceClassification, HubertECGModel

_CODEBOOK_KEY = re.compile(r"(final_proj|label_embedding)\.\d+\.")
_PREFIX = "hubert_ecg."
_RENAMED = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}
# Parameters that a source may hold in excess: the mask vector stays in fine-tuned files whose model does not mask
IGNORABLE_KEYS = ("masked_spec_embed", _PREFIX + "masked_spec_embed")


def matches(checkpoint: SourceCheckpoint) -> bool:
    """Recognise a HuBERT-ECG checkpoint."""
    config, tensors = checkpoint.config, checkpoint.tensors
    if config is not None and config.get("model_type") not in (None, "hubert", "hubert_ecg"):
        return False
    names = {name.removeprefix(_PREFIX) for name in tensors}
    return (
        "encoder.pos_conv_embed.conv.bias" in names
        and tensors_of_first_convolution(tensors) == 1
        and (
            config is not None
            and config.get("model_type") == "hubert_ecg"
            or any(name.startswith(_PREFIX) for name in tensors)
            or any(_CODEBOOK_KEY.match(name) for name in names)
        )
    )


def tensors_of_first_convolution(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Return the input channels of the first convolution; one in HuBERT-ECG, whose leads lie end to end."""
    for prefix in ("", _PREFIX):
        weight = tensors.get(prefix + "feature_extractor.conv_layers.0.conv.weight")
        if weight is not None and weight.ndim == 3:
            return weight.shape[1]
    return None


def convert(checkpoint: SourceCheckpoint, label_names: Sequence[str] | None = None) -> ConvertedCheckpoint:
    """Give the weights our names and build the configuration that fits them.

    Args:
        checkpoint ([`SourceCheckpoint`]): as read from an original file or folder.
        label_names (sequence of `str`, *optional*): names of the labels of a fine-tuned checkpoint.

    Raises:
        ValueError: if the parts of the checkpoint do not fit together.
    """
    config, entries = checkpoint.config or {}, checkpoint.entries
    tensors = {_our_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    # What PreTrainedConfig itself knows (outputs, dtype, labels) describes a session or is read below
    known = {field.name for field in fields(HubertECGConfig)} - {field.name for field in fields(PreTrainedConfig)}
    settings = {name: value for name, value in config.items() if name in known and value is not None}
    for derived in ("ensemble_length", "vocab_sizes"):
        settings.pop(derived, None)

    if any(name.startswith(("classifier.", "label_embedding.weight")) for name in tensors):
        model_class = HubertECGForSequenceClassification
        settings |= _head_settings(config, tensors, entries, label_names)
        if "label_embedding.weight" in tensors:
            tensors["classifier.weight"] = tensors.pop("label_embedding.weight")
    else:
        if label_names is not None:
            raise ValueError("`label_names` were given, but this checkpoint has no classification head.")
        model_class = HubertECGModel
        sizes = _codebook_sizes(config, tensors, entries)
        if sizes:
            model_class = HubertECGForPreTraining
            settings["vocab_sizes"] = sizes

    if model_class is HubertECGModel:
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    else:
        tensors = {
            name if name.startswith((_PREFIX, "classifier.")) or _CODEBOOK_KEY.match(name) else _PREFIX + name: tensor
            for name, tensor in tensors.items()
        }
    return ConvertedCheckpoint(model_class, HubertECGConfig(**settings), tensors)


def _our_name(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    # A prefixed codebook is one that an encompassing module saved; ours stand outside the backbone
    bare = name.removeprefix(_PREFIX)
    return bare if _CODEBOOK_KEY.match(bare) else name


def _codebook_sizes(config: Mapping, tensors: Mapping[str, torch.Tensor], entries: Mapping) -> list[int] | None:
    found = {
        int(name.split(".")[1]): tensor.shape[0]
        for name, tensor in tensors.items()
        if re.fullmatch(r"label_embedding\.\d+\.weight", name)
    }
    if not found:
        return None
    sizes = [size for _, size in sorted(found.items())]
    stated = entries.get("pretraining_vocab_sizes") or config.get("vocab_sizes") or sizes
    if list(stated) != sizes:
        raise ValueError(
            f"The checkpoint states codebooks of {list(stated)} codes and holds codebooks of {sizes}; it is damaged "
            "or put together from two."
        )
    return sizes


def _head_settings(
    config: Mapping, tensors: Mapping[str, torch.Tensor], entries: Mapping, label_names: Sequence[str] | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "label_embedding.weight" in tensors:
        head, last = "label_embedding", "label_embedding.weight"
    elif "classifier.2.weight" in tensors:
        head, last = "mlp", "classifier.2.weight"
        settings["classifier_hidden_size"] = tensors[last].shape[1]
    elif "classifier.weight" in tensors:
        head, last = config.get("classifier_head", "linear"), "classifier.weight"
    else:
        names = sorted(name for name in tensors if name.startswith("classifier."))
        raise ValueError(f"The head {names} is none of HuBERT-ECG's: linear, two-layer, label embedding.")
    flags = {"label_embedding": entries.get("use_label_embedding"), "linear": entries.get("linear")}
    stated = next((name for name, flag in flags.items() if flag), "mlp")
    if any(flag is not None for flag in flags.values()) and stated != head:
        raise ValueError(f"The checkpoint's flags state a {stated!r} head and its weights form a {head!r} head.")

    num_labels = tensors[last].shape[0]
    stated_labels = entries.get("finetuning_vocab_size")
    if stated_labels is not None and int(stated_labels) != num_labels:
        raise ValueError(f"The checkpoint states {stated_labels} labels and its head has {num_labels}.")
    settings |= {"classifier_head": head, **_label_settings(config, num_labels, label_names)}
    # The original trains its heads with one sigmoid per label
    settings["problem_type"] = config.get("problem_type") or "multi_label_classification"
    return settings


def _label_settings(config: Mapping, num_labels: int, label_names: Sequence[str] | None) -> dict[str, Any]:
    if label_names is not None:
        if len(label_names) != num_labels or len(set(label_names)) != num_labels:
            raise ValueError(
                f"The head has {num_labels} labels; `label_names` holds {len(label_names)} names, "
                f"{len(set(label_names))} of them different."
            )
        names = list(label_names)
    else:
        stored = {int(index): name for index, name in (config.get("id2label") or {}).items()}
        # A configuration that was never told its labels holds the two of the library's default
        complete = sorted(stored) == list(range(num_labels))
        names = [stored[index] if complete else f"LABEL_{index}" for index in range(num_labels)]
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
