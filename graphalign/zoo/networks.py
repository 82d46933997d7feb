"""The networks of a population: small classifiers of four families, and sine networks that represent an image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU,
}  # fmt: skip


def mlp(widths: Sequence[int], image: Shape, classes: int = 10, *, activation: str = "relu") -> nn.Sequential:
    """Flatten, linear layers of the widths given with an activation after each, logits."""
    sizes = [image[0] * image[1] * image[2], *widths]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def cnn(
    channels: Sequence[int], hidden: int, image: Shape, classes: int = 10, *, kernel: int = 3, activation: str = "relu",
) -> nn.Sequential:  # fmt: skip
    """Convolutions, each with an activation and a 2x2 max pooling, then a flatten over all positions and one hidden linear layer."""
    inputs, height, width = image
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), ACTIVATIONS[activation](), nn.MaxPool2d(2)]
        inputs, height, width = outputs, height // 2, width // 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(inputs * height * width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, classes)
    )  # fmt: skip


def vgg(
    stages: Sequence[Sequence[int]], *, batch_norm: bool = False, hidden: Sequence[int] = (), pool: int = 1, classes: int = 10,
    channels: int = 3, activation: str = "relu",
) -> nn.Module:  # fmt: skip
    """VGG (Simonyan and Zisserman 2014, arXiv 1409.1556): stages of 3x3 convolutions, each followed by a 2x2 max pooling.

    Args:
        stages: widths of the convolutions of each stage.
        batch_norm: BatchNorm after every convolution.
        hidden: widths of the linear layers between the features and the logits.
        pool: the features are averaged to pool x pool positions before they are flattened.
        classes: number of logits.
        channels: of the images.
        activation: a key of `ACTIVATIONS`.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for widths in stages:
        for outputs in widths:
            norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, ACTIVATIONS[activation]()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(pool), nn.Flatten()]
    features = inputs * pool * pool
    for outputs in hidden:
        head += [nn.Linear(features, outputs), ACTIVATIONS[activation]()]
        features = outputs
    head.append(nn.Linear(features, classes))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), classifier=nn.Sequential(*head)))


class Block(nn.Module):
    """act(x + f(x)) (He et al. 2015, arXiv 1512.03385): f is two 3x3 convolutions, or 1x1, 3x3 and 1x1 in a bottleneck."""

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool, activation: str = "relu") -> None:
        super().__init__()
        kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        widths = (inputs, planes, planes, 4 * planes) if bottleneck else (inputs, planes, planes)
        layers: list[nn.Module] = []
        for i, (kernel, step) in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            layers += [*([ACTIVATIONS[activation]()] if i else []), conv, nn.BatchNorm2d(widths[i + 1])]
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != widths[-1]:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, widths[-1], 1, stride, bias=False), nn.BatchNorm2d(widths[-1]))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to features."""
        result: Tensor = self.activation(self.shortcut(x) + self.body(x))
        return result


def resnet(
    repeats: Sequence[int], width: int, *, bottleneck: bool = False, imagenet_stem: bool = False, classes: int = 10,
    channels: int = 3, activation: str = "relu",
) -> nn.Module:  # fmt: skip
    """Stages of residual blocks, of double width and half resolution from one stage to the next.

    `resnet((3, 4, 6, 3), 64, bottleneck=True, imagenet_stem=True, classes=1000)` is ResNet-50, 25,557,032 parameters.
    """
    kernel, stride = (7, 2) if imagenet_stem else (3, 1)
    stem: list[nn.Module] = [
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), ACTIVATIONS[activation]()
    ]  # fmt: skip
    stem += [nn.MaxPool2d(3, 2, 1)] if imagenet_stem else []
    blocks: list[nn.Module] = []
    inputs = width
    for i, count in enumerate(repeats):
        for j in range(count):
            blocks.append(Block(inputs, width << i, 2 if i and not j else 1, bottleneck, activation))
            inputs = (width << i) * (4 if bottleneck else 1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return nn.Sequential(OrderedDict(stem=nn.Sequential(*stem), blocks=nn.Sequential(*blocks), head=head))


class Sine(nn.Module):
    """sin(w0 x)."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        """Features to features of the same shape."""
        return torch.sin(self.frequency * x)


def siren(widths: Sequence[int], outputs: int = 1, *, frequency: float = 30.0) -> nn.Sequential:
    """An image as a function of coordinates (N, 2) (Sitzmann et al. 2020, arXiv 2006.09661): linear layers and sines.

    Args:
        widths: of the hidden layers.
        outputs: channels of the image.
        frequency: w0, the factor in front of every sine's argument.
    """
    layers: list[nn.Module] = []
    for inputs, hidden in pairwise((2, *widths)):
        layers += [nn.Linear(inputs, hidden), Sine(frequency)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
