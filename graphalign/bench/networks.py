"""The networks of the benchmarks, by kind and sizes, so that every process can build the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from graphalign.experiments.networks import residual_mlp
from graphalign.zoo.networks import cnn, resnet

Built = tuple[nn.Module, Tensor]
"""A network in eval mode, and inputs for it."""


def mlp(*sizes: int) -> Built:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [*([nn.ReLU()] if layers else []), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers), torch.zeros(1, sizes[0])


def batch_norm_mlp(*sizes: int) -> Built:
    """As `mlp`, with BatchNorm before every ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1])), torch.zeros(1, sizes[0])


def flatten_cnn(first: int, second: int, hidden: int) -> Built:
    """Two convolutions with pooling, a flatten over 4x4 positions, and two linear layers."""
    return cnn((first, second), hidden, (3, 16, 16)), torch.zeros(1, 3, 16, 16)


def residual(stream: int, hidden: int) -> Built:
    """One residual block between two linear layers."""
    return residual_mlp(stream, hidden, 1), torch.zeros(1, stream)


def residual_cnn(width: int) -> Built:
    """Two stages of one residual block each, with BatchNorm."""
    return resnet((1, 1), width), torch.zeros(1, 3, 16, 16)


def bias_only(inputs: int, hidden: int) -> Built:
    """One hidden layer whose units have equal weights: only their biases tell them apart."""
    network, example = mlp(inputs, hidden, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.fill_(1.0 / parameter.shape[1])
    return network, example


KINDS: dict[str, Callable[..., Built]] = {
    "mlp": mlp, "batch_norm_mlp": batch_norm_mlp, "flatten_cnn": flatten_cnn, "residual": residual, "residual_cnn": residual_cnn,
    "bias_only": bias_only,
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What a configuration says of a network.

    Attributes:
        name: in the tables.
        kind: a key of `KINDS`.
        sizes: arguments of that kind.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]


def build(kind: str, sizes: Sequence[int]) -> Built:
    """A network of a kind in eval mode and one example input; weights come from the global generator."""
    network, example = KINDS[kind](*sizes)
    return network.eval(), example
