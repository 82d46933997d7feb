"""Judging an aligner: the loss barriers of its hard permutations on networks of the validation split, without and with data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign.aligner import Aligner
from graphalign.assignment import assign_spec
from graphalign.methods.consensus import Steps
from graphalign.methods.descent import Pairs
from graphalign.methods.gnn import code_examples
from graphalign.methods.problem import Problem
from graphalign.training.cases import Case
from graphalign.training.views import View, Views

MODES = {"codes": False, "inputs": True}
"""Without data, on the aligner's own codes, and with unlabelled inputs."""
FLOOR = 0.01
"""Added to both barriers of a ratio: differences between barriers much smaller than this are noise."""

Barriers = Mapping[str, Mapping[str, float]]
"""Mean barrier over the pairs by mode and group."""


@dataclass(frozen=True)
class Judge:
    """Pairs of the validation split, and how they are measured.

    Attributes:
        cases: architectures.
        pairs: of each, the first ones.
        images: held-out images.
    """

    cases: Sequence[Case]
    pairs: int
    images: int

    def barriers(self, aligner: Aligner, views: Views) -> Barriers:
        """Mean barrier of the hard permutations by mode and group.

        Args:
            aligner: to be judged, as the method "gnn" runs it.
            views: of its codes and of real inputs.
        """
        found: dict[str, dict[str, float]] = {}
        for mode, real in MODES.items():
            found[mode] = {}
            for case in self.cases:
                count = len(case.states)
                chosen = [(i, j) for i in range(count) for j in range(i + 1, count)]
                chosen = sorted(chosen, key=lambda pair: (pair[1] - pair[0], pair[0]))[: self.pairs]
                values = [self._barrier(aligner, views, case, i, j, real) for i, j in chosen]
                found[mode][case.group.name] = sum(values) / len(values)
        return found

    def _barrier(self, aligner: Aligner, views: Views, case: Case, a: int, b: int, real: bool) -> float:
        problem = case.problem(a, b)
        return case.barrier(problem, permutations(aligner, case, problem, views.get(case, a, b, real=real), real), self.images)


@torch.no_grad()
def permutations(aligner: Aligner, case: Case, problem: Problem, view: View, real: bool) -> dict[str, Tensor]:
    """What the method "gnn" finds, from a view that is known already.

    Args:
        aligner: with its own number of steps.
        case: the group.
        problem: a pair of it.
        view: of the pair.
        real: whether its inputs are real.
    """
    scores = aligner.combine(problem.spec, problem.a, problem.b, view.agreement)
    if not aligner.config.steps:
        return assign_spec(problem.spec, scores)
    begun = {name: aligner.refiner.begin(s[None]) for name, s in scores.items()}
    examples = [view.inputs_of_call()] if real else code_examples(case.architecture, view.inputs)
    layers = Steps(aligner.refiner, aligner.config.steps, aligner.config.sinkhorn_iterations)
    return layers.solve([problem], Pairs.of([problem]), begun, [examples])[0].permutations


def ratio(found: Barriers, reference: Barriers, mode: str | None = None) -> float:
    """Geometric mean over groups (and modes, if None is given) of the ratios of two sets of barriers; lower is better."""
    logs = [
        math.log((max(value, 0.0) + FLOOR) / (max(reference[m][name], 0.0) + FLOOR))
        for m in (MODES if mode is None else (mode,)) for name, value in found[m].items()
    ]  # fmt: skip
    return math.exp(sum(logs) / len(logs))
