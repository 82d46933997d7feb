"""The identity: networks as they are."""

from __future__ import annotations

from torch import Tensor

from graphalign import group
from graphalign.methods.problem import Problem


def naive(problem: Problem) -> dict[str, Tensor]:
    """The permutations that move nothing, the baseline of every comparison."""
    return group.identity(problem.spec)
