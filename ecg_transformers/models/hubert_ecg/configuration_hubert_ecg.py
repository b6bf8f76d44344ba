"""Configuration of HuBERT-ECG."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.models.hubert.configuration_hubert import HubertConfig

# medRxiv 10.1101/2024.11.14.24317328 and the configurations published with the weights
_SIZES = {
    "small": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "classifier_proj_size": 256,
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "classifier_proj_size": 256,
    },
    "large": {
        "hidden_size": 960,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "intermediate_size": 3840,
        "classifier_proj_size": 512,
    },
}

CLASSIFIER_HEADS = ("linear", "mlp", "label_embedding")


@strict
class HubertECGConfig(HubertConfig):
    r"""Configuration of a HuBERT-ECG model: a HuBERT whose input is the twelve leads laid end to end.

    The defaults describe the base size for 5 s at 100 Hz (12 x 500 = 6000 samples, 93 tokens). Everything that is not
    listed here is a field of [`~transformers.HubertConfig`].

    Args:
        vocab_sizes (`list[int]`, *optional*): number of codes in each codebook that the model predicts in pretraining.
            `None` describes a model without codebooks.
        ensemble_length (`int`, *optional*): number of codebooks. Derived from `vocab_sizes`; a value that disagrees
            with it is an error.
        alpha (`float`, defaults to 1.0): share of the masked tokens in the pretraining loss; the other tokens have
            `1 - alpha`.
        classifier_proj_size (`int`, defaults to 256): width of the space in which hidden states meet the codes.
        classifier_head (`str`, defaults to `"linear"`): head of [`HubertECGForSequenceClassification`]: `"linear"`,
            `"mlp"` (linear, tanh, linear) or `"label_embedding"` (cosine similarity with one vector per label).
        classifier_hidden_size (`int`, *optional*): hidden width of the `"mlp"` head; `hidden_size` if not given.
        classifier_dropout (`float`, defaults to 0.1): dropout before the head.
        pos_weight (`list[float]`, *optional*): weight of the positives of each label in the multi-label loss, one
            value per label.
        mask_time_prob (`float`, defaults to 0.33): share of the tokens that are masked in training; this includes
            fine-tuning, as in every HuBERT. The published fine-tuning recipe sets it to 0.
        mask_time_length (`int`, defaults to 1): length of a masked span in tokens.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if a value is of the wrong type or fields do not fit together. The
            message names the field.

    Example:
        ```python
        >>> from ecg_transformers import HubertECGConfig, HubertECGModel

        >>> config = HubertECGConfig.from_size("small", vocab_sizes=[100])
        >>> model = HubertECGModel(config)
        ```
    """

    model_type = "hubert_ecg"
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "masked_loss", "unmasked_loss"]

    conv_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 512)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (4, 2, 2, 2, 2)
    mask_time_prob: float | int = 0.33
    mask_time_length: int = 1
    vocab_sizes: list[int] | tuple[int, ...] | None = None
    ensemble_length: int | None = None
    alpha: float | int = 1.0
    classifier_head: str = "linear"
    classifier_hidden_size: int | None = None
    classifier_dropout: float | int = 0.1
    pos_weight: list[float | int] | tuple[float | int, ...] | None = None

    def __post_init__(self, **kwargs: Any):
        if self.ensemble_length is None:
            self.ensemble_length = len(self.vocab_sizes or ())
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
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "classifier_proj_size",
            "num_conv_pos_embeddings",
            "num_conv_pos_embedding_groups",
            "mask_time_length",
            "mask_feature_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"`hidden_size` must be a multiple of `{name}`; got {self.hidden_size} and {getattr(self, name)}."
                )
        for name in (
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
            "classifier_dropout",
            "mask_time_prob",
            "mask_feature_prob",
            "alpha",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share between 0 and 1; got {getattr(self, name)}.")
        for name in ("hidden_act", "feat_extract_activation"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(
                    f"`{name}` is an activation of transformers, such as 'gelu'; got {getattr(self, name)!r}."
                )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"`feat_extract_norm` is 'group' or 'layer'; got {self.feat_extract_norm!r}.")
        if self.use_weighted_layer_sum:
            raise ValueError("`use_weighted_layer_sum` is not available in HuBERT-ECG: its heads read the last layer.")
        if self.vocab_sizes is not None and any(size < 1 for size in self.vocab_sizes):
            raise ValueError(f"`vocab_sizes` holds positive integers; got {list(self.vocab_sizes)}.")
        if self.ensemble_length != len(self.vocab_sizes or ()):
            raise ValueError(
                f"`ensemble_length` is the number of codebooks in `vocab_sizes`; got {self.ensemble_length} and "
                f"{self.vocab_sizes}. Leave `ensemble_length` out, it is derived."
            )
        if self.classifier_head not in CLASSIFIER_HEADS:
            raise ValueError(f"`classifier_head` is one of {CLASSIFIER_HEADS}; got {self.classifier_head!r}.")
        if self.classifier_hidden_size is not None and self.classifier_hidden_size < 1:
            raise ValueError(f"`classifier_hidden_size` must be at least 1; got {self.classifier_hidden_size}.")
        if self.pos_weight is not None and any(not weight >= 0 for weight in self.pos_weight):
            raise ValueError(f"`pos_weight` holds one non-negative number per label; got {list(self.pos_weight)}.")

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "HubertECGConfig":
        """Return the configuration of a published size.

        Args:
            size (`str`): `"small"` (30.4 M parameters with the published codebooks), `"base"` (93.1 M) or `"large"`
                (189 M).
            overrides: fields that differ from that size.

        Raises:
            ValueError: if there is no such size.
        """
        if size not in _SIZES:
            raise ValueError(f"HuBERT-ECG comes in the sizes {list(_SIZES)}; got {size!r}.")
        return cls(**{**_SIZES[size], **overrides})

    @property
    def receptive_field(self) -> int:
        """Samples of the input row that one token sees."""
        field, step = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field


__all__ = ["HubertECGConfig"]
