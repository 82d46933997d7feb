"""Small convolutional and residual networks: chains, VGGs, ResNets, dense, separable and shuffled ones, U-Nets."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def cnn(
    kernels: Sequence[int | tuple[int, int]] = (3, 3), *, stride: int = 1, dilation: int = 1, padding: int = 0, size: int = 12,
    pool: Literal["max", "average", "none"] = "max", head: Literal["flatten", "global"] = "flatten", norm: Norm | None = None,
) -> nn.Sequential:  # fmt: skip
    """Convolutions of widths 6, 8, 10..., one pooling, then a two-layer head on all flattened positions or on their mean."""
    layers: list[nn.Module] = []
    channels = 3
    for i, kernel in enumerate(kernels):
        layers.append(nn.Conv2d(channels, 6 + 2 * i, kernel, stride=stride, dilation=dilation, padding=padding))
        channels = 6 + 2 * i
        layers += [*([norm(channels)] if norm else []), nn.ReLU()]
    pools: dict[str, list[nn.Module]] = {"max": [nn.MaxPool2d(2)], "average": [nn.AvgPool2d(2)], "none": []}
    layers += [*pools[pool], *([nn.AdaptiveAvgPool2d(1)] if head == "global" else [])]
    features = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        width = features.eval()(torch.zeros(1, 3, size, size)).shape[1]
    return nn.Sequential(*features.train(), nn.Linear(width, 9), nn.ReLU(), nn.Linear(9, 4))


def conv1d() -> nn.Sequential:
    """Strided 1-d convolutions and a transposed one over (N, 2, L)."""
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, stride=2), nn.ReLU(), nn.BatchNorm1d(6), nn.Conv1d(6, 7, 3, padding=1), nn.GELU(),
        nn.ConvTranspose1d(7, 5, 4, stride=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(5, 3, 1),
    )  # fmt: skip


def conv_autoencoder() -> nn.Sequential:
    """Strided convolutions down to a linear code, transposed convolutions back up; one of them grouped."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4, 5), nn.Linear(5, 8 * 4), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


# VGG (Simonyan and Zisserman, 2014, 1409.1556, table 1)

VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
Head = Literal["small", "hidden", "large"]


class VGG(nn.Module):
    """VGG with torchvision's parameter names: features.N, classifier or classifier.N."""

    def __init__(self, depth: int, batch_norm: bool, width: float, head: Head, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for repeats, full in zip(VGG_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
            for _ in range(repeats):
                out = max(1, round(full * width))
                norm = [nn.BatchNorm2d(out)] if batch_norm else []
                layers += [nn.Conv2d(channels, out, 3, padding=1), *norm, nn.ReLU(inplace=True)]
                channels = out
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(7) if head == "large" else nn.Identity()
        hidden = max(1, round(4096 * width)) if head == "large" else channels
        wide = [nn.Linear(channels * (49 if head == "large" else 1), hidden), nn.ReLU(inplace=True), nn.Dropout()]
        second = [nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout()] if head == "large" else []
        last = nn.Linear(hidden, classes)
        self.classifier: nn.Module = last if head == "small" else nn.Sequential(*wide, *second, last)
        for layer in self.modules():  # with PyTorch's own initialisation the output of 16 layers hardly depends on the input
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg(depth: int, batch_norm: bool, width: float = 1.0, head: Head = "small", classes: int = 10) -> VGG:
    """VGG-11, 13, 16 or 19; vgg(16, False) has 14.7 M parameters, vgg(16, False, head="large", classes=1000) 138 M.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: a BatchNorm after every convolution.
        width: multiplies every channel and hidden width.
        head: "small" 512 -> classes and "hidden" 512 -> 512 -> classes take 32x32 images; "large" 7x7x512 -> 4096 -> 4096
            -> classes takes any size from 32 (224 as published).
        classes: number of outputs.
    """
    return VGG(depth, batch_norm, width, head, classes)


# Residual networks (He et al., 2015, 1512.03385; pre-activation 1603.05027; ResNeXt 1611.05431)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is a projection if the shape changes, else the identity."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int, norm: Norm, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, groups=groups, bias=False)
        self.bn2 = norm(planes)
        self.downsample = projection(channels, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped for ResNeXt) and 1x1 convolutions; in-place `y += x` and in-place ReLU as in torchvision."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int, norm: Norm, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = norm(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def projection(channels: int, out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """The strided 1x1 convolution of a shortcut, None where the identity fits."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))


class ResNet(nn.Module):
    """Stages of blocks with torchvision's parameter names; width doubles and resolution halves at each stage after the first."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], repeats: Sequence[int], width: int, *, norm: Norm = nn.BatchNorm2d,
        groups: int = 1, stem: Literal["3x3", "7x7"] = "3x3", classes: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False) if stem == "7x7" else nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "7x7" else nn.Identity()
        channels = width
        for i, count in enumerate(repeats):
            blocks: list[nn.Module] = []
            for j in range(count):
                blocks.append(block(channels, width << i, 2 if i and not j else 1, norm, groups))
                channels = (width << i) * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.stages = len(repeats)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50() -> ResNet:
    """ResNet-50 of ImageNet, 25,557,032 parameters; takes 224x224 images."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 64, stem="7x7", classes=1000)


class PreActivationBlock(nn.Module):
    """Norm and ReLU before each convolution; the shortcut branches off after the first norm where it projects."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = None if stride == 1 and channels == out else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut


class InPlaceResidual(nn.Module):
    """`x += f(x)` with in-place ReLUs, twice on one stream."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, width), nn.Linear(width, 3)
        self.first, self.second = nn.Linear(width, 6), nn.Linear(6, width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(2):
            h += self.second(self.relu(self.first(h)))
        return self.head(self.relu(h))


# Dense, depthwise, grouped, shuffled, squeezed, U-shaped


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input (Huang et al., 2016, 1608.06993)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(growth: int = 3) -> nn.Sequential:
    """Two dense blocks of two layers with a BN-ReLU-conv-pool transition between them."""
    wide = 6 + 2 * growth
    transition = [nn.BatchNorm2d(wide), nn.ReLU(), nn.Conv2d(wide, 7, 1, bias=False), nn.AvgPool2d(2)]
    last = 7 + 2 * growth
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), DenseLayer(6, growth), DenseLayer(6 + growth, growth), *transition,
        DenseLayer(7, growth), DenseLayer(7 + growth, growth), nn.BatchNorm2d(last), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 4),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    """Channel gates from the spatial mean (Hu et al., 2017, 1709.01507)."""

    def __init__(self, channels: int, gate: Callable[[], nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        squeeze, excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), excite, gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-and-excite, project (Sandler et al., 2018, 1801.04381; MobileNet-v3 1905.02244)."""

    def __init__(self, channels: int, out: int, stride: int, activation: Callable[[], nn.Module], squeeze: bool = False) -> None:
        super().__init__()
        hidden = 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), activation(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), activation(),
            SqueezeExcite(hidden, nn.Hardsigmoid) if squeeze else nn.Identity(),
            nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels (g, c) reordered to (c, g)."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolutions around a shuffle and a depthwise convolution, residual (Zhang et al., 2017, 1707.01083)."""

    def __init__(self, channels: int = 12, groups: int = 3) -> None:
        super().__init__()
        self.groups = groups
        self.compress, self.bn1 = nn.Conv2d(channels, 6, 1, groups=groups, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.expand, self.bn3 = nn.Conv2d(6, channels, 1, groups=groups, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = channel_shuffle(F.relu(self.bn1(self.compress(x))), self.groups)
        return F.relu(x + self.bn3(self.expand(self.bn2(self.depthwise(y)))))


class ShuffleSplitUnit(nn.Module):
    """Half of the channels pass, half are convolved, then a shuffle (Ma et al., 2018, 1807.11164)."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half), nn.BatchNorm2d(half), nn.Conv2d(half, half, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, 1)
        return channel_shuffle(torch.cat([kept, self.branch(moved)], 1), 2)


class UNet(nn.Module):
    """One level down and up with a concatenated skip (Ronneberger et al., 2015, 1505.04597)."""

    def __init__(self, up: Literal["interpolate", "transposed"]) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2) if up == "transposed" else nn.Conv2d(8, 5, 1)
        self.interpolate = up == "interpolate"
        self.head = nn.Sequential(nn.Conv2d(11, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.bottom(skip)
        deep = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False) if self.interpolate else deep
        return self.head(torch.cat([skip, self.up(deep)], 1))


def between(*blocks: nn.Module, stem: int, out: int | None = None) -> nn.Sequential:
    """The blocks after a 3x3 stem of `stem` channels and before a global-pooling head on `out` channels."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(stem if out is None else out, 4))
    return nn.Sequential(nn.Conv2d(3, stem, 3, padding=1), nn.ReLU(), *blocks, *head)


def pre_activation_resnet() -> nn.Sequential:
    """A block with an identity shortcut, one with a projection, the closing norm."""
    return between(PreActivationBlock(6, 6, 1), PreActivationBlock(6, 8, 2), nn.BatchNorm2d(8), nn.ReLU(), stem=6, out=8)


def channel_prelu() -> nn.Sequential:
    """A learned slope per channel, then one slope for all, then a flatten."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 7, 3), nn.PReLU(), nn.Flatten(), nn.Linear(7 * 16, 4)
    )  # fmt: skip


def mobilenet(activation: Callable[[], nn.Module], squeeze: bool = False) -> nn.Sequential:
    """A stem, a residual, a strided and another residual inverted block."""
    sizes = ((6, 6, 1), (6, 8, 2), (8, 8, 1))
    return between(*(InvertedResidual(i, o, stride, activation, squeeze) for i, o, stride in sizes), stem=6, out=8)
