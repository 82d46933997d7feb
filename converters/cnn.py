"""Convolutional networks without skip connections from a bare state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from .chain_layers import ChainLayer, refuse
from .chain_module import GLOBAL_POOLS, MAX_POOLS, activation_module, build, example
from .chain_order import read_chain

POOLED_SIDE = 8


def cnn_network(state: Mapping[str, Tensor], activation: str = "relu") -> tuple[nn.Module, Tensor]:
    """A network with these convolutions and linear layers, and an example input (1, I, *positions).

    The network has the symmetries of yours but need not compute its function: strides, padding and pooling leave no trace in a
    state dict. Every convolution here keeps the resolution, which has as many positions as the first linear layer reads
    per channel (a square if that is a square number, else one row); with one position per channel, or no linear layer, there is
    global average pooling. Batch norms are placed before the activation, as in `mlp_network`.

    Args:
        state: kernels (O, I, *kernel) of one rank, weights (O, I), biases and batch-norm tensors; shared with the module, not
            modified.
        activation: of the hidden layers, as in `mlp_network`. For all but ReLU a max-pooling over single positions is
            added, because with it a unit's sign is not free.

    Raises:
        InvalidInput: the tensors are no chain of convolutions and linear layers; every reason is listed.
    """
    layers = read_chain(state)
    refuse([] if layers[0].is_conv else ["there is no convolution in it; for linear layers alone use mlp_network"])
    return convolutional(layers, activation)


def positions_per_channel(layers: tuple[ChainLayer, ...]) -> int:
    """Inputs of the first linear layer per channel of the last convolution; 1 without a linear layer."""
    last = max(i for i, layer in enumerate(layers) if layer.is_conv)
    return int(layers[last + 1].weight.shape[1]) // layers[last].matrix.channels if last + 1 < len(layers) else 1


def convolutional(layers: tuple[ChainLayer, ...], activation: str) -> tuple[nn.Module, Tensor]:
    """As `cnn_network`, from layers that have been read."""
    rank = layers[0].weight.dim()
    count = positions_per_channel(layers)
    side = math.isqrt(count)
    grid = [1] * (rank - 2)
    if count == 1:
        grid = [POOLED_SIDE] * (rank - 2)
    elif rank > 3 and side * side == count:
        grid[-2:] = [side, side]
    else:
        grid[-1] = count
    after: list[list[nn.Module]] = []
    for i, layer in enumerate(layers):
        here: list[nn.Module] = []
        if i + 1 < len(layers):
            here.append(activation_module(activation))
            if layer.is_conv and activation != "relu":
                here.append(MAX_POOLS[rank](1))
        if layer.is_conv and (i + 1 == len(layers) or not layers[i + 1].is_conv):
            here += [*([GLOBAL_POOLS[rank](1)] if count == 1 else []), nn.Flatten()]
        after.append(here)
    return build(layers, after), example(layers, grid)
