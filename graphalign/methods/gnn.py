"""The learned model in one pass, without data."""

from __future__ import annotations

from torch import Tensor

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.methods.problem import Problem


def gnn(problem: Problem) -> dict[str, Tensor]:
    """Permutations predicted by the aligner from the two networks alone.

    Raises:
        InvalidInput: the architecture is unknown (only a spec was given).
    """
    if problem.architecture is None:
        raise InvalidInput("method 'gnn' runs the network on codes and needs its architecture: pass modules and an example_input")
    aligner = problem.aligner or Aligner.from_pretrained()
    return aligner.permutations(problem.architecture, problem.a, problem.b, seed=problem.seed)
