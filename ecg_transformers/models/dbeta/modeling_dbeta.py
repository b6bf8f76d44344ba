"""D-BETA: an ECG and a text encoder with a shared space, their fusion, and the heads of pretraining."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, T5EncoderModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertLayer, BertPooler, BertPredictionHeadTransform
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2Attention,
    Wav2Vec2EncoderLayer,
    Wav2Vec2EncoderLayerStableLayerNorm,
    Wav2Vec2FeatureEncoder,
    Wav2Vec2PositionalConvEmbedding,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_dbeta import DBetaConfig, DBetaDecoderConfig, DBetaECGConfig, DBetaFusionConfig

# Keeps the scale of a lead without signal from being zero in the targets of pretraining
_VARIANCE_FLOOR = 1e-6
# Rows of the modality embedding
_TEXT, _ECG = 0, 1


@dataclass
class DBetaOutput(ModelOutput):
    """Output of [`DBetaModel`].

    Args:
        ecg_embeds (`torch.FloatTensor` of shape `(records, hidden_size)`, *optional*): pooled ECG features, each in
            [-1, 1].
        text_embeds (`torch.FloatTensor` of shape `(texts, hidden_size)`, *optional*): pooled text features, likewise.
        logits_per_ecg (`torch.FloatTensor` of shape `(records, texts)`, *optional*): dot products of the features,
            without normalisation or temperature.
        logits_per_text (`torch.FloatTensor` of shape `(texts, records)`, *optional*): the same, transposed.
        multi_modal_text_hidden_states (`torch.FloatTensor` of shape `(records, text tokens, hidden_size)`,
            *optional*): the text stream after the fusion.
        multi_modal_ecg_hidden_states (`torch.FloatTensor` of shape `(records, 1 + tokens, hidden_size)`, *optional*):
            the ECG stream after the fusion, class token first.
        multi_modal_embeds (`torch.FloatTensor` of shape `(records, 2 * hidden_size)`, *optional*): pooled features of
            the fused streams, text before ECG.
        fusion_layer_hidden_states (`torch.FloatTensor` of shape `(records, 1 + tokens, hidden_size)`, *optional*): the
            ECG stream where `fusion_layer` asked for it.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): of the ECG encoder.
        attentions (`tuple[torch.FloatTensor]`, *optional*): of the ECG encoder.
    """

    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    logits_per_ecg: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    multi_modal_text_hidden_states: torch.FloatTensor | None = None
    multi_modal_ecg_hidden_states: torch.FloatTensor | None = None
    multi_modal_embeds: torch.FloatTensor | None = None
    fusion_layer_hidden_states: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class DBetaForPreTrainingOutput(ModelOutput):
    """Output of [`DBetaForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): weighted sum of the losses below.
        mlm_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): cross entropy of the masked text tokens.
        mem_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): mean square error of the removed ECG tokens.
        etm_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): cross entropy of the ECG-text matching.
        ets_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): contrastive loss over all pairs of the batch.
        mem_logits (`torch.FloatTensor` of shape `(records, tokens, num_leads, patch_size)`, *optional*): the
            reconstruction, in standard deviations of each lead.
        mlm_logits (`torch.FloatTensor` of shape `(records, text tokens, vocab_size)`): scores of the text tokens.
        etm_logits (`torch.FloatTensor` of shape `(records, 2)`): scores of "does not match" and "matches".
        mem_mask (`torch.FloatTensor` of shape `(records, tokens)`, *optional*): 1 for removed tokens, without the
            class token; 0 for padding.
        mem_ids_restore (`torch.LongTensor` of shape `(records, tokens)`, *optional*): place of each token in the
            order in which tokens are kept, then removed.
        ecg_embeds (`torch.FloatTensor` of shape `(records, hidden_size)`): pooled features of the kept tokens.
        text_embeds (`torch.FloatTensor` of shape `(records, hidden_size)`): pooled text features.
        multi_modal_embeds (`torch.FloatTensor` of shape `(records, 2 * hidden_size)`): pooled features after the
            fusion, text before ECG.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): of the ECG encoder.
        attentions (`tuple[torch.FloatTensor]`, *optional*): of the ECG encoder.
    """

    loss: torch.FloatTensor | None = None
    mlm_loss: torch.FloatTensor | None = None
    mem_loss: torch.FloatTensor | None = None
    etm_loss: torch.FloatTensor | None = None
    ets_loss: torch.FloatTensor | None = None
    mem_logits: torch.FloatTensor | None = None
    mlm_logits: torch.FloatTensor | None = None
    etm_logits: torch.FloatTensor | None = None
    mem_mask: torch.FloatTensor | None = None
    mem_ids_restore: torch.LongTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    multi_modal_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class DBetaPreTrainedModel(PreTrainedModel):
    """What all D-BETA models and their parts share: initialisation, loading, saving, token masks."""

    config: DBetaConfig
    base_model_prefix = "dbeta"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Wav2Vec2EncoderLayer", "Wav2Vec2EncoderLayerStableLayerNorm", "DBetaFusionLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, DBetaModel):
            init.normal_(module.class_embedding, std=self.config.initializer_range)
        elif isinstance(module, DBetaECGDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
        elif isinstance(module, parametrize.ParametrizationList):
            # Of the positional convolution only the product is initialised above, which is no parameter. The scale is
            # that of wav2vec 2.0 in fairseq; with this gain the first weight equals its direction.
            gain, direction = module.original0, module.original1
            init.normal_(direction, std=2 / math.sqrt(direction.shape[0] * direction.shape[2]))
            init.copy_(gain, direction.norm(dim=(0, 1), keepdim=True))
        elif isinstance(module, nn.Conv1d) and not parametrize.is_parametrized(module):
            init.kaiming_normal_(module.weight)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """Save as transformers does, under the parameter names of this class."""
        return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs):
        """Set the attention as transformers does, in the parts that this model has."""
        if isinstance(attn_implementation, str):
            built = {id(module.config) for module in self.modules() if isinstance(module, PreTrainedModel)}
            for name in self.config.sub_configs:
                part = getattr(self.config, name)
                if id(part) not in built:
                    # transformers warns of a part without a model, as the decoder is here
                    part._attn_implementation = attn_implementation
        return super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell which ECG tokens are real: those whose whole receptive field is. The class token is not among them.

        Args:
            attention_mask (`torch.Tensor` of shape `(records, samples)`): nonzero where a sample is real.

        Returns:
            `torch.BoolTensor` of shape `(records, tokens)`.
        """
        config = getattr(self.config, "ecg_config", self.config)
        padded = (attention_mask == 0).to(torch.float32)[:, None, None]
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            # In two dimensions, because torch.export takes the length of a one-dimensional pooling for fixed
            padded = F.max_pool2d(padded, (1, kernel), (1, stride))
        return padded[:, 0, 0] == 0


class DBetaFeatureEncoder(Wav2Vec2FeatureEncoder):
    """The convolutions of wav2vec 2.0 over all leads of a record at once."""

    def __init__(self, config: DBetaECGConfig):
        super().__init__(config)
        self.conv_layers[0].conv = nn.Conv1d(
            config.num_leads,
            config.conv_dim[0],
            kernel_size=config.conv_kernel[0],
            stride=config.conv_stride[0],
            bias=config.conv_bias,
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Map `(records, leads, samples)` to `(records, channels, tokens)`."""
        hidden_states = input_values
        if self._requires_grad and self.training and self.conv_layers[0].gradient_checkpointing:
            # Reentrant checkpoints need an input with a gradient; the caller's own tensor is left alone
            hidden_states = hidden_states.detach().requires_grad_()
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class DBetaFeatureProjection(nn.Module):
    """Normalised channels, projected to the width of the transformer where that differs."""

    def __init__(self, config: DBetaECGConfig):
        super().__init__()
        channels = config.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.hidden_size) if channels != config.hidden_size else nn.Identity()
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(records, tokens, channels)` to `(records, tokens, hidden_size)`."""
        return self.dropout(self.projection(self.layer_norm(features)))


class DBetaECGEncoder(DBetaPreTrainedModel):
    """Convolutions, positions and transformer of the ECG.

    It is the encoder of wav2vec 2.0, except that a class token, which has no position, is put in front of the tokens.
    That token belongs to [`DBetaModel`].

    Args:
        config ([`DBetaECGConfig`]): the architecture.
    """

    config: DBetaECGConfig
    _can_record_outputs = {
        "hidden_states": [Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm],
        "attentions": OutputRecorder(Wav2Vec2Attention, index=1),
    }

    def __init__(self, config: DBetaECGConfig):
        super().__init__(config)
        self.feature_extractor = DBetaFeatureEncoder(config)
        self.feature_projection = DBetaFeatureProjection(config)
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        layer_class = Wav2Vec2EncoderLayerStableLayerNorm if config.do_stable_layer_norm else Wav2Vec2EncoderLayer
        self.layers = nn.ModuleList(layer_class(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        leads, field = self.config.num_leads, self.config.receptive_field
        if input_values.ndim != 3 or input_values.shape[1] != leads:
            raise ValueError(
                f"`input_values` has shape (records, {leads} leads, samples); got {tuple(input_values.shape)}. "
                "ECGFeatureExtractor makes such records."
            )
        if input_values.shape[2] < field:
            raise ValueError(f"`input_values` has {input_values.shape[2]} samples; one token needs {field}.")
        expected = (input_values.shape[0], input_values.shape[2])
        if attention_mask is not None and attention_mask.shape != expected:
            raise ValueError(
                f"`attention_mask` is over samples and has shape (records, samples), here {tuple(expected)}; got "
                f"{tuple(attention_mask.shape)}."
            )

    def embed(self, input_values: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tokens with their positions.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            token_mask (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): true where a token is real; the
                others are zero before the positions are added.

        Returns:
            `torch.Tensor` of shape `(records, tokens, hidden_size)`.
        """
        features = self.feature_extractor(input_values.to(self.dtype)).transpose(1, 2)
        tokens = self.feature_projection(features)
        if token_mask is not None:
            tokens = tokens.masked_fill(~token_mask[..., None], 0.0)
        return tokens + self.pos_conv_embed(tokens)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        class_embedding: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        kept_tokens: torch.Tensor | None = None,
        kept_token_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | BaseModelOutput:
        """Compute the hidden states.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            class_embedding (`torch.Tensor` of shape `(hidden_size,)`): the token to put in front.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kept_tokens (`torch.LongTensor` of shape `(records, kept)`, *optional*): tokens to keep, in the order in
                which the transformer shall see them. All are kept if not given.
            kept_token_mask (`torch.BoolTensor` of shape `(records, kept)`, *optional*): true where a kept token is
                real; if not given, it follows from `attention_mask`.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutput`]: `last_hidden_state` of shape
            `(records, 1 + tokens, hidden_size)`, class token first.
        """
        self._check_inputs(input_values, attention_mask)
        token_mask = None if attention_mask is None else self.get_token_mask(attention_mask)
        tokens = self.embed(input_values, token_mask)
        if kept_tokens is not None:
            tokens = tokens.gather(1, kept_tokens[..., None].expand(-1, -1, tokens.shape[2]))
            if kept_token_mask is not None:
                token_mask = kept_token_mask
            elif token_mask is not None:
                token_mask = token_mask.gather(1, kept_tokens)
        hidden_states = torch.cat([class_embedding.expand(tokens.shape[0], 1, -1), tokens], dim=1)
        if not self.config.do_stable_layer_norm:
            hidden_states = self.layer_norm(hidden_states)
        hidden_states = self.dropout(hidden_states)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=with_class_token(token_mask)
        )
        for layer in self.layers:
            if self.training and self.config.layerdrop > 0 and torch.rand(()) < self.config.layerdrop:
                continue
            hidden_states = layer(hidden_states, mask)
            # transformers 5.8 returns a tuple here
            if isinstance(hidden_states, tuple):
                hidden_states = hidden_states[0]
        if self.config.do_stable_layer_norm:
            hidden_states = self.layer_norm(hidden_states)
        return BaseModelOutput(last_hidden_state=hidden_states)


class DBetaFusionLayer(BertLayer):
    """A BERT layer with cross-attention that attends in both directions."""

    def __init__(self, config: DBetaFusionConfig):
        super().__init__(config)
        # BERT gives cross-attention to decoders only, whose self-attention is causal
        self.attention.self.is_causal = False


class DBetaFusion(DBetaPreTrainedModel):
    """Two streams of layers in which text and ECG attend to each other.

    Args:
        config ([`DBetaFusionConfig`]): the architecture.
    """

    config: DBetaFusionConfig

    def __init__(self, config: DBetaFusionConfig):
        super().__init__(config)
        self.modality_embeddings = nn.Embedding(2, config.hidden_size)
        self.text_layers = nn.ModuleList(DBetaFusionLayer(config) for _ in range(config.num_hidden_layers))
        self.ecg_layers = nn.ModuleList(DBetaFusionLayer(config) for _ in range(config.num_hidden_layers))
        self.text_pooler = BertPooler(config)
        self.ecg_pooler = BertPooler(config)
        self.post_init()

    def _mask(self, queries: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor | None) -> torch.Tensor | None:
        return create_bidirectional_mask(
            config=self.config, inputs_embeds=queries, attention_mask=key_mask, encoder_hidden_states=keys
        )

    def forward(
        self,
        text: torch.Tensor,
        ecg: torch.Tensor,
        text_mask: torch.Tensor | None = None,
        ecg_mask: torch.Tensor | None = None,
        layer: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Fuse the two streams.

        Args:
            text (`torch.Tensor` of shape `(records, text tokens, hidden_size)`): projected text.
            ecg (`torch.Tensor` of shape `(records, 1 + tokens, hidden_size)`): projected ECG, class token first.
            text_mask (`torch.BoolTensor` of shape `(records, text tokens)`, *optional*): true where a token is real.
            ecg_mask (`torch.BoolTensor` of shape `(records, 1 + tokens)`, *optional*): true where a token is real.
                (The original never masks the ECG.)
            layer (`int`, *optional*): layer whose ECG input is returned too; -1 is the output of the last.

        Returns:
            Text stream, ECG stream, pooled features (text before ECG), and the ECG stream at `layer`.
        """
        text = text + self.modality_embeddings.weight[_TEXT]
        ecg = ecg + self.modality_embeddings.weight[_ECG]
        text_to_text, ecg_to_text = self._mask(text, text, text_mask), self._mask(ecg, text, text_mask)
        ecg_to_ecg, text_to_ecg = self._mask(ecg, ecg, ecg_mask), self._mask(text, ecg, ecg_mask)
        wanted = None
        for index, (text_layer, ecg_layer) in enumerate(zip(self.text_layers, self.ecg_layers, strict=True)):
            if index == layer:
                wanted = ecg
            # Both streams read the other's previous state
            text, ecg = (
                text_layer(text, text_to_text, ecg, text_to_ecg),
                ecg_layer(ecg, ecg_to_ecg, text, ecg_to_text),
            )
        if layer == -1:
            wanted = ecg
        pooled = torch.cat([self.text_pooler(text), self.ecg_pooler(ecg)], dim=-1)
        return text, ecg, pooled, wanted


class DBetaModel(DBetaPreTrainedModel):
    """D-BETA's two encoders with their shared space and their fusion.

    Args:
        config ([`DBetaConfig`]): the architecture. With `ecg_only` there is no text encoder and no fusion.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DBetaConfig, DBetaModel

        >>> model = DBetaModel(DBetaConfig(ecg_only=True)).eval()
        >>> model.get_ecg_features(torch.randn(1, 12, 5000)).shape
        torch.Size([1, 768])
        ```
    """

    def __init__(self, config: DBetaConfig):
        super().__init__(config)
        # The heads of the other classes
        self._keys_to_ignore_on_load_unexpected = [r"^(mlm|mem|etm)_head\.", r"^classifier\."]
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(config.ecg_config.hidden_size))
        self.ecg_encoder = DBetaECGEncoder(config.ecg_config)
        self.ecg_projection = nn.Linear(config.ecg_config.hidden_size, width)
        self.ecg_pooler = BertPooler(config)
        if config.ecg_only:
            self._keys_to_ignore_on_load_unexpected.append(r"^(dbeta\.)?(text_(encoder|projection|pooler)|fusion)\.")
        else:
            if not T5EncoderModel._supports_sdpa and config.text_config._attn_implementation == "sdpa":
                # T5 computes its attention itself in transformers 5.8 and refuses to be told how
                config.text_config._attn_implementation = "eager"
            self.text_encoder = T5EncoderModel(config.text_config)
            self.text_projection = nn.Linear(config.text_config.d_model, width)
            self.text_pooler = BertPooler(config)
            self.fusion = DBetaFusion(config.cross_modal_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the text embeddings."""
        self._check_text("Text embeddings")
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text embeddings."""
        self._check_text("Text embeddings")
        self.text_encoder.set_input_embeddings(value)

    def _check_text(self, what: str):
        if self.config.ecg_only:
            raise ValueError(
                f"{what} need the text encoder, which a model with `ecg_only` does not have. Load a checkpoint of the "
                "whole D-BETA model; fine-tuned classifiers keep the ECG branch only."
            )

    def _encode_ecg(self, input_values, attention_mask, kept_tokens=None, kept_token_mask=None, **kwargs):
        """Return the projected hidden states, their mask, and the output of the encoder."""
        options = {
            name: kwargs.get(name, getattr(self.config, name))
            for name in ("output_hidden_states", "output_attentions")
        }
        outputs = self.ecg_encoder(
            input_values,
            self.class_embedding,
            attention_mask,
            kept_tokens,
            kept_token_mask,
            return_dict=True,
            **options,
        )
        mask = kept_token_mask
        if mask is None and attention_mask is not None:
            mask = self.get_token_mask(attention_mask)
            mask = mask if kept_tokens is None else mask.gather(1, kept_tokens)
        return self.ecg_projection(outputs.last_hidden_state), with_class_token(mask), outputs

    def _encode_text(self, input_ids, text_attention_mask):
        """Return the projected hidden states and their mask."""
        if input_ids.ndim != 2:
            raise ValueError(f"`input_ids` has shape (texts, tokens); got {tuple(input_ids.shape)}.")
        mask = None
        if text_attention_mask is not None:
            if text_attention_mask.shape != input_ids.shape:
                raise ValueError(
                    "`text_attention_mask` has the shape of `input_ids`; got "
                    f"{tuple(text_attention_mask.shape)} and {tuple(input_ids.shape)}."
                )
            # Attention over no key at all would be NaN
            mask = text_attention_mask != 0
            mask = mask | ~mask.any(dim=1, keepdim=True)
        seen = mask.long() if mask is not None and self.config.text_encoder_uses_mask else None
        outputs = self.text_encoder(input_ids=input_ids, attention_mask=seen, return_dict=True)
        return self.text_projection(outputs.last_hidden_state), mask

    def get_ecg_features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """Return one feature vector per record: the pooled class token.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kwargs: as in [`DBetaModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`, each value in [-1, 1].
        """
        return self.ecg_pooler(self._encode_ecg(input_values, attention_mask, **kwargs)[0])

    def get_text_features(
        self, input_ids: torch.Tensor, text_attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return one feature vector per text: its pooled first token.

        Args:
            input_ids (`torch.LongTensor` of shape `(texts, tokens)`): padded on the right.
            text_attention_mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*): nonzero where a token is real.
                Without it, and with `config.text_encoder_uses_mask` off, padding is attended to.

        Returns:
            `torch.Tensor` of shape `(texts, hidden_size)`, each value in [-1, 1].

        Raises:
            ValueError: if the model has no text encoder.
        """
        self._check_text("Text features")
        return self.text_pooler(self._encode_text(input_ids, text_attention_mask)[0])

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        return_fusion: bool = False,
        kept_tokens: torch.Tensor | None = None,
        kept_token_mask: torch.Tensor | None = None,
        fusion_layer: int | None = None,
        **kwargs,
    ) -> tuple | DBetaOutput:
        r"""Compute features of ECGs, of texts, or of both and their similarities.

        Tokens that are not wholly real are zero before the positions are added, and no other token attends to them.
        The group norm of the first convolution (`feat_extract_norm="group"`, the published model) sees padded samples
        too.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`, *optional*): potentials.
            input_ids (`torch.LongTensor` of shape `(texts, tokens)`, *optional*): padded on the right. The numbers of
                records and texts may differ.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            text_attention_mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*): nonzero where a token is real.
            return_fusion (`bool`): fuse record i with text i as well.
            kept_tokens (`torch.LongTensor` of shape `(records, kept)`, *optional*): ECG tokens to keep, in order; the
                others are removed before the transformer.
            kept_token_mask (`torch.BoolTensor` of shape `(records, kept)`, *optional*): true where a kept token is
                real; if not given, it follows from `attention_mask`.
            fusion_layer (`int`, *optional*): layer of the fusion whose ECG input is returned; -1 is the output of the
                last.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`.

        Returns:
            [`DBetaOutput`]

        Raises:
            ValueError: if neither modality is given, shapes do not fit, or text is given to a model without a text
                encoder.
        """
        if input_values is None and input_ids is None:
            raise ValueError("Pass `input_values` (ECGs), `input_ids` (texts), or both.")
        ecg_embeds = text_embeds = logits = encoded = None
        if input_values is not None:
            ecg, ecg_mask, encoded = self._encode_ecg(
                input_values, attention_mask, kept_tokens, kept_token_mask, **kwargs
            )
            ecg_embeds = self.ecg_pooler(ecg)
        if input_ids is not None:
            self._check_text("`input_ids`")
            text, text_mask = self._encode_text(input_ids, text_attention_mask)
            text_embeds = self.text_pooler(text)
        if input_values is not None and input_ids is not None:
            logits = ecg_embeds @ text_embeds.T
        fused = (None, None, None, None)
        if return_fusion:
            self._check_text("Fused features")
            if input_values is None or input_ids is None or input_values.shape[0] != input_ids.shape[0]:
                shapes = [None if value is None else tuple(value.shape) for value in (input_values, input_ids)]
                raise ValueError(
                    "`return_fusion` pairs record i with text i and needs as many texts as records; got "
                    f"`input_values` and `input_ids` of shapes {shapes[0]} and {shapes[1]}."
                )
            fused = self.fusion(text, ecg, text_mask, ecg_mask, fusion_layer)
        return DBetaOutput(
            ecg_embeds=ecg_embeds,
            text_embeds=text_embeds,
            logits_per_ecg=logits,
            logits_per_text=None if logits is None else logits.T,
            multi_modal_text_hidden_states=fused[0],
            multi_modal_ecg_hidden_states=fused[1],
            multi_modal_embeds=fused[2],
            fusion_layer_hidden_states=fused[3],
            hidden_states=None if encoded is None else encoded.hidden_states,
            attentions=None if encoded is None else encoded.attentions,
        )


class DBetaMLMHead(nn.Module):
    """BERT's head for masked language modelling, not tied to the embeddings."""

    def __init__(self, config: DBetaConfig):
        super().__init__()
        self.transform = BertPredictionHeadTransform(config.cross_modal_config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return scores of shape `(records, tokens, vocab_size)`."""
        return self.decoder(self.transform(hidden_states))


class DBetaECGDecoder(DBetaPreTrainedModel):
    """Reconstructs every ECG token from those that were kept.

    Args:
        config ([`DBetaDecoderConfig`]): the architecture.
        input_size (`int`): width of the stream it reads.
        num_leads (`int`): leads of a record.
    """

    config: DBetaDecoderConfig
    _no_split_modules = ["CLIPEncoderLayer"]

    def __init__(self, config: DBetaDecoderConfig, input_size: int, num_leads: int):
        super().__init__(config)
        self.num_leads = num_leads
        self.projection = nn.Linear(input_size, config.hidden_size)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(config.hidden_size, num_leads * config.patch_size)
        self.post_init()

    def forward(
        self,
        hidden_states: torch.Tensor,
        ids_restore: torch.Tensor,
        kept_token_mask: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reconstruct the patches.

        Args:
            hidden_states (`torch.Tensor` of shape `(records, 1 + kept, input_size)`): class token, then kept tokens.
            ids_restore (`torch.LongTensor` of shape `(records, tokens)`): place of each token among the kept ones,
                which come first, and the removed ones.
            kept_token_mask (`torch.BoolTensor` of shape `(records, kept)`, *optional*): true where a kept token is one
                indeed, and no filling.
            token_mask (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): true where a token is real.

        Returns:
            `torch.Tensor` of shape `(records, tokens, num_leads, patch_size)`.
        """
        hidden_states = self.projection(hidden_states)
        class_token, kept = hidden_states[:, :1], hidden_states[:, 1:]
        mask_token = self.mask_token.to(kept.dtype)
        if kept_token_mask is not None:
            kept = torch.where(kept_token_mask[..., None], kept, mask_token)
        records, tokens = ids_restore.shape
        filling = mask_token.expand(records, tokens - kept.shape[1], -1)
        restored = torch.cat([kept, filling], dim=1).gather(1, ids_restore[..., None].expand(-1, -1, kept.shape[2]))
        hidden_states = torch.cat([class_token, restored], dim=1)
        hidden_states = hidden_states + sinusoidal_positions(tokens + 1, kept.shape[2], kept.device).to(kept.dtype)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=with_class_token(token_mask)
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        patches = self.prediction(self.layer_norm(hidden_states))[:, 1:]
        return patches.view(records, tokens, self.num_leads, self.config.patch_size)


class DBetaForPreTraining(DBetaPreTrainedModel):
    """D-BETA with the heads of its four pretraining tasks.

    Args:
        config ([`DBetaConfig`]): the architecture; `decoder_config` and the loss weights describe the tasks.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: DBetaConfig):
        super().__init__(config)
        if config.ecg_only:
            raise ValueError(
                "Pretraining needs reports and their encoder; this configuration says `ecg_only`. Load a checkpoint "
                "of the whole D-BETA model."
            )
        self._keys_to_ignore_on_load_unexpected = [r"^classifier\."]
        self.dbeta = DBetaModel(config)
        self.mlm_head = DBetaMLMHead(config)
        self.mem_head = DBetaECGDecoder(config.decoder_config, config.hidden_size, config.ecg_config.num_leads)
        self.etm_head = nn.Linear(2 * config.hidden_size, 2)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the text embeddings."""
        return self.dbeta.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text embeddings."""
        self.dbeta.set_input_embeddings(value)

    def freeze_feature_encoder(self):
        """Stop training the convolutions."""
        self.dbeta.ecg_encoder.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the encoders and the fusion."""
        for parameter in self.dbeta.parameters():
            parameter.requires_grad = False

    def get_mem_targets(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the removed tokens are compared with: each lead in its own standard deviations, in patches.

        The record is cut at its end to whole patches, one per token; mean and standard deviation of a lead are those
        of all the samples that remain.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real;
                the others do not enter the statistics.

        Returns:
            `torch.Tensor` of shape `(records, tokens, leads * patch_size)`, lead by lead.

        Raises:
            ValueError: if the record is too short for one patch per token.
        """
        records, leads, samples = input_values.shape
        patch = self.config.decoder_config.patch_size
        tokens = self.config.ecg_config.count_tokens(samples)
        if tokens * patch > samples:
            raise ValueError(
                f"{samples} samples make {tokens} tokens, whose patches of {patch} need {tokens * patch} samples. Set "
                "`patch_size` of `decoder_config` for records of this length."
            )
        signal = input_values[..., : tokens * patch].float()
        if attention_mask is None:
            variance, mean = torch.var_mean(signal, dim=-1, keepdim=True)
        else:
            real = (attention_mask[:, None, : tokens * patch] != 0).to(signal.dtype)
            count = real.sum(dim=-1, keepdim=True)
            mean = (signal * real).sum(dim=-1, keepdim=True) / count.clamp(min=1)
            variance = ((signal - mean).square() * real).sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
        signal = (signal - mean) / (variance + _VARIANCE_FLOOR).sqrt()
        return signal.view(records, leads, tokens, patch).transpose(1, 2).reshape(records, tokens, leads * patch)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        is_aligned: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ecg: bool = True,
        **kwargs,
    ) -> tuple | DBetaForPreTrainingOutput:
        r"""Compute the heads' scores and, with `labels` or `is_aligned`, the losses.

        A share `config.decoder_config.mask_ratio` of the real ECG tokens of each record is removed: those with the
        largest noise. Everything behind sees the kept tokens only. In training the noise is drawn anew; otherwise,
        unless it is given, it is one fixed sequence, the same for each record and call, so evaluation repeats itself
        and does not depend on the batch.

        In training on several processes of `torch.distributed` the losses are those of the joined batch, on every
        process, and the gradients are scaled so that their mean over the processes, which `DistributedDataParallel`
        takes, is the gradient of that loss.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            input_ids (`torch.LongTensor` of shape `(records, text tokens)`): the reports with tokens masked.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
                Other tokens are neither removed nor reconstructed.
            text_attention_mask (`torch.Tensor` of shape `(records, text tokens)`, *optional*): nonzero where a token
                is real.
            labels (`torch.LongTensor` of shape `(records, text tokens)`, *optional*): the masked text tokens; -100
                elsewhere.
            is_aligned (`torch.Tensor` of shape `(records,)`, *optional*): 1 where the report belongs to the ECG, 0
                where it was replaced. All belong if not given.
            noise (`torch.FloatTensor` of shape `(records, tokens)`, *optional*): which tokens are removed.
            mask_ecg (`bool`): `False` keeps all ECG tokens; there is then no reconstruction.
            kwargs: as in [`DBetaModel.forward`].

        Returns:
            [`DBetaForPreTrainingOutput`]. A mean over nothing is 0.
        """
        config = self.config
        removal = None
        if mask_ecg:
            self.dbeta.ecg_encoder._check_inputs(input_values, attention_mask)
            removal = self._choose_removed(input_values, attention_mask, noise)
        outputs = self.dbeta(
            input_values,
            input_ids,
            attention_mask=attention_mask,
            text_attention_mask=text_attention_mask,
            return_fusion=True,
            kept_tokens=None if removal is None else removal.kept,
            kept_token_mask=None if removal is None else removal.kept_mask,
            fusion_layer=None if removal is None else config.decoder_config.fusion_layer,
            return_dict=True,
            **kwargs,
        )
        mem_logits = None
        if removal is not None:
            mem_logits = self.mem_head(
                outputs.fusion_layer_hidden_states, removal.ids_restore, removal.kept_mask, removal.token_mask
            )
        scores = {
            "mem_logits": mem_logits,
            "mlm_logits": self.mlm_head(outputs.multi_modal_text_hidden_states),
            "etm_logits": self.etm_head(outputs.multi_modal_embeds),
            "mem_mask": None if removal is None else removal.removed,
            "mem_ids_restore": None if removal is None else removal.ids_restore,
            "ecg_embeds": outputs.ecg_embeds,
            "text_embeds": outputs.text_embeds,
        }
        losses = {}
        if labels is not None or is_aligned is not None:
            losses = self._losses(scores, input_values, attention_mask, labels, is_aligned)
        return DBetaForPreTrainingOutput(
            **losses,
            **scores,
            multi_modal_embeds=outputs.multi_modal_embeds,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _choose_removed(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, noise: torch.Tensor | None
    ) -> "_Removal":
        records, tokens = input_values.shape[0], self.config.ecg_config.count_tokens(input_values.shape[2])
        if noise is None:
            if self.training:
                noise = torch.rand(records, tokens, device=input_values.device)
            else:
                noise = fixed_noise(tokens, input_values.device).expand(records, -1)
        elif noise.shape != (records, tokens):
            raise ValueError(
                f"`noise` has shape (records, tokens), here {(records, tokens)}; got {tuple(noise.shape)}."
            )
        token_mask = None if attention_mask is None else self.get_token_mask(attention_mask)
        return choose_removed(noise.to(input_values.device), self.config.decoder_config.mask_ratio, token_mask)

    def _losses(self, scores, input_values, attention_mask, labels, is_aligned) -> dict[str, torch.Tensor]:
        """Return the loss of each task that has what it needs, and their weighted sum."""
        config, joint = self.config, self.training
        mlm_logits, mem_logits, etm_logits = (scores[name] for name in ("mlm_logits", "mem_logits", "etm_logits"))
        records = input_values.shape[0]
        if is_aligned is None:
            is_aligned = torch.ones(records)
        elif is_aligned.shape != (records,):
            raise ValueError(f"`is_aligned` has shape (records,), here ({records},); got {tuple(is_aligned.shape)}.")
        is_aligned = is_aligned.to(etm_logits.device)

        losses = {}
        if labels is not None:
            if labels.shape != mlm_logits.shape[:2]:
                raise ValueError(
                    "`labels` has one text token for each of `input_ids`, here shape "
                    f"{tuple(mlm_logits.shape[:2])}; got {tuple(labels.shape)}."
                )
            labels = labels.to(mlm_logits.device).long()
            per_token = F.cross_entropy(mlm_logits.float().transpose(1, 2), labels, reduction="none")
            losses["mlm_loss"] = joint_mean(per_token, labels != -100, joint)
        if mem_logits is not None:
            targets = self.get_mem_targets(input_values, attention_mask).to(mem_logits.device)
            per_token = (mem_logits.flatten(2).float() - targets).square().mean(dim=-1)
            losses["mem_loss"] = joint_mean(per_token, scores["mem_mask"] != 0, joint)
        per_pair = F.cross_entropy(etm_logits.float(), is_aligned.long(), reduction="none")
        losses["etm_loss"] = joint_mean(per_pair, torch.ones_like(per_pair, dtype=torch.bool), joint)
        losses["ets_loss"] = contrastive_loss(scores["ecg_embeds"], scores["text_embeds"], is_aligned, joint)
        weighted = [getattr(config, f"{name}_weight") * value for name, value in losses.items()]
        return {"loss": sum(weighted), **losses}


class DBetaForSequenceClassification(DBetaPreTrainedModel):
    """D-BETA's ECG encoder with a classification or regression head over its pooled feature.

    The text encoder and the fusion are not built; from a folder of the whole model the ECG branch is taken. The
    model's own configuration says `ecg_only`, and the one that is passed in stays as it is.

    Args:
        config ([`DBetaConfig`]): the architecture; `classifier_head`, `num_labels`, `problem_type` and `pos_weight`
            describe the head.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DBetaConfig, DBetaForSequenceClassification

        >>> config = DBetaConfig(num_labels=5, problem_type="multi_label_classification")
        >>> model = DBetaForSequenceClassification(config)
        >>> labels = torch.tensor([[1.0, 0.0, 0.0, float("nan"), 0.0]])  # the fourth label is unknown
        >>> loss = model(torch.randn(1, 12, 5000), labels=labels).loss
        ```
    """

    accepts_loss_kwargs = False

    def __init__(self, config: DBetaConfig):
        if not config.ecg_only:
            config = copy.deepcopy(config)
            config.ecg_only = True
        super().__init__(config)
        if config.pos_weight is not None and len(config.pos_weight) != config.num_labels:
            raise ValueError(
                f"`pos_weight` needs one value for each of the {config.num_labels} labels; got "
                f"{len(config.pos_weight)}. Pass the right number, or `pos_weight=None`."
            )
        # In a folder of the whole model
        self._keys_to_ignore_on_load_unexpected = [
            r"^(mlm|mem|etm)_head\.",
            r"^(dbeta\.)?(text_(encoder|projection|pooler)|fusion)\.",
        ]
        self.dbeta = DBetaModel(config)
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
        """Stop training the convolutions."""
        self.dbeta.ecg_encoder.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the backbone; the head alone is trained."""
        for parameter in self.dbeta.parameters():
            parameter.requires_grad = False

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | SequenceClassifierOutput:
        r"""Compute one logit per label and, with labels, the loss.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            labels (`torch.Tensor` of shape `(records,)` or `(records, num_labels)`, *optional*): class indices, 0/1
                per label, or numbers, as `config.problem_type` says; if that is not set, it follows from
                `num_labels` and the dtype. NaN, and -100 for a class index, is an unknown label and does not enter
                the loss, which is a mean over the known ones and 0 if there are none.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`.

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]
        """
        outputs = self.dbeta(input_values, attention_mask=attention_mask, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.ecg_embeds))
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


@dataclass
class _Removal:
    """Which tokens of a batch are removed, as `choose_removed` says."""

    kept: torch.Tensor
    kept_mask: torch.Tensor | None
    removed: torch.Tensor
    ids_restore: torch.Tensor
    token_mask: torch.Tensor | None


def choose_removed(noise: torch.Tensor, mask_ratio: float, token_mask: torch.Tensor | None = None) -> _Removal:
    """Keep the tokens with the smallest noise: of n real tokens the integer part of `n * (1 - mask_ratio)`.

    Args:
        noise (`torch.FloatTensor` of shape `(records, tokens)`): smaller is kept first.
        mask_ratio (`float`): share of the real tokens to remove.
        token_mask (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): true where a token is real.

    Returns:
        `_Removal`: `kept` (records, kept), indices in order of the noise; `kept_mask` (records, kept), false where a
        record with padding keeps fewer, `None` without a token mask; `removed` (records, tokens), 1 where a real token
        is removed; `ids_restore` (records, tokens), the rank of each token; `token_mask`.
    """
    tokens = noise.shape[1]
    counts = [int(count * (1 - mask_ratio)) for count in range(tokens + 1)]
    if token_mask is not None:
        noise = noise.masked_fill(~token_mask, torch.inf)
    order = noise.argsort(dim=1, stable=True)
    ids_restore = order.argsort(dim=1)
    kept = order[:, : counts[-1]]
    if token_mask is None:
        return _Removal(kept, None, (ids_restore >= counts[-1]).float(), ids_restore, None)
    count = torch.tensor(counts, device=noise.device)[token_mask.sum(dim=1)][:, None]
    kept_mask = torch.arange(counts[-1], device=noise.device) < count
    removed = ((ids_restore >= count) & token_mask).float()
    return _Removal(kept, kept_mask, removed, ids_restore, token_mask)


def fixed_noise(tokens: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return numbers in [0, 1) that look random and are the same on every device: a hash of the position.

    The mixing steps are the finaliser of MurmurHash3.
    """
    low = 0xFFFFFFFF
    values = torch.arange(1, tokens + 1, device=device)
    values = ((values ^ (values >> 16)) * 0x85EBCA6B) & low
    values = ((values ^ (values >> 13)) * 0xC2B2AE35) & low
    values = values ^ (values >> 16)
    # A float32 holds 24 bits exactly
    return (values >> 8).float() / 2**24


def sinusoidal_positions(length: int, width: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the positions of "Attention Is All You Need": sines in even columns, cosines in odd ones.

    Returns:
        `torch.FloatTensor` of shape `(length, width)`.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device).float() * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device).float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def with_class_token(token_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Put a true value for the class token in front of a mask."""
    return None if token_mask is None else F.pad(token_mask, (1, 0), value=True)


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


def contrastive_loss(
    ecg_embeds: torch.Tensor, text_embeds: torch.Tensor, is_aligned: torch.Tensor, joint: bool = False
) -> torch.Tensor:
    """Mean over all pairs of log(1 + exp(-y s)), where s is the dot product and y = 1 for a record and its report.

    y is -1 for a report of another record and for a report that was replaced. There is no temperature and no bias.

    Args:
        ecg_embeds (`torch.Tensor` of shape `(records, hidden_size)`): pooled ECG features.
        text_embeds (`torch.Tensor` of shape `(records, hidden_size)`): pooled features of the reports, in order.
        is_aligned (`torch.Tensor` of shape `(records,)`): 1 where the report belongs to the ECG, else 0.
        joint (`bool`): pair the records of all processes. The mean of their gradients is then the gradient of this
            loss.
    """
    ecg, text, aligned = ecg_embeds.float(), text_embeds.float(), is_aligned.float()
    processes = _processes() if joint else 1
    if processes > 1:
        ecg, text, aligned = gather_rows(ecg), gather_rows(text), gather_rows(aligned)
    signs = torch.diag_embed(2 * aligned) - 1
    loss = F.softplus(-signs * (ecg @ text.T)).mean()
    if processes > 1:
        loss = loss.detach() + processes * (loss - loss.detach())
    return loss


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
    "DBetaForPreTraining",
    "DBetaForPreTrainingOutput",
    "DBetaForSequenceClassification",
    "DBetaModel",
    "DBetaOutput",
    "DBetaPreTrainedModel",
]
