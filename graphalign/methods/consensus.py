"""Consensus refinement: a few steps towards a merged network that predicts what the two networks predict on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.forward import Forward, prediction
from graphalign.methods.descent import Descent, Pairs, Tensors, check_descent, start_scores
from graphalign.methods.objectives import Disagreement, Predictions, class_axis, read_examples
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.rules import Refined
from graphalign.methods.synthetic import synthetic_batches
from graphalign.refiner import Refiner

Choice = Literal["auto", "classes", "values"]
INTERVAL = (0.4, 0.6)


@dataclass(frozen=True)
class Steps:
    """Steps of a refiner towards consensus, from scores and on examples that are given.

    Attributes:
        refiner: makes the steps.
        steps: their number.
        iterations: of the Sinkhorn projection.
        every: steps between two looks at the hard permutations.
        predictions: see `Consensus`.
    """

    refiner: Refiner
    steps: int
    iterations: int = 40
    every: int = 1
    predictions: Choice = "auto"

    def solve(
        self, problems: Sequence[Problem], pairs: Pairs, scores: Tensors, examples: list[list[Any]],
        own: Callable[[dict[str, Tensor]], Any] | None = None,
    ) -> list[Solution]:  # fmt: skip
        """One solution per problem; the objective is the disagreement of the hard permutations at the midpoint.

        Args:
            problems: of one architecture; the first one's module is run.
            pairs: the same, stacked.
            scores: by cell (P, U, U), scaled as the refiner wants them.
            examples: batches of the steps, each in parts.
            own: where every pair has its own examples, see `Disagreement`.

        Raises:
            InvalidInput: predictions that are not finite.
        """
        first = problems[0]
        assert first.module is not None
        forward = Forward(first.module, batch_statistics=True)
        part = examples[0][0]
        kind = self._kind(first, Forward(first.module), pairs.a, own({n: t[0] for n, t in part.items()}) if own else part)
        objective = Disagreement(forward, forward, pairs.a, pairs.b, examples, kind, own)
        descent = Descent(Refined(self.refiner), self.steps, self.iterations, INTERVAL, self.every, None, judged=4)
        return descent(pairs, scores, [problem.seed for problem in problems], objective)

    def _kind(self, problem: Problem, ends: Forward, a: Tensors, batch: object) -> Predictions:
        if self.predictions != "auto":
            return self.predictions
        with torch.no_grad():
            outputs = prediction(ends({name: tensor[0] for name, tensor in a.items()}, batch))
        return "values" if problem.loss == "mse" or outputs.dim() < 2 or outputs.shape[class_axis(outputs)] == 1 else "classes"


@dataclass(frozen=True)
class Consensus:
    """Descends the disagreement between a network between A and B and the averaged prediction of A and B, without labels.

    With p the mean of the two softmax outputs and q(lambda) that of the network lambda A + (1 - lambda) P(B), lambda ~ U(.4, .6) and P
    softly permuting, the scores behind P follow the gradient of KL(p, q) on unlabelled inputs for a few steps; the best assignment
    on the way is the solution. Outputs that are values are compared by their mean squared difference instead. It starts
    from the scores of the method before it, if it has some, otherwise from its permutations. BatchNorm layers of all three
    networks use the statistics of the batch, so that they agree at the right permutations whatever the inputs.

    Without data the inputs are made up: smooth noise and dead leaves for images, Gaussian vectors, uniform tokens. They serve less
    than real ones.

    Attributes:
        predictions: "classes" for outputs that are logits, "values" for others; "auto" takes outputs for logits unless the loss of the
            problem is "mse", there is only one, or they have no axis of classes.
        steps: number of steps.
        rate: length of a step: the root mean square of the change of a cell's scores, momentum apart.
        iterations: of the Sinkhorn projection.
        spread: standard deviation to which the scores of an earlier method are scaled.
        confidence: share that the projection leaves to the unit chosen by permutations without scores; see `start_scores`.
        every: steps between two looks at the hard permutations.
        examples: examples per step: batches of the loader are put together until there are as many.
    """

    predictions: Choice = "auto"
    steps: int = 10
    rate: float = 0.2
    iterations: int = 40
    spread: float = 3.0
    confidence: float = 0.5
    every: int = 1
    examples: int = 512

    def __post_init__(self) -> None:
        if self.predictions not in get_args(Choice):
            raise InvalidInput(f"consensus: found predictions={self.predictions!r}, expected one of {', '.join(get_args(Choice))}")
        check_descent("consensus", self.steps, self.rate, self.iterations, self.confidence, self.every, self.examples)
        if not self.spread > 0:
            raise InvalidInput(f"consensus: found spread={self.spread!r}, expected a positive number")

    def __call__(self, problem: Problem) -> Solution:
        """The solution of one problem; its objective is the disagreement of the hard permutations at the midpoint.

        Raises:
            InvalidInput: nothing to start from, or predictions that are not finite.
        """
        return self.solve([problem])[0]

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """The solutions of problems of one architecture, all of which see the data of the first; the same as one by one.

        Raises:
            InvalidInput: different architectures, nothing to start from, or predictions that are not finite.
        """
        pairs = Pairs.of(problems)
        for problem in problems:
            problem.require("consensus", "module", "start")
        first, sample = problems[0], next(iter(pairs.a.values()))[0]
        scores = start_scores(problems, sample, spread=self.spread, confidence=self.confidence)
        refiner = Refiner(self.rate, spread=self.spread)
        steps = Steps(refiner, self.steps, self.iterations, self.every, self.predictions)
        return steps.solve(problems, pairs, scores, self._examples(first, sample))

    def _examples(self, problem: Problem, sample: Tensor) -> list[list[Any]]:
        if problem.data is not None:
            return read_examples(sample, problem.data, self.steps, self.examples)
        problem.require("consensus", "architecture")
        assert problem.architecture is not None
        return [list(synthetic_batches(problem.architecture, sample, self.examples, problem.seed))]
