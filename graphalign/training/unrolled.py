"""Training through refinement: the steps of a descent, recorded so that the outer loss reaches the refiner's parameters.

The gradients that a step reads are messages: they are taken as numbers, so that no second derivatives are needed (the usual choice
for learned optimisers, Andrychowicz et al. 2016, arXiv 1606.04474). The parameters get theirs through the sum of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from graphalign.assignment import assign_spec
from graphalign.methods.descent import Descent, Objective, Pairs, Tensors
from graphalign.refiner import Refiner
from graphalign.soft import SoftPermutation, apply_soft, from_matrix, matrices_of, soft_permutations
from graphalign.spec import NetworkSpec
from graphalign.vectorising import vectorise

RECOMPUTED = 1 << 16
"""Scores of a cell from which a step is recomputed in the backward pass, whose memory would otherwise be that of all steps."""


@dataclass
class Recorded:
    """The rule of a refiner (see `graphalign.methods.rules.Rule`) whose steps can be differentiated.

    Attributes:
        refiner: makes the steps.
        scores: by cell (P, U, U) to start from, with derivatives.
        trajectory: the scores after every step.
    """

    refiner: Refiner
    scores: Tensors
    trajectory: list[dict[str, Tensor]] = field(default_factory=list)

    def begin(self, leaves: dict[str, Tensor]) -> Callable[[float], None]:
        """See `Rule`."""
        state = dict(self.scores)
        velocities = {name: torch.zeros_like(s) for name, s in state.items()}

        def step(time: float) -> None:
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    arguments = (state[name], leaf.grad.clone(), velocities[name], time)
                    again = leaf.numel() >= RECOMPUTED
                    state[name], velocities[name] = (
                        checkpoint(self.refiner, *arguments, use_reentrant=False) if again else self.refiner(*arguments)
                    )
                    with torch.no_grad():
                        leaf.copy_(state[name])
            self.trajectory.append(dict(state))

        return step


def unroll(
    refiner: Refiner, pairs: Pairs, scores: Tensors, objective: Objective, *, steps: int, iterations: int,
    interval: tuple[float, float], seed: int,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Scores by cell (P, U, U) after every step, differentiable by the refiner's parameters and by the scores at the start.

    Args:
        refiner: makes the steps.
        pairs: P pairs.
        scores: by cell, scaled as the refiner wants them.
        objective: whose gradients the steps read.
        steps: their number.
        iterations: of Sinkhorn.
        interval: of lambda.
        seed: of the lambdas.
    """
    rule = Recorded(refiner, scores)
    count = len(next(iter(pairs.a.values())))
    descent = Descent(rule, steps, iterations, interval, every=steps, patience=None, judged=1)
    descent(pairs, {n: s.detach() for n, s in scores.items()}, [seed + i for i in range(count)], objective)
    return rule.trajectory


def mixed(pairs: Pairs, scores: Tensors, iterations: int, *, hard: bool, sharpness: float = 1.0) -> dict[str, Tensor]:
    """The tensors of B with its units permuted by what the scores say, (P, ...), differentiable by the scores.

    Args:
        pairs: P pairs.
        scores: by cell (P, U, U).
        iterations: of Sinkhorn.
        hard: the permutations are those of linear assignment, and the derivative is that of the soft ones (straight-through, Bengio
            et al. 2013, arXiv 1308.3432); otherwise the soft ones are used.
        sharpness: the scores are multiplied by it before Sinkhorn.
    """
    spec = pairs.spec
    targets = _hard_matrices(spec, scores) if hard else {}

    def single(b: Tensors, own: Tensors, target: Tensors) -> dict[str, Tensor]:
        soft = soft_permutations(spec, {n: sharpness * s for n, s in own.items()}, iterations)
        return apply_soft(spec, b, {n: _straight_through(spec, n, p, target[n]) for n, p in soft.items()} if target else soft)

    found: dict[str, Tensor] = vectorise(single, pairs.b, dict(scores), targets)
    return found


def hard_permutations(spec: NetworkSpec, scores: Tensors) -> dict[str, Tensor]:
    """The permutations of linear assignment by cell, (P, U)."""
    count = len(next(iter(scores.values())))
    each = [assign_spec(spec, {n: s[i].detach() for n, s in scores.items()}) for i in range(count)]
    return {n: torch.stack([element[n] for element in each]) for n in scores}


def _hard_matrices(spec: NetworkSpec, scores: Tensors) -> dict[str, Tensor]:
    elements = hard_permutations(spec, scores)
    like = next(iter(scores.values()))
    each: list[dict[str, Any]] = [
        matrices_of(spec, {n: e[i] for n, e in elements.items()}, like) for i in range(len(like))
    ]
    return {n: torch.stack([matrices[n] for matrices in each]) for n in scores}


def _straight_through(spec: NetworkSpec, name: str, soft: SoftPermutation, target: Tensor) -> SoftPermutation:
    hard = from_matrix(spec.by_name[name], target)
    inner = None if hard.inner is None or soft.inner is None else hard.inner + soft.inner - soft.inner.detach()
    return SoftPermutation(hard.matrix + soft.matrix - soft.matrix.detach(), inner)
