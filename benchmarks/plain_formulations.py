"""The networks of the originals written out plainly: what the models of the package are timed against.

Parameters carry the names of the published checkpoints, so the package's converters give both sides the same weights.
Hybrid ECG, of which nothing is published, is a plain vision transformer with the package's names.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class PlainAttention(nn.Module):
    """Attention as matrix products and a softmax, head by head in one batch."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (records, tokens, width) to the same shape."""
        records, tokens, width = hidden.shape

        def split(values: torch.Tensor) -> torch.Tensor:
            values = values.view(records, tokens, self.heads, width // self.heads).transpose(1, 2)
            return values.reshape(records * self.heads, tokens, width // self.heads)

        scale = (width // self.heads) ** -0.5
        query, key, value = split(self.q_proj(hidden) * scale), split(self.k_proj(hidden)), split(self.v_proj(hidden))
        weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)).float(), dim=-1).to(value.dtype)
        mixed = torch.bmm(weights, value).view(records, self.heads, tokens, -1).transpose(1, 2)
        return self.out_proj(mixed.reshape(records, tokens, width))


class PlainLayer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.self_attn = PlainAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (records, tokens, width) to the same shape."""
        hidden = self.self_attn_layer_norm(hidden + self.self_attn(hidden))
        inner = F.gelu(self.fc1(hidden).float()).to(hidden.dtype)
        return self.final_layer_norm(hidden + self.fc2(inner))


class PlainPositions(nn.Module):
    """The grouped positional convolution; its weight is put together from gain and direction at every call."""

    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.groups, self.kernel = groups, kernel
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) / math.sqrt(width * kernel / 4))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (records, tokens, width) to the same shape."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        out = F.conv1d(tokens.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(out[:, :, : tokens.shape[1]]).transpose(1, 2)


class PlainTransformer(nn.Module):
    """A LayerNorm, then the layers."""

    def __init__(self, width: int, depth: int, heads: int, inner: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PlainLayer(width, heads, inner) for _ in range(depth))


class PlainECGEncoder(nn.Module):
    """The wav2vec 2.0 encoder over twelve leads of D-BETA (with a class token) and DeepECG-SSL (without)."""

    def __init__(
        self,
        depth: int,
        class_token: bool,
        width: int = 768,
        heads: int = 12,
        inner: int = 3072,
        channels: int = 256,
        positions: int = 128,
        groups: int = 16,
    ):
        super().__init__()
        blocks = [nn.Conv1d(12 if index == 0 else channels, channels, 2, 2, bias=False) for index in range(4)]
        self.feature_extractor = nn.Module()
        self.feature_extractor.conv_layers = nn.ModuleList(
            nn.Sequential(block, nn.Identity(), nn.GroupNorm(channels, channels))
            if index == 0
            else nn.Sequential(block)
            for index, block in enumerate(blocks)
        )
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, width)
        self.conv_pos = nn.Module()
        self.conv_pos.pos_conv = nn.ModuleList([PlainPositions(width, positions, groups)])
        if class_token:
            self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
        self.encoder = PlainTransformer(width, depth, heads, inner)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Map (records, 12, samples) to (records, tokens, width)."""
        for block in self.feature_extractor.conv_layers:
            signal = F.gelu(block(signal))
        tokens = self.post_extract_proj(self.layer_norm(signal.transpose(1, 2)))
        tokens = tokens + self.conv_pos.pos_conv[0](tokens)
        if hasattr(self, "class_embedding"):
            tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
        hidden = self.encoder.layer_norm(tokens)
        for layer in self.encoder.layers:
            hidden = layer(hidden)
        return hidden


class PlainPreNormLayer(nn.Module):
    """A layer of a vision transformer."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.self_attn = PlainAttention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (records, tokens, width) to the same shape."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp.fc2(F.gelu(self.mlp.fc1(self.layer_norm2(hidden))))


class PlainSignalTransformer(nn.Module):
    """A vision transformer over patches of all leads, with sine and cosine positions and a class token."""

    def __init__(self, width: int, depth: int, heads: int, patch: int = 50):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv1d(12, width, patch, patch)
        self.embeddings.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(PlainPreNormLayer(width, heads, 4 * width) for _ in range(depth))
        self.layer_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Map (records, 12, samples) to (records, 1 + tokens, width)."""
        tokens = self.embeddings.patch_embedding(signal).transpose(1, 2)
        width = tokens.shape[2]
        rates = 10000 ** (-torch.arange(0, width, 2, device=signal.device) / width)
        angles = torch.arange(tokens.shape[1], device=signal.device)[:, None] * rates
        positions = torch.zeros_like(tokens[0])
        positions[:, 0::2], positions[:, 1::2] = angles.sin(), angles.cos()
        class_token = self.embeddings.class_token.expand(len(tokens), 1, -1)
        hidden = torch.cat([class_token, tokens + positions], dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.layer_norm(hidden)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.Module()
    norm.norm = nn.BatchNorm1d(outputs)
    norm.forward = norm.norm.forward
    return nn.Sequential(convolution, norm, *([nn.LeakyReLU(0.01)] if act else []))


class PlainBlock(nn.Module):
    """A block of EfficientNetV2: fused (one convolution), or expanding, depthwise and projecting."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, fused: bool):
        super().__init__()
        self.residual = inputs == outputs and stride == 1
        inner = outputs if fused else inputs * expansion
        if fused:
            self.fused_conv = _convolution(inputs, outputs, kernel, stride)
        else:
            self.expand_conv = _convolution(inputs, inner, 1)
            self.depthwise_conv = _convolution(inner, inner, kernel, stride, groups=inner)
        layers = (nn.AdaptiveAvgPool1d(1), nn.Conv1d(inner, inner // 4, 1), nn.LeakyReLU(0.01))
        self.se = nn.Module()
        self.se.se = nn.Sequential(*layers, nn.Conv1d(inner // 4, inner, 1), nn.Sigmoid())
        if not fused:
            self.project_conv = _convolution(inner, outputs, 1, act=False)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Map (records, channels, samples) to (records, channels, samples / stride)."""
        out = self.fused_conv(signal) if hasattr(self, "fused_conv") else self.depthwise_conv(self.expand_conv(signal))
        out = out * self.se.se(out)
        if hasattr(self, "project_conv"):
            out = self.project_conv(out)
        return out + signal if self.residual else out


class PlainEfficientNet(nn.Module):
    """The one-dimensional EfficientNetV2 of DeepECG-SL, variant s_v2."""

    def __init__(self, num_labels: int = 77):
        super().__init__()
        channels, kernels, strides = (12, 12, 24, 32, 64, 80, 128), (3, 3, 5, 3, 5, 3), (1, 1, 2, 2, 2, 2)
        self.initial_conv = _convolution(12, channels[0], 3)
        self.features = nn.Sequential()
        for stage, depth in enumerate((2, 4, 4, 6, 8, 10)):
            for index in range(depth):
                inputs = channels[stage if index == 0 else stage + 1]
                stride = strides[stage] if index == 0 else 1
                expansion = 1 if stage == 0 else 6
                block = PlainBlock(inputs, channels[stage + 1], kernels[stage], stride, expansion, stage < 4)
                self.features.append(block)
        self.classifier = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity(), nn.Linear(640, num_labels))
        self.final_conv = nn.Conv1d(128, 640, 1)
        self.final_norm = nn.Module()
        self.final_norm.norm = nn.BatchNorm1d(640)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Map (records, 12, samples) to logits (records, labels)."""
        features = self.final_norm.norm(self.final_conv(self.features(self.initial_conv(signal))))
        return self.classifier(features.mean(dim=-1))
