"""Training one small classifier, the same way in every experiment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def initialise(network: nn.Module) -> None:
    """He initialisation (He et al. 2015, arXiv 1502.01852): normal weights of variance 2 / fan-in, zero biases."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def keep_initialisation(network: nn.Module) -> None:
    """Leaves the weights as PyTorch has drawn them: uniform, of variance 1 / (3 fan-in), biases too."""


def fit(
    network: nn.Module, x: Tensor, y: Tensor, *, epochs: int, batch: int = 100, rate: float = 1e-3, seed: int = 0,
    layout: torch.memory_format = torch.contiguous_format,
) -> nn.Module:  # fmt: skip
    """Trains a classifier with Adam on cross-entropy, in place, and returns it in eval mode.

    Args:
        network: maps x[i : i + batch] to logits.
        x: inputs (N, ...).
        y: labels (N,), int64.
        epochs: passes over the data, in an order that depends on the seed alone.
        batch: inputs per step.
        rate: learning rate.
        seed: of the order.
        layout: of images and filters while training; channels_last is about twice as fast for convolutions on a CPU.
    """
    if layout == torch.channels_last:
        x, network = x.to(memory_format=layout), network.to(memory_format=layout)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for index in torch.split(order[: len(x) // batch * batch], batch):
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(network(x[index]), y[index]))
            optimiser.step()
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]
