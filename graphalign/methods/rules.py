"""How the scores of a descent follow their gradients: Adam, or the learned step of a refiner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from graphalign.refiner import Refiner


class Rule(Protocol):
    """How scores follow their gradients."""

    def begin(self, leaves: dict[str, Tensor]) -> Callable[[float], None]:
        """A function of the share of steps done that moves `leaves`, by cell (P, U, U), along their `.grad`, in place."""


@dataclass(frozen=True)
class Adam:
    """The rule of Kingma and Ba 2014, arXiv 1412.6980.

    Attributes:
        rate: learning rate.
    """

    rate: float

    def begin(self, leaves: dict[str, Tensor]) -> Callable[[float], None]:
        """See `Rule`."""
        optimiser = torch.optim.Adam(list(leaves.values()), lr=self.rate)
        return lambda time: optimiser.step() and None


@dataclass(frozen=True)
class Refined:
    """The rule of a refiner.

    Attributes:
        refiner: its parameters are not changed.
    """

    refiner: Refiner

    def begin(self, leaves: dict[str, Tensor]) -> Callable[[float], None]:
        """See `Rule`."""
        velocities = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}

        def step(time: float) -> None:
            with torch.no_grad():
                for name, leaf in leaves.items():
                    if leaf.grad is not None:
                        moved, velocities[name] = self.refiner(leaf, leaf.grad, velocities[name], time)
                        leaf.copy_(moved)

        return step
