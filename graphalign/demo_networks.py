"""The four networks of the demonstration, for 8x8 images and ten classes: narrow, so that a bad alignment shows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

CLASSES = 10


def perceptron() -> nn.Module:
    """An MLP with three hidden layers of 64 units."""
    widths = (64, 64, 64, 64)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def convolutional() -> nn.Module:
    """A CNN with three convolutions, a flatten over 2x2 positions and a hidden linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(),
        nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 2 * 2, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def vgg() -> nn.Module:
    """A VGG with BatchNorm: three stages of one or two convolutions, global average pooling."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (24, 32, 0, 48, 48, 0, 64):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), head=_head(channels)))


def residual() -> nn.Module:
    """A ResNet with BatchNorm: identity and projection shortcuts, global average pooling."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            stage1=nn.Sequential(BasicBlock(24, 24, 1), BasicBlock(24, 24, 1)),
            stage2=nn.Sequential(BasicBlock(24, 48, 2), BasicBlock(48, 48, 1)),
            head=_head(48),
        )
    )


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))) (He et al. 2016, arXiv 1512.03385), with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.shortcut(x) + self.bn2(self.conv2(y)))
        return result


def _head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mlp": ("MLP", perceptron),
    "cnn": ("CNN", convolutional),
    "vgg": ("VGG + BN", vgg),
    "resnet": ("ResNet + BN", residual),
}
