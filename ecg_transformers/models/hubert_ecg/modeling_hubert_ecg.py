"""HuBERT-ECG: HuBERT over the twelve leads laid end to end, with codebooks to predict or labels to classify."""

import inspect
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.models.hubert.modeling_hubert import (
    HubertEncoder,
    HubertEncoderStableLayerNorm,
    HubertFeatureEncoder,
    HubertFeatureProjection,
    HubertPreTrainedModel,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_hubert_ecg import HubertECGConfig

# Temperature of the codebook similarities and floor of their norms: HuBERT-ECG, as HuBERT (arXiv 2106.07447)
_CODE_TEMPERATURE = 0.1
_NORM_FLOOR = 1e-8


@dataclass
class HubertECGForPreTrainingOutput(ModelOutput):
    """Output of [`HubertECGForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): `alpha * masked_loss + (1 - alpha) * unmasked_loss`;
            without a time mask, the cross entropy over all tokens.
        masked_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): cross entropy of the masked tokens, summed over
            the codebooks; absent without a time mask.
        unmasked_loss (`torch.FloatTensor` of shape `(1,)`, *optional*): the same of the tokens that are not masked.
        logits (`tuple[torch.FloatTensor]`): one tensor of shape `(records, tokens, codes)` per codebook.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): as in [`HubertECGModel`].
        attentions (`tuple[torch.FloatTensor]`, *optional*): as in [`HubertECGModel`].
    """

    loss: torch.FloatTensor | None = None
    masked_loss: torch.FloatTensor | None = None
    unmasked_loss: torch.FloatTensor | None = None
    logits: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def draw_span_mask(
    shape: tuple[int, int],
    probability: float,
    length: int = 1,
    min_spans: int = 0,
    allowed: torch.Tensor | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Draw masked spans from torch's random numbers, each row on its own.

    Args:
        shape (`tuple[int, int]`): rows and positions.
        probability (`float`): share of the positions to mask; spans may overlap, so it is an upper bound.
        length (`int`): positions in one span.
        min_spans (`int`): least number of spans in a row that has room for them.
        allowed (`torch.BoolTensor` of shape `(rows, positions)`, *optional*): positions that may be masked.
        device (`torch.device`, *optional*): where to draw.

    Returns:
        `torch.BoolTensor` of shape `(rows, positions)`: true where masked.
    """
    rows, positions = shape
    if length > positions:
        raise ValueError(
            f"A masked span of {length} positions does not fit into {positions}: lower `mask_time_length` "
            "(or `mask_feature_length`)."
        )
    if allowed is None:
        allowed = torch.ones(shape, dtype=torch.bool, device=device)
    starts = allowed.unfold(1, length, 1).all(dim=-1)
    # The fraction of a span is rounded up or down at random, once for the batch
    wanted = (allowed.sum(dim=1) * (probability / length) + torch.rand((), device=allowed.device)).long()
    wanted = torch.minimum(wanted.clamp(min=min_spans), starts.sum(dim=1))
    scores = torch.rand(starts.shape, device=allowed.device).masked_fill(~starts, -1.0)
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
    first = F.pad(ranks < wanted[:, None], (length - 1, length - 1))
    return first.unfold(1, length, 1).any(dim=-1)


def find_real_tokens(attention_mask: torch.Tensor, config: HubertECGConfig) -> torch.Tensor:
    """Tell which tokens are real; see [`HubertECGPreTrainedModel.get_token_mask`]."""
    # Layer by layer rather than over the whole receptive field at once: the same result, and far less work
    padded = (attention_mask == 0).to(torch.float32)[:, None, None]
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        # In two dimensions, because torch.export takes the length of a one-dimensional pooling for fixed
        padded = F.max_pool2d(padded, (1, kernel), (1, stride))
    return padded[:, 0, 0] == 0


class HubertECGPreTrainedModel(HubertPreTrainedModel):
    """What all HuBERT-ECG models share: initialisation, loading, saving, token masks."""

    config: HubertECGConfig
    base_model_prefix = "hubert_ecg"
    main_input_name = "input_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, HubertECGModel) and hasattr(module, "masked_spec_embed"):
            init.uniform_(module.masked_spec_embed)
        elif isinstance(module, (nn.Embedding, HubertECGLabelEmbedding)):
            # Only the direction of a code or a label counts; torch's own scale, as in the original
            init.normal_(module.weight)
        elif isinstance(module, parametrize.ParametrizationList):
            # Of the positional convolution transformers initialises the product only, which is no parameter. The scale
            # is that of HuBERT in fairseq; with this gain the first weight equals its direction.
            gain, direction = module.original0, module.original1
            init.normal_(direction, std=2 / math.sqrt(direction.shape[0] * direction.shape[2]))
            init.copy_(gain, direction.norm(dim=(0, 1), keepdim=True))

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """Save as transformers does, under the parameter names of this class.

        Old checkpoints name the weights of the positional convolution `weight_g` and `weight_v`. They load, and
        `save_original_format=True` writes those names back.
        """
        return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell which tokens are real: those whose whole receptive field is.

        The original counts the real samples and keeps that many tokens from the start of the row, which is the same
        for a mask whose zeros are the row's tail, and otherwise drops the wrong ones.

        Args:
            attention_mask (`torch.Tensor` of shape `(records, samples)`): nonzero where a sample is real.

        Returns:
            `torch.BoolTensor` of shape `(records, tokens)`.
        """
        return find_real_tokens(attention_mask, self.config)

    def pool_tokens(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean of the real tokens; zero for a record that has none.

        Args:
            hidden_states (`torch.Tensor` of shape `(records, tokens, hidden_size)`): of any layer.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        if attention_mask is None:
            return hidden_states.mean(dim=1)
        token_mask = self.get_token_mask(attention_mask)[..., None]
        total = hidden_states.masked_fill(~token_mask, 0.0).sum(dim=1)
        return total / token_mask.sum(dim=1).clamp(min=1).to(total.dtype)


class HubertECGModel(HubertECGPreTrainedModel):
    """The HuBERT-ECG backbone: hidden states of the tokens of a row of leads.

    Args:
        config ([`HubertECGConfig`]): the architecture.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import HubertECGConfig, HubertECGModel

        >>> model = HubertECGModel(HubertECGConfig.from_size("small")).eval()
        >>> model(torch.randn(1, 6000)).last_hidden_state.shape
        torch.Size([1, 93, 512])
        ```
    """

    # Codebooks live in HubertECGForPreTraining; the mask vector is only there for models that mask
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)(final_proj|label_embedding)\.\d+\.", r"(^|\.)masked_spec_embed$"]

    def __init__(self, config: HubertECGConfig):
        super().__init__(config)
        self.feature_extractor = HubertFeatureEncoder(config)
        self.feature_projection = HubertFeatureProjection(config)
        if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
            self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = HubertEncoderStableLayerNorm(config) if config.do_stable_layer_norm else HubertEncoder(config)
        # Older encoders (transformers 5.8) collect hidden states themselves, and take no other arguments than these
        parameters = inspect.signature(self.encoder.forward).parameters
        self._encoder_collects = "output_hidden_states" in parameters
        self.post_init()

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        if input_values.ndim != 2:
            raise ValueError(
                "`input_values` has shape (records, samples), the leads of a record laid end to end in one row; got "
                f"{tuple(input_values.shape)}. ECGFeatureExtractor makes such rows."
            )
        if input_values.shape[1] < self.config.receptive_field:
            raise ValueError(
                f"`input_values` has {input_values.shape[1]} samples; one token needs {self.config.receptive_field}."
            )
        if attention_mask is not None and attention_mask.shape != input_values.shape:
            raise ValueError(
                "`attention_mask` is over samples and has the shape of `input_values`; got "
                f"{tuple(attention_mask.shape)} and {tuple(input_values.shape)}."
            )

    def _mask_tokens(
        self, tokens: torch.Tensor, mask_time_indices: torch.Tensor | None, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Replace masked tokens by the mask vector, and zero masked features in training."""
        config = self.config
        draw = self.training and config.apply_spec_augment
        if mask_time_indices is None and draw and config.mask_time_prob > 0:
            mask_time_indices = draw_span_mask(
                tokens.shape[:2],
                config.mask_time_prob,
                config.mask_time_length,
                config.mask_time_min_masks,
                token_mask,
                tokens.device,
            )
        if mask_time_indices is not None:
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
            tokens = torch.where(masked, self.masked_spec_embed.to(tokens.dtype), tokens)
        if draw and config.mask_feature_prob > 0:
            features = draw_span_mask(
                (tokens.shape[0], tokens.shape[2]),
                config.mask_feature_prob,
                config.mask_feature_length,
                config.mask_feature_min_masks,
                device=tokens.device,
            )
            tokens = tokens.masked_fill(features[:, None], 0.0)
        return tokens

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | BaseModelOutput:
        r"""Compute the hidden states.

        Tokens that are not wholly real are zero where the encoder begins and no other token attends to them; their
        own hidden states are computed but mean nothing. In a record without any real token all tokens begin as zero
        and attend to each other, so its output is finite and does not depend on its samples. The group norm of the
        first convolution (`feat_extract_norm="group"`, the published models) sees padded samples too.

        Args:
            input_values (`torch.Tensor` of shape `(records, samples)`): the leads of each record end to end.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): tokens that the mask
                vector replaces. If not given, a model in training draws them with `config.mask_time_prob`, unless
                `config.apply_spec_augment` is off.
            kwargs: `output_hidden_states`, `output_attentions` (with the `eager` attention), `return_dict`, and
                arguments for the attention.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutput`]: `last_hidden_state` of shape
            `(records, tokens, hidden_size)`; on request `hidden_states` (the input of the first layer, then the
            output of each layer) and `attentions`.
        """
        self._check_inputs(input_values, attention_mask)
        features = self.feature_extractor(input_values.to(self.dtype)).transpose(1, 2)
        tokens = self.feature_projection(features)
        token_mask = None if attention_mask is None else self.get_token_mask(attention_mask)
        tokens = self._mask_tokens(tokens, mask_time_indices, token_mask)
        if token_mask is not None:
            tokens = tokens.masked_fill(~token_mask[..., None], 0.0)
            # Attention over no key at all would be NaN
            token_mask = token_mask | ~token_mask.any(dim=1, keepdim=True)
        if self._encoder_collects:
            names = ("output_hidden_states", "output_attentions")
            kwargs = {name: kwargs.get(name, getattr(self.config, name)) for name in names}
        return self.encoder(tokens, attention_mask=token_mask, **kwargs)

    def get_ecg_features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """Return one feature vector per row: the mean of its real tokens in the last layer.

        Args:
            input_values (`torch.Tensor` of shape `(records, samples)`): the leads of each record end to end.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kwargs: as in [`HubertECGModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        kwargs["return_dict"] = True
        outputs = self(input_values, attention_mask=attention_mask, **kwargs)
        return self.pool_tokens(outputs.last_hidden_state, attention_mask)


class HubertECGForPreTraining(HubertECGPreTrainedModel):
    """HuBERT-ECG with the codebooks that it predicts at masked tokens.

    The folders published with the weights hold a backbone together with its codebooks; they load here completely.

    Args:
        config ([`HubertECGConfig`]): the architecture; `vocab_sizes` gives the codebooks.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: HubertECGConfig):
        super().__init__(config)
        if not config.vocab_sizes:
            raise ValueError(
                f"HubertECGForPreTraining needs the codebook sizes; got `vocab_sizes` {config.vocab_sizes}. "
                "Pass for example `vocab_sizes=[100]`."
            )
        self.hubert_ecg = HubertECGModel(config)
        self.final_proj = nn.ModuleList(
            nn.Linear(config.hidden_size, config.classifier_proj_size) for _ in config.vocab_sizes
        )
        self.label_embedding = nn.ModuleList(
            nn.Embedding(size, config.classifier_proj_size) for size in config.vocab_sizes
        )
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the convolutions."""
        self.hubert_ecg.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the backbone."""
        for parameter in self.hubert_ecg.parameters():
            parameter.requires_grad = False

    def _codebook_logits(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = []
        for projection, codes in zip(self.final_proj, self.label_embedding, strict=True):
            # Norms in float32: the floor is 0 in half precision
            projected = F.normalize(projection(hidden_states).float(), dim=-1, eps=_NORM_FLOOR)
            directions = F.normalize(codes.weight.float(), dim=-1, eps=_NORM_FLOOR)
            logits.append((projected @ directions.T / _CODE_TEMPERATURE).to(hidden_states.dtype))
        return tuple(logits)

    def _check_labels(self, labels: torch.Tensor, logits: tuple[torch.Tensor, ...]):
        expected = (logits[0].shape[0], len(logits), logits[0].shape[1])
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"`labels` has shape (records, codebooks, tokens), here {expected}; got {tuple(labels.shape)}."
            )

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | HubertECGForPreTrainingOutput:
        r"""Compute the logits of every codebook and, with labels, the losses.

        Args:
            input_values (`torch.Tensor` of shape `(records, samples)`): the leads of each record end to end.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): tokens that are hidden
                from the model. If not given, a model in training draws them with `config.mask_time_prob` among the
                real tokens. (The original draws among padded tokens too.)
            labels (`torch.LongTensor` of shape `(records, codebooks, tokens)`, *optional*): the code of each token;
                -100 where it is unknown. As in the original, padded tokens count unless their label is -100.
            kwargs: as in [`HubertECGModel.forward`].

        In training in several processes (`torch.distributed`) the losses are those of the joined batch, and gradients
        are scaled such that their mean over the processes, which DistributedDataParallel takes, is the gradient of
        the joined batch.

        Returns:
            [`HubertECGForPreTrainingOutput`]: a mean over the tokens for each codebook, summed over the codebooks. A
            mean over no token is 0. Outside training and without a time mask, `loss` is the cross entropy over all
            tokens, by which the original validates.
        """
        config = self.config
        if mask_time_indices is None and self.training and config.mask_time_prob > 0:
            self.hubert_ecg._check_inputs(input_values, attention_mask)
            token_mask = self.get_token_mask(
                torch.ones_like(input_values) if attention_mask is None else attention_mask
            )
            mask_time_indices = draw_span_mask(
                token_mask.shape,
                config.mask_time_prob,
                config.mask_time_length,
                config.mask_time_min_masks,
                token_mask,
            )
        outputs = self.hubert_ecg(
            input_values, attention_mask=attention_mask, mask_time_indices=mask_time_indices, **kwargs
        )
        logits = self._codebook_logits(outputs.last_hidden_state)

        loss = masked_loss = unmasked_loss = None
        if labels is not None:
            self._check_labels(labels, logits)
            labels = labels.to(logits[0].device).long()
            per_token = [
                F.cross_entropy(member.float().transpose(1, 2), labels[:, index], reduction="none")
                for index, member in enumerate(logits)
            ]
            known = [labels[:, index] != -100 for index in range(len(logits))]
            pairs = list(zip(per_token, known, strict=True))
            processes = _count_processes() if self.training else 1
            if mask_time_indices is None:
                loss = unmasked_loss = sum(_joint_mean(values, valid, processes) for values, valid in pairs)
            else:
                masked = mask_time_indices.to(device=labels.device, dtype=torch.bool)
                masked_loss = sum(_joint_mean(values, valid & masked, processes) for values, valid in pairs)
                unmasked_loss = sum(_joint_mean(values, valid & ~masked, processes) for values, valid in pairs)
                loss = config.alpha * masked_loss + (1 - config.alpha) * unmasked_loss
            # Each process contributes its share of the joint gradient, and the mean over them divides it
            loss = loss + (processes - 1) * (loss - loss.detach())

        return HubertECGForPreTrainingOutput(
            loss=loss,
            masked_loss=masked_loss,
            unmasked_loss=unmasked_loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class HubertECGLabelEmbedding(nn.Module):
    """One vector per label; the logit is its cosine similarity with the pooled hidden state, without temperature."""

    def __init__(self, hidden_size: int, num_labels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, hidden_size))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return similarities in [-1, 1] of shape `(records, labels)`."""
        directions = F.normalize(self.weight.float(), dim=-1, eps=_NORM_FLOOR)
        return (F.normalize(pooled.float(), dim=-1, eps=_NORM_FLOOR) @ directions.T).to(pooled.dtype)


class HubertECGForSequenceClassification(HubertECGPreTrainedModel):
    """HuBERT-ECG with a classification or regression head over the mean of the real tokens.

    Args:
        config ([`HubertECGConfig`]): the architecture; `classifier_head`, `num_labels`, `problem_type` and
            `pos_weight` describe the head.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import HubertECGConfig, HubertECGForSequenceClassification

        >>> config = HubertECGConfig.from_size("small", num_labels=5, problem_type="multi_label_classification")
        >>> model = HubertECGForSequenceClassification(config)
        >>> labels = torch.tensor([[1.0, 0.0, 0.0, float("nan"), 0.0]])  # the fourth label is unknown
        >>> loss = model(torch.randn(1, 6000), labels=labels).loss
        ```
    """

    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = HubertECGModel._keys_to_ignore_on_load_unexpected

    def __init__(self, config: HubertECGConfig):
        super().__init__(config)
        if config.pos_weight is not None and len(config.pos_weight) != config.num_labels:
            raise ValueError(
                f"`pos_weight` needs one value for each of the {config.num_labels} labels; got "
                f"{len(config.pos_weight)}. Pass the right number, or `pos_weight=None`."
            )
        self.hubert_ecg = HubertECGModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        if config.classifier_head == "linear":
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        elif config.classifier_head == "mlp":
            width = config.classifier_hidden_size or config.hidden_size
            self.classifier = nn.Sequential(
                nn.Linear(config.hidden_size, width), nn.Tanh(), nn.Linear(width, config.num_labels)
            )
        else:
            self.classifier = HubertECGLabelEmbedding(config.hidden_size, config.num_labels)
        self.post_init()

    def freeze_feature_encoder(self):
        """Stop training the convolutions."""
        self.hubert_ecg.feature_extractor._freeze_parameters()

    def freeze_base_model(self):
        """Stop training the backbone; the head alone is trained."""
        for parameter in self.hubert_ecg.parameters():
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
            input_values (`torch.Tensor` of shape `(records, samples)`): the leads of each record end to end.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            labels (`torch.Tensor` of shape `(records,)` or `(records, num_labels)`, *optional*): class indices, 0/1
                per label, or numbers, as `config.problem_type` says; if that is not set, it follows from
                `num_labels` and the dtype. NaN, and -100 for a class index, is an unknown label and does not enter
                the loss, which is a mean over the known ones and 0 if there are none.
            mask_time_indices (`torch.BoolTensor` of shape `(records, tokens)`, *optional*): see
                [`HubertECGModel.forward`].
            kwargs: as in [`HubertECGModel.forward`].

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]
        """
        outputs = self.hubert_ecg(
            input_values, attention_mask=attention_mask, mask_time_indices=mask_time_indices, **kwargs
        )
        pooled = self.pool_tokens(outputs.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(pooled))
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


def _count_processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _joint_mean(values: torch.Tensor, mask: torch.Tensor, processes: int) -> torch.Tensor:
    """`_masked_mean` over the batches of all processes; the gradient is that of the own share."""
    if processes == 1:
        return _masked_mean(values, mask)
    own = values.masked_fill(~mask, 0.0).sum()
    joint = torch.stack([own.detach(), mask.sum().to(own.dtype)])
    torch.distributed.all_reduce(joint)
    return (joint[0] + (own - own.detach())) / joint[1].clamp(min=1)


__all__ = [
    "HubertECGForPreTraining",
    "HubertECGForPreTrainingOutput",
    "HubertECGForSequenceClassification",
    "HubertECGModel",
    "HubertECGPreTrainedModel",
]
