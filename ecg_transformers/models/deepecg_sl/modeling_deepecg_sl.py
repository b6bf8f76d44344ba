"""DeepECG-SL: a one-dimensional EfficientNetV2 over twelve leads, with a head for classification or regression."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_deepecg_sl import DeepECGSLConfig


def _masked(features: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Zero what is not real, as it is beyond the ends of a record."""
    return features if frame_mask is None else features.masked_fill(~frame_mask[:, None], 0.0)


def _mean_over_time(features: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of the real frames, `(records, channels, 1)`; 0 for a record that has none."""
    if frame_mask is None:
        return features.mean(dim=-1, keepdim=True)
    # Divided before the sum, which half precision may not hold
    share = frame_mask.to(torch.float32)
    share = share / share.sum(dim=-1, keepdim=True).clamp(min=1)
    return (_masked(features, frame_mask) * share[:, None].to(features.dtype)).sum(dim=-1, keepdim=True)


class DeepECGSLConvolution(nn.Module):
    """A convolution of odd length, batch normalisation, and possibly the activation.

    Beyond its ends a record is zero. A frame mask makes the same of what is not real, and keeps it out of the batch
    statistics in training.
    """

    def __init__(
        self,
        config: DeepECGSLConfig,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        activation: bool = True,
    ):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm1d(out_channels, eps=config.batch_norm_eps)
        self.activation = ACT2FN[config.hidden_act] if activation else nn.Identity()

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return features of shape `(records, out_channels, ceil(frames / stride))`."""
        if self.conv.kernel_size[0] > 1:
            features = _masked(features, frame_mask)
        features = self.conv(features)
        if frame_mask is not None and self.norm.training:
            features = self._normalize_real_frames(features, frame_mask[:, :: self.stride])
        else:
            features = self.norm(features)
        return self.activation(features)

    def _normalize_real_frames(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        frames_first = features.transpose(1, 2)
        real = frames_first[frame_mask]
        if len(real) < 2:
            # No statistics without two values
            norm = self.norm
            real = F.batch_norm(real, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            real = self.norm(real)
        return torch.zeros_like(frames_first).index_put((frame_mask,), real).transpose(1, 2)


class DeepECGSLSqueezeExcite(nn.Module):
    """Weights every channel of a record by what the means of all channels tell."""

    def __init__(self, config: DeepECGSLConfig, channels: int, ratio: int):
        super().__init__()
        self.reduce = nn.Conv1d(channels, channels // ratio, 1)
        self.activation = ACT2FN[config.hidden_act]
        self.expand = nn.Conv1d(channels // ratio, channels, 1)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return features of the same shape."""
        means = _mean_over_time(features, frame_mask)
        return features * self.expand(self.activation(self.reduce(means))).sigmoid()


class DeepECGSLBlock(GradientCheckpointingLayer):
    """What both kinds of blocks share: squeeze-excite, and the residual connection where shapes allow it."""

    def __init__(self, config: DeepECGSLConfig, stage: int, in_channels: int, stride: int, squeezed_channels: int):
        super().__init__()
        self.stride = stride
        self.has_residual = stride == 1 and in_channels == config.stage_channels[stage]
        self.drop_path_rate = config.drop_path_rate
        ratio = config.stage_squeeze_ratios[stage]
        self.squeeze_excite = DeepECGSLSqueezeExcite(config, squeezed_channels, ratio) if ratio else None

    def squeeze(self, features: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """Apply squeeze-excite where the stage has it."""
        return features if self.squeeze_excite is None else self.squeeze_excite(features, frame_mask)

    def connect(self, features: torch.Tensor, transformed: torch.Tensor) -> torch.Tensor:
        """Add the residual connection where there is one; in training it is at times all that is left."""
        if not self.has_residual:
            return transformed
        if self.training and self.drop_path_rate > 0:
            kept = torch.rand(len(features), 1, 1, device=features.device) >= self.drop_path_rate
            transformed = transformed * (kept / (1 - self.drop_path_rate)).to(transformed.dtype)
        return features + transformed


class DeepECGSLFusedBlock(DeepECGSLBlock):
    """One convolution over all channels, then squeeze-excite."""

    def __init__(self, config: DeepECGSLConfig, stage: int, in_channels: int, stride: int):
        out_channels = config.stage_channels[stage]
        super().__init__(config, stage, in_channels, stride, out_channels)
        self.convolution = DeepECGSLConvolution(config, in_channels, out_channels, config.stage_kernels[stage], stride)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return features of shape `(records, stage_channels, ceil(frames / stride))`."""
        transformed = self.convolution(features, frame_mask)
        transformed = self.squeeze(transformed, _strided(frame_mask, self.stride))
        return self.connect(features, transformed)


class DeepECGSLDepthwiseBlock(DeepECGSLBlock):
    """Expansion, a convolution in every channel by itself, squeeze-excite, and projection without activation."""

    def __init__(self, config: DeepECGSLConfig, stage: int, in_channels: int, stride: int):
        width = in_channels * config.stage_expansions[stage]
        super().__init__(config, stage, in_channels, stride, width)
        self.expansion = DeepECGSLConvolution(config, in_channels, width)
        self.convolution = DeepECGSLConvolution(
            config, width, width, config.stage_kernels[stage], stride, groups=width
        )
        self.projection = DeepECGSLConvolution(config, width, config.stage_channels[stage], activation=False)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return features of shape `(records, stage_channels, ceil(frames / stride))`."""
        transformed = self.convolution(self.expansion(features, frame_mask), frame_mask)
        frame_mask = _strided(frame_mask, self.stride)
        transformed = self.projection(self.squeeze(transformed, frame_mask), frame_mask)
        return self.connect(features, transformed)


def _strided(frame_mask: torch.Tensor | None, stride: int) -> torch.Tensor | None:
    """Mask of the frames of a strided convolution: a frame is real when the frame in its middle is."""
    return None if frame_mask is None else frame_mask[:, ::stride]


class DeepECGSLStage(nn.Module):
    """Blocks of the same width and length; the first may have a stride."""

    def __init__(self, config: DeepECGSLConfig, stage: int):
        super().__init__()
        block_class = DeepECGSLFusedBlock if config.stage_blocks[stage] == "fused" else DeepECGSLDepthwiseBlock
        channels = config.stage_channels[stage]
        before = config.stage_channels[stage - 1] if stage else config.stem_channels
        first = block_class(config, stage, before, config.stage_strides[stage])
        others = (block_class(config, stage, channels, 1) for _ in range(config.stage_depths[stage] - 1))
        self.blocks = nn.ModuleList([first, *others])

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return features of shape `(records, stage_channels, ceil(frames / stride))`."""
        for block in self.blocks:
            features = block(features, frame_mask)
            frame_mask = _strided(frame_mask, block.stride)
        return features


class DeepECGSLPreTrainedModel(PreTrainedModel):
    """What all DeepECG-SL models share: initialisation, frame masks, and how frozen parts behave in training."""

    config: DeepECGSLConfig
    base_model_prefix = "deepecg_sl"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepECGSLFusedBlock", "DeepECGSLDepthwiseBlock"]
    # Variances of potentials in steps of 5 µV exceed what half precision holds
    _keep_in_fp32_modules = ["norm"]
    _can_record_outputs = {"hidden_states": DeepECGSLStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Conv1d):
            # As in EfficientNet (arXiv 1905.11946)
            init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def get_token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell which frames of the feature map are real: those whose middle sample is.

        The network continues a record with zeros at both ends, and padding is the same continuation. So a frame is not
        dropped for reaching beyond the record, unlike in the transformers of this package.

        Args:
            attention_mask (`torch.Tensor` of shape `(records, samples)`): nonzero where a sample is real.

        Returns:
            `torch.BoolTensor` of shape `(records, frames)`.
        """
        return attention_mask[:, :: self.config.total_stride] != 0

    def train(self, mode: bool = True):
        """Switch between training and evaluation; convolutions and blocks that are frozen stay in evaluation.

        So they use and keep their running statistics and are never skipped: the features below a head that alone
        learns are those of evaluation.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (DeepECGSLConvolution, DeepECGSLBlock)):
                if mode and not any(parameter.requires_grad for parameter in module.parameters()):
                    module.eval()
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ):
        # What is computed again in the backward pass would count a second time in the running statistics
        function = functools.partial(
            gradient_checkpointing_func, context_fn=lambda: (contextlib.nullcontext(), self._statistics_kept())
        )
        super()._set_gradient_checkpointing(enable, function, **kwargs)

    @contextlib.contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        norms = [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, momentum, num_batches_tracked in kept:
                norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked


class DeepECGSLModel(DeepECGSLPreTrainedModel):
    """The DeepECG-SL network without a head: a feature map, and its mean over time.

    The published weights expect potentials in steps of 0.0048 mV: the input recipe `"deepecg_sl"` multiplies
    millivolts by 1/0.0048. (Devices store steps of 0.00488 mV, and the manifests of the self-supervised model use that
    number. The two differ by 1.7 %.)

    Args:
        config ([`DeepECGSLConfig`]): the architecture.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DeepECGSLConfig, DeepECGSLModel

        >>> model = DeepECGSLModel(DeepECGSLConfig.from_variant("s_v2")).eval()
        >>> model(torch.randn(1, 12, 2500)).last_hidden_state.shape
        torch.Size([1, 640, 157])
        ```
    """

    def __init__(self, config: DeepECGSLConfig):
        super().__init__(config)
        self.stem = DeepECGSLConvolution(
            config, config.num_leads, config.stem_channels, config.stem_kernel, config.stem_stride
        )
        self.stages = nn.ModuleList(DeepECGSLStage(config, stage) for stage in range(len(config.stage_depths)))
        self.final = DeepECGSLConvolution(
            config, config.stage_channels[-1], config.hidden_size, bias=True, activation=False
        )
        self.post_init()

    def _check_inputs(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        if input_values.ndim != 3 or input_values.shape[1] != self.config.num_leads:
            raise ValueError(
                f"`input_values` has shape (records, {self.config.num_leads}, samples), one row per lead; got "
                f"{tuple(input_values.shape)}. ECGFeatureExtractor makes such arrays."
            )
        expected = (input_values.shape[0], input_values.shape[2])
        if attention_mask is not None and tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"`attention_mask` has shape (records, samples), here {expected}; got {tuple(attention_mask.shape)}."
            )

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple | BaseModelOutputWithPoolingAndNoAttention:
        r"""Compute the features.

        The original takes records of 10 s and has no mask. A mask of ones changes nothing; padding is treated as the
        zeros by which the network continues a record anyway, and left out of every mean over time. So a padded record,
        the record alone and the record in a batch have the same features.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials in steps of 0.0048 mV.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kwargs: `output_hidden_states`, `return_dict`.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPoolingAndNoAttention`]: `last_hidden_state`, the
            feature map of shape `(records, hidden_size, frames)`, zero in frames that are not real; `pooler_output`,
            the mean of the real frames, of shape `(records, hidden_size)`, zero for a record that has none; on request
            `hidden_states`, the feature map of the stem and of each stage.
        """
        self._check_inputs(input_values, attention_mask)
        frame_mask = None if attention_mask is None else attention_mask != 0
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if frame_mask is not None and not traced and frame_mask.all():
            # Masks cost time. A traced program must not depend on what they hold, so it keeps them.
            frame_mask = None
        features = self.stem(input_values.to(self.dtype), frame_mask)
        frame_mask = _strided(frame_mask, self.config.stem_stride)
        for stage, stride in zip(self.stages, self.config.stage_strides, strict=True):
            features = stage(features, frame_mask)
            frame_mask = _strided(frame_mask, stride)
        features = _masked(self.final(features, frame_mask), frame_mask)
        pooled = _mean_over_time(features, frame_mask).squeeze(-1)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=features, pooler_output=pooled)

    def get_ecg_features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """Return one feature vector per record: the mean of its real frames in the feature map.

        Args:
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials in steps of 0.0048 mV.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            kwargs: as in [`DeepECGSLModel.forward`].

        Returns:
            `torch.Tensor` of shape `(records, hidden_size)`.
        """
        kwargs["return_dict"] = True
        return self(input_values, attention_mask=attention_mask, **kwargs).pooler_output


class DeepECGSLForSequenceClassification(DeepECGSLPreTrainedModel):
    """DeepECG-SL with a classification or regression head over the pooled features.

    Args:
        config ([`DeepECGSLConfig`]): the architecture; `classifier_head`, `num_labels`, `problem_type` and
            `pos_weight` describe the head.

    Example:
        ```python
        >>> import torch
        >>> from ecg_transformers import DeepECGSLConfig, DeepECGSLForSequenceClassification

        >>> config = DeepECGSLConfig.from_variant("b0_v2", num_labels=5, problem_type="multi_label_classification")
        >>> model = DeepECGSLForSequenceClassification(config)
        >>> labels = torch.tensor([[1.0, 0.0, 0.0, float("nan"), 0.0]])  # the fourth label is unknown
        >>> loss = model(torch.randn(1, 12, 2500), labels=labels).loss
        ```
    """

    accepts_loss_kwargs = False

    def __init__(self, config: DeepECGSLConfig):
        super().__init__(config)
        if config.pos_weight is not None and len(config.pos_weight) != config.num_labels:
            raise ValueError(
                f"`pos_weight` needs one value for each of the {config.num_labels} labels; got "
                f"{len(config.pos_weight)}. Pass the right number, or `pos_weight=None`."
            )
        self.deepecg_sl = DeepECGSLModel(config)
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
        """Stop training the stem, the convolution that reads the leads."""
        self._freeze(self.deepecg_sl.stem)

    def freeze_base_model(self):
        """Stop training the network below the head; in training it then computes as in evaluation."""
        self._freeze(self.deepecg_sl)

    def _freeze(self, module: nn.Module):
        for parameter in module.parameters():
            parameter.requires_grad = False
        self.train(self.training)

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
            input_values (`torch.Tensor` of shape `(records, leads, samples)`): potentials in steps of 0.0048 mV.
            attention_mask (`torch.Tensor` of shape `(records, samples)`, *optional*): nonzero where a sample is real.
            labels (`torch.Tensor` of shape `(records,)` or `(records, num_labels)`, *optional*): class indices, 0/1
                per label, or numbers, as `config.problem_type` says; if that is not set, it follows from
                `num_labels` and the dtype. NaN, and -100 for a class index, is an unknown label and does not enter
                the loss, which is a mean over the known ones and 0 if there are none.
            kwargs: as in [`DeepECGSLModel.forward`].

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]
        """
        outputs = self.deepecg_sl(input_values, attention_mask=attention_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
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
            return _mean_of_known(F.cross_entropy(logits, labels, reduction="none"), labels != -100)

        self._check_label_count(labels.numel(), logits.numel())
        labels = labels.reshape(logits.shape).to(logits.dtype)
        known = ~labels.isnan()
        labels = labels.masked_fill(~known, 0.0)
        if problem_type == "regression":
            return _mean_of_known((logits - labels).square(), known)
        pos_weight = self.config.pos_weight
        if pos_weight is not None:
            pos_weight = torch.tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")
        return _mean_of_known(losses, known)

    def _check_label_count(self, found: int, expected: int):
        if found != expected:
            raise ValueError(
                f"`labels` of a {self.config.problem_type} problem with {self.config.num_labels} labels needs "
                f"{expected} values for this batch; got {found}. Set `config.problem_type` and `num_labels` to what "
                "the labels are."
            )


def _mean_of_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the values that are known; 0, with a graph, if none is."""
    return values.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)


__all__ = ["DeepECGSLForSequenceClassification", "DeepECGSLModel", "DeepECGSLPreTrainedModel"]
