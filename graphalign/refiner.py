"""The learned step of refinement: from scores and the gradient of an objective by them to the next scores.

A refinement of K steps is a network of K layers with these shared parameters, in which the gradient is one more message. Every
operation is pointwise or a mean over the units of a cell, so permuting either network permutes the result; nothing depends on
the cell, its width or the number of steps except through the smooth terms named below. As it is created the step is the one set by hand:
normalised gradients with momentum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TYPICAL_WIDTH = 64
FEATURES = 6


class Refiner(nn.Module):
    """Steps on the scores X (..., U, U) of a cell.

    With g the gradient divided by its root mean square, t in [0, 1] the time and w = log(U / 64):

        v <- momentum v + g
        X <- X - rate(t, w) (v + mixer(v, g, X / std X, log P, t, w))

    log P is one Sinkhorn iteration of X, rate(t, w) = exp(r0 + r1 t + r2 w), and the mixer a pointwise network of one hidden layer
    whose output weights start at zero. Scores of the stage before are scaled to the standard deviation exp(s0 + s1 w).

    Args:
        rate: exp(r0).
        momentum: before training.
        spread: exp(s0).
        hidden: width of the mixer.
    """

    def __init__(self, rate: float = 0.2, momentum: float = 0.5, spread: float = 3.0, hidden: int = 16) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor([math.log(rate), 0.0, 0.0]))
        self.momentum = nn.Parameter(torch.tensor(math.log(momentum / (1 - momentum))))
        self.log_spread = nn.Parameter(torch.tensor([math.log(spread), 0.0]))
        generator = torch.Generator().manual_seed(0)
        self.hidden = nn.Parameter(torch.randn(FEATURES, hidden, generator=generator) / math.sqrt(FEATURES))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.output = nn.Parameter(torch.zeros(hidden))

    def begin(self, scores: Tensor) -> Tensor:
        """Scores to start from, (..., U, U), of the standard deviation that is learned."""
        width = self._width(scores)
        spread = _beside(torch.exp(self.log_spread[0] + self.log_spread[1] * width), scores)
        return spread * scores / scores.std((-1, -2), keepdim=True).clamp(min=1e-12)

    def forward(self, scores: Tensor, gradient: Tensor, velocity: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """The next scores and the next velocity, (..., U, U).

        Args:
            scores: (..., U, U).
            gradient: of the objective by the scores.
            velocity: of the step before, zero at first.
            time: share of the steps that are done, in [0, 1].
        """
        tiny = torch.finfo(scores.dtype).tiny
        width = self._width(scores)
        gradient = gradient / (gradient.square().mean((-1, -2), keepdim=True).sqrt() + tiny)
        velocity = _beside(torch.sigmoid(self.momentum), scores) * velocity + gradient
        rate = _beside(torch.exp(self.log_rate[0] + self.log_rate[1] * time + self.log_rate[2] * width), scores)
        move = velocity
        if bool((self.output != 0).any()) or torch.is_grad_enabled():
            move = move + self._mix(scores, gradient, velocity, time, width)
        return scores - rate * move, velocity

    def _mix(self, scores: Tensor, gradient: Tensor, velocity: Tensor, time: float, width: float) -> Tensor:
        centred = (scores - scores.mean((-1, -2), keepdim=True)) / scores.std((-1, -2), keepdim=True).clamp(min=1e-12)
        log = scores - 0.5 * (scores.logsumexp(-1, keepdim=True) + scores.logsumexp(-2, keepdim=True))
        first = self.bias + time * self.hidden[4] + width * self.hidden[5]
        total = torch.zeros_like(scores)
        for unit in range(len(self.output)):  # unit by unit: the memory of one matrix, not of all
            into = first[unit] + velocity * self.hidden[0, unit] + gradient * self.hidden[1, unit]
            total = total + self.output[unit] * torch.tanh(into + centred * self.hidden[2, unit] + 0.1 * log * self.hidden[3, unit])
        return total

    def _width(self, scores: Tensor) -> float:
        return math.log(scores.shape[-1] / TYPICAL_WIDTH)


def _beside(number: Tensor, scores: Tensor) -> Tensor:
    """A number in the type and on the device of scores; the host does not wait for the device."""
    return number.to(scores.device, scores.dtype, non_blocking=number.device.type == "cpu")
