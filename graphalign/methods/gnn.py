"""The learned model in one pass, without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from graphalign.aligner import Aligner
from graphalign.assignment import assign_spec
from graphalign.methods.problem import Problem, Solution


@dataclass(frozen=True)
class GNN:
    """Permutations predicted by the aligner from the two networks alone.

    Attributes:
        aligner: an `Aligner`, or the folder of a saved one; the default aligner if None.
    """

    aligner: Aligner | str | Path | None = None

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem.

        Raises:
            InvalidInput: the architecture is unknown (only a spec was given), or the folder holds no aligner.
            CorruptFile: the aligner in the folder cannot be read.
        """
        problem.require("gnn", "architecture")
        assert problem.architecture is not None
        aligner = self.aligner if isinstance(self.aligner, Aligner) else Aligner.from_pretrained(self.aligner)
        with torch.no_grad():
            scores = aligner.scores(problem.architecture, problem.a, problem.b, seed=problem.seed)
        return Solution(assign_spec(problem.spec, scores), scores)
