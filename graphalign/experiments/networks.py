"""The networks that the experiments measure: small classifiers, one compact network per family, and full-size ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]


def mlp(widths: Sequence[int], image: Shape, classes: int = 10) -> nn.Sequential:
    """Flatten, linear layers of the widths given with ReLU between them, logits."""
    sizes = [image[0] * image[1] * image[2], *widths]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def cnn(channels: Sequence[int], hidden: int, image: Shape, classes: int = 10) -> nn.Sequential:
    """3x3 convolutions, each with ReLU and a 2x2 max pooling, then a flatten over all positions and one hidden linear layer."""
    inputs, height, width = image
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inputs, height, width = outputs, height // 2, width // 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(inputs * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )  # fmt: skip


def vgg(
    stages: Sequence[Sequence[int]], *, batch_norm: bool = False, hidden: Sequence[int] = (), pool: int = 1, classes: int = 10,
    channels: int = 3,
) -> nn.Module:  # fmt: skip
    """VGG (Simonyan and Zisserman 2014, arXiv 1409.1556): stages of 3x3 convolutions, each followed by a 2x2 max pooling.

    Args:
        stages: widths of the convolutions of each stage.
        batch_norm: BatchNorm after every convolution.
        hidden: widths of the linear layers between the features and the logits.
        pool: the features are averaged to pool x pool positions before they are flattened.
        classes: number of logits.
        channels: of the images.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for widths in stages:
        for outputs in widths:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(pool), nn.Flatten()]
    features = inputs * pool * pool
    for outputs in hidden:
        head += [nn.Linear(features, outputs), nn.ReLU()]
        features = outputs
    head.append(nn.Linear(features, classes))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), classifier=nn.Sequential(*head)))


VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


class Block(nn.Module):
    """relu(x + f(x)) (He et al. 2015, arXiv 1512.03385): f is two 3x3 convolutions, or 1x1, 3x3 and 1x1 in a bottleneck."""

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        widths = (inputs, planes, planes, 4 * planes) if bottleneck else (inputs, planes, planes)
        layers: list[nn.Module] = []
        for i, (kernel, step) in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            layers += [*([nn.ReLU()] if i else []), conv, nn.BatchNorm2d(widths[i + 1])]
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != widths[-1]:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, widths[-1], 1, stride, bias=False), nn.BatchNorm2d(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to features."""
        return F.relu(self.shortcut(x) + self.body(x))


def resnet(
    repeats: Sequence[int], width: int, *, bottleneck: bool = False, imagenet_stem: bool = False, classes: int = 10,
    channels: int = 3,
) -> nn.Module:  # fmt: skip
    """Stages of residual blocks, of double width and half resolution from one stage to the next.

    `resnet((3, 4, 6, 3), 64, bottleneck=True, imagenet_stem=True, classes=1000)` is ResNet-50, 25,557,032 parameters.
    """
    kernel, stride = (7, 2) if imagenet_stem else (3, 1)
    stem: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stem += [nn.MaxPool2d(3, 2, 1)] if imagenet_stem else []
    blocks: list[nn.Module] = []
    inputs = width
    for i, count in enumerate(repeats):
        for j in range(count):
            blocks.append(Block(inputs, width << i, 2 if i and not j else 1, bottleneck))
            inputs = (width << i) * (4 if bottleneck else 1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return nn.Sequential(OrderedDict(stem=nn.Sequential(*stem), blocks=nn.Sequential(*blocks), head=head))


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input (Huang et al. 2016, arXiv 1608.06993)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.body(x)], 1)


def densenet(repeats: Sequence[int], growth: int, classes: int = 10) -> nn.Sequential:
    """Dense blocks with a halving transition between them."""
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for i, count in enumerate(repeats):
        if i:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *head)


class TransformerBlock(nn.Module):
    """Pre-norm attention with fused query, key and value, then a pre-norm MLP (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, width) to tokens."""
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        x = x + self.project(y)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class Transformer(nn.Module):
    """A linear embedding, learned positions, blocks, the mean over tokens and logits."""

    def __init__(self, inputs: int, tokens: int, width: int, heads: int, hidden: int, depth: int, classes: int = 10) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(inputs, width), nn.Parameter(torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences (N, T, inputs) to logits (N, classes)."""
        result: Tensor = self.head(self.norm(self.blocks(self.embed(x) + self.position)).mean(1))
        return result


class ResidualBlock(nn.Module):
    """x + W2 relu(W1 x + b1) + b2."""

    def __init__(self, stream: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(stream, hidden), nn.Linear(hidden, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, stream) to features."""
        result: Tensor = x + self.second(F.relu(self.first(x)))
        return result


def residual_mlp(stream: int, hidden: int, blocks: int) -> nn.Sequential:
    """A linear layer stream -> stream without bias, residual blocks, and another such layer: the stream's units are one cell."""
    ends = [nn.Linear(stream, stream, bias=False) for _ in range(2)]
    return nn.Sequential(ends[0], *(ResidualBlock(stream, hidden) for _ in range(blocks)), ends[1])


def images(size: int = 16, channels: int = 3) -> Tensor:
    """An example input (1, channels, size, size)."""
    return torch.zeros(1, channels, size, size)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP": (lambda: mlp((64, 64, 64), (1, 8, 8)), lambda: images(8, 1)),
    "CNN": (lambda: cnn((16, 24, 32), 48, (3, 16, 16)), images),
    "VGG": (lambda: vgg(((16,), (24,), (32, 32), (48,)), hidden=(48,)), images),
    "VGG-BN": (lambda: vgg(((16,), (24,), (32, 32), (48,)), hidden=(48,), batch_norm=True), images),
    "ResNet": (lambda: resnet((2, 2, 2), 16), images),
    "DenseNet": (lambda: densenet((3, 3), 12), images),
    "Transformer": (lambda: Transformer(12, 6, 32, 4, 48, 2), lambda: torch.zeros(1, 6, 12)),
}
"""Compact networks of every family: how to build one, and its example input."""
