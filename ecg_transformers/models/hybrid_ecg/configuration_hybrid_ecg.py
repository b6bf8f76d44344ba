"""Configuration of Hybrid ECG."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# Width, depth and heads of ViT-Ti, ViT-S and ViT-B; ST-MEM has the last two. The feed-forward part is four times as
# wide as the model.
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {},
}

PATCH_LAYOUTS = ("all_leads", "per_lead")
MASK_STRATEGIES = ("random", "span", "multi_scale", "lead")
POOLINGS = ("cls", "mean")
CLASSIFIER_HEADS = ("linear", "mlp")


@strict
class HybridECGConfig(PreTrainedConfig):
    r"""Configuration of a Hybrid ECG model: a vision transformer over patches of an ECG, and its pretraining.

    Published (arXiv 2407.07110, third version named CREMA) are the twelve leads, the reconstruction of masked input
    with a contrastive regularisation, and a "Signal Transformer" as encoder. What we know of the paper are its
    abstracts, which give no number of the architecture. Every value below is therefore ours; where another publication
    supports it, it is named ("ST-MEM" is its configuration `st_mem_vit_base_dec256d4b`). Multi-scale temporal masking
    and the alignment of views at R peaks are in a summary of the paper, but not in its abstract.

    The defaults make 50 tokens of 10 s at 250 Hz and an encoder of 85.5 M parameters.

    Args:
        num_leads (`int`, defaults to 12): rows of a record.
        patch_size (`int`, defaults to 50): samples of a token, 0.2 s at 250 Hz (MERL's vision transformer). ST-MEM
            takes 75 with one token per lead.
        patch_layout (`str`, defaults to `"all_leads"`): `"all_leads"`: a token holds all leads at a time (a
            convolution whose kernel and stride are a patch). `"per_lead"`: a token holds one lead at a time, with a
            learned embedding of its lead (ST-MEM, whose tokens between leads are left out here), so that any subset
            of leads is a valid input; there are `num_leads` times as many tokens.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size (`int`): size of the encoder, by
            default those of ViT-B.
        hidden_act (`str`, defaults to `"gelu"`): activation of the feed-forward parts.
        hidden_dropout (`float`, defaults to 0.0): dropout of the tokens that enter the encoder.
        attention_dropout (`float`, defaults to 0.0): dropout of the attention weights.
        layer_norm_eps (`float`, defaults to 1e-6): of all layer norms (masked autoencoders of images).
        initializer_range (`float`, defaults to 0.02): standard deviation of new tokens and lead embeddings. Linear
            weights are drawn by Glorot's uniform rule, as in masked autoencoders of images.
        residual_initializer_scale (`float`, defaults to 1.0): factor on the initial weights of the last linear map of
            each residual branch of the encoder (attention output, second map of the feed-forward part). Below 1 a
            deep encoder starts nearer to the identity and learns faster in short runs (ours; GPT-2 takes
            1 / sqrt(2 x layers), 0.2 for 12).
        pooling (`str`, defaults to `"cls"`): what stands for a record: `"cls"`, the class token, or `"mean"`, the
            mean of the record's real tokens.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size
            (`int`, default to 256, 4, 4 and 1024): size of the decoder (ST-MEM).
        mask_ratio (`float`, defaults to 0.75): share of a record's real tokens that are masked (ST-MEM, D-BETA).
        mask_strategy (`str`, defaults to `"random"`): `"random"`: tokens by themselves (ST-MEM); `"span"`: spans of
            `mask_span_length` tokens; `"multi_scale"`: a mixture of short and long spans; `"lead"`: whole leads, for
            `"per_lead"` tokens. All mask exactly the same number of tokens. (Half of the tokens in blocks let a
            model of another kind interpolate: AUROC of atrial fibrillation 0.703 instead of 0.848, card of
            guychuk/PhysioJEPA.)
        mask_span_length (`int`, defaults to 5): tokens of a span, and of a long one; 1 s, about a beat.
        mask_short_span_length (`int`, defaults to 1): tokens of a short span of `"multi_scale"`.
        mask_long_span_share (`float`, defaults to 0.5): share of the spans of `"multi_scale"` that are long.
        normalize_targets (`bool`, defaults to `True`): reconstruct each patch in its own standard deviations, with
            1e-6 added to the variance (ST-MEM `norm_pix_loss`). Without it, the input values.
        reconstruction_loss_weight (`float`, defaults to 1.0): weight of the reconstruction. With 0 the pretraining is
            SimCLR, and there is no decoder.
        contrastive_loss_weight (`float`, defaults to 0.1): weight of the contrast between views. With 0 the
            pretraining is that of a masked autoencoder, and there is no projection.
        temperature (`float`, defaults to 0.1): of the contrast (SimCLR in fairseq-signals).
        projection_size (`int`, defaults to 128): width of the space in which views are compared.
        classifier_head (`str`, defaults to `"linear"`): head of [`HybridECGForSequenceClassification`]: `"linear"` or
            `"mlp"` (linear, tanh, linear).
        classifier_hidden_size (`int`, *optional*): hidden width of the `"mlp"` head; `hidden_size` if not given.
        classifier_dropout (`float`, defaults to 0.0): dropout before the head.
        pos_weight (`list[float]`, *optional*): weight of the positives of each label in the multi-label loss, one
            value per label.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together. The
            message names the field.

    Example:
        ```python
        >>> from ecg_transformers import HybridECGConfig, HybridECGModel

        >>> model = HybridECGModel(HybridECGConfig.from_size("tiny", patch_layout="per_lead", patch_size=75))
        ```
    """

    model_type = "hybrid_ecg"
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    num_leads: int = 12
    patch_size: int = 50
    patch_layout: str = "all_leads"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    layer_norm_eps: float | int = 1e-6
    initializer_range: float | int = 0.02
    residual_initializer_scale: float | int = 1.0
    pooling: str = "cls"
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 1024
    mask_ratio: float | int = 0.75
    mask_strategy: str = "random"
    mask_span_length: int = 5
    mask_short_span_length: int = 1
    mask_long_span_share: float | int = 0.5
    normalize_targets: bool = True
    reconstruction_loss_weight: float | int = 1.0
    contrastive_loss_weight: float | int = 0.1
    temperature: float | int = 0.1
    projection_size: int = 128
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
        for name in (
            "num_leads",
            "patch_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "decoder_hidden_size",
            "decoder_num_hidden_layers",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
            "mask_span_length",
            "mask_short_span_length",
            "projection_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for width, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("decoder_hidden_size", "decoder_num_attention_heads"),
        ):
            if getattr(self, width) % getattr(self, divisor):
                raise ValueError(
                    f"`{width}` must be a multiple of `{divisor}`; got {getattr(self, width)} and "
                    f"{getattr(self, divisor)}."
                )
        for name in ("hidden_dropout", "attention_dropout", "mask_long_span_share", "classifier_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share between 0 and 1; got {getattr(self, name)}.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"`mask_ratio` is a share above 0 and below 1; got {self.mask_ratio}. To pretrain without "
                "reconstruction set `reconstruction_loss_weight` to 0."
            )
        for name, known in (
            ("patch_layout", PATCH_LAYOUTS),
            ("mask_strategy", MASK_STRATEGIES),
            ("pooling", POOLINGS),
            ("classifier_head", CLASSIFIER_HEADS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` is one of {known}; got {getattr(self, name)!r}.")
        if self.mask_strategy == "lead" and self.patch_layout != "per_lead":
            raise ValueError(
                "`mask_strategy` 'lead' masks whole leads, which share their tokens in `patch_layout` "
                f"{self.patch_layout!r}. Take 'per_lead', or another strategy."
            )
        if self.mask_short_span_length > self.mask_span_length:
            raise ValueError(
                "`mask_short_span_length` must not exceed `mask_span_length`; got "
                f"{self.mask_short_span_length} and {self.mask_span_length}."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"`hidden_act` is an activation of transformers, such as 'gelu'; got {self.hidden_act!r}."
            )
        for name in ("reconstruction_loss_weight", "contrastive_loss_weight", "initializer_range"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is a finite number of at least 0; got {getattr(self, name)}.")
        for name in ("temperature", "layer_norm_eps", "residual_initializer_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is a finite number above 0; got {getattr(self, name)}.")
        if not self.reconstruction_loss_weight + self.contrastive_loss_weight > 0:
            raise ValueError(
                "`reconstruction_loss_weight` and `contrastive_loss_weight` are both 0, so nothing would be learned. "
                "Set one of them above 0."
            )
        if self.classifier_hidden_size is not None and self.classifier_hidden_size < 1:
            raise ValueError(f"`classifier_hidden_size` must be at least 1; got {self.classifier_hidden_size}.")
        if self.pos_weight is not None and any(not 0 <= weight < math.inf for weight in self.pos_weight):
            raise ValueError(
                f"`pos_weight` holds one finite number of at least 0 per label; got {list(self.pos_weight)}."
            )

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "HybridECGConfig":
        """Return the configuration of a size.

        Args:
            size (`str`): `"tiny"` (192 wide, 3 heads), `"small"` (384, 6) or `"base"` (768, 12), of 12 layers each.
            overrides: fields that differ from that size.

        Raises:
            ValueError: if there is no such size.
        """
        if size not in _SIZES:
            raise ValueError(f"Hybrid ECG comes in the sizes {list(_SIZES)}; got {size!r}.")
        return cls(**{**_SIZES[size], **overrides})

    @property
    def token_rows(self) -> int:
        """Rows of tokens: one of all leads, or one for each."""
        return self.num_leads if self.patch_layout == "per_lead" else 1

    @property
    def patch_values(self) -> int:
        """Input values that a token holds."""
        return self.patch_size * self.num_leads // self.token_rows

    def count_tokens(self, samples: int) -> int:
        """Return the number of tokens of a record of `samples` samples, without the class token."""
        return self.token_rows * (samples // self.patch_size)


__all__ = ["HybridECGConfig"]
