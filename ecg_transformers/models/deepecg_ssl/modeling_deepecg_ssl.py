"""DeepECG-SSL: a wav2vec 2.0 encoder over the twelve leads, its pretraining losses, and heads for labels."""

import inspect
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2Attention,
    Wav2Vec2EncoderLayer,
    Wav2Vec2EncoderLayerStableLayerNorm,
    Wav2Vec2FeatureEncoder,
    Wav2Vec2GumbelVectorQuantizer,
    Wav2Vec2PositionalConvEmbedding,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_deepecg_ssl import DeepECGSSLConfig

# Floor of the norms in both contrasts, and what keeps the logarithm of an unused code finite: fairseq (wav2vec 2.0)
# and fairseq-signals (CMSC)
_NORM_FLOOR = 1e-8
_LOG_FLOOR = 1e-7


@dataclass
class DeepECGSSLModelOutput(ModelOutput):
    """Output of [`DeepECGSSLModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(records, tokens, hidden_size)`): of the last layer.
        extract_features (`torch.FloatTensor` of shape `(records, tokens, channels)`): what the convolutions make of
            the samples, after the layer norm over channels; the targets of the pretraining are quantized from it.
        conv_states (`torch.FloatTensor` of shape `(records, tokens, channels)`): the same before the layer norm.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): the input of the first layer, then the output of each.
        attentions (`tuple[torch.FloatTensor]`, *optional*): attention weights of each layer.
    """

    last_hidden_state: torch.FloatTensor | None = None
    extract_features: torch.FloatTensor | None = None
    conv_states: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class DeepECGSSLForPreTrainingOutput(ModelOutput):
    """Output of [`DeepECGSSLForPreTraining`].

    The losses, counts and perplexities are scalars; they and the logits are absent without masked tokens. The total
    of the original, which sums over the masked tokens and divides in the optimizer, is `loss * num_masked`, and its
    parts are `contrastive_loss * num_masked` and so on, times their weights.

    Args:
        loss (`torch.FloatTensor`, *optional*): `contrastive_loss + diversity_loss_weight * diversity_loss +
            feature_penalty_weight * feature_penalty + cmsc_loss_weight * cmsc_loss`.
        contrastive_loss (`torch.FloatTensor`, *optional*): cross entropy of finding the true code, a mean over the
            masked tokens.
        diversity_loss (`torch.FloatTensor`, *optional*): share of the codes that are not used,
            `1 - prob_perplexity / codes`.
        feature_penalty (`torch.FloatTensor`, *optional*): mean square of the convolutions' output.
        cmsc_loss (`torch.FloatTensor`, *optional*): contrast between the patients' segments; absent without
            `patient_ids`.
        prob_perplexity (`torch.FloatTensor`, *optional*): effective number of codes by their mean probabilities,
            summed over the codebooks.
        code_perplexity (`torch.FloatTensor`, *optional*): the same by the most probable codes.
        contrastive_accuracy (`torch.FloatTensor`, *optional*): share of the masked tokens whose true code has the
            highest logit.
        num_masked (`torch.LongTensor`, *optional*): masked tokens of the batch.
        contrastive_logits (`torch.FloatTensor` of shape `(records, masked tokens, 1 + negatives)`, *optional*):
            cosine similarities by temperature, the true code first; `-inf` where a negative has the true code.
        code_indices (`torch.LongTensor` of shape `(records, masked tokens, codebooks)`, *optional*): chosen codes.
        pooled_states (`torch.FloatTensor` of shape `(records, hidden_size)`, *optional*): mean of each record's
            tokens, as [`DeepECGSSLPreTrainedModel.pool_tokens`] takes it, of the masked pass.
        cmsc_logits (`torch.FloatTensor` of shape `(segments 0, segments 1)`, *optional*): similarities by temperature.
        projected_states (`torch.FloatTensor` of shape `(records, masked tokens, proj_codevector_dim)`): predictions;
            without masked tokens, of all tokens.
        projected_quantized_states (`torch.FloatTensor` of shape `(records, masked tokens, proj_codevector_dim)`):
            targets; without masked tokens, of all tokens.
        last_hidden_state (`torch.FloatTensor` of shape `(records, tokens, hidden_size)`): of the last layer.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): as in [`DeepECGSSLModel`].
        attentions (`tuple[torch.FloatTensor]`, *optional*): as in [`DeepECGSSLModel`].
    """

    loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    diversity_loss: torch.FloatTensor | None = None
    feature_penalty: torch.FloatTensor | None = None
    cmsc_loss: torch.FloatTensor | None = None
    prob_perplexity: torch.FloatTensor | None = None
    code_perplexity: torch.FloatTensor | None = None
    contrastive_accuracy: torch.FloatTensor | None = None
    num_masked: torch.LongTensor | None = None
    contrastive_logits: torch.FloatTensor | None = None
    code_indices: torch.LongTensor | None = None
    pooled_states: torch.FloatTensor | None = None
    cmsc_logits: torch.FloatTensor | None = None
    projected_states: torch.FloatTensor | None = None
    projected_quantized_states: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def draw_span_mask(
    real: torch.Tensor,
    probability: float,
    length: int = 10,
    min_spans: int = 2,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw masked spans, as many tokens in each record.

    Each record gets `probability * real tokens / length` spans, rounded up or down at random once for the batch, but
    at least `min_spans`. Spans start where they fit whole, and may overlap. Every record is then thinned at random
    to the smallest number of masked tokens in the batch. (The original never starts a span at the last place where
    it fits.) A record too short for `min_spans` whole spans gets cut ones, and one of fewer than two real tokens,
    which has nothing to be contrasted with, none; it does not count for the thinning.

    Args:
        real (`torch.BoolTensor` of shape `(records, tokens)`): tokens that may be masked.
        probability (`float`): share of the real tokens in spans.
        length (`int`): tokens in a span.
        min_spans (`int`): least number of spans.
        generator (`torch.Generator`, *optional*): random numbers, on the device of `real`; torch's own if not given.

    Returns:
        `torch.BoolTensor` of shape `(records, tokens)`: true where masked.
    """
    real = real.bool()
    counts = real.sum(dim=1)
    # Beyond the end nothing is real, so a window that crosses it is no whole span
    whole = F.pad(real, (0, length - 1)).unfold(1, length, 1).all(dim=-1)
    starts = torch.where(whole.sum(dim=1, keepdim=True) < min_spans, real, whole)
    rounding = torch.rand((), device=real.device, generator=generator)
    wanted = (counts * (probability / length) + rounding).long().clamp(min=min_spans)
    wanted = torch.minimum(wanted, starts.sum(dim=1)).masked_fill(counts < 2, 0)
    first = _draw_some(starts, wanted, generator)
    mask = F.pad(first, (length - 1, 0)).unfold(1, length, 1).any(dim=-1) & real
    found = mask.sum(dim=1)
    smallest = found.masked_fill(found == 0, real.shape[1]).min()
    return _draw_some(mask, found.clamp(max=smallest), generator)


def _draw_some(choices: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Choose `wanted` of the true places of each row, without replacement."""
    scores = torch.rand(choices.shape, device=choices.device, generator=generator).masked_fill(~choices, -1.0)
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
    return ranks < wanted[:, None]


def draw_negatives(counts: torch.Tensor, num_negatives: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw, for each masked token, other masked tokens of the same record, with replacement.

    Args:
        counts (`torch.LongTensor` of shape `(records,)`): masked tokens of each record.
        num_negatives (`int`): draws for each.
        generator (`torch.Generator`, *optional*): random numbers, on the device of `counts`; torch's own if not given.

    Returns:
        `torch.LongTensor` of shape `(records, largest count, num_negatives)`: indices among the masked tokens of the
        record, none of them the token's own place; -1 beyond a record's count and where there is no other token.
    """
    most = int(counts.max())
    numbers = torch.rand(len(counts), most, num_negatives, device=counts.device, generator=generator)
    others = (counts - 1).clamp(min=0)[:, None, None]
    drawn = torch.minimum((numbers * others).long(), (others - 1).clamp(min=0))
    places = torch.arange(most, device=counts.device)[None, :, None]
    drawn = drawn + (drawn >= places)
    return drawn.masked_fill((others == 0) | (places >= counts[:, None, None]), -1)


def find_real_tokens(attention_mask: torch.Tensor, config: DeepECGSSLConfig) -> torch.Tensor:
    """Tell which tokens are real; see [`DeepECGSSLPreTrainedModel.get_token_mask`]."""
    # Layer by layer rather than over the whole receptive field at once: the same result, and far less work
    padded = (attention_mask == 0).to(torch.float32)[:, None, None]
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        # In two dimensions, because torch.export takes the length of a one-dimensional pooling for fixed
        padded = F.max_pool2d(padded, (1, kernel), (1, stride))
    return padded[:, 0, 0] == 0


class DeepECGSSLPreTrainedModel(PreTrainedModel):
    """What all DeepECG-SSL models share: initialisation, loading, token masks, pooling."""

    config: DeepECGSSLConfig
    base_model_prefix = "deepecg_ssl"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": [Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm],
        "attentions": OutputRecorder(Wav2Vec2Attention, index=1, layer_name="encoder"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # As in fairseq
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                bound = math.sqrt(module.groups / (module.in_channels * module.kernel_size[0]))
                init.uniform_(module.bias, a=-bound, b=bound)
        elif isinstance(module, parametrize.ParametrizationList):
            # The weight of the positional convolution is the product of these two. With this gain the first weight
            # equals its direction.
            gain, direction = module.original0, module.original1
            init.normal_(direction, std=2 / math.sqrt(direction.shape[0] * direction.shape[2]))
            init.copy_(gain, direction.norm(dim=(0, 1), keepdim=True))
        elif isinstance(module, Wav2Vec2PositionalConvEmbedding):
            init.zeros_(module.conv.bias)
        elif isinstance(module, DeepECGSSLFeatureProjection) and module.projection is not None:
            module.projection.reset_parameters()
        elif isinstance(module, DeepECGSSLModel) and hasattr(module, "masked_spec_embed"):
            init.uniform_(module.masked_spec_embed)
        elif isinstance(module, DeepECGSSLGumbelQuantizer):
            init.normal_(module.weight_proj.weight)
            init.zeros_(module.weight_proj.bias)
            init.uniform_(module.codevectors)
        elif isinstance(module, DeepECGSSLForPreTraining):
            module.project_hid.reset_parameters()
            module.project_q.reset_parameters()
        elif isinstance(module, DeepECGSSLAttentiveHead):
            init.zeros_(module.query)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell which tokens are real: those whose whole receptive field is.

        The original counts the padded samples at the end of a record, which gives the same.

        Args:
            attention_mask (`torch.Tensor` of shape `(records, samples)`): nonzero where a sample is real.

        Returns:
            `torch.BoolTensor` of shape `(records, tokens)`.
        """
        return find_real_tokens(attention_mask, self.config)

    def pool_tokens(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean of the real tokens as the original takes it; zero for a record that has none.

        The sum over the real tokens is divided, in each channel, by the number of values that are not exactly 0.

        Args:
            hidden_states (`torch.Tensor` of shape `(records, tokens, hidden_size)`): of any layer.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(~self.get_token_mask(attention_mask)[..., None], 0.0)
        counts = (hidden_states != 0).sum(dim=1).clamp(min=1)
        return hidden_states.sum(dim=1) / counts.to(hidden_states.dtype)


class DeepECGSSLFeatureEncoder(Wav2Vec2FeatureEncoder):
    """The convolutions of wav2vec 2.0, the first of which takes the leads as channels."""

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__(config)
        self.conv_layers[0].conv = nn.Conv1d(
            config.num_leads,
            config.conv_dim[0],
            kernel_size=config.conv_kernel[0],
            stride=config.conv_stride[0],
            bias=config.conv_bias,
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Turn `(records, leads, samples)` into `(records, channels, tokens)`."""
        hidden_states = input_values
        for layer in self.conv_layers:
            if layer.training and getattr(layer, "gradient_checkpointing", False) and not hidden_states.requires_grad:
                # Reentrant checkpointing passes gradients on only where an input requires them
                hidden_states = hidden_states.detach().requires_grad_(self._requires_grad)
            hidden_states = layer(hidden_states)
        return hidden_states


class DeepECGSSLFeatureProjection(nn.Module):
    """Layer norm over channels, and the way to the transformer's width where that is another."""

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__()
        channels = config.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.hidden_size) if channels != config.hidden_size else None
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, conv_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens of the transformer's width, and the normalised features."""
        features = self.layer_norm(conv_states)
        tokens = features if self.projection is None else self.projection(features)
        return self.dropout(tokens), features


class DeepECGSSLEncoder(nn.Module):
    """The transformer of wav2vec 2.0.

    It differs from [`~transformers.Wav2Vec2Model`]'s in where padded tokens become zero: after the positional
    convolution, which therefore sees them.
    """

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__()
        self.config = config
        layer_class = Wav2Vec2EncoderLayerStableLayerNorm if config.do_stable_layer_norm else Wav2Vec2EncoderLayer
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([layer_class(config) for _ in range(config.num_hidden_layers)])
        # Older layers (transformers 5.8) take no arguments for the attention
        parameters = inspect.signature(layer_class.forward).parameters.values()
        self._passes_arguments = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    def forward(self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        """Return the output of the last layer, `(records, tokens, hidden_size)`."""
        hidden_states = tokens + self.pos_conv_embed(tokens)
        if token_mask is not None:
            hidden_states = hidden_states.masked_fill(~token_mask[..., None], 0.0)
            # Attention over no key at all would be NaN
            token_mask = token_mask | ~token_mask.any(dim=1, keepdim=True)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=token_mask
        )
        if not self.config.do_stable_layer_norm:
            hidden_states = self.layer_norm(hidden_states)
        hidden_states = self.dropout(hidden_states)
        if not self._passes_arguments:
            kwargs = {}
        for layer in self.layers:
            if self.training and self.config.layerdrop > 0 and torch.rand([]) < self.config.layerdrop:
                continue
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
            if isinstance(hidden_states, tuple):
                hidden_states = hidden_states[0]
        return self.layer_norm(hidden_states) if self.config.do_stable_layer_norm else hidden_states


class DeepECGSSLModel(DeepECGSSLPreTrainedModel):
    """The DeepECG-SSL backbone: hidden states of the tokens of a record.

    Args:
        config ([`DeepECGSSLConfig`]): the architecture.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DeepECGSSLConfig, DeepECGSSLModel

        >>> model = DeepECGSSLModel(DeepECGSSLConfig(num_hidden_layers=1)).eval()
        >>> model(torch.randn(1, 12, 2500)).last_hidden_state.shape
        torch.Size([1, 156, 768])
        ```
    """

    # The parts of the pretraining live in DeepECGSSLForPreTraining; the mask vector is only there for models that mask
    _keys_to_ignore_on_load_unexpected = [
        r"(^|\.)(quantizer|project_q|project_hid)\.",
        r"(^|\.)masked_spec_embed$",
    ]

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__(config)
        self.feature_extractor = DeepECGSSLFeatureEncoder(config)
        self.feature_projection = DeepECGSSLFeatureProjection(config)
        if config.mask_time_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = DeepECGSSLEncoder(config)
        self.post_init()

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        if input_values.ndim != 3 or input_values.shape[1] != self.config.num_leads:
            raise ValueError(
                f"`input_values` has shape (records, {self.config.num_leads} leads, samples); got "
                f"{tuple(input_values.shape)}. ECGFeatureExtractor makes such arrays."
            )
        if input_values.shape[2] < self.config.receptive_field:
            raise ValueError(
                f"`input_values` has {input_values.shape[2]} samples; one token needs {self.config.receptive_field}."
            )
        expected = (input_values.shape[0], input_values.shape[2])
        if attention_mask is not None and tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"`attention_mask` is over samples and has shape (records, samples), here {expected}; got "
                f"{tuple(attention_mask.shape)}."
            )

    def _mask_tokens(
        self, tokens: torch.Tensor, mask_time_indices: torch.Tensor | None, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Replace masked tokens by the mask vector."""
        config = self.config
        if mask_time_indices is None and self.training and config.apply_spec_augment and config.mask_time_prob > 0:
            real = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if token_mask is None else token_mask
            mask_time_indices = draw_span_mask(
                real, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
            )
        if mask_time_indices is None:
            return tokens
        if not hasattr(self, "masked_spec_embed"):
            raise ValueError(
                "`mask_time_indices` needs the mask vector, which a model with `mask_time_prob` 0 does not have. "
                "Load it with a positive `mask_time_prob`."
            )
        if mask_time_indices.shape != tokens.shape[:2]:
            raise ValueError(
                "`mask_time_indices` has shape (records, tokens), here "
                f"{tuple(tokens.shape[:2])}; got {tuple(mask_time_indices.shape)}."
            )
        masked = mask_time_indices.to(device=tokens.device, dtype=torch.bool)[..., None]
        return torch.where(masked, self.masked_spec_embed.to(tokens.dtype), tokens)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        feature_grad_mult: float | None = None,
        **kwargs,
    ) -> tuple | DeepECGSSLModelOutput:
        r"""Compute the hidden states.

        Padded samples are set to 0. Tokens that are not wholly real are zero where the first layer begins, as in the
        original, and no other token attends to them; their own hidden states are computed but mean nothing. The
        positional convolution before, and the group norm of the first convolution (`feat_extract_norm="group"`, the
        published models), see the padding, so a padded record differs from a cropped one. In a record without any
        real token all tokens attend to each other, so its output is finite and does not depend on its samples.

        Args:
            input_values (`torch.Tensor` of shape `(records, num_leads, samples)`): the leads, in mV in the published
                models.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): tokens that the mask
                vector replaces, before the positional convolution.
            feature_grad_mult (`float`, *optional*): factor on the gradients that reach the convolutions, 1 if not
                given.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`, and
                arguments for the attention.

        Returns:
            [`DeepECGSSLModelOutput`]
        """
        self._check_inputs(input_values, attention_mask)
        input_values = input_values.to(self.dtype)
        token_mask = None
        if attention_mask is not None:
            input_values = input_values.masked_fill((attention_mask == 0)[:, None], 0.0)
            token_mask = self.get_token_mask(attention_mask)
        conv_states = self.feature_extractor(input_values).transpose(1, 2)
        if feature_grad_mult not in (None, 1):
            # The same values, and this share of the gradients
            constant = conv_states.detach()
            conv_states = constant + feature_grad_mult * (conv_states - constant)
        tokens, features = self.feature_projection(conv_states)
        tokens = self._mask_tokens(tokens, mask_time_indices, token_mask)
        return DeepECGSSLModelOutput(
            last_hidden_state=self.encoder(tokens, token_mask, **kwargs),
            extract_features=features,
            conv_states=conv_states,
        )

    def get_ecg_features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """Return one feature vector per record: the mean of its real tokens in the last layer.

        Args:
            input_values (`torch.Tensor` of shape `(records, num_leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kwargs: as in [`DeepECGSSLModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        kwargs["return_dict"] = True
        outputs = self(input_values, attention_mask=attention_mask, **kwargs)
        return self.pool_tokens(outputs.last_hidden_state, attention_mask)


class DeepECGSSLGumbelQuantizer(Wav2Vec2GumbelVectorQuantizer):
    """The quantizer of wav2vec 2.0: one code of each codebook, by Gumbel softmax in training.

    The parameters are those of transformers' class. Its forward takes the diversity in evaluation from the hard
    codes, without gradient; the original takes it from the probabilities always.

    Attributes:
        temperature (`float`): of the Gumbel softmax; a schedule sets it.
    """

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__(config)
        self.temperature = config.max_gumbel_temperature

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize features.

        Args:
            features (`torch.Tensor` of shape `(..., channels)`): normalised features.

        Returns:
            Code vectors `(..., codevector_dim)`, codes `(..., codebooks)`, probabilities of all codes and one-hot most
            probable codes, both `(..., codebooks, codes)` in float32.
        """
        logits = self.weight_proj(features).float().unflatten(-1, (self.num_groups, self.num_vars))
        probabilities = logits.softmax(dim=-1)
        best = torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        chosen = best
        if self.training:
            chosen = F.gumbel_softmax(logits, tau=self.temperature, hard=True)
        codevectors = self.codevectors.view(self.num_groups, self.num_vars, -1)
        vectors = torch.einsum("...gv,gvd->...gd", chosen.to(codevectors.dtype), codevectors).flatten(-2)
        return vectors, chosen.argmax(dim=-1), probabilities, best


class DeepECGSSLForPreTraining(DeepECGSSLPreTrainedModel):
    """DeepECG-SSL with the parts of its pretraining.

    Masked prediction as in wav2vec 2.0 (the true code of a masked token among those of other masked tokens of the
    record), diversity of the codes, a penalty on the convolutions' output, and CMSC: the two segments of a patient
    are closer to each other than to other patients' segments.

    Args:
        config ([`DeepECGSSLConfig`]): the architecture and the weights of the losses.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DeepECGSSLConfig, DeepECGSSLForPreTraining

        >>> model = DeepECGSSLForPreTraining(DeepECGSSLConfig(num_hidden_layers=1))
        >>> pairs = torch.randn(4, 12, 1250)  # two patients, the two halves of a record of each
        >>> outputs = model(pairs, patient_ids=torch.tensor([7, 7, 8, 8]), segments=torch.tensor([0, 1, 0, 1]))
        >>> outputs.loss.backward()
        ```
    """

    accepts_loss_kwargs = False

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__(config)
        self.deepecg_ssl = DeepECGSSLModel(config)
        self.dropout_features = nn.Dropout(config.feat_quantizer_dropout)
        self.quantizer = DeepECGSSLGumbelQuantizer(config)
        self.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
        self.project_hid = nn.Linear(config.hidden_size, config.proj_codevector_dim)
        self.post_init()

    def set_gumbel_temperature(self, temperature: float):
        """Set the temperature of the Gumbel softmax."""
        self.quantizer.temperature = temperature

    def freeze_feature_encoder(self):
        """Stop training the convolutions."""
        self.deepecg_ssl.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the backbone."""
        for parameter in self.deepecg_ssl.parameters():
            parameter.requires_grad = False

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        negative_indices: torch.Tensor | None = None,
        patient_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | DeepECGSSLForPreTrainingOutput:
        r"""Compute predictions, targets and, with masked tokens, the losses.

        In training the masked tokens are drawn if they are not given, from torch's random numbers. In evaluation
        nothing is drawn: without `mask_time_indices` there are predictions and targets of all tokens and no loss;
        with them and without `negative_indices` the negatives are drawn all the same. Codes are the most probable
        ones in evaluation.

        In training in several processes (`torch.distributed`) every loss is that of the joined batch, and gradients
        are scaled such that their mean over the processes, which DistributedDataParallel takes, is the gradient of
        the joined batch. Negatives stay within the record.

        Args:
            input_values (`torch.Tensor` of shape `(records, num_leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): tokens that are hidden
                from the model. Records may have different numbers of them. Those that are not wholly real do not
                enter the losses.
            negative_indices (`torch.LongTensor` of shape `(records, masked tokens, negatives)`, *optional*): for each
                masked token, the places of others among the masked tokens of the same record, counted from 0 in
                order of time; -1 is none. If not given, `config.num_negatives` are drawn uniformly.
            patient_ids (`torch.LongTensor` of shape `(records,)`, *optional*): whom each record comes from; in
                several processes, unique over all of them. Without it there is no CMSC loss.
            segments (`torch.LongTensor` of shape `(records,)`, *optional*): 0 or 1, on which side of the contrast each
                record stands: every segment 0 is compared with every segment 1, and those of equal patients belong
                together. The two sides may differ in number, and a patient may have several records on a side. It
                comes with `patient_ids`.
            kwargs: as in [`DeepECGSSLModel.forward`].

        Returns:
            [`DeepECGSSLForPreTrainingOutput`]
        """
        config = self.config
        if (patient_ids is None) != (segments is None):
            raise ValueError(
                "`patient_ids` and `segments` come together: whom a record comes from, and whether it is the first "
                "(0) or the second (1) segment of a pair."
            )
        self.deepecg_ssl._check_inputs(input_values, attention_mask)
        if mask_time_indices is None and self.training:
            if config.mask_time_prob == 0:
                raise ValueError("`mask_time_prob` is 0, so there is nothing to predict. Load with a positive value.")
            mask_time_indices = draw_span_mask(
                self.get_token_mask(self._samples_mask(input_values, attention_mask)),
                config.mask_time_prob,
                config.mask_time_length,
                config.mask_time_min_masks,
            )
        outputs = self.deepecg_ssl(
            input_values,
            attention_mask=attention_mask,
            mask_time_indices=mask_time_indices,
            feature_grad_mult=config.feature_grad_mult,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        features = self.dropout_features(outputs.extract_features)
        if mask_time_indices is None:
            found = {
                "projected_states": self.project_hid(hidden_states),
                "projected_quantized_states": self.project_q(self.quantizer(features)[0]),
            }
        else:
            masked = mask_time_indices.to(device=features.device, dtype=torch.bool)
            counts = masked.sum(dim=1)
            most = int(counts.max())
            # The masked tokens of each record in order of time, then others that do not count
            places = masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
            counted = torch.arange(most, device=masked.device)[None] < counts[:, None]
            if attention_mask is not None:
                counted = counted & self.get_token_mask(attention_mask).to(places.device).gather(1, places)
            if negative_indices is None:
                negative_indices = draw_negatives(counts, config.num_negatives)
            self._check_negatives(negative_indices, counted, counts)
            vectors, codes, probabilities, best = self.quantizer(_take(features, places))
            found = {
                "code_indices": codes,
                "pooled_states": self.pool_tokens(hidden_states, attention_mask),
                "projected_states": self.project_hid(_take(hidden_states, places)),
                "projected_quantized_states": self.project_q(vectors),
            }
            processes = _count_processes() if self.training else 1
            # In half precision the norms' floor would be 0 and the sums too coarse
            with torch.autocast(features.device.type, enabled=False):
                found |= self._contrastive_loss(found, negative_indices.to(codes.device), counted, processes)
                found |= self._diversity_loss(probabilities, best, counted, found["num_masked"], processes)
                squares = outputs.conv_states.float().square()
                size = _joint_sum(torch.tensor(squares.numel(), device=squares.device), processes)
                found["feature_penalty"] = _joint_sum(squares.sum(), processes) / size
                loss = (
                    found["contrastive_loss"]
                    + config.diversity_loss_weight * found["diversity_loss"]
                    + config.feature_penalty_weight * found["feature_penalty"]
                )
                if patient_ids is not None:
                    found |= self._cmsc_loss(found["pooled_states"], patient_ids, segments, processes)
                    loss = loss + config.cmsc_loss_weight * found["cmsc_loss"]
                # Each process contributes its share of the joint gradient, and the mean over them divides it
                found["loss"] = loss + (processes - 1) * (loss - loss.detach())
        return DeepECGSSLForPreTrainingOutput(
            **found,
            last_hidden_state=hidden_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @staticmethod
    def _samples_mask(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return torch.ones_like(input_values[:, 0]) if attention_mask is None else attention_mask

    @staticmethod
    def _check_negatives(negative_indices: torch.Tensor, counted: torch.Tensor, counts: torch.Tensor):
        if negative_indices.ndim != 3 or negative_indices.shape[:2] != counted.shape:
            raise ValueError(
                "`negative_indices` has shape (records, masked tokens, negatives), here "
                f"{(*counted.shape, 'negatives')}; got {tuple(negative_indices.shape)}."
            )
        if (negative_indices >= counts.to(negative_indices.device)[:, None, None]).any():
            raise ValueError(
                "`negative_indices` counts the masked tokens of the same record, from 0; got "
                f"{int(negative_indices.max())} where a record has {int(counts.min())} at least."
            )

    def _contrastive_loss(
        self, found: dict, negative_indices: torch.Tensor, counted: torch.Tensor, processes: int
    ) -> dict[str, torch.Tensor]:
        predictions = F.normalize(found["projected_states"].float(), dim=-1, eps=_NORM_FLOOR)
        targets = F.normalize(found["projected_quantized_states"].float(), dim=-1, eps=_NORM_FLOOR)
        # All pairs of masked tokens of a record: far smaller than the vectors of all negatives
        similarities = predictions @ targets.transpose(1, 2) / self.config.contrastive_logits_temperature
        codes = found["code_indices"]
        same_code = (codes[:, :, None] == codes[:, None]).all(dim=-1)
        chosen = negative_indices.clamp(min=0)
        usable = (~same_code & counted[:, None]).gather(2, chosen)
        excluded = ~usable | (negative_indices < 0)
        negatives = similarities.gather(2, chosen).masked_fill(excluded, -torch.inf)
        logits = torch.cat([similarities.diagonal(dim1=1, dim2=2)[..., None], negatives], dim=2)
        true_class = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
        losses = F.cross_entropy(logits.transpose(1, 2), true_class, reduction="none").masked_fill(~counted, 0.0)
        # Where all similarities are the same nothing was found
        hits = (logits.argmax(dim=-1) == 0) & (logits.argmin(dim=-1) != 0) & counted
        num_masked = _joint_sum(counted.sum(), processes)
        return {
            "contrastive_logits": logits,
            "contrastive_loss": _joint_sum(losses.sum(), processes) / num_masked.clamp(min=1),
            "contrastive_accuracy": _joint_sum(hits.sum(), processes) / num_masked.clamp(min=1),
            "num_masked": num_masked,
        }

    def _diversity_loss(
        self,
        probabilities: torch.Tensor,
        best: torch.Tensor,
        counted: torch.Tensor,
        num_masked: torch.Tensor,
        processes: int,
    ) -> dict[str, torch.Tensor]:
        weights = counted[..., None, None].to(probabilities.dtype)
        prob_perplexity, code_perplexity = (
            _perplexity(_joint_sum((values * weights).sum(dim=(0, 1)), processes) / num_masked.clamp(min=1))
            for values in (probabilities, best)
        )
        codes = self.config.num_codevector_groups * self.config.num_codevectors_per_group
        return {
            "diversity_loss": (codes - prob_perplexity) / codes,
            "prob_perplexity": prob_perplexity,
            "code_perplexity": code_perplexity,
        }

    def _cmsc_loss(
        self, pooled: torch.Tensor, patient_ids: torch.Tensor, segments: torch.Tensor, processes: int
    ) -> dict[str, torch.Tensor]:
        for name, values in (("patient_ids", patient_ids), ("segments", segments)):
            if values.numel() != len(pooled):
                raise ValueError(
                    f"`{name}` has one value for each of the {len(pooled)} records; got {values.numel()}."
                )
        patient_ids, segments = (values.to(pooled.device).reshape(-1) for values in (patient_ids, segments))
        if ((segments != 0) & (segments != 1)).any():
            raise ValueError(f"`segments` holds 0 or 1; got {segments.unique().tolist()}.")
        pooled = pooled.float()
        # No gradient through the norm, as in the original
        directions = pooled / pooled.detach().norm(dim=-1, keepdim=True).clamp(min=_NORM_FLOOR)
        directions, patient_ids, segments = (
            _join_rows(rows, processes) for rows in (directions, patient_ids, segments)
        )
        first, second = segments == 0, segments == 1
        logits = directions[first] @ directions[second].T / self.config.cmsc_temperature
        together = patient_ids[first][:, None] == patient_ids[second][None]
        pairs = together.sum().clamp(min=1)
        over_second, over_first = (
            logits.log_softmax(dim=dim).masked_fill(~together, 0.0).sum() / pairs for dim in (1, 0)
        )
        return {"cmsc_logits": logits, "cmsc_loss": -(over_second + over_first) / 2}


def _take(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take places of each row: `(rows, all, width)` and `(rows, some)` to `(rows, some, width)`."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def _perplexity(distributions: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the exponential of the entropy."""
    return (distributions * (distributions + _LOG_FLOOR).log()).sum(dim=-1).neg().exp().sum()


def _count_processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _joint_sum(value: torch.Tensor, processes: int) -> torch.Tensor:
    """Sum over all processes; the gradient is that of the own share."""
    if processes == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total + (value - value.detach())


def _join_rows(rows: torch.Tensor, processes: int) -> torch.Tensor:
    """Rows of all processes in order of rank; the gradient is that of the own ones."""
    if processes == 1:
        return rows
    counts = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(processes)]
    torch.distributed.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    most = int(max(counts))
    padded = rows.detach().new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    torch.distributed.all_gather(gathered, padded)
    joined = [part[: int(count)] for part, count in zip(gathered, counts, strict=True)]
    joined[torch.distributed.get_rank()] = rows
    return torch.cat(joined)


class DeepECGSSLAttentiveHead(nn.Module):
    """A learned query that attends to the tokens, a feed-forward part, and a linear layer.

    Padded tokens are zero here and, as in the original, attended to: each counts as the bias of the first norm. The
    logits of a padded record therefore depend on the amount of padding.
    """

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__()
        width = config.hidden_size
        inner = config.classifier_hidden_size or 4 * width
        self.num_heads = config.classifier_num_heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.token_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.pooled_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate_dense = nn.Linear(width, inner)
        self.activation = ACT2FN["gelu"]
        self.output_dense = nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.output = nn.Linear(width, config.num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Turn `(records, tokens, hidden_size)` into logits `(records, labels)`."""
        query = self.query.expand(tokens.shape[0], -1, -1)
        tokens = self.token_norm(tokens)
        heads = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(tokens), self.v_proj(tokens))
        )
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        pooled = query + self.out_proj(attended)
        inner = self.activation(self.intermediate_dense(self.pooled_norm(pooled)))
        pooled = pooled + self.output_dense(inner)
        return self.output(self.dropout(pooled[:, 0]))


class DeepECGSSLForSequenceClassification(DeepECGSSLPreTrainedModel):
    """DeepECG-SSL with a classification or regression head.

    Args:
        config ([`DeepECGSSLConfig`]): the architecture; `classifier_head`, `num_labels`, `problem_type` and
            `pos_weight` describe the head.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DeepECGSSLConfig, DeepECGSSLForSequenceClassification

        >>> config = DeepECGSSLConfig(num_hidden_layers=1, num_labels=5, problem_type="multi_label_classification")
        >>> model = DeepECGSSLForSequenceClassification(config)
        >>> labels = torch.tensor([[1.0, 0.0, 0.0, float("nan"), 0.0]])  # the fourth label is unknown
        >>> loss = model(torch.randn(1, 12, 2500), labels=labels).loss
        ```
    """

    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = DeepECGSSLModel._keys_to_ignore_on_load_unexpected

    def __init__(self, config: DeepECGSSLConfig):
        super().__init__(config)
        if config.pos_weight is not None and len(config.pos_weight) != config.num_labels:
            raise ValueError(
                f"`pos_weight` needs one value for each of the {config.num_labels} labels; got "
                f"{len(config.pos_weight)}. Pass the right number, or `pos_weight=None`."
            )
        self.deepecg_ssl = DeepECGSSLModel(config)
        if config.classifier_head != "attentive":
            self.dropout = nn.Dropout(config.classifier_dropout)
        if config.classifier_head == "linear":
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        elif config.classifier_head == "mlp":
            width = config.classifier_hidden_size or config.hidden_size
            self.classifier = nn.Sequential(
                nn.Linear(config.hidden_size, width), nn.Tanh(), nn.Linear(width, config.num_labels)
            )
        else:
            self.classifier = DeepECGSSLAttentiveHead(config)
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the convolutions."""
        self.deepecg_ssl.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the backbone; the head alone is trained."""
        for parameter in self.deepecg_ssl.parameters():
            parameter.requires_grad = False

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | SequenceClassifierOutput:
        r"""Compute one logit per label and, with labels, the loss.

        Args:
            input_values (`torch.Tensor` of shape `(records, num_leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            labels (`torch.Tensor` of shape `(records,)` or `(records, num_labels)`, *optional*): class indices, 0/1
                per label, or numbers, as `config.problem_type` says; if that is not set, it follows from
                `num_labels` and the dtype. NaN, and -100 for a class index, is an unknown label and does not enter
                the loss, which is a mean over the known ones and 0 if there are none.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): tokens that the mask
                vector replaces. If not given, a model in training with `config.apply_spec_augment` draws them.
            kwargs: as in [`DeepECGSSLModel.forward`].

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]
        """
        outputs = self.deepecg_ssl(
            input_values, attention_mask=attention_mask, mask_time_indices=mask_time_indices, **kwargs
        )
        tokens = outputs.last_hidden_state
        if self.config.classifier_head == "attentive":
            if attention_mask is not None:
                tokens = tokens.masked_fill(~self.get_token_mask(attention_mask)[..., None], 0.0)
            logits = self.classifier(tokens)
        else:
            logits = self.classifier(self.dropout(self.pool_tokens(tokens, attention_mask)))
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _problem_type(self, labels: torch.Tensor) -> str:
        """Infer the kind of problem once, as transformers does, and keep it in the configuration."""
        if self.config.problem_type is None:
            if self.config.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.ndim < 2 and not labels.is_floating_point() and labels.dtype != torch.bool:
                self.config.problem_type = "single_label_classification"
            else:
                self.config.problem_type = "multi_label_classification"
        return self.config.problem_type

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        problem_type = self._problem_type(labels)
        logits, labels = logits.float(), labels.to(logits.device)
        if problem_type == "single_label_classification":
            if labels.is_floating_point():
                labels = labels.nan_to_num(nan=-100.0)
            labels = labels.reshape(-1).long()
            self._check_label_count(labels.numel(), logits.shape[0])
            return _masked_mean(F.cross_entropy(logits, labels, reduction="none"), labels != -100)

        self._check_label_count(labels.numel(), logits.numel())
        labels = labels.reshape(logits.shape).to(logits.dtype)
        known = ~labels.isnan()
        labels = labels.masked_fill(~known, 0.0)
        if problem_type == "regression":
            return _masked_mean((logits - labels).square(), known)
        pos_weight = self.config.pos_weight
        if pos_weight is not None:
            pos_weight = torch.tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")
        return _masked_mean(losses, known)

    def _check_label_count(self, found: int, expected: int):
        if found != expected:
            raise ValueError(
                f"`labels` of a {self.config.problem_type} problem with {self.config.num_labels} labels needs "
                f"{expected} values for this batch; got {found}. Set `config.problem_type` and `num_labels` to what "
                "the labels are."
            )


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values where the mask is true; 0, with a graph, where it is nowhere."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


__all__ = [
    "DeepECGSSLForPreTraining",
    "DeepECGSSLForPreTrainingOutput",
    "DeepECGSSLForSequenceClassification",
    "DeepECGSSLModel",
    "DeepECGSSLModelOutput",
    "DeepECGSSLPreTrainedModel",
    "draw_negatives",
    "draw_span_mask",
    "find_real_tokens",
]
