"""Sinkhorn re-basin: gradient descent on soft permutations (Pena et al. 2023, arXiv 2212.12042), for many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from graphalign.errors import InvalidInput
from graphalign.forward import Forward
from graphalign.methods.descent import Descent, Objective, Pairs, check_descent, start_scores
from graphalign.methods.objectives import LabelLoss, WeightDistance, read_examples
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.rules import Adam

Goal = Literal["random", "midpoint", "l2"]
INTERVALS: dict[str, tuple[float, float]] = {"random": (0.0, 1.0), "midpoint": (0.5, 0.5), "l2": (0.5, 0.5)}


@dataclass(frozen=True)
class Sinkhorn:
    """Descends the loss between A and a softly permuted B; the best hard permutations on the way are the solution.

    The matrix of a cell is P = Sinkhorn(X), X its scores, by `iterations` normalisations in the log domain, through which the
    gradient flows. Without labels (`objective="l2"`) it matches weights. BatchNorm layers use the statistics of the batch.

    Attributes:
        objective: "random": loss at lambda drawn from U(0, 1) in every step; "midpoint": at 1/2; "l2": mean squared difference of the
            weights, which needs no data.
        steps: most steps.
        rate: learning rate of Adam.
        iterations: of the Sinkhorn projection.
        confidence: share that the projection leaves to the unit chosen by permutations to start from; see `start_scores`.
        spread: standard deviation to which the scores of an earlier method are scaled to start from them, which says more than its
            permutations do; None starts from these.
        every: steps between two looks at the hard permutations.
        patience: stop after as many looks without a better one; None never stops early.
        examples: examples per step: batches of the loader are put together until there are as many.
    """

    objective: Goal = "random"
    steps: int = 300
    rate: float = 0.05
    iterations: int = 20
    confidence: float = 0.5
    spread: float | None = None
    every: int = 5
    patience: int | None = 30
    examples: int = 256

    def __post_init__(self) -> None:
        if self.objective not in get_args(Goal):
            raise InvalidInput(f"sinkhorn: found objective {self.objective!r}, expected one of {', '.join(get_args(Goal))}")
        if self.spread is not None and not self.spread > 0:
            raise InvalidInput(f"sinkhorn: found spread={self.spread!r}, expected a positive number or None")
        check_descent("sinkhorn", self.steps, self.rate, self.iterations, self.confidence, self.every, self.examples)

    def __call__(self, problem: Problem) -> Solution:
        """The solution of one problem; its objective is the loss of the hard permutations at the midpoint.

        Raises:
            InvalidInput: no data or labels where the objective needs them.
        """
        return self.solve([problem])[0]

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """The solutions of problems of one architecture, all of which see the data of the first; the same as one by one.

        Raises:
            InvalidInput: different architectures; no data or labels where the objective needs them.
        """
        pairs = Pairs.of(problems)
        sample = next(iter(pairs.a.values()))
        scores = start_scores(problems, sample[0], spread=self.spread, confidence=self.confidence)
        descent = Descent(
            Adam(self.rate), self.steps, self.iterations, INTERVALS[self.objective], self.every, self.patience, judged=8
        )  # fmt: skip
        return descent(pairs, scores, [problem.seed for problem in problems], self._objective(problems[0], pairs))

    def _objective(self, problem: Problem, pairs: Pairs) -> Objective:
        if self.objective == "l2":
            return WeightDistance(problem.spec)
        problem.require("sinkhorn", "module", "data")
        assert problem.module is not None
        assert problem.data is not None
        examples = read_examples(next(iter(pairs.a.values()))[0], problem.data, self.steps, self.examples)
        return LabelLoss(Forward(problem.module, batch_statistics=True), examples, problem.loss)
