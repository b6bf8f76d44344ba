"""Configuration of DeepECG-SL."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# The published table of variants: factors of width and depth. Each of b0 to b7 exists as `_v1` and `_v2`.
_SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "s": (1.0, 2.0),
    "m": (1.1, 2.1),
    "l": (1.2, 2.2),
}
VARIANTS = (*(f"b{number}_{version}" for number in range(8) for version in ("v1", "v2")), "s_v2", "m_v2", "l_v2")

_STEM_CHANNELS = 12
_STAGE_CHANNELS = (12, 24, 32, 64, 80, 128)
_STAGE_DEPTHS = (1, 2, 2, 3, 4, 5)
_STAGE_EXPANSIONS = (1, 6, 6, 6, 6, 6)
_HIDDEN_SIZE = 640
# In the second version the first four stages have fused blocks, which do not expand
_NUM_FUSED_STAGES = 4

BLOCKS = ("fused", "depthwise")
CLASSIFIER_HEADS = ("linear", "mlp")
_PER_STAGE = (
    "stage_blocks",
    "stage_channels",
    "stage_depths",
    "stage_kernels",
    "stage_strides",
    "stage_expansions",
    "stage_squeeze_ratios",
)


@strict
class DeepECGSLConfig(PreTrainedConfig):
    r"""Configuration of a DeepECG-SL model: a one-dimensional EfficientNetV2 (medRxiv 10.1101/2025.03.02.25322575).

    A stem, stages of blocks, and a 1x1 convolution. The defaults are the published variant `"s_v2"`: 34 blocks, 6.46 M
    parameters with 77 labels.

    Args:
        num_leads (`int`, defaults to 12): leads of the input.
        stem_channels (`int`, defaults to 12): output of the stem.
        stem_kernel (`int`, defaults to 3), stem_stride (`int`, defaults to 1): of the stem's convolution.
        stage_blocks (`list[str]`): kind of the blocks of each stage: `"fused"` (one convolution) or `"depthwise"`
            (expansion, depthwise convolution, projection).
        stage_channels (`list[int]`): output of each stage.
        stage_depths (`list[int]`): number of blocks.
        stage_kernels (`list[int]`): length of the convolutions, odd.
        stage_strides (`list[int]`): stride of the first block.
        stage_expansions (`list[int]`): factor by which depthwise blocks expand their input; 1 for fused blocks, which
            do not expand.
        stage_squeeze_ratios (`list[int]`): channels of a block over hidden channels of its squeeze-excite; 0 for
            blocks without squeeze-excite.
        hidden_size (`int`, defaults to 640): channels of the last 1x1 convolution, and so of the pooled features.
        hidden_act (`str`, defaults to `"leaky_relu"`): activation, as transformers calls it; the slope of the leaky
            rectifier is 0.01.
        batch_norm_eps (`float`, defaults to 1e-5): added to the variance in batch normalisation.
        drop_path_rate (`float`, defaults to 0.304): probability in training that a record passes a block with a
            residual connection by that connection alone; the same in all blocks.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights of the head.
        classifier_head (`str`, defaults to `"linear"`): `"linear"` or `"mlp"` (linear, tanh, linear).
        classifier_hidden_size (`int`, *optional*): hidden width of the `"mlp"` head; `hidden_size` if not given.
        classifier_dropout (`float`, defaults to 0.0): dropout before the head.
        pos_weight (`list[float]`, *optional*): weight of the positives of each label in the multi-label loss, one
            value per label.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together. The
            message names the field.

    Example:
        ```python
        >>> from ecg_transformers import DeepECGSLConfig, DeepECGSLModel

        >>> config = DeepECGSLConfig.from_variant("b0_v2")
        >>> model = DeepECGSLModel(config)
        ```
    """

    model_type = "deepecg_sl"

    num_leads: int = 12
    stem_channels: int = _STEM_CHANNELS
    stem_kernel: int = 3
    stem_stride: int = 1
    stage_blocks: list[str] | tuple[str, ...] = ("fused", "fused", "fused", "fused", "depthwise", "depthwise")
    stage_channels: list[int] | tuple[int, ...] = _STAGE_CHANNELS
    stage_depths: list[int] | tuple[int, ...] = (2, 4, 4, 6, 8, 10)
    stage_kernels: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 3)
    stage_strides: list[int] | tuple[int, ...] = (1, 1, 2, 2, 2, 2)
    stage_expansions: list[int] | tuple[int, ...] = (1, 1, 1, 1, 6, 6)
    stage_squeeze_ratios: list[int] | tuple[int, ...] = (4, 4, 4, 4, 4, 4)
    hidden_size: int = _HIDDEN_SIZE
    hidden_act: str = "leaky_relu"
    batch_norm_eps: float = 1e-5
    drop_path_rate: float | int = 0.304
    initializer_range: float | int = 0.02
    classifier_head: str = "linear"
    classifier_hidden_size: int | None = None
    classifier_dropout: float | int = 0.0
    pos_weight: list[float | int] | tuple[float | int, ...] | None = None

    def __post_init__(self, **kwargs: Any):
        # A folder that names code files would be broken once saved again, because saving does not write them. The copy
        # of this file inside a published repository is loaded through `auto_map` and must keep it.
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check that the fields fit together."""
        lengths = {name: len(getattr(self, name)) for name in _PER_STAGE}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            named = ", ".join(f"`{name}`" for name in _PER_STAGE)
            raise ValueError(f"{named} need one value per stage, and at least one stage; got lengths {lengths}.")
        for name in ("num_leads", "stem_channels", "stem_kernel", "stem_stride", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("stage_channels", "stage_depths", "stage_kernels", "stage_strides", "stage_expansions"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}` holds positive integers; got {list(getattr(self, name))}.")
        if self.stem_kernel % 2 == 0:
            raise ValueError(f"`stem_kernel` is odd, so that a frame has a middle sample; got {self.stem_kernel}.")
        if any(kernel % 2 == 0 for kernel in self.stage_kernels):
            raise ValueError(
                f"`stage_kernels` are odd, so that a frame has a middle sample; got {list(self.stage_kernels)}."
            )
        for name in self.stage_blocks:
            if name not in BLOCKS:
                raise ValueError(f"`stage_blocks` holds {BLOCKS}; got {list(self.stage_blocks)}.")
        for stage, (block, expansion) in enumerate(zip(self.stage_blocks, self.stage_expansions, strict=True)):
            if block == "fused" and expansion != 1:
                raise ValueError(
                    f"`stage_expansions` is 1 for fused blocks, which do not expand; got {expansion} in stage {stage}."
                )
        self._validate_squeeze_ratios()
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is an activation of transformers; got {self.hidden_act!r}.")
        if not self.batch_norm_eps > 0:
            raise ValueError(f"`batch_norm_eps` must be above 0; got {self.batch_norm_eps}.")
        if not self.initializer_range >= 0:
            raise ValueError(f"`initializer_range` must be 0 or more; got {self.initializer_range}.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` is a probability below 1; got {self.drop_path_rate}.")
        if not 0 <= self.classifier_dropout <= 1:
            raise ValueError(f"`classifier_dropout` is a share between 0 and 1; got {self.classifier_dropout}.")
        if self.classifier_head not in CLASSIFIER_HEADS:
            raise ValueError(f"`classifier_head` is one of {CLASSIFIER_HEADS}; got {self.classifier_head!r}.")
        if self.classifier_hidden_size is not None and self.classifier_hidden_size < 1:
            raise ValueError(f"`classifier_hidden_size` must be at least 1; got {self.classifier_hidden_size}.")
        if self.pos_weight is not None and any(not weight >= 0 for weight in self.pos_weight):
            raise ValueError(f"`pos_weight` holds one non-negative number per label; got {list(self.pos_weight)}.")

    def _validate_squeeze_ratios(self):
        incoming = self.stem_channels
        for stage, ratio in enumerate(self.stage_squeeze_ratios):
            channels = self.stage_channels[stage]
            if self.stage_blocks[stage] == "depthwise":
                narrowest = incoming if self.stage_depths[stage] == 1 else min(incoming, channels)
                channels = narrowest * self.stage_expansions[stage]
            if ratio < 0 or ratio > channels:
                raise ValueError(
                    f"`stage_squeeze_ratios` must leave a channel to every block, or be 0; got {ratio} for {channels} "
                    f"channels in stage {stage}."
                )
            incoming = self.stage_channels[stage]

    @classmethod
    def from_variant(cls, variant: str, **overrides: Any) -> "DeepECGSLConfig":
        """Return the configuration of a published variant.

        Args:
            variant (`str`): `"b0_v1"` to `"b7_v2"`, `"s_v2"` (that of the published weights), `"m_v2"` or `"l_v2"`.
                The first version has depthwise blocks throughout, the second fused ones in its first four stages.
            overrides: fields that differ from that variant.

        Raises:
            ValueError: if there is no such variant.
        """
        if variant not in VARIANTS:
            raise ValueError(f"DeepECG-SL comes in the variants {list(VARIANTS)}; got {variant!r}.")
        size, version = variant.split("_")
        width, depth = _SCALES[size]
        num_fused = _NUM_FUSED_STAGES if version == "v2" else 0
        settings = {
            "stem_channels": int(_STEM_CHANNELS * width),
            "stage_blocks": ["fused"] * num_fused + ["depthwise"] * (len(_STAGE_CHANNELS) - num_fused),
            "stage_channels": [int(channels * width) for channels in _STAGE_CHANNELS],
            "stage_depths": [math.ceil(blocks * depth) for blocks in _STAGE_DEPTHS],
            "stage_expansions": [1] * num_fused + list(_STAGE_EXPANSIONS[num_fused:]),
            "hidden_size": int(_HIDDEN_SIZE * width),
        }
        return cls(**{**settings, **overrides})

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "DeepECGSLConfig":
        """Return the configuration of a variant, under the name that the configurations of all models share.

        Raises:
            ValueError: if there is no such variant.
        """
        return cls.from_variant(size, **overrides)

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages; with `output_hidden_states` there is one feature map more, that of the stem."""
        return len(self.stage_depths)

    @property
    def total_stride(self) -> int:
        """Samples per frame of the feature map."""
        return self.stem_stride * math.prod(self.stage_strides)


__all__ = ["DeepECGSLConfig"]
