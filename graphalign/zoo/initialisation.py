"""Initialisations: the weights that training starts from, drawn from a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from graphalign.zoo.networks import Sine


def initialise(network: nn.Module, initialisation: str, generator: Generator) -> None:
    """Draws the weights of linear and convolutional layers in place, in the order of the modules; norms start as the identity.

    Args:
        network: made of linear and convolutional layers, BatchNorm and modules without parameters.
        initialisation: a key of `INITIALISATIONS`.
        generator: of the random numbers, on the CPU.
    """
    with torch.no_grad():
        draw = INITIALISATIONS[initialisation]
        frequency = next((m.frequency for m in network.modules() if isinstance(m, Sine)), 1.0)
        first = True
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear | nn.Conv2d):
                draw(module.weight, module.bias, generator, 0.0 if first else frequency)
                first = False


Draw = Callable[[Tensor, Tensor | None, Generator, float], None]


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()


def _uniform(tensor: Tensor, bound: float, generator: Generator) -> None:
    tensor.uniform_(-bound, bound, generator=generator)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        bias.zero_()


def _he(weight: Tensor, bias: Tensor | None, generator: Generator, _: float) -> None:
    weight.normal_(0, math.sqrt(2 / _fan_in(weight)), generator=generator)
    _zero(bias)


def _xavier(weight: Tensor, bias: Tensor | None, generator: Generator, _: float) -> None:
    positions = weight[0, 0].numel() if weight.dim() > 2 else 1
    _uniform(weight, math.sqrt(6 / (_fan_in(weight) + len(weight) * positions)), generator)
    _zero(bias)


def _pytorch(weight: Tensor, bias: Tensor | None, generator: Generator, _: float) -> None:
    bound = 1 / math.sqrt(_fan_in(weight))
    _uniform(weight, bound, generator)
    if bias is not None:
        _uniform(bias, bound, generator)


def _siren(weight: Tensor, bias: Tensor | None, generator: Generator, frequency: float) -> None:
    fan_in = _fan_in(weight)
    _uniform(weight, math.sqrt(6 / fan_in) / frequency if frequency else 1 / fan_in, generator)
    if bias is not None:
        _uniform(bias, 1 / math.sqrt(fan_in), generator)


INITIALISATIONS: dict[str, Draw] = {"he": _he, "xavier": _xavier, "pytorch": _pytorch, "siren": _siren}
"""By name.

- he: normal of variance 2 / fan-in, zero biases (He et al. 2015, arXiv 1502.01852).
- xavier: uniform of variance 2 / (fan-in + fan-out), zero biases (Glorot and Bengio 2010).
- pytorch: uniform of variance 1 / (3 fan-in), biases too: what PyTorch's layers draw.
- siren: first layer uniform in ±1 / fan-in, others in ±sqrt(6 / fan-in) / w0 (Sitzmann et al. 2020, arXiv 2006.09661).
"""
