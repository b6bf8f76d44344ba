"""Conversion of the original DeepECG-SL checkpoints.

Three kinds exist: state dictionaries, TorchScript files (the published models), and modules pickled whole (for
fine-tuning, with a new head). All hold the same names, so one table renames them. Widths, depths, kernels, kinds of
blocks and the number of labels are read off the shapes of the weights. Strides, and the constant of batch
normalisation, leave no trace there: a pickled module tells them; of other files they are those of the published
models, unless the configuration beside the weights gives the strides.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...conversion import ConvertedCheckpoint, SourceCheckpoint
from ...labels import describe_deepecg_head
from .configuration_deepecg_sl import VARIANTS, DeepECGSLConfig
from .modeling_deepecg_sl import DeepECGSLForSequenceClassification, DeepECGSLModel

IGNORABLE_KEYS = ()

_FIRST_WEIGHT = "initial_conv.0.weight"
_SLOPE = 0.01
_BLOCK_NAME = re.compile(r"features\.(\d+)\.(.+)")
_OUTER_NAMES = {
    "initial_conv.0.": "stem.conv.",
    "initial_conv.1.norm.": "stem.norm.",
    "final_conv.": "final.conv.",
    "final_norm.norm.": "final.norm.",
}
_BLOCK_NAMES = {
    "fused_conv.0.": "convolution.conv.",
    "fused_conv.1.norm.": "convolution.norm.",
    "expand_conv.0.": "expansion.conv.",
    "expand_conv.1.norm.": "expansion.norm.",
    "depthwise_conv.0.": "convolution.conv.",
    "depthwise_conv.1.norm.": "convolution.norm.",
    "project_conv.0.": "projection.conv.",
    "project_conv.1.norm.": "projection.norm.",
    "se.se.1.": "squeeze_excite.reduce.",
    "se.se.3.": "squeeze_excite.expand.",
}
# What tells a variant from the others
_GEOMETRY = ("stem_channels", "stage_blocks", "stage_channels", "stage_depths", "stage_expansions", "hidden_size")


@dataclass(frozen=True)
class _Block:
    """What the weights of a block tell."""

    kind: str
    in_channels: int
    out_channels: int
    kernel: int
    expansion: int
    squeezed: int
    reduced: int
    # if the file tells it
    stride: int | None = None

    def continues(self, other: "_Block") -> bool:
        """Whether this block can stand behind another in its stage."""
        same = (self.kind, self.out_channels, self.kernel, self.expansion)
        return (
            same == (other.kind, other.out_channels, other.kernel, other.expansion)
            and self.in_channels == self.out_channels
            and self.stride in (None, 1)
        )


def matches(checkpoint: SourceCheckpoint) -> bool:
    """Recognise a DeepECG-SL checkpoint."""
    names = checkpoint.tensors
    return any(
        name.endswith(_FIRST_WEIGHT) and f"{name.removesuffix(_FIRST_WEIGHT)}final_norm.norm.weight" in names
        for name in names
    )


def convert(checkpoint: SourceCheckpoint, label_names: Sequence[str] | None = None) -> ConvertedCheckpoint:
    """Give the weights our names and build the configuration that fits them.

    Args:
        checkpoint ([`SourceCheckpoint`]): as read from an original file or folder. If it has a configuration, the
            original's entries `strides` and `stochastic_depth_prob` are taken from it.
        label_names (sequence of `str`, *optional*): names of the labels; a head of 77 outputs has the published ones.

    Raises:
        ValueError: if the parts of the checkpoint do not fit together, or are not those of a DeepECG-SL network.
    """
    tensors = _without_prefix(checkpoint.tensors)
    modules = _modules(checkpoint.entries.get("modules") or {})
    stages = _stages(_blocks(tensors, modules))
    stem_stride, stage_strides, sure = _strides(stages, modules, checkpoint.config or {})
    settings = _settings(tensors, stages, checkpoint.config or {})
    settings |= {"stem_stride": stem_stride, "stage_strides": stage_strides, **_constants(modules)}
    renamed = _rename(tensors, stages)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("classifier.")}
    notes = [f"The network is the variant {name}." for name in VARIANTS if _is_variant(settings, name)]
    if not notes and not sure:
        notes = [f"The network is no published variant; its strides are taken to be theirs, {stage_strides}."]
    if not head:
        if label_names is not None:
            raise ValueError("`label_names` were given, but this checkpoint has no classification head.")
        return ConvertedCheckpoint(DeepECGSLModel, DeepECGSLConfig(**settings), renamed, notes=notes)

    weight, bias = _linear_head(head)
    renamed = {f"deepecg_sl.{name}": tensor for name, tensor in renamed.items()}
    renamed |= {"classifier.weight": weight, "classifier.bias": bias}
    path = checkpoint.path
    described, remarks = describe_deepecg_head(
        "deepecg_sl", weight.shape[0], label_names, path.name if path.is_dir() else path.stem
    )
    config = DeepECGSLConfig(**settings, **described)
    return ConvertedCheckpoint(DeepECGSLForSequenceClassification, config, renamed, notes=notes + remarks)


def _without_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the name under which a wrapper holds the network."""
    prefix = min(name for name in tensors if name.endswith(_FIRST_WEIGHT)).removesuffix(_FIRST_WEIGHT)
    foreign = sorted(name for name in tensors if not name.startswith(prefix))
    if foreign:
        raise ValueError(f"besides the network `{prefix.rstrip('.')}` the checkpoint holds {foreign[:8]}.")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _modules(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The parts of a pickled network by the names of their weights."""
    first = _FIRST_WEIGHT.removesuffix(".weight")
    prefix = min((name for name in modules if name.endswith(first)), default=first).removesuffix(first)
    return {name.removeprefix(prefix): settings for name, settings in modules.items() if name.startswith(prefix)}


def _stride_of(modules: Mapping[str, Mapping[str, Any]], name: str) -> int | None:
    stride = modules.get(name, {}).get("stride")
    return stride[0] if isinstance(stride, tuple) and len(stride) == 1 and type(stride[0]) is int else None


def _constants(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a pickled network was made with besides its strides."""
    slopes = {settings["negative_slope"] for settings in modules.values() if "negative_slope" in settings}
    if slopes - {_SLOPE}:
        raise ValueError(f"the activation has the slopes {sorted(slopes)}; DeepECG-SL's has {_SLOPE}.")
    constants = {settings["eps"] for settings in modules.values() if "eps" in settings}
    if len(constants) > 1:
        raise ValueError(f"the batch normalisations have the constants {sorted(constants)}; one was expected.")
    return {"batch_norm_eps": constants.pop()} if constants else {}


def _blocks(tensors: Mapping[str, torch.Tensor], modules: Mapping[str, Mapping[str, Any]]) -> list[_Block]:
    parts: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _BLOCK_NAME.fullmatch(name)
        if found:
            parts.setdefault(int(found[1]), {})[found[2]] = tensor
    if not parts or sorted(parts) != list(range(len(parts))):
        raise ValueError(
            f"the blocks of the network have the numbers {sorted(parts)}, not 0, 1, 2, ...; some are gone."
        )
    return [_read_block(number, parts[number], modules) for number in range(len(parts))]


def _read_block(number: int, part: Mapping[str, torch.Tensor], modules: Mapping[str, Mapping[str, Any]]) -> _Block:
    def shape(name: str) -> tuple[int, int, int]:
        tensor = part.get(name)
        if tensor is None or tensor.ndim != 3:
            raise ValueError(f"`features.{number}.{name}` is missing, or no weight of a one-dimensional convolution.")
        return tuple(tensor.shape)

    if "fused_conv.0.weight" in part:
        kind, expansion = "fused", 1
        out_channels, in_channels, kernel = shape("fused_conv.0.weight")
        width = out_channels
    else:
        kind = "depthwise"
        width, in_channels, _ = shape("expand_conv.0.weight")
        kernel = shape("depthwise_conv.0.weight")[2]
        out_channels = shape("project_conv.0.weight")[0]
        expansion = width // max(in_channels, 1)
        if width != in_channels * expansion:
            raise ValueError(f"`features.{number}` expands {in_channels} channels to {width}, which is no multiple.")
    reduced = shape("se.se.1.weight")[0] if any(name.startswith("se.") for name in part) else 0
    strided = "fused_conv" if kind == "fused" else "depthwise_conv"
    stride = _stride_of(modules, f"features.{number}.{strided}.0")
    return _Block(kind, in_channels, out_channels, kernel, expansion, width, reduced, stride)


def _stages(blocks: Sequence[_Block]) -> list[list[_Block]]:
    stages: list[list[_Block]] = []
    for block in blocks:
        if stages and block.continues(stages[-1][-1]):
            stages[-1].append(block)
        else:
            stages.append([block])
    return stages


def _settings(
    tensors: Mapping[str, torch.Tensor], stages: Sequence[Sequence[_Block]], config: Mapping[str, Any]
) -> dict[str, Any]:
    for name in (_FIRST_WEIGHT, "final_conv.weight"):
        if name not in tensors or tensors[name].ndim != 3:
            raise ValueError(f"`{name}` is missing, or no weight of a one-dimensional convolution.")
    stem_channels, num_leads, stem_kernel = tensors[_FIRST_WEIGHT].shape
    settings = {
        "num_leads": num_leads,
        "stem_channels": stem_channels,
        "stem_kernel": stem_kernel,
        "stage_blocks": [stage[0].kind for stage in stages],
        "stage_channels": [stage[0].out_channels for stage in stages],
        "stage_depths": [len(stage) for stage in stages],
        "stage_kernels": [stage[0].kernel for stage in stages],
        "stage_expansions": [stage[0].expansion for stage in stages],
        "stage_squeeze_ratios": [_squeeze_ratio(number, stage) for number, stage in enumerate(stages)],
        "hidden_size": tensors["final_conv.weight"].shape[0],
    }
    if config.get("stochastic_depth_prob") is not None:
        settings["drop_path_rate"] = config["stochastic_depth_prob"]
    return settings


def _strides(
    stages: Sequence[Sequence[_Block]], modules: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]
) -> tuple[int, list[int], bool]:
    """Strides of the stem and of the stages, and whether the checkpoint tells them."""
    num_stages, published = len(stages), DeepECGSLConfig()
    read = [_stride_of(modules, _FIRST_WEIGHT.removesuffix(".weight")), *(stage[0].stride for stage in stages)]
    if None not in read:
        return read[0], read[1:], True
    stated = config.get("strides")
    if stated is not None:
        # The first entry is that of the stem and of the first stage; the original lists more than it uses
        if len(stated) < num_stages:
            raise ValueError(f"the configuration gives `strides` {stated} for {num_stages} stages.")
        return stated[0], list(stated[:num_stages]), True
    if num_stages != len(published.stage_strides):
        raise ValueError(
            f"the blocks form {num_stages} stages, the published networks have {len(published.stage_strides)}. "
            "Strides cannot be read off weights: put a config.json with the original's `strides` beside them."
        )
    return published.stem_stride, list(published.stage_strides), False


def _squeeze_ratio(number: int, stage: Sequence[_Block]) -> int:
    """The ratio that explains the hidden channels of all blocks of a stage; the published one where several do."""
    if not any(block.reduced for block in stage):
        return 0
    published = DeepECGSLConfig().stage_squeeze_ratios[0]
    most = max(block.squeezed for block in stage)
    for ratio in (published, *range(1, most + 1)):
        if all(block.squeezed // ratio == block.reduced for block in stage):
            return ratio
    widths = sorted({(block.squeezed, block.reduced) for block in stage})
    raise ValueError(f"no ratio explains the squeeze-excite of stage {number}, from and to channels {widths}.")


def _rename(tensors: Mapping[str, torch.Tensor], stages: Sequence[Sequence[_Block]]) -> dict[str, torch.Tensor]:
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(len(blocks))]
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("classifier."):
            continue
        found = _BLOCK_NAME.fullmatch(name)
        prefix, table = "", _OUTER_NAMES
        inner = name
        if found:
            stage, block = places[int(found[1])]
            prefix, table, inner = f"stages.{stage}.blocks.{block}.", _BLOCK_NAMES, found[2]
        old = next((old for old in table if inner.startswith(old)), None)
        if old is None:
            raise ValueError(f"the network has no place for `{name}`.")
        renamed[prefix + table[old] + inner.removeprefix(old)] = tensor
    return renamed


def _linear_head(head: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The one linear layer of the head: `classifier.3`, or `classifier.fc1` in the variant for fine-tuning."""
    names = sorted(head)
    layers = {name.rpartition(".")[0] for name in names}
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    if len(layers) != 1 or expected != set(names) or head[names[1]].ndim != 2:
        raise ValueError(
            f"the head {names} is not DeepECG-SL's, one linear layer. Fine-tune from the network without it "
            "(leave out the tensors `classifier.*`)."
        )
    return head[names[1]], head[names[0]]


def _is_variant(settings: Mapping[str, Any], name: str) -> bool:
    variant = DeepECGSLConfig.from_variant(name)
    return all(list(_listed(settings[field])) == list(_listed(getattr(variant, field))) for field in _GEOMETRY)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]
