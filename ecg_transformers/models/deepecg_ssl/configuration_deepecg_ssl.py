"""Configuration of DeepECG-SSL."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# medRxiv 10.1101/2025.03.02.25322575 and its pretraining configuration `w2v_cmsc_rlm`; the defaults below
_SIZES: dict[str, dict[str, Any]] = {"base": {}}

CLASSIFIER_HEADS = ("linear", "mlp", "attentive")


@strict
class DeepECGSSLConfig(PreTrainedConfig):
    r"""Configuration of a DeepECG-SSL model: a wav2vec 2.0 encoder over the twelve leads of a record.

    The defaults describe the published model: 10 s at 250 Hz (12 x 2500 samples, 156 tokens). ECG-FM has the same
    architecture and reads 5 s at 500 Hz.

    Args:
        num_leads (`int`, defaults to 12): channels of the input.
        conv_dim (`list[int]`, defaults to four times 256): channels of the convolutions that make tokens of samples.
        conv_kernel (`list[int]`, defaults to four times 2): their kernel lengths.
        conv_stride (`list[int]`, defaults to four times 2): their strides.
        conv_bias (`bool`, defaults to `False`): whether they have a bias.
        feat_extract_norm (`str`, defaults to `"group"`): `"group"`: a group norm, one group per channel, after the
            first convolution; `"layer"`: a layer norm over the channels after each.
        feat_extract_activation (`str`, defaults to `"gelu"`): after each of these convolutions and after the
            positional one.
        hidden_size (`int`, defaults to 768): width of the transformer. There is no projection between convolutions
            and transformer where it equals the last of `conv_dim`.
        num_hidden_layers (`int`, defaults to 12): transformer layers.
        num_attention_heads (`int`, defaults to 12): attention heads of a layer.
        intermediate_size (`int`, defaults to 3072): width of the feed-forward part.
        hidden_act (`str`, defaults to `"gelu"`): activation in it.
        do_stable_layer_norm (`bool`, defaults to `False`): layer norms before attention and feed-forward part, and
            one after the last layer, instead of after both and one before the first layer.
        num_conv_pos_embeddings (`int`, defaults to 128): kernel length of the positional convolution, in tokens.
        num_conv_pos_embedding_groups (`int`, defaults to 16): its groups.
        layer_norm_eps (`float`, defaults to 1e-5): of all layer norms of the encoder.
        initializer_range (`float`, defaults to 0.02): standard deviation of new linear weights.
        hidden_dropout (`float`, defaults to 0.1): dropout in the layers and before the first.
        attention_dropout (`float`, defaults to 0.1): dropout of the attention weights.
        activation_dropout (`float`, defaults to 0.0): dropout inside the feed-forward part.
        feat_proj_dropout (`float`, defaults to 0.1): dropout of the tokens that enter the transformer.
        feat_quantizer_dropout (`float`, defaults to 0.1): dropout of the features that are quantized.
        layerdrop (`float`, defaults to 0.0): probability of skipping a layer in training.
        mask_time_prob (`float`, defaults to 0.65): share of the tokens in masked spans, which may overlap. A model
            with 0 has no mask vector.
        mask_time_length (`int`, defaults to 10): length of a span in tokens.
        mask_time_min_masks (`int`, defaults to 2): least number of spans in a record.
        apply_spec_augment (`bool`, defaults to `False`): whether a backbone or a classifier in training masks tokens
            too. [`DeepECGSSLForPreTraining`] always does.
        feature_grad_mult (`float`, defaults to 0.1): factor on the gradients that reach the convolutions in
            pretraining; 0 does not train them.
        num_codevectors_per_group (`int`, defaults to 320): codes in each codebook.
        num_codevector_groups (`int`, defaults to 2): codebooks.
        codevector_dim (`int`, defaults to 256): width of a quantized feature, over all codebooks.
        proj_codevector_dim (`int`, defaults to 256): width of the space in which predictions meet targets.
        num_negatives (`int`, defaults to 100): other masked tokens of the record with which a target is contrasted.
        contrastive_logits_temperature (`float`, defaults to 0.1): of the masked prediction.
        max_gumbel_temperature (`float`, defaults to 2.0): temperature of the Gumbel softmax at the first step.
        min_gumbel_temperature (`float`, defaults to 0.5): where its decay ends.
        gumbel_temperature_decay (`float`, defaults to 0.999995): factor per optimizer step.
        diversity_loss_weight (`float`, defaults to 0.1): weight of the codebook diversity.
        feature_penalty_weight (`float`, defaults to 10.0): weight of the mean square of the convolutions' output.
        cmsc_loss_weight (`float`, defaults to 1.0): weight of the contrast between segments of patients.
        cmsc_temperature (`float`, defaults to 0.1): temperature of that contrast.
        classifier_head (`str`, defaults to `"linear"`): head of [`DeepECGSSLForSequenceClassification`]: `"linear"`
            or `"mlp"` (linear, tanh, linear) over the mean of the tokens, or `"attentive"` (a learned query attends
            to the tokens).
        classifier_hidden_size (`int`, *optional*): hidden width of the `"mlp"` head, `hidden_size` if not given, and
            of the feed-forward part of the `"attentive"` head, four times `hidden_size` if not given.
        classifier_num_heads (`int`, defaults to 12): attention heads of the `"attentive"` head.
        classifier_dropout (`float`, defaults to 0.0): dropout before the head; before the last layer of the
            `"attentive"` one.
        pos_weight (`list[float]`, *optional*): weight of the positives of each label in the multi-label loss, one
            value per label.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together. The
            message names the field.

    Example:
        ```python
        >>> from ecg_transformers import DeepECGSSLConfig, DeepECGSSLModel

        >>> config = DeepECGSSLConfig(num_hidden_layers=2)
        >>> model = DeepECGSSLModel(config)
        ```
    """

    model_type = "deepecg_ssl"
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "extract_features", "conv_states"]

    num_leads: int = 12
    conv_dim: list[int] | tuple[int, ...] = (256, 256, 256, 256)
    conv_kernel: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    feat_proj_dropout: float | int = 0.1
    feat_quantizer_dropout: float | int = 0.1
    layerdrop: float | int = 0.0
    mask_time_prob: float | int = 0.65
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    apply_spec_augment: bool = False
    feature_grad_mult: float | int = 0.1
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    num_negatives: int = 100
    contrastive_logits_temperature: float | int = 0.1
    max_gumbel_temperature: float | int = 2.0
    min_gumbel_temperature: float | int = 0.5
    gumbel_temperature_decay: float | int = 0.999995
    diversity_loss_weight: float | int = 0.1
    feature_penalty_weight: float | int = 10.0
    cmsc_loss_weight: float | int = 1.0
    cmsc_temperature: float | int = 0.1
    classifier_head: str = "linear"
    classifier_hidden_size: int | None = None
    classifier_num_heads: int = 12
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
        lengths = {name: len(getattr(self, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(
                "`conv_dim`, `conv_kernel` and `conv_stride` need one value per convolution, and at least one "
                f"convolution; got lengths {lengths}."
            )
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}` holds positive integers; got {list(getattr(self, name))}.")
        for name in (
            "num_leads",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_conv_pos_embeddings",
            "num_conv_pos_embedding_groups",
            "mask_time_length",
            "mask_time_min_masks",
            "num_codevectors_per_group",
            "num_codevector_groups",
            "codevector_dim",
            "proj_codevector_dim",
            "num_negatives",
            "classifier_num_heads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for width, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("hidden_size", "num_conv_pos_embedding_groups"),
            ("codevector_dim", "num_codevector_groups"),
        ):
            if getattr(self, width) % getattr(self, divisor):
                raise ValueError(
                    f"`{width}` must be a multiple of `{divisor}`; got {getattr(self, width)} and "
                    f"{getattr(self, divisor)}."
                )
        for name in (
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "feat_proj_dropout",
            "feat_quantizer_dropout",
            "layerdrop",
            "mask_time_prob",
            "classifier_dropout",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share between 0 and 1; got {getattr(self, name)}.")
        for name in (
            "contrastive_logits_temperature",
            "cmsc_temperature",
            "max_gumbel_temperature",
            "min_gumbel_temperature",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if not 0 < self.gumbel_temperature_decay <= 1:
            raise ValueError(
                f"`gumbel_temperature_decay` is a factor above 0 and at most 1; got {self.gumbel_temperature_decay}."
            )
        for name in ("feature_grad_mult", "diversity_loss_weight", "feature_penalty_weight", "cmsc_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative; got {getattr(self, name)}.")
        for name in ("hidden_act", "feat_extract_activation"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(
                    f"`{name}` is an activation of transformers, such as 'gelu'; got {getattr(self, name)!r}."
                )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"`feat_extract_norm` is 'group' or 'layer'; got {self.feat_extract_norm!r}.")
        if self.classifier_head not in CLASSIFIER_HEADS:
            raise ValueError(f"`classifier_head` is one of {CLASSIFIER_HEADS}; got {self.classifier_head!r}.")
        if self.classifier_hidden_size is not None and self.classifier_hidden_size < 1:
            raise ValueError(f"`classifier_hidden_size` must be at least 1; got {self.classifier_hidden_size}.")
        if self.classifier_head == "attentive" and self.hidden_size % self.classifier_num_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `classifier_num_heads` for the attentive head; got "
                f"{self.hidden_size} and {self.classifier_num_heads}."
            )
        if self.pos_weight is not None and any(not weight >= 0 for weight in self.pos_weight):
            raise ValueError(f"`pos_weight` holds one non-negative number per label; got {list(self.pos_weight)}.")

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "DeepECGSSLConfig":
        """Return the configuration of a published size.

        Args:
            size (`str`): `"base"` (90.4 M parameters), the only one; DeepECG-SSL and ECG-FM share it.
            overrides: fields that differ from that size.

        Raises:
            ValueError: if there is no such size.
        """
        if size not in _SIZES:
            raise ValueError(f"DeepECG-SSL comes in the sizes {list(_SIZES)}; got {size!r}.")
        return cls(**{**_SIZES[size], **overrides})

    @property
    def num_feat_extract_layers(self) -> int:
        """Number of convolutions, by the name under which transformers' wav2vec 2.0 reads it."""
        return len(self.conv_dim)

    @property
    def receptive_field(self) -> int:
        """Samples of a lead that one token sees."""
        field, step = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field


__all__ = ["DeepECGSSLConfig"]
