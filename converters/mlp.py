"""Multilayer perceptrons from a bare state dict."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .chain_layers import ChainLayer, refuse
from .chain_module import activation_module, build, example
from .chain_order import read_chain


def mlp_network(state: Mapping[str, Tensor], activation: str = "relu") -> tuple[nn.Module, Tensor]:
    """A multilayer perceptron with these weights, and an example input (1, I).

    Linear, batch norm (where there is one), activation; no activation after the last layer. A batch norm is placed before the
    activation: of the two usual places this is the one with fewer symmetries, so nothing is claimed that a network with
    the other lacks.

    Args:
        state: weights (O, I), biases and batch-norm tensors; shared with the module, not modified.
        activation: of the hidden layers; names as `torch.nn.functional`. A state dict does not tell it. "relu" also claims
            the positive-scale freedom that ReLU networks have, so name it if it is another one.

    Raises:
        InvalidInput: the tensors are no chain of linear layers; every reason is listed.
    """
    layers = read_chain(state)
    refuse(
        [
            f"'{layer.matrix.key('weight')}' has shape {tuple(layer.weight.shape)}, expected (out, in)"
            for layer in layers
            if layer.is_conv
        ]
    )
    return perceptron(layers, activation)


def perceptron(layers: tuple[ChainLayer, ...], activation: str) -> tuple[nn.Module, Tensor]:
    """As `mlp_network`, from layers that have been read."""
    after = [[activation_module(activation)] for _ in layers[1:]]
    return build(layers, [*after, []]), example(layers, ())
