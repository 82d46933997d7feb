"""Solving several problems of one architecture at once, by the methods that can."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphalign.architecture import Architecture
from graphalign.cellwise import is_large
from graphalign.methods.candidates import Opinions
from graphalign.methods.consensus import Consensus
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.registry import Solver
from graphalign.methods.sinkhorn import Sinkhorn

EXAMPLES = 512
"""Examples of a step, about."""
LIVES = 6
"""Copies of activations, weights and scores that a step holds at once, about: values, derivatives, and what they are computed from."""
MOST = 256
"""Most problems that are solved at once: beyond it calls cost nothing any more."""


class Batches:
    """A method for several problems at once; what their networks share is kept from one call to the next.

    Args:
        solver: the method. Those that cannot treat several problems at once are called for one after the other.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.opinions = Opinions()

    def __call__(self, problems: Sequence[Problem]) -> list[Solution]:
        """The solution of each problem: what it gets alone, up to rounding and ties.

        Args:
            problems: of one architecture, with one seed and the same data, tensors of one type on one device; integer tensors are
                those of the first.
        """
        if len(problems) > 1 and isinstance(self.solver, GNN):
            return self.solver.solve(problems, self.opinions)
        if len(problems) > 1 and isinstance(self.solver, Consensus | Sinkhorn):
            return self.solver.solve(problems)
        return [self.solver(problem) for problem in problems]


def batch_size(architecture: Architecture, memory: int) -> int:
    """How many problems are solved at once; 1 for large networks, which fill the machine by themselves.

    Args:
        architecture: of the networks.
        memory: bytes for what is computed of them.
    """
    if is_large(architecture):
        return 1
    activations = EXAMPLES * sum(math.prod(layer.shape) for layer in architecture.layers)
    weights = sum(math.prod(shape) for shape in architecture.spec.shapes.values())
    scores = sum(cell.units**2 for cell in architecture.spec.cells)
    return max(1, min(MOST, int(memory / (4 * LIVES * (activations + weights + scores)))))
