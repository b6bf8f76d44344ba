"""Hybrid ECG: a vision transformer over patches of an ECG, its hybrid pretraining, and a head for labels."""

import math
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_hybrid_ecg import HybridECGConfig
from .masking_hybrid_ecg import choose_masked, make_fixed_noise, make_mask_noise

# The layers are those of CLIP's vision transformer: ViT's, which in transformers 5.8 take no mask and have other names

# Keeps the scale of a patch without signal from being zero (ST-MEM)
_VARIANCE_FLOOR = 1e-6
# A lead whose range is a smaller share of the largest range in its record carries no signal (ours): room for the
# rounding of filters, far below any lead of an ECG
_CONSTANT_SHARE = 1e-5


@dataclass
class HybridECGForPreTrainingOutput(ModelOutput):
    """Output of [`HybridECGForPreTraining`].

    Args:
        loss (`torch.FloatTensor`): `reconstruction_loss_weight * reconstruction_loss + contrastive_loss_weight *
            contrastive_loss`, a scalar.
        reconstruction_loss (`torch.FloatTensor`, *optional*): mean square error of the masked tokens, a scalar.
        contrastive_loss (`torch.FloatTensor`, *optional*): cross entropy of finding a view's other one, a scalar.
        reconstruction (`torch.FloatTensor` of shape `(records, tokens, patch values)`, *optional*): what the decoder
            makes of every token; in all-lead tokens lead after lead. With `normalize_targets` in standard deviations
            of each patch; [`HybridECGForPreTraining.reconstruct`] undoes this.
        mask (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): true where a token was masked.
        view_embeds (`torch.FloatTensor` of shape `(records, 2, projection_size)`, *optional*): the views in the space
            of the contrast, of length 1.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): of the encoder over the visible tokens.
        attentions (`tuple[torch.FloatTensor]`, *optional*): likewise.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    mask: torch.BoolTensor | None = None
    view_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class HybridECGPreTrainedModel(PreTrainedModel):
    """What all Hybrid ECG models share: initialisation, loading, saving."""

    config: HybridECGConfig
    base_model_prefix = "hybrid_ecg"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules = ["CLIPEncoderLayer"]
    _can_record_outputs = {
        "hidden_states": CLIPEncoderLayer,
        "attentions": OutputRecorder(CLIPAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight, gain=getattr(module, "initializer_gain", 1.0))
        elif isinstance(module, nn.Conv1d):
            # The same rule, with the convolution as a linear map of patches
            inputs = module.in_channels * module.kernel_size[0]
            bound = math.sqrt(6 / (inputs + module.out_channels))
            init.uniform_(module.weight, a=-bound, b=bound)
        elif isinstance(module, HybridECGEmbeddings):
            init.normal_(module.class_token, std=std)
            if module.lead_embedding is not None:
                init.normal_(module.lead_embedding, std=std)
        elif isinstance(module, HybridECGDecoder):
            init.normal_(module.mask_token, std=std)
            if module.lead_embedding is not None:
                init.normal_(module.lead_embedding, std=std)


class HybridECGEmbeddings(nn.Module):
    """Patches of samples as tokens with positions, and a class token without one."""

    def __init__(self, config: HybridECGConfig):
        super().__init__()
        self.config = config
        channels = config.num_leads // config.token_rows
        self.patch_embedding = nn.Conv1d(
            channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.class_token = nn.Parameter(torch.empty(config.hidden_size))
        self.lead_embedding = (
            nn.Parameter(torch.empty(config.num_leads, config.hidden_size)) if config.token_rows > 1 else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map `(records, leads, samples)` to `(records, tokens, hidden_size)`, where a rest of samples is left out."""
        records, rows = values.shape[0], self.config.token_rows
        patches = values.reshape(records * rows, -1, values.shape[2])
        tokens = self.patch_embedding(patches).transpose(1, 2).unflatten(0, (records, rows))
        return tokens.flatten(1, 2) + token_positions(tokens.shape[2], self.lead_embedding, tokens)

    def add_class_token(self, tokens: torch.Tensor) -> torch.Tensor:
        """Put the class token in front."""
        class_token = self.class_token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        return self.dropout(torch.cat([class_token, tokens], dim=1))


class HybridECGModel(HybridECGPreTrainedModel):
    """The Hybrid ECG backbone: hidden states of the tokens of a record, and one feature vector.

    Args:
        config ([`HybridECGConfig`]): the architecture.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import HybridECGConfig, HybridECGModel

        >>> model = HybridECGModel(HybridECGConfig.from_size("tiny")).eval()
        >>> model.get_ecg_features(torch.randn(1, 12, 2500)).shape
        torch.Size([1, 192])
        ```
    """

    # The parts of the pretraining and the head live in the other classes
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|projection|classifier)\."]

    def __init__(self, config: HybridECGConfig):
        super().__init__(config)
        self.embeddings = HybridECGEmbeddings(config)
        self.layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers))
        for layer in self.layers:
            for last in (layer.self_attn.out_proj, layer.mlp.fc2):
                last.initializer_gain = config.residual_initializer_scale
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the embedding of the patches."""
        self.embeddings.requires_grad_(False)

    def prepare(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find out which leads carry signal, and set everything else to zero.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): nonzero where a lead carries signal. If
                not given, those do that are not constant over the record's real samples; NaN and infinity are no
                constants.

        Returns:
            `tuple`: the values with zeros in padded samples and in leads without signal, and a `torch.BoolTensor` of
            shape `(records, leads)`, true where a lead carries signal.

        Raises:
            ValueError: if the shapes do not fit, or there are fewer samples than a token needs.
        """
        leads, patch = self.config.num_leads, self.config.patch_size
        if input_values.ndim != 3 or input_values.shape[1] != leads:
            raise ValueError(
                f"`input_values` has shape (records, {leads} leads, samples); got {tuple(input_values.shape)}. "
                "ECGFeatureExtractor makes such arrays, with zeros for missing leads."
            )
        if input_values.shape[2] < patch:
            raise ValueError(f"`input_values` has {input_values.shape[2]} samples; one token needs {patch}.")
        for name, mask, dim in (("attention_mask", attention_mask, 2), ("lead_mask", lead_mask, 1)):
            expected = (input_values.shape[0], input_values.shape[dim])
            if mask is not None and tuple(mask.shape) != expected:
                what = "(records, samples)" if dim == 2 else "(records, leads)"
                raise ValueError(f"`{name}` has shape {what}, here {expected}; got {tuple(mask.shape)}.")
        outside = None if attention_mask is None else (attention_mask == 0)[:, None]
        if lead_mask is None:
            values = input_values.float()
            high = values if outside is None else values.masked_fill(outside, -torch.inf)
            low = values if outside is None else values.masked_fill(outside, torch.inf)
            spread = high.amax(dim=2) - low.amin(dim=2)
            # Values that are not finite must show in the result, not hide their lead or the whole record
            broken = spread.isnan() | spread.isposinf()
            largest = spread.masked_fill(broken, 0).amax(dim=1, keepdim=True).clamp(min=0)
            present = (spread > _CONSTANT_SHARE * largest) | broken
        else:
            present = lead_mask != 0
        absent = ~present[..., None]
        return input_values.masked_fill(absent if outside is None else absent | outside, 0), present

    def get_token_mask(self, attention_mask: torch.Tensor | None, present: torch.Tensor, samples: int) -> torch.Tensor:
        """Tell which tokens are real: whose whole patch is, and of which a lead carries signal.

        Args:
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            present (`torch.BoolTensor` of shape `(records, leads)`): true where a lead carries signal.
            samples (`int`): of the records.

        Returns:
            `torch.BoolTensor` of shape `(records, tokens)`.
        """
        rows, patch = self.config.token_rows, self.config.patch_size
        carries = present.unflatten(1, (rows, -1)).any(dim=2)
        times = samples // patch
        if attention_mask is None:
            return carries[..., None].expand(-1, -1, times).flatten(1)
        whole = (attention_mask[:, : times * patch] != 0).unflatten(1, (times, patch)).all(dim=2)
        return (carries[..., None] & whole[:, None]).flatten(1)

    def get_ecg_features(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Return one feature vector per record, as `config.pooling` says; see [`HybridECGModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        kwargs["return_dict"] = True
        return self(input_values, attention_mask, lead_mask, **kwargs).pooler_output

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        kept_tokens: torch.Tensor | None = None,
        kept_token_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | BaseModelOutputWithPooling:
        r"""Compute the hidden states.

        Records may have any length; samples beyond the last whole patch are left out. A token that is not wholly real
        is neither attended to nor pooled; its own hidden state is computed but means nothing. Leads without signal
        are zero in all-lead tokens; where tokens are per lead, theirs count as padding. Nothing depends on what such
        samples hold. A record without any real token is its class token alone, and its mean is zero. NaN or infinity
        in a real token makes the record's result NaN.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): nonzero where a lead carries signal. If
                not given, those do that are not constant over the record's real samples.
            kept_tokens (`torch.LongTensor` of shape `(records, kept)`, *optional*): tokens to keep, in order; the
                others are removed before the first layer. Pretraining passes the visible ones.
            kept_token_mask (`torch.BoolTensor` of shape `(records, kept)`, *optional*): true where a kept token is
                real; goes with `kept_tokens`.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`, and
                arguments for the attention.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `last_hidden_state` of shape `(records, 1 +
            tokens, hidden_size)`, class token first, then the times of a lead after each other; `pooler_output` of
            shape `(records, hidden_size)`.

        Raises:
            ValueError: if shapes do not fit, or only one of `kept_tokens` and `kept_token_mask` is given.
        """
        if (kept_tokens is None) != (kept_token_mask is None):
            raise ValueError("Pass `kept_tokens` and `kept_token_mask`, which tells which of them are real, together.")
        values, present = self.prepare(input_values, attention_mask, lead_mask)
        tokens = self.embeddings(values.to(self.dtype))
        if kept_tokens is None:
            # Without an attention mask too: a record without any lead is its class token alone, in any company
            token_mask = self.get_token_mask(attention_mask, present, values.shape[2])
        else:
            tokens, token_mask = take_tokens(tokens, kept_tokens), kept_token_mask
        hidden_states = self.embeddings.add_class_token(tokens)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=with_class_token(token_mask)
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        hidden_states = self.layer_norm(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self._pool(hidden_states, token_mask)
        )

    def _pool(self, hidden_states: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        tokens = hidden_states[:, 1:]
        count = token_mask.sum(dim=1, keepdim=True).clamp(min=1)
        return tokens.masked_fill(~token_mask[..., None], 0.0).sum(dim=1) / count.to(tokens.dtype)


class _DecoderConfig:
    """What a layer of the decoder reads; its kind of attention is that of the whole model."""

    def __init__(self, config: HybridECGConfig):
        self.config = config
        self.hidden_size = config.decoder_hidden_size
        self.num_attention_heads = config.decoder_num_attention_heads
        self.intermediate_size = config.decoder_intermediate_size
        self.hidden_act = config.hidden_act
        self.attention_dropout = config.attention_dropout
        self.layer_norm_eps = config.layer_norm_eps

    @property
    def _attn_implementation(self) -> str:
        return self.config._attn_implementation


class HybridECGDecoder(nn.Module):
    """Reconstructs every token from the visible ones."""

    def __init__(self, config: HybridECGConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.embedding = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.lead_embedding = nn.Parameter(torch.empty(config.num_leads, width)) if config.token_rows > 1 else None
        layer_config = _DecoderConfig(config)
        self.layers = nn.ModuleList(CLIPEncoderLayer(layer_config) for _ in range(config.decoder_num_hidden_layers))
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(width, config.patch_values)

    def forward(
        self, hidden_states: torch.Tensor, place: torch.Tensor, visible: torch.Tensor, token_mask: torch.Tensor
    ) -> torch.Tensor:
        """Reconstruct the patches.

        Args:
            hidden_states (`torch.Tensor` of shape `(records, 1 + kept, hidden_size)`): class token, then kept tokens.
            place (`torch.LongTensor` of shape `(records, tokens)`): place of each visible token among the kept.
            visible (`torch.BoolTensor` of shape `(records, tokens)`): true where a token was kept.
            token_mask (`torch.BoolTensor` of shape `(records, tokens)`): true where a token is real.

        Returns:
            `torch.Tensor` of shape `(records, tokens, patch values)`.
        """
        hidden_states = self.embedding(hidden_states)
        class_token, kept = hidden_states[:, :1], hidden_states[:, 1:]
        tokens = torch.where(visible[..., None], take_tokens(kept, place), self.mask_token.to(kept.dtype))
        times = tokens.shape[1] // self.config.token_rows
        tokens = tokens + token_positions(times, self.lead_embedding, tokens)
        hidden_states = torch.cat([class_token, tokens], dim=1)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=with_class_token(token_mask)
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return self.prediction(self.layer_norm(hidden_states[:, 1:]))


class HybridECGForPreTraining(HybridECGPreTrainedModel):
    """Hybrid ECG with both parts of its pretraining: masked reconstruction and a contrast between two views.

    The loss is `reconstruction_loss_weight * L_MAE + contrastive_loss_weight * L_NT-Xent`. A part whose weight is 0 in
    the configuration is not built: weight 0 of the contrast leaves a masked autoencoder, weight 0 of the
    reconstruction SimCLR.

    Args:
        config ([`HybridECGConfig`]): the architecture; the decoder, the masking and the weights describe the
            pretraining.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import HybridECGConfig, HybridECGForPreTraining

        >>> model = HybridECGForPreTraining(HybridECGConfig.from_size("tiny"))
        >>> records = torch.randn(2, 12, 2500)
        >>> loss = model(records, view_values=torch.randn(2, 2, 12, 2500)).loss
        ```
    """

    accepts_loss_kwargs = False
    # The head of a classifier, and a part of the pretraining that this model does without
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|projection|classifier)\."]

    def __init__(self, config: HybridECGConfig):
        super().__init__(config)
        self.hybrid_ecg = HybridECGModel(config)
        if config.reconstruction_loss_weight > 0:
            self.decoder = HybridECGDecoder(config)
        if config.contrastive_loss_weight > 0:
            width = config.hidden_size
            # SimCLR's projection, without batch norm: that would let a record depend on its batch
            self.projection = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.projection_size)
            )
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the embedding of the patches."""
        self.hybrid_ecg.freeze_feature_encoder()

    def freeze_base_model(self):
        """Stop training the encoder."""
        self.hybrid_ecg.requires_grad_(False)

    def patchify(self, values: torch.Tensor) -> torch.Tensor:
        """Cut `(records, leads, samples)` into `(records, tokens, patch values)`; a rest of samples is left out."""
        rows, patch = self.config.token_rows, self.config.patch_size
        times = values.shape[2] // patch
        patches = values[..., : times * patch].unflatten(2, (times, patch)).unflatten(1, (rows, -1))
        return patches.transpose(2, 3).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: torch.Tensor) -> torch.Tensor:
        """Put `(records, tokens, patch values)` together to `(records, leads, samples)` of whole patches."""
        rows, patch = self.config.token_rows, self.config.patch_size
        parts = patches.unflatten(1, (rows, -1)).unflatten(3, (-1, patch))
        return parts.transpose(2, 3).flatten(3).flatten(1, 2)

    def expand_mask(self, mask: torch.Tensor, samples: int) -> torch.Tensor:
        """Spread a mask over tokens to samples: `(records, tokens)` to `(records, leads, samples)`.

        Samples beyond the last whole patch are false.
        """
        spread = self.unpatchify(mask[..., None].expand(-1, -1, self.config.patch_values))
        return F.pad(spread, (0, samples - spread.shape[2]))

    def _patches(
        self, values: torch.Tensor, present: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return targets, the weights of their values, and mean and scale of each patch."""
        carries = present[..., None].expand(-1, -1, values.shape[2])
        patches, weights = self.patchify(values.float()), self.patchify(carries).float()
        if not self.config.normalize_targets:
            return patches, weights, torch.zeros_like(patches[..., :1]), torch.ones_like(patches[..., :1])
        count = weights.sum(dim=-1, keepdim=True)
        mean = (patches * weights).sum(dim=-1, keepdim=True) / count.clamp(min=1)
        deviation = (patches - mean) * weights
        # Divided by one less than the number of values, as in masked autoencoders of images
        variance = deviation.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
        scale = (variance + _VARIANCE_FLOOR).sqrt()
        return deviation / scale, weights, mean, scale

    def get_reconstruction_targets(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what reconstructions are compared with.

        With `config.normalize_targets` the mean of each patch is subtracted and the rest divided by the root of its
        variance plus 1e-6, over all values of the patch that belong to leads with signal; others are 0.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): as in [`HybridECGModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, tokens, patch values)`.
        """
        return self._patches(*self.hybrid_ecg.prepare(input_values, attention_mask, lead_mask))[0]

    def reconstruct(
        self,
        output: HybridECGForPreTrainingOutput,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a reconstruction as an ECG, in the scale of the input.

        With `config.normalize_targets` the model tells the shape of each patch only: mean and scale are those of the
        true patch.

        Args:
            output ([`HybridECGForPreTrainingOutput`]): for these records; its `mask` tells what was masked, see
                [`HybridECGForPreTraining.expand_mask`].
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): as in [`HybridECGModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, leads, samples)`, 0 outside of real tokens.
        """
        values, present = self.hybrid_ecg.prepare(input_values, attention_mask, lead_mask)
        _, weights, mean, scale = self._patches(values, present)
        real = self.hybrid_ecg.get_token_mask(attention_mask, present, values.shape[2])
        patches = (output.reconstruction.float() * scale + mean) * weights * real[..., None]
        signal = self.unpatchify(patches)
        return F.pad(signal, (0, values.shape[2] - signal.shape[2]))

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        view_values: torch.Tensor | None = None,
        view_attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | HybridECGForPreTrainingOutput:
        r"""Compute the losses.

        Reconstruction: the encoder sees the tokens that are not masked, the decoder reconstructs all, the loss is the
        mean over masked tokens. The share `config.mask_ratio` of each record's real tokens is masked, those with the
        highest `noise`; padding, and leads without signal, are neither masked nor reconstructed. In training the noise
        is drawn anew by `config.mask_strategy`. Otherwise, unless it is given, it is a fixed one of that strategy, the
        same for each record and call, so evaluation repeats itself and no record depends on its batch.

        Contrast: each view is to be told from all other views of the batch by its similarity to the record's other
        view (NT-Xent, as in SimCLR). The encoder sees views whole, nothing of them masked (ours).

        In training on several processes of `torch.distributed` the losses are those of the joined batch, on every
        process, and the gradients are scaled so that their mean over the processes, which `DistributedDataParallel`
        takes, is the gradient of that loss.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`, *optional*): the leads; not needed if
                the weight of the reconstruction is 0.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): as in [`HybridECGModel.forward`]. A
                lead without signal in the record has none in its views; with neither `lead_mask` nor `input_values`
                each view is judged by itself.
            view_values (`torch.Tensor` of shape `(records, 2, leads, samples)`, *optional*): two augmented views of
                each record, which may be shorter or longer than the record; not needed if the weight of the contrast
                is 0.
            view_attention_mask (`torch.Tensor` of shape `(records, 2, samples)`, *optional*): nonzero where a sample
                of a view is real.
            noise (`torch.FloatTensor` of shape `(records, tokens)`, *optional*): scores of the tokens, see
                `make_mask_noise`.
            kwargs: as in [`HybridECGModel.forward`].

        Returns:
            [`HybridECGForPreTrainingOutput`]. A part with weight 0 is `None`; a mean over nothing is 0.

        Raises:
            ValueError: if what a part with a positive weight needs is not given, or shapes do not fit.
        """
        config = self.config
        self._check_parts()
        if lead_mask is None and input_values is not None:
            lead_mask = self.hybrid_ecg.prepare(input_values, attention_mask)[1]
        outputs: dict = {}
        total = 0.0
        if config.reconstruction_loss_weight > 0:
            if input_values is None:
                raise ValueError(
                    "The reconstruction needs `input_values`. Without it set `reconstruction_loss_weight` to 0."
                )
            outputs |= self._reconstruct_masked(input_values, attention_mask, lead_mask, noise, **kwargs)
            total = total + config.reconstruction_loss_weight * outputs["reconstruction_loss"]
        if config.contrastive_loss_weight > 0:
            if view_values is None:
                raise ValueError(
                    "The contrast needs `view_values`, two views of each record. Pass them, or set "
                    "`contrastive_loss_weight` to 0 for a masked autoencoder."
                )
            if input_values is not None and input_values.shape[0] != view_values.shape[0]:
                raise ValueError(
                    "`view_values` has shape (records, 2 views, leads, samples), two views of each record of "
                    f"`input_values`; got {tuple(view_values.shape)} for {input_values.shape[0]} records."
                )
            embeds = self.embed_views(view_values, view_attention_mask, lead_mask)
            loss = contrastive_loss(embeds, config.temperature, self.training)
            outputs |= {"view_embeds": embeds, "contrastive_loss": loss}
            total = total + config.contrastive_loss_weight * loss
        return HybridECGForPreTrainingOutput(loss=total, **outputs)

    def _check_parts(self):
        for part, name in (
            ("decoder", "reconstruction_loss_weight"),
            ("projection", "contrastive_loss_weight"),
        ):
            if getattr(self.config, name) > 0 and not hasattr(self, part):
                raise ValueError(
                    f"`{name}` was 0 when this model was built, so it has no {part}. Set it in the configuration and "
                    "build or load the model with that."
                )

    def _reconstruct_masked(self, input_values, attention_mask, lead_mask, noise, **kwargs) -> dict:
        values, present = self.hybrid_ecg.prepare(input_values, attention_mask, lead_mask)
        real = self.hybrid_ecg.get_token_mask(attention_mask, present, values.shape[2])
        chosen = choose_masked(self._noise(noise, values), self.config.mask_ratio, real)
        encoded = self.hybrid_ecg(
            values,
            attention_mask=attention_mask,
            lead_mask=present,
            kept_tokens=chosen.kept,
            kept_token_mask=chosen.kept_mask,
            **{**kwargs, "return_dict": True},
        )
        reconstruction = self.decoder(encoded.last_hidden_state, chosen.place, chosen.visible, real)
        targets, weights, _, _ = self._patches(values, present)
        errors = (reconstruction.float() - targets).square() * weights
        per_token = errors.sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)
        return {
            "reconstruction_loss": joint_mean(per_token, chosen.masked, self.training),
            "reconstruction": reconstruction,
            "mask": chosen.masked,
            "hidden_states": encoded.hidden_states,
            "attentions": encoded.attentions,
        }

    def _noise(self, noise: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
        records, _, samples = values.shape
        if noise is None:
            if self.training:
                return make_mask_noise(self.config, samples, records, device=values.device)
            return make_fixed_noise(self.config, samples, values.device).expand(records, -1)
        expected = (records, self.config.count_tokens(samples))
        if tuple(noise.shape) != expected:
            raise ValueError(f"`noise` has shape (records, tokens), here {expected}; got {tuple(noise.shape)}.")
        return noise.to(values.device)

    def embed_views(
        self,
        view_values: torch.Tensor,
        view_attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return views in the space of the contrast, each of length 1.

        Args:
            view_values (`torch.Tensor` of shape `(records, 2, leads, samples)`): two views of each record.
            view_attention_mask (`torch.Tensor` of shape `(records, 2, samples)`, *optional*): nonzero where a sample
                is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): nonzero where a lead of the record
                carries signal; in a view it may be constant nonetheless.

        Returns:
            `torch.Tensor` of shape `(records, 2, projection_size)`, float32.
        """
        if view_values.ndim != 4 or view_values.shape[1] != 2:
            raise ValueError(
                f"`view_values` has shape (records, 2 views, leads, samples); got {tuple(view_values.shape)}."
            )
        expected = (*view_values.shape[:2], view_values.shape[3])
        if view_attention_mask is not None and tuple(view_attention_mask.shape) != expected:
            raise ValueError(
                f"`view_attention_mask` has shape (records, 2, samples), here {expected}; got "
                f"{tuple(view_attention_mask.shape)}."
            )
        if lead_mask is not None:
            wanted = (view_values.shape[0], view_values.shape[2])
            if tuple(lead_mask.shape) != wanted:
                raise ValueError(
                    f"`lead_mask` has shape (records, leads), here {wanted}; got {tuple(lead_mask.shape)}."
                )
            view_values = view_values.masked_fill((lead_mask == 0)[:, None, :, None], 0)
        masks = None if view_attention_mask is None else view_attention_mask.flatten(0, 1)
        pooled = self.hybrid_ecg.get_ecg_features(view_values.flatten(0, 1), masks)
        embeds = F.normalize(self.projection(pooled).float(), dim=-1)
        return embeds.unflatten(0, (-1, 2))


class HybridECGForSequenceClassification(HybridECGPreTrainedModel):
    """Hybrid ECG with a classification or regression head over the feature of a record.

    Args:
        config ([`HybridECGConfig`]): the architecture; `classifier_head`, `num_labels`, `problem_type` and
            `pos_weight` describe the head.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import HybridECGConfig, HybridECGForSequenceClassification

        >>> config = HybridECGConfig.from_size("tiny", num_labels=5, problem_type="multi_label_classification")
        >>> model = HybridECGForSequenceClassification(config)
        >>> labels = torch.tensor([[1.0, 0.0, 0.0, float("nan"), 0.0]])  # the fourth label is unknown
        >>> loss = model(torch.randn(1, 12, 2500), labels=labels).loss
        ```
    """

    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|projection)\."]

    def __init__(self, config: HybridECGConfig):
        super().__init__(config)
        if config.pos_weight is not None and len(config.pos_weight) != config.num_labels:
            raise ValueError(
                f"`pos_weight` needs one value for each of the {config.num_labels} labels; got "
                f"{len(config.pos_weight)}. Pass the right number, or `pos_weight=None`."
            )
        self.hybrid_ecg = HybridECGModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        if config.classifier_head == "linear":
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        else:
            width = config.classifier_hidden_size or config.hidden_size
            self.classifier = nn.Sequential(
                nn.Linear(config.hidden_size, width), nn.Tanh(), nn.Linear(width, config.num_labels)
            )
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the embedding of the patches."""
        self.hybrid_ecg.freeze_feature_encoder()

    def freeze_base_model(self):
        """Stop training the backbone; the head alone is trained."""
        self.hybrid_ecg.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | SequenceClassifierOutput:
        r"""Compute one logit per label and, with labels, the loss.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): the leads.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            lead_mask (`torch.Tensor` of shape `(records, leads)`, *optional*): as in [`HybridECGModel.forward`].
            labels (`torch.Tensor` of shape `(records,)` or `(records, num_labels)`, *optional*): class indices, 0/1
                per label, or numbers, as `config.problem_type` says; if that is not set, it follows from
                `num_labels` and the dtype. NaN, and -100 for a class index, is an unknown label and does not enter
                the loss, which is a mean over the known ones and 0 if there are none.
            kwargs: as in [`HybridECGModel.forward`].

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]
        """
        outputs = self.hybrid_ecg(input_values, attention_mask=attention_mask, lead_mask=lead_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
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
            return joint_mean(F.cross_entropy(logits, labels, reduction="none"), labels != -100)

        self._check_label_count(labels.numel(), logits.numel())
        labels = labels.reshape(logits.shape).to(logits.dtype)
        known = ~labels.isnan()
        labels = labels.masked_fill(~known, 0.0)
        if problem_type == "regression":
            return joint_mean((logits - labels).square(), known)
        pos_weight = self.config.pos_weight
        if pos_weight is not None:
            pos_weight = torch.tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")
        return joint_mean(losses, known)

    def _check_label_count(self, found: int, expected: int):
        if found != expected:
            raise ValueError(
                f"`labels` of a {self.config.problem_type} problem with {self.config.num_labels} labels needs "
                f"{expected} values for this batch; got {found}. Set `config.problem_type` and `num_labels` to what "
                "the labels are."
            )


def take_tokens(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take places of each row: `(rows, all, width)` and `(rows, some)` to `(rows, some, width)`."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


def with_class_token(token_mask: torch.Tensor) -> torch.Tensor:
    """Put a true value for the class token in front of a mask."""
    return F.pad(token_mask, (1, 0), value=True)


def token_positions(times: int, lead_embedding: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Return what tells tokens their time, and their lead if there is an embedding of leads.

    Returns:
        `torch.Tensor` of shape `(tokens, width)`, with dtype, device and width of `like`.
    """
    positions = sinusoidal_positions(times, like.shape[-1], like.device)
    if lead_embedding is not None:
        positions = (lead_embedding[:, None] + positions).flatten(0, 1)
    return positions.to(like.dtype)


def sinusoidal_positions(length: int, width: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the positions of "Attention Is All You Need": sines in even columns, cosines in odd ones.

    Returns:
        `torch.FloatTensor` of shape `(length, width)`.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device).float() * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device).float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def contrastive_loss(view_embeds: torch.Tensor, temperature: float, joint: bool = False) -> torch.Tensor:
    """NT-Xent (arXiv 2002.05709): mean over all views of the cross entropy of finding the record's other view.

    The candidates of a view are all other views of the batch, those of its own record included; the logits are
    similarities divided by the temperature. A single record has nothing to be told from, and the loss is 0.

    Args:
        view_embeds (`torch.Tensor` of shape `(records, 2, width)`): views, each of length 1.
        temperature (`float`): smaller is sharper.
        joint (`bool`): contrast the records of all processes. The mean of their gradients is then the gradient of
            this loss.

    Returns:
        `torch.Tensor`: a scalar.
    """
    embeds = view_embeds.float()
    processes = _processes() if joint else 1
    if processes > 1:
        embeds = gather_rows(embeds)
    embeds = embeds.flatten(0, 1)
    views = torch.arange(embeds.shape[0], device=embeds.device)
    logits = embeds @ embeds.T / temperature
    logits = logits.masked_fill(views[:, None] == views, -torch.inf)
    # Views 2 i and 2 i + 1 are those of record i
    loss = F.cross_entropy(logits, views ^ 1)
    if processes > 1:
        loss = loss.detach() + processes * (loss - loss.detach())
    return loss


def _processes() -> int:
    """Number of processes that train together; 1 if there is no process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def joint_mean(values: torch.Tensor, mask: torch.Tensor, joint: bool = False) -> torch.Tensor:
    """Mean of the values where the mask is true; 0, with a graph, where it is nowhere.

    Args:
        values (`torch.Tensor`): of any shape.
        mask (`torch.BoolTensor`): of that shape.
        joint (`bool`): take the mean over all processes. The mean of their gradients is then its gradient.
    """
    total, count = values.masked_fill(~mask, 0.0).sum(), mask.sum()
    processes = _processes() if joint else 1
    if processes == 1:
        return total / count.clamp(min=1)
    sums = torch.stack([total.detach(), count.to(total.dtype)])
    distributed.all_reduce(sums)
    count = sums[1].clamp(min=1)
    return sums[0] / count + processes * (total - total.detach()) / count


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes in their order; the gradient flows to those of this process."""
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    most = int(max(counts))
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: rows.shape[0]] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    parts = [part[: int(size)] for part, size in zip(gathered, counts, strict=True)]
    parts[distributed.get_rank()] = rows
    return torch.cat(parts)


__all__ = [
    "HybridECGForPreTraining",
    "HybridECGForPreTrainingOutput",
    "HybridECGForSequenceClassification",
    "HybridECGModel",
    "HybridECGPreTrainedModel",
    "contrastive_loss",
]
