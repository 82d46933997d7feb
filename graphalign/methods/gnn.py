"""The learned model: scores from the two networks, then a few learned steps towards consensus, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphalign.aligner import SCORE_ENTRIES, Aligner, common_type, score_entries
from graphalign.architecture import Architecture
from graphalign.assignment import assign_spec
from graphalign.cellwise import is_large
from graphalign.converted import sample_of
from graphalign.encoder import chunk_size, chunk_sizes, forward_cost
from graphalign.errors import InvalidInput, UnsupportedNetwork
from graphalign.example_batches import example_batches
from graphalign.methods.candidates import Opinions
from graphalign.methods.consensus import Choice, Steps
from graphalign.methods.descent import Pairs
from graphalign.methods.objectives import read_examples
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.synthetic import call_arguments
from graphalign.program import Program
from graphalign.stacked import encode_pairs

STEP_BUDGET = 1e9
"""Multiplications of one step on all its inputs, from which their number follows for large networks without data."""
FEWEST_EXAMPLES = 64
REFINE_BUDGET = 1.5e11
"""Multiplications of all steps without data, from which the number of steps follows for large networks unless it is given."""
PASSES_OF_A_STEP = 4
"""Forward passes that a step costs: one with its derivative, and one to judge."""
MIXES_OF_A_STEP = 3
"""Times that a step multiplies weights by matrices of units: to move them softly, and for its two derivatives."""


@dataclass(frozen=True)
class GNN:
    """Permutations predicted by the aligner: scores, then steps of its refiner, on inputs of the user or on its own.

    The steps lower the disagreement of the network between A and the moved B with the mean prediction of the two (see `Consensus`).
    Networks that have no derivative, and without data those that read tokens alone, get the permutations of the scores.

    Attributes:
        aligner: an `Aligner`, or the folder of a saved one; the one that comes with the package if None.
        steps: of refinement, 0 for the scores alone; if None the aligner's own number, or without data as many of them as a large network
            can afford: none where its scores have more than `aligner.SCORE_ENTRIES` entries.
        examples: most inputs of the user that are read.
        predictions: see `Consensus`.
    """

    aligner: Aligner | str | Path | None = None
    steps: int | None = None
    examples: int = 512
    predictions: Choice = "auto"

    def __post_init__(self) -> None:
        problems = [f"steps={self.steps!r}, expected at least 0"] if self.steps is not None and self.steps < 0 else []
        problems += [f"examples={self.examples!r}, expected at least 1"] if self.examples < 1 else []
        if problems:
            raise InvalidInput("gnn: found " + "; ".join(problems))

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem.

        Raises:
            InvalidInput: the architecture is unknown (only a spec was given), the folder holds no aligner, or data that do not fit.
            CorruptFile: the aligner in the folder cannot be read.
        """
        problem.require("gnn", "architecture")
        assert problem.architecture is not None
        aligner = self.aligner if isinstance(self.aligner, Aligner) else pretrained(self.aligner)
        a, b = common_type(problem.a, problem.b)
        inputs = self._inputs(aligner, problem, a, b)
        steps = self._steps(aligner, problem, inputs)
        found = Solution(*aligner.solve(problem.architecture, a, b, inputs, seed=problem.seed, whole=steps > 0))
        if not steps or found.scores is None:
            return found
        try:
            return self._refine(aligner, problem, found.scores, inputs, steps)
        except UnsupportedNetwork:  # it has no derivative
            return found

    def solve(self, problems: Sequence[Problem], opinions: Opinions | None = None) -> list[Solution]:
        """The solutions of problems of one architecture: what each gets alone, up to rounding and ties.

        Candidates for the codes are drawn once, and every network is asked for its opinion of them once. Problems whose seeds, devices or
        types differ, and those of large networks, are solved one by one.

        Args:
            problems: that have the data and the integer tensors of the first.
            opinions: of problems that were solved before, to be used and added to.

        Raises:
            InvalidInput: different architectures, or as a call.
        """
        if len(problems) == 1 or not _uniform(problems):
            return [self(problem) for problem in problems]
        aligner = self.aligner if isinstance(self.aligner, Aligner) else pretrained(self.aligner)
        first, pairs = problems[0], Pairs.of(problems)
        architecture = first.architecture
        assert architecture is not None
        if first.data is None:
            inputs = (opinions or Opinions()).codes(aligner, problems)
        else:
            given = self._inputs(aligner, first, *common_type(first.a, first.b))
            inputs = {name: values.expand(len(problems), *values.shape) for name, values in given.items()}
        one = {name: values[0] for name, values in inputs.items()}
        steps = self._steps(aligner, first, one)
        with torch.no_grad():
            shared = [{n: t for n, t in s.items() if not t.is_floating_point()} for s in (first.a, first.b)]
            agreements = encode_pairs(architecture, pairs.a, pairs.b, inputs, seed=first.seed, shared=(shared[0], shared[1]))
            scores = aligner.combine(pairs.spec, pairs.a, pairs.b, agreements)
            found = assign_spec(pairs.spec, scores)
            solutions = [Solution({n: e[i] for n, e in found.items()}, {n: s[i] for n, s in scores.items()}) for i in range(len(problems))]
            begun = {name: aligner.refiner.begin(s) for name, s in scores.items()}
        if not steps:
            return solutions
        layers = Steps(aligner.refiner, steps, aligner.config.sinkhorn_iterations, predictions=self.predictions)
        try:
            if first.data is not None:
                return layers.solve(problems, pairs, begun, self._examples(first, pairs, one))
            program = Program(architecture)
            parts = [{n: t[:, part] for n, t in inputs.items()} for part in example_parts(architecture, one)]
            return layers.solve(problems, pairs, begun, [parts], lambda own: call_arguments(program, own))
        except UnsupportedNetwork:  # it has no derivative
            return solutions

    def _steps(self, aligner: Aligner, problem: Problem, inputs: Mapping[str, Tensor]) -> int:
        if problem.module is None or not problem.spec.cells or not refinable(problem):
            return 0
        if self.steps is not None:
            return self.steps
        if problem.data is not None or not inputs:
            return aligner.config.steps
        assert problem.architecture is not None
        if score_entries(problem.spec) > SCORE_ENTRIES:  # a step holds them all, several times
            return 0
        return min(aligner.config.steps, int(REFINE_BUDGET / step_cost(problem.architecture, inputs)))

    def _inputs(self, aligner: Aligner, problem: Problem, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert problem.architecture is not None
        if problem.data is None:
            return aligner.codes(problem.architecture, a, b, seed=problem.seed)
        sample = sample_of(a)
        program = Program(problem.architecture)
        parts = list(_first(example_batches(program, problem.data, sample, chunk_size(problem.architecture)), self.examples))
        return {name: torch.cat([part[name] for part in parts])[: self.examples] for name in parts[0]}

    def _refine(
        self, aligner: Aligner, problem: Problem, scores: dict[str, Tensor], inputs: dict[str, Tensor], steps: int
    ) -> Solution:
        assert problem.architecture is not None
        pairs = Pairs.of([problem])
        with torch.no_grad():
            begun = {name: aligner.refiner.begin(s[None]) for name, s in scores.items()}
        layers = Steps(aligner.refiner, steps, aligner.config.sinkhorn_iterations, predictions=self.predictions)
        return layers.solve([problem], pairs, begun, self._examples(problem, pairs, inputs))[0]

    def _examples(self, problem: Problem, pairs: Pairs, inputs: dict[str, Tensor]) -> list[list[Any]]:
        if problem.data is not None:
            return [read_examples(next(iter(pairs.a.values())), problem.data, 1, self.examples)[0]]
        assert problem.architecture is not None
        return [code_examples(problem.architecture, inputs)]


def code_examples(architecture: Architecture, inputs: Mapping[str, Tensor]) -> list[Any]:
    """The parts of the batch of every step without data: as many codes as `STEP_BUDGET` allows.

    Args:
        architecture: of the network.
        inputs: codes by placeholder name, (C, *shape).
    """
    program = Program(architecture)
    return [call_arguments(program, {n: t[part] for n, t in inputs.items()}) for part in example_parts(architecture, inputs)]


def example_parts(architecture: Architecture, inputs: Mapping[str, Tensor]) -> list[slice]:
    """The codes of every part of a step's batch."""
    sizes = chunk_sizes(architecture, example_count(architecture, inputs))
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def example_count(architecture: Architecture, inputs: Mapping[str, Tensor]) -> int:
    """How many of the codes a step sees."""
    return min(len(next(iter(inputs.values()))), max(FEWEST_EXAMPLES, int(STEP_BUDGET / forward_cost(architecture))))


def step_cost(architecture: Architecture, inputs: Mapping[str, Tensor]) -> float:
    """Multiplications of one step: of its examples on their way through the network, and of the weights by soft permutations."""
    spec, mixed = architecture.spec, 0.0
    for layout in spec.axes:
        moved = sum(s.count * s.repeat * spec.by_name[s.cell].units for s in layout.segments if s.cell is not None)
        mixed += math.prod(spec.shapes[layout.tensor]) / spec.shapes[layout.tensor][layout.axis] * moved
    return PASSES_OF_A_STEP * example_count(architecture, inputs) * forward_cost(architecture) + MIXES_OF_A_STEP * mixed


def refinable(problem: Problem) -> bool:
    """Whether there are inputs to refine on: the user's, or codes, of which random tokens were not found to serve."""
    assert problem.architecture is not None
    inputs = Program(problem.architecture).inputs.values()
    return problem.data is not None or any(example.is_floating_point() for example in inputs)


UNTRAINED = GNN(Aligner(), steps=0)
"""Random codes, weights of the messages set by hand, and no steps: what training starts from."""


@lru_cache(maxsize=4)
def pretrained(folder: str | Path | None) -> Aligner:
    """The aligner of a folder, read once."""
    return Aligner.from_pretrained(folder)


def _uniform(problems: Sequence[Problem]) -> bool:
    """Whether problems can be solved together: one seed, device and type of tensors, and a network that is not large."""
    first = problems[0]
    kinds = {(t.device, t.dtype == torch.float64) for p in problems for s in (p.a, p.b) for t in s.values() if t.is_floating_point()}
    one = len(kinds) == 1 and len({problem.seed for problem in problems}) == 1
    return one and first.architecture is not None and bool(first.spec.cells) and not is_large(first.architecture)


def _first(parts: Iterator[dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
    """Parts until they hold `count` examples."""
    seen = 0
    for part in parts:
        yield part
        seen += len(next(iter(part.values())))
        if seen >= count:
            return
