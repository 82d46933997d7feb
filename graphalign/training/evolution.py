"""Derivatives of what has none: hard permutations after many steps, as a function of a few numbers.

Evolution strategies estimate the gradient of a smoothed loss from the losses at random points (Rechenberg 1973; for learned
optimisers, whose unrolled gradients mislead: Metz et al. 2019, arXiv 1810.10180). With few parameters that is precise enough, and
there is nothing to cheat with: what is compared are losses of networks that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graphalign.aligner import Aligner

FEW = 8
"""Entries of the largest parameter that is perturbed."""


def few_numbers(aligner: Aligner) -> list[torch.nn.Parameter]:
    """Parameters of a few numbers on which permutations depend: the weights of the messages, and the refiner's rates."""
    return [p for name, p in aligner.named_parameters() if p.numel() <= FEW and name != "temperature"]


def estimate(
    parameters: Sequence[torch.nn.Parameter], loss: Callable[[], Tensor], deviation: float, generator: torch.Generator
) -> Tensor:
    """A scalar of the value (L(p + e) + L(p - e)) / 2 with the derivative e (L(p + e) - L(p - e)) / 2 s^2 by p, e ~ N(0, s^2).

    The expectation of the derivative is that of E L(p + e) by p.

    Args:
        parameters: p; perturbed while the loss is computed, and restored.
        loss: L, as a function of the current values of the parameters; called twice, with the same randomness both times.
        deviation: s.
        generator: source of the perturbations, on the CPU.
    """
    before = [p.detach().clone() for p in parameters]
    noise = [deviation * torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    values = []
    with torch.no_grad():
        try:
            for sign in (1.0, -1.0):
                for p, old, e in zip(parameters, before, noise, strict=True):
                    p.copy_(old + sign * e)
                values.append(loss())
        finally:
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
    slope = (values[0] - values[1]) / (2 * deviation**2)
    linear = torch.stack([(p * e).sum() for p, e in zip(parameters, noise, strict=True)]).sum()
    return 0.5 * (values[0] + values[1]) + slope * (linear - linear.detach())
