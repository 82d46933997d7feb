"""Straight-through matching: weight matching of weights that learn (Ainsworth et al. 2023, arXiv 2209.04836, section 3.3, Alg. 2).

Free weights W start at A, or half way between A and the moved B if permutations are given. In every step B is matched to W
instead of A, pi = argmax sum <W, pi(B)>, and the network half way between A and pi(B) is run on a batch. Its gradient with respect
to pi(B) is taken for that with respect to W (Bengio et al. 2013, arXiv 1308.3432), so that W moves to where permutations with a
lower loss are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphalign import group
from graphalign.errors import InvalidInput
from graphalign.evaluation import mean_loss
from graphalign.forward import Forward
from graphalign.methods.descent import Pairs
from graphalign.methods.objectives import read_batches
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.weight import Weight, ascend
from graphalign.weight_costs import matched_tensors


@dataclass(frozen=True)
class StraightThrough:
    """Gradient descent on the loss of the midpoint through weight matching; the best hard permutations on the way are returned.

    The last batches of the loader are held out. On them permutations are judged, those of the start first, so that the result has
    no higher midpoint loss there than the start. BatchNorm layers of the midpoint use the statistics of the batch.

    Attributes:
        steps: gradient steps, each with one weight matching that starts from the last one.
        rate: learning rate of stochastic gradient descent; published is 0.01, for tens of thousands of steps.
        momentum: of stochastic gradient descent.
        held_out: share of the batches that are held out; at least one is.
        every: steps between two looks at the held-out batches.
        batches: most batches read from the loader; steps take them in turn.

    Raises:
        InvalidInput: a setting out of range.
    """

    steps: int = 200
    rate: float = 0.1
    momentum: float = 0.9
    held_out: float = 0.25
    every: int = 5
    batches: int = 64

    def __post_init__(self) -> None:
        counts = {"steps": (self.steps, 1), "every": (self.every, 1), "batches": (self.batches, 2)}
        problems = [f"{name}={value!r}, expected at least {least}" for name, (value, least) in counts.items() if value < least]
        problems += [f"rate={self.rate!r}, expected a positive number"] if not self.rate > 0 else []
        shares = {"momentum": self.momentum, "held_out": self.held_out}
        problems += [f"{name}={value!r}, expected a number from 0 to below 1" for name, value in shares.items() if not 0 <= value < 1]
        if problems:
            raise InvalidInput("straight_through: found " + "; ".join(problems))

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem; its objective is the midpoint's loss on the held-out batches, its losses those of the steps.

        It starts from `problem.start`, or from weight matching. If the free weights are no longer finite the descent ends there.

        Raises:
            InvalidInput: no data, no labels where the loss needs them, one batch only, or a loss of the start that is not finite.
        """
        problem.require("straight_through", "module", "data")
        assert problem.module is not None
        assert problem.data is not None
        middle = _Midpoint(problem)
        examples = read_batches(next(iter(middle.a.values())), problem.data, self.batches)
        if len(examples) < 2:
            raise InvalidInput(
                "straight_through: found 1 batch, expected at least 2: to learn on, and to judge permutations; pass smaller batches"
            )
        held_out = examples[-min(len(examples) - 1, max(1, round(self.held_out * len(examples)))) :]
        seen = examples[: len(examples) - len(held_out)]

        element = dict(problem.start) if problem.start is not None else Weight()(problem).permutations
        best, least = element, middle.hard_loss(element, held_out)
        if not math.isfinite(least):
            raise InvalidInput(f"straight_through: found a loss of {least} at the start, expected a finite one; check the data and weights")
        free = middle.free_weights(problem.start)
        optimiser = torch.optim.SGD(list(free.values()), lr=self.rate, momentum=self.momentum)
        generator = torch.Generator().manual_seed(problem.seed)
        losses: list[float] = []
        judged = element
        for step in range(self.steps):
            learned = {n: t.detach() for n, t in free.items()}
            if not all(bool(t.isfinite().all()) for t in learned.values()):
                break
            element = ascend(problem.spec, learned, middle.compared, element, generator)[0]
            optimiser.zero_grad(set_to_none=True)
            losses.append(middle.backward(free, element, seen[step % len(seen)]))
            if (step % self.every == 0 or step + 1 == self.steps) and not group.same(element, judged):
                judged, value = element, middle.hard_loss(element, held_out)
                if value < least:
                    best, least = element, value
            optimiser.step()
        return Solution(best, objective=least, losses=tuple(losses))


class _Midpoint:
    """The network half way between A and a moved B.

    Attributes:
        a: floating-point tensors of A.
        b: those of B, in B's own order.
        compared: the tensors of B that weight matching compares.
    """

    def __init__(self, problem: Problem) -> None:
        assert problem.module is not None
        pairs = Pairs.of([problem])
        self.a, self.b = ({n: t[0] for n, t in side.items()} for side in (pairs.a, pairs.b))
        self.compared = {n: self.b[n] for n in matched_tensors(problem.spec)}
        self._spec, self._loss = problem.spec, problem.loss
        self._forward = Forward(problem.module, batch_statistics=True)

    def moved(self, element: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of B in the slots of A."""
        return group.apply_to_state(self._spec, element, self.b)

    def free_weights(self, start: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """What learns: the compared tensors of A, or those of the midpoint if permutations are given.

        Matched to A alone, B would go back to where weight matching takes it, whatever was given.
        """
        moved = self.a if start is None else self.moved(start)
        return {n: torch.lerp(self.a[n], moved[n], 0.5).requires_grad_() for n in self.compared}

    def backward(self, free: Mapping[str, Tensor], element: Mapping[str, Tensor], batch: Any) -> float:
        """The loss on a batch; adds its gradient with respect to the tensors of the moved B to that of the free weights.

        Networks that overwrite activations which their own derivatives need are run with operators that do not overwrite.
        """
        with torch.enable_grad():
            try:
                value = self.loss(self.straight_through(free, element), batch)
                torch.autograd.backward(value)
            except RuntimeError as error:
                if "inplace operation" not in str(error):
                    raise
                value = torch.func.functionalize(self.loss)(self.straight_through(free, element), batch)
                torch.autograd.backward(value)
        return float(value.detach())

    def straight_through(self, free: Mapping[str, Tensor], element: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the moved B, whose gradients are those of the free weights."""
        moved = self.moved(element)
        return {n: t + (free[n] - free[n].detach()) if n in free else t for n, t in moved.items()}

    def loss(self, moved: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Mean loss of the midpoint on a batch, shape ()."""
        middle = {n: torch.lerp(moved[n], t, 0.5) for n, t in self.a.items()}
        return mean_loss(self._forward(middle, batch), batch, self._loss)

    def hard_loss(self, element: Mapping[str, Tensor], batches: Sequence[Any]) -> float:
        """Mean loss of the midpoint over batches."""
        moved = self.moved(element)
        with torch.no_grad():
            return sum(float(self.loss(moved, batch)) for batch in batches) / len(batches)
