"""The network of DeepECG-SL in plain torch, under the original's parameter names: the reference of its tests."""

import math

import torch
from torch import nn

CHANNELS = (12, 12, 24, 32, 64, 80, 128, 640)
DEPTHS = (1, 1, 2, 2, 3, 4, 5)
KERNELS = (3, 3, 5, 3, 5, 3)
STRIDES = (1, 1, 2, 2, 2, 2)
EXPANSIONS = (1, 6, 6, 6, 6, 6)
SCALES = {
    "b0": (1, 1),
    "b1": (1, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2, 3.1),
    "s": (1, 2),
    "m": (1.1, 2.1),
    "l": (1.2, 2.2),
}


class Norm(nn.Module):
    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, eps=eps)

    def forward(self, x):
        return self.norm(x)


def unit(before: int, after: int, kernel: int, stride: int, groups: int, eps: float, activation: bool):
    conv = nn.Conv1d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts = [conv, Norm(after, eps)]
    return nn.Sequential(*parts, nn.LeakyReLU(0.01)) if activation else nn.Sequential(*parts)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, ratio: int):
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(channels, channels // ratio, 1),
            nn.LeakyReLU(0.01),
            nn.Conv1d(channels // ratio, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.se(x)


class Fused(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int, ratio: int, eps: float):
        super().__init__()
        self.fused_conv = unit(before, after, kernel, stride, 1, eps, True)
        self.se = SqueezeExcite(after, ratio)
        self.residual = before == after and stride == 1

    def forward(self, x):
        y = self.se(self.fused_conv(x))
        if self.residual:
            y = y + x
        return y


class Depthwise(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int, ratio: int, eps: float):
        super().__init__()
        width = before * expansion
        self.expand_conv = unit(before, width, 1, 1, 1, eps, True)
        self.depthwise_conv = unit(width, width, kernel, stride, width, eps, True)
        self.se = SqueezeExcite(width, ratio)
        self.project_conv = unit(width, after, 1, 1, 1, eps, False)
        self.residual = before == after and stride == 1

    def forward(self, x):
        y = self.project_conv(self.se(self.depthwise_conv(self.expand_conv(x))))
        if self.residual:
            y = y + x
        return y


class Network(nn.Module):
    def __init__(
        self,
        variant: str = "s_v2",
        num_labels: int = 77,
        channels=CHANNELS,
        depths=DEPTHS,
        kernels=KERNELS,
        strides=STRIDES,
        expansions=EXPANSIONS,
        ratios=(4, 4, 4, 4, 4, 4),
        eps: float = 1e-5,
        num_leads: int = 12,
    ):
        super().__init__()
        size, version = variant.split("_")
        width, depth = SCALES[size]
        channels = [int(value * width) for value in channels]
        blocks = [math.ceil(value * depth) for value in depths][1:]
        self.initial_conv = unit(num_leads, channels[0], kernels[0], strides[0], 1, eps, True)
        features = []
        before = channels[0]
        for stage, number in enumerate(blocks):
            after = channels[stage + 1]
            for block in range(number):
                stride = strides[stage] if block == 0 else 1
                if version == "v2" and stage < 4:
                    features.append(Fused(before, after, kernels[stage], stride, ratios[stage], eps))
                else:
                    wide = (before, after, kernels[stage], stride, expansions[stage], ratios[stage], eps)
                    features.append(Depthwise(*wide))
                before = after
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.0), nn.Linear(channels[-1], num_labels)
        )
        self.final_conv = nn.Conv1d(before, channels[-1], 1)
        self.final_norm = Norm(channels[-1], eps)

    def forward(self, x):
        x = self.features(self.initial_conv(x))
        return self.classifier(self.final_norm(self.final_conv(x)))


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter and statistic a value of its own, of a size that keeps signals alive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
        elif name.endswith(("running_var", "norm.weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return module.eval()


@torch.no_grad()
def calibrate(module: nn.Module, ecg: torch.Tensor) -> nn.Module:
    """Set the running statistics to those of a batch, as training does; a deep network explodes without it."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    module.train()(ecg)
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()
