"""VGG networks (Simonyan and Zisserman, 2014, arXiv 1409.1556, table 1) from a bare state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from .chain_layers import ChainLayer, refuse
from .chain_module import build, example
from .chain_order import read_chain
from .cnn import positions_per_channel

STAGES = {8: (1, 1, 2, 2, 2), 10: (2, 2, 2, 2, 2), 13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}
"""Convolutions per stage of VGG-11, 13, 16 and 19, by their number."""


def vgg_network(state: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor]:
    """A VGG-11, 13, 16 or 19 of any width, with or without batch norm, and an example input (1, I, H, W).

    It computes the function of the standard network: 3 x 3 convolutions with padding 1, each followed by ReLU, max-pooling after
    every stage, and a head of linear layers with ReLU between them. H = W = 32 sqrt(P) for P positions per channel at the first
    linear layer: 32 for the heads used with CIFAR, 224 for the original one.

    Args:
        state: kernels (O, I, 3, 3), weights (O, I), biases and batch-norm tensors; shared with the module, not modified.

    Raises:
        InvalidInput: the tensors are no VGG; every reason is listed.
    """
    layers = read_chain(state)
    refuse(vgg_problems(layers))
    return visual_geometry_group(layers)


def vgg_problems(layers: tuple[ChainLayer, ...]) -> list[str]:
    """Why a chain is no VGG; empty if it is one."""
    convs = [layer for layer in layers if layer.is_conv]
    problems = [
        f"'{layer.matrix.key('weight')}' has shape {tuple(layer.weight.shape)}, expected (out, in, 3, 3)"
        for layer in convs
        if tuple(layer.weight.shape[2:]) != (3, 3)
    ]
    if len(convs) not in STAGES:
        problems.append(
            f"there are {len(convs)} convolutions, expected one of {sorted(STAGES)}; for other networks use cnn_network"
        )
    elif len({layer.norm is None for layer in convs}) > 1:
        problems.append("some convolutions have a batch norm and some have none; for such networks use cnn_network")
    else:
        ends = [sum(STAGES[len(convs)][:i]) for i in range(6)]
        for first, last in pairwise(ends):
            widths = [layer.matrix.channels for layer in convs[first:last]]
            if len(set(widths)) > 1:
                problems.append(
                    f"convolutions {first} to {last - 1} are one stage but have {widths} channels; for such networks use cnn_network"
                )
    if len(convs) == len(layers):
        problems.append("there is no linear layer; for such networks use cnn_network")
    elif convs and math.isqrt(positions := positions_per_channel(layers)) ** 2 != positions:
        problems.append(f"the first linear layer reads {positions} positions per channel, expected a square number")
    return problems


def visual_geometry_group(layers: tuple[ChainLayer, ...]) -> tuple[nn.Module, Tensor]:
    """As `vgg_network`, from layers that are known to be a VGG."""
    count = sum(layer.is_conv for layer in layers)
    ends = {sum(STAGES[count][: i + 1]) - 1 for i in range(5)}
    after: list[list[nn.Module]] = []
    for i in range(len(layers)):
        here: list[nn.Module] = [nn.ReLU()] if i + 1 < len(layers) else []
        here += [nn.MaxPool2d(2)] if i in ends else []
        here += [nn.Flatten()] if i + 1 == count else []
        after.append(here)
    side = 32 * math.isqrt(positions_per_channel(layers))
    return build(layers, after), example(layers, (side, side))
