"""The identity: networks as they are."""

from __future__ import annotations

from dataclasses import dataclass

from graphalign import group
from graphalign.methods.problem import Problem, Solution


@dataclass(frozen=True)
class Naive:
    """The permutations that move nothing, the baseline of every comparison."""

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem."""
        return Solution(group.identity(problem.spec))
