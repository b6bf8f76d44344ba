"""Configuration of D-BETA and of its parts."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, T5Config
from transformers.activations import ACT2FN

# Geometry of google/flan-t5-base, the text encoder of the published weights
_FLAN_T5_BASE = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.1,
}
# Samples of a record in pretraining; the patch that one token reconstructs is derived from it
_PRETRAINING_SAMPLES = 5000

CLASSIFIER_HEADS = ("linear", "mlp")


def _check_positive(config: PreTrainedConfig, names: tuple[str, ...]):
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1; got {getattr(config, name)}.")


def _check_shares(config: PreTrainedConfig, names: tuple[str, ...]):
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"`{name}` is a share between 0 and 1; got {getattr(config, name)}.")


def _check_activations(config: PreTrainedConfig, names: tuple[str, ...] = ("hidden_act",)):
    for name in names:
        if getattr(config, name) not in ACT2FN:
            raise ValueError(
                f"`{name}` is an activation of transformers, such as 'gelu'; got {getattr(config, name)!r}."
            )


def _check_multiple(config: PreTrainedConfig, names: tuple[str, ...]):
    for name in names:
        if config.hidden_size % getattr(config, name):
            raise ValueError(
                f"`hidden_size` must be a multiple of `{name}`; got {config.hidden_size} and {getattr(config, name)}."
            )


@strict
class DBetaECGConfig(PreTrainedConfig):
    r"""Configuration of D-BETA's ECG encoder: convolutions over all leads, then a wav2vec 2.0 transformer.

    The defaults describe the published encoder: 312 tokens for 5000 samples, 62.0 M parameters.

    Args:
        num_leads (`int`, defaults to 12): rows of a record.
        conv_dim, conv_kernel, conv_stride (`list[int]`): channels, width and step of each convolution.
        conv_bias (`bool`, defaults to `False`): whether the convolutions have a bias.
        feat_extract_norm (`str`, defaults to `"group"`): `"group"` normalises each channel of the first convolution
            over time; `"layer"` normalises the channels at each time in every convolution.
        feat_extract_activation (`str`, defaults to `"gelu"`): activation of the convolutions.
        feat_proj_dropout (`float`, defaults to 0.1): dropout of the tokens before their positions are added.
        num_conv_pos_embeddings (`int`, defaults to 128): width of the positional convolution, in tokens.
        num_conv_pos_embedding_groups (`int`, defaults to 16): its groups.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`): size of the transformer.
        do_stable_layer_norm (`bool`, defaults to `False`): normalise before attention and feed-forward rather than
            after them.
        hidden_dropout, attention_dropout, activation_dropout (`float`): dropout in the transformer.
        layerdrop (`float`, defaults to 0.0): probability of skipping a layer in training.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together.
    """

    model_type = "dbeta_ecg"
    base_config_key = "ecg_config"

    num_leads: int = 12
    conv_dim: list[int] | tuple[int, ...] = (256, 256, 256, 256)
    conv_kernel: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_dropout: float | int = 0.1
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    do_stable_layer_norm: bool = False
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    layerdrop: float | int = 0.0
    layer_norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02

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
        names = ("num_attention_heads", "num_conv_pos_embedding_groups")
        sizes = ("num_leads", "hidden_size", "num_hidden_layers", "intermediate_size", "num_conv_pos_embeddings")
        _check_positive(self, sizes + names)
        _check_multiple(self, names)
        shares = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
        _check_shares(self, shares)
        _check_activations(self, ("hidden_act", "feat_extract_activation"))
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"`feat_extract_norm` is 'group' or 'layer'; got {self.feat_extract_norm!r}.")

    @property
    def num_feat_extract_layers(self) -> int:
        """Number of convolutions."""
        return len(self.conv_dim)

    @property
    def receptive_field(self) -> int:
        """Samples that one token sees, before attention and positions."""
        field, step = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field

    def count_tokens(self, samples: int) -> int:
        """Return the number of tokens that the convolutions make of a record, without the class token."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = max(samples - kernel, -stride) // stride + 1
        return samples


@strict
class DBetaFusionConfig(PreTrainedConfig):
    r"""Configuration of D-BETA's fusion: pairs of BERT layers whose streams attend to each other.

    Args:
        hidden_size (`int`, defaults to 768): width; that of the shared space.
        num_hidden_layers (`int`, defaults to 6): layers of each stream.
        num_attention_heads (`int`, defaults to 12): heads of the self- and cross-attention.
        intermediate_size (`int`, defaults to 3072): width of the feed-forward part.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`): dropout.
    """

    model_type = "dbeta_fusion"
    base_config_key = "cross_modal_config"
    # What BertLayer asks for before it builds cross-attention; nothing here is causal
    is_decoder = True
    add_cross_attention = True

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float | int = 1e-12
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        """Check that the fields fit together."""
        _check_positive(self, ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
        _check_multiple(self, ("num_attention_heads",))
        _check_shares(self, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
        _check_activations(self)


@strict
class DBetaDecoderConfig(PreTrainedConfig):
    r"""Configuration of the decoder that reconstructs removed ECG tokens in pretraining.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`): size of the transformer.
        hidden_act (`str`, defaults to `"quick_gelu"`): activation, x * sigmoid(1.702 x).
        attention_dropout (`float`, defaults to 0.0): dropout of the attention.
        mask_ratio (`float`, defaults to 0.75): share of the ECG tokens that are removed.
        fusion_layer (`int`, defaults to 3): the decoder reads the ECG stream as it enters this layer of the fusion,
            counted from 0; -1 is the stream after the last layer.
        patch_size (`int`, defaults to 16): samples of each lead that one token reconstructs.
    """

    model_type = "dbeta_decoder"
    base_config_key = "decoder_config"

    hidden_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    hidden_act: str = "quick_gelu"
    attention_dropout: float | int = 0.0
    layer_norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02
    mask_ratio: float | int = 0.75
    fusion_layer: int = 3
    patch_size: int = 16

    def validate_architecture(self):
        """Check that the fields fit together."""
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
        _check_positive(self, sizes)
        _check_multiple(self, ("num_attention_heads",))
        _check_shares(self, ("attention_dropout", "mask_ratio"))
        _check_activations(self)
        if self.fusion_layer < -1:
            raise ValueError(f"`fusion_layer` is a layer counted from 0, or -1; got {self.fusion_layer}.")


@strict
class DBetaConfig(PreTrainedConfig):
    r"""Configuration of a D-BETA model: an ECG encoder, a T5 text encoder, their fusion, and a decoder.

    The defaults describe the published model. The parts are independent: the shared space may be wider or narrower
    than either encoder.

    Args:
        ecg_config ([`DBetaECGConfig`] or `dict`, *optional*): the ECG encoder.
        text_config ([`~transformers.T5Config`] or `dict`, *optional*): the text encoder; the geometry of
            google/flan-t5-base if not given. A `dict` is completed by T5Config's own defaults.
        cross_modal_config ([`DBetaFusionConfig`] or `dict`, *optional*): the fusion. In a `dict`, `hidden_size` and
            `intermediate_size` follow from the shared space if they are left out.
        decoder_config ([`DBetaDecoderConfig`] or `dict`, *optional*): the decoder of pretraining. In a `dict`,
            `intermediate_size` is four times the width if it is left out, and `patch_size` is 5000 samples divided by
            the tokens that the ECG encoder makes of them, rounded down.
        hidden_size (`int`, defaults to 768): width of the shared space, in which both modalities are pooled, compared
            and fused (the original's `hidden_dim`).
        vocab_size (`int`, *optional*): tokens that the masked language head tells apart; those of `text_config` if not
            given.
        text_encoder_uses_mask (`bool`, defaults to `True`): whether the text encoder is kept from attending to
            padding. The original's joint and pretraining forward lets it attend, so its features depend on the batch.
        ecg_only (`bool`, defaults to `False`): build the ECG encoder, its projection and its pooler only.
        mlm_loss_weight, mem_loss_weight, etm_loss_weight, ets_loss_weight (`float`, default to 1.0): weights of masked
            language modelling, masked ECG modelling, ECG-text matching and the contrastive loss in pretraining.
        classifier_head (`str`, defaults to `"linear"`): head of [`DBetaForSequenceClassification`]: `"linear"` or
            `"mlp"` (linear, tanh, linear).
        classifier_hidden_size (`int`, *optional*): hidden width of the `"mlp"` head; `hidden_size` if not given.
        classifier_dropout (`float`, defaults to 0.1): dropout before the head.
        pos_weight (`list[float]`, *optional*): weight of the positives of each label in the multi-label loss, one
            value per label.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together. The
            message names the field.

    Example:
        ```python
        >>> from ecg_transformers import DBetaConfig, DBetaModel

        >>> config = DBetaConfig(ecg_config={"num_hidden_layers": 2}, text_config={"num_layers": 2}, hidden_size=96)
        >>> model = DBetaModel(config)
        ```
    """

    model_type = "dbeta"
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]
    # transformers has a use of its own for an attribute `fusion_config`
    sub_configs = {
        "ecg_config": DBetaECGConfig,
        "text_config": T5Config,
        "cross_modal_config": DBetaFusionConfig,
        "decoder_config": DBetaDecoderConfig,
    }

    ecg_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    cross_modal_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 768
    vocab_size: int | None = None
    text_encoder_uses_mask: bool = True
    ecg_only: bool = False
    mlm_loss_weight: float | int = 1.0
    mem_loss_weight: float | int = 1.0
    etm_loss_weight: float | int = 1.0
    ets_loss_weight: float | int = 1.0
    initializer_range: float | int = 0.02
    classifier_head: str = "linear"
    classifier_hidden_size: int | None = None
    classifier_dropout: float | int = 0.1
    pos_weight: list[float | int] | tuple[float | int, ...] | None = None

    def __post_init__(self, **kwargs: Any):
        self.ecg_config = self._part("ecg_config", {})
        self.text_config = self._part("text_config", _FLAN_T5_BASE if self.text_config is None else {})
        # T5EncoderModel sets these on the configuration it is given
        self.text_config.is_encoder_decoder = False
        self.text_config.use_cache = False
        width = self.hidden_size
        self.cross_modal_config = self._part(
            "cross_modal_config", {"hidden_size": width, "intermediate_size": 4 * width}
        )
        decoder = {} if self.decoder_config is None else self.decoder_config
        derived = {}
        if isinstance(decoder, dict):
            derived["intermediate_size"] = 4 * decoder.get("hidden_size", DBetaDecoderConfig.hidden_size)
            tokens = self.ecg_config.count_tokens(_PRETRAINING_SAMPLES)
            derived["patch_size"] = max(_PRETRAINING_SAMPLES // max(tokens, 1), 1)
        self.decoder_config = self._part("decoder_config", derived)
        if self.vocab_size is None:
            self.vocab_size = self.text_config.vocab_size
        # A folder that names code files would be broken once saved again, because saving does not write them. The copy
        # of this file inside a published repository is loaded through `auto_map` and must keep it.
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)

    def _part(self, name: str, defaults: dict[str, Any]) -> PreTrainedConfig:
        """Return a part as a configuration of its own; what the caller passed is not changed later on."""
        value = getattr(self, name)
        if isinstance(value, PreTrainedConfig):
            if not isinstance(value, self.sub_configs[name]):
                raise ValueError(
                    f"`{name}` is a {self.sub_configs[name].__name__} or a dict; got {type(value).__name__}."
                )
            return copy.deepcopy(value)
        return self.sub_configs[name](**{**defaults, **(value or {})})

    def validate_architecture(self):
        """Check that the fields fit together."""
        _check_positive(self, ("hidden_size", "vocab_size"))
        if self.cross_modal_config.hidden_size != self.hidden_size:
            raise ValueError(
                "The fusion works in the shared space: `hidden_size` of `cross_modal_config` must be that of the "
                f"model; got {self.cross_modal_config.hidden_size} and {self.hidden_size}. Set both, or leave it "
                "out in `cross_modal_config`."
            )
        if self.decoder_config.fusion_layer >= self.cross_modal_config.num_hidden_layers:
            raise ValueError(
                f"`fusion_layer` {self.decoder_config.fusion_layer} of `decoder_config` is no layer of a fusion with "
                f"{self.cross_modal_config.num_hidden_layers}; layers are counted from 0, and -1 is the output of the "
                "last."
            )
        for name in ("mlm_loss_weight", "mem_loss_weight", "etm_loss_weight", "ets_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` is not negative; got {getattr(self, name)}.")
        _check_shares(self, ("classifier_dropout",))
        if self.classifier_head not in CLASSIFIER_HEADS:
            raise ValueError(f"`classifier_head` is one of {CLASSIFIER_HEADS}; got {self.classifier_head!r}.")
        if self.classifier_hidden_size is not None and self.classifier_hidden_size < 1:
            raise ValueError(f"`classifier_hidden_size` must be at least 1; got {self.classifier_hidden_size}.")
        if self.pos_weight is not None and any(not weight >= 0 for weight in self.pos_weight):
            raise ValueError(f"`pos_weight` holds one non-negative number per label; got {list(self.pos_weight)}.")

    @property
    def num_hidden_layers(self) -> int:
        """Transformer layers of the ECG encoder."""
        return self.ecg_config.num_hidden_layers

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "DBetaConfig":
        """Return the configuration of a published size.

        Args:
            size (`str`): `"base"`, the only one.
            overrides: fields that differ from that size.

        Raises:
            ValueError: if there is no such size.
        """
        if size != "base":
            raise ValueError(f"D-BETA comes in the size 'base'; got {size!r}.")
        return cls(**overrides)


__all__ = ["DBetaConfig", "DBetaDecoderConfig", "DBetaECGConfig", "DBetaFusionConfig"]
