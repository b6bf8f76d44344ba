"""The layers of a model from bottom to top: freezing, layer-wise learning rates, and where weight decay applies.

What differs from model to model stands in one table, `LAYER_PATTERNS`; a model without a row works too, with one group
for everything below the head.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

logger = logging.get_logger(__name__)

# model type -> groups from input to output: a name, and a pattern at the start of parameter names inside the base
# model. A pattern with a numbered group makes one group per number. The first pattern that matches decides.
LAYER_PATTERNS: dict[str, tuple[tuple[str, str], ...]] = {
    "hubert_ecg": (
        ("convolution", r"feature_extractor\."),
        ("projection", r"feature_projection\.|masked_spec_embed"),
        ("positions", r"encoder\.pos_conv_embed\.|encoder\.layer_norm\."),
        ("layer", r"encoder\.layers\.(\d+)\."),
    ),
    "dbeta": (
        ("convolution", r"ecg_encoder\.feature_extractor\."),
        ("projection", r"ecg_encoder\.feature_projection\."),
        ("positions", r"ecg_encoder\.(?:pos_conv_embed\.|layer_norm\.)|class_embedding"),
        ("layer", r"ecg_encoder\.layers\.(\d+)\."),
        ("pooler", r"ecg_projection\.|ecg_pooler\."),
    ),
    "deepecg_ssl": (
        ("convolution", r"feature_extractor\."),
        ("projection", r"feature_projection\.|masked_spec_embed"),
        ("positions", r"encoder\.pos_conv_embed\.|encoder\.layer_norm\."),
        ("layer", r"encoder\.layers\.(\d+)\."),
    ),
    "deepecg_sl": (
        ("stem", r"stem\."),
        ("layer", r"stages\.(\d+)\."),
        ("final", r"final\."),
    ),
    "hybrid_ecg": (
        ("stem", r"embeddings\."),
        ("layer", r"layers\.(\d+)\."),
        ("final", r"layer_norm\."),
    ),
}
HEAD = "head"
ENCODER = "encoder"
CONVOLUTION = "convolution"

# Parameters of more than one dimension that scale something, so decay would pull them to zero instead of keeping
# weights small: the gain of a weight-normalised convolution.
_GAINS = re.compile(r"parametrizations\.\w+\.original0$|\.weight_g$")
_NORMALIZATIONS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)


def group_of_parameters(model: PreTrainedModel) -> dict[str, str]:
    """Return the layer group of every parameter, by the parameter's name, from the input to the head.

    Args:
        model (`PreTrainedModel`): a model with a head.

    Returns:
        `dict[str, str]`: parameter name → group name such as `"convolution"`, `"layer.3"` or `"head"`.
    """
    patterns = LAYER_PATTERNS.get(getattr(model.config, "model_type", ""), ((ENCODER, ""),))
    prefix = f"{model.base_model_prefix}."
    groups = {}
    for name, _ in model.named_parameters():
        # Wrappers (DDP, torch.compile) put their own prefixes before the model's names.
        start = name.find(prefix)
        groups[name] = HEAD if start < 0 else _match(name[start + len(prefix) :], patterns)
    order = {group: position for position, group in enumerate(layer_order(groups.values(), patterns))}
    return dict(sorted(groups.items(), key=lambda entry: order[entry[1]]))


def _match(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for group, pattern in patterns:
        found = re.match(pattern, name)
        if found:
            return f"{group}.{found[1]}" if found.groups() and found[1] is not None else group
    # A part that the table does not name sits beside the layers that it does; it is treated like the lowest.
    return patterns[0][0]


def layer_order(groups: Iterable[str], patterns: tuple[tuple[str, str], ...]) -> list[str]:
    """Sort group names from the input to the head."""
    positions = {group: position for position, (group, _) in enumerate(patterns)}

    def key(group: str) -> tuple[int, int]:
        name, _, number = group.partition(".")
        return positions.get(name, len(positions)), int(number or 0)

    return sorted(set(groups), key=key)


def layer_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a model's layer groups from the input to the head.

    Example:
        >>> layer_names(model)
        ['convolution', 'projection', 'positions', 'layer.0', 'layer.1', 'head']
    """
    return list(dict.fromkeys(group_of_parameters(model).values()))


def freeze_layers(
    model: PreTrainedModel,
    freeze_encoder: bool = False,
    unfreeze_last: int | None = None,
    train_convolution: bool = False,
) -> list[str]:
    """Decide which parameters learn.

    Args:
        model (`PreTrainedModel`): changed in place.
        freeze_encoder (`bool`, *optional*, defaults to `False`): only the head learns.
        unfreeze_last (`int`, *optional*): only the head and this many layers below it learn, and what lies between.
        train_convolution (`bool`, *optional*, defaults to `False`): the convolutional front end learns as well.

    Returns:
        `list[str]`: the names of the groups that are frozen.

    Raises:
        ValueError: if the model has no layers to count, or fewer than asked for.
    """
    groups = group_of_parameters(model)
    names = list(dict.fromkeys(groups.values()))
    frozen = set() if train_convolution else {CONVOLUTION} & set(names)
    if freeze_encoder or unfreeze_last is not None:
        frozen = set(names) - {HEAD}
        layers = [name for name in names if "." in name]
        count = unfreeze_last or 0
        if count > len(layers):
            raise ValueError(f"--unfreeze_last {count}: the model has {len(layers)} layers.")
        # What stands above these layers, a pooler for example, learns with them
        frozen -= set(names[names.index(layers[len(layers) - count]) :]) if count else set()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = groups[name] not in frozen
    # Without masking this vector takes no part in the computation; distributed training refuses such parameters.
    if not getattr(model.config, "mask_time_prob", 0):
        for name, parameter in model.named_parameters():
            if name.endswith("masked_spec_embed"):
                parameter.requires_grad = False
    return [name for name in names if name in frozen]


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layerwise_lr_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Make the parameter groups of the optimizer.

    The head learns at `learning_rate`, the layer below it at `layerwise_lr_decay` times that, and so on down. Weight
    decay leaves out what has one dimension or none (biases, gains), all parameters of normalisation layers, and the
    gain of weight-normalised convolutions.

    Args:
        model (`nn.Module`): parameters that do not require a gradient are left out.
        learning_rate (`float`): rate of the head.
        weight_decay (`float`): of the parameters that decay.
        layerwise_lr_decay (`float`, *optional*, defaults to 1.0): factor per layer.

    Returns:
        `list[dict]`: groups for a torch optimizer, the head first (so that the learning rate that is logged is the
            head's).

    Raises:
        ValueError: if nothing is left to train.
    """
    groups = group_of_parameters(model)
    names = list(dict.fromkeys(groups.values()))
    normalization = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMALIZATIONS)
        for parameter in module.parameters(recurse=False)
    }
    parameters = dict(model.named_parameters())
    result: dict[tuple[str, bool], dict[str, Any]] = {}
    for name in sorted(groups, key=lambda name: -names.index(groups[name])):
        parameter = parameters[name]
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and id(parameter) not in normalization and not _GAINS.search(name)
        height = len(names) - 1 - names.index(groups[name])
        group = result.setdefault(
            (groups[name], decays),
            {
                "params": [],
                "lr": learning_rate * layerwise_lr_decay**height,
                "weight_decay": weight_decay if decays else 0.0,
                "layer": groups[name],
                "decays": decays,
            },
        )
        group["params"].append(parameter)
    if not result:
        raise ValueError("Every parameter is frozen, so there is nothing to train.")
    return list(result.values())
