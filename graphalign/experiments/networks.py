"""The networks that the experiments measure besides those of the zoo: full-size ones, and one compact network per family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign.zoo.networks import cnn, mlp, resnet, vgg

VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


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
