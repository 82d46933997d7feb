"""Gradient descent on the scores behind soft permutations, for many pairs of one architecture at once.

Sinkhorn re-basin (Pena et al. 2023, arXiv 2212.12042) and consensus refinement are this descent with different objectives. The
scores X of a cell are in the coordinates of the permutations: rows are slots of A, columns are units of B in B's own order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from graphalign import group
from graphalign.assignment import assign_spec
from graphalign.errors import InvalidInput, UnsupportedNetwork
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.rules import Rule
from graphalign.soft import apply_soft, matrices_of, soft_permutations
from graphalign.spec import NetworkSpec
from graphalign.vectorising import vectorise

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Pairs of networks of one architecture, stacked.

    Attributes:
        spec: what may move.
        a: floating-point tensors of the networks A by state-dict key, (P, ...).
        b: those of the networks B, in B's own order.
    """

    spec: NetworkSpec
    a: dict[str, Tensor]
    b: dict[str, Tensor]

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Pairs:
        """The pairs of several problems on the device of the first A; in float64 if any network is, otherwise in float32.

        Raises:
            InvalidInput: no problem, or problems of different architectures.
        """
        if not problems:
            raise InvalidInput("found no pair of networks, expected at least one")
        spec = problems[0].spec
        if any(problem.spec != spec for problem in problems):
            raise InvalidInput("found pairs of different architectures, expected one; call once per architecture")
        found = [t for p in problems for t in (*p.a.values(), *p.b.values())]
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in found) else torch.float32
        like = torch.zeros((), dtype=dtype, device=found[0].device)
        return cls(spec, *(stack([getattr(p, side) for p in problems], spec, like) for side in ("a", "b")))


def stack(states: Sequence[Tensors], spec: NetworkSpec, like: Tensor) -> dict[str, Tensor]:
    """Floating-point tensors of several networks by state-dict key, (P, ...), without aliases; dtype and device of `like`."""
    names = [n for n in spec.shapes if n in states[0] and states[0][n].is_floating_point()]
    if len(states) == 1:  # no copy
        return {n: states[0][n].detach().to(like)[None] for n in names}
    return {n: torch.stack([state[n].detach().to(like) for state in states]) for n in names}


class Objective(Protocol):
    """What is minimised: a loss of every pair on the batch of a step."""

    @property
    def batches(self) -> int:
        """Number of batches; step k uses batch k modulo this number."""

    def __call__(self, a: Tensors, moved: Tensors, lam: Tensor, batch: int) -> Tensor:
        """Losses (P,).

        Args:
            a: tensors of A, (P, ...).
            moved: tensors of B with its units mixed, (P, ...).
            lam: (P,) position between the two networks, 1 is A.
            batch: number of the batch.
        """


@dataclass(frozen=True)
class Descent:
    """Steps on the scores along the gradient through an unrolled Sinkhorn projection.

    The losses of hard permutations are what counts, for soft ones blur the network: the assignment of the scores is judged at
    lambda = 1/2, and the best of all, the start's among them, is returned.

    Attributes:
        rule: makes a step from scores and gradients, see `Rule`. Adam (Kingma and Ba 2014, arXiv 1412.6980) divides by the size of
            single entries and so drives the many that hardly matter as fast as the few that do; a `Refiner` does not.
        steps: most steps.
        iterations: of Sinkhorn.
        interval: lambda is drawn uniformly from it, anew for every pair and step.
        every: the assignment is judged after as many steps.
        patience: stop after as many judgements in which no pair improved; never if None.
        judged: number of batches that the assignment is judged on.
    """

    rule: Rule
    steps: int
    iterations: int
    interval: tuple[float, float]
    every: int
    patience: int | None
    judged: int

    def __call__(
        self, pairs: Pairs, scores: Mapping[str, Tensor], seeds: Sequence[int], objective: Objective
    ) -> list[Solution]:
        """One solution per pair; `losses` are those of the soft permutations, step by step.

        Args:
            pairs: P pairs.
            scores: by cell, (P, U, U), to start from, already divided by the temperature.
            seeds: of the lambdas, one per pair, so that a pair's result does not depend on the others.
            objective: what is minimised.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        leaves = {name: s.detach().clone().requires_grad_() for name, s in scores.items()}
        step_of = self.rule.begin(leaves)
        best = _Best(pairs, objective, min(self.judged, objective.batches))
        best.update(leaves)
        losses: list[Tensor] = []
        stale = 0
        for step in range(self.steps):
            for leaf in leaves.values():
                leaf.grad = None
            with torch.enable_grad():
                value = objective(pairs.a, self._mix(pairs, leaves), self._lambdas(generators, pairs), step % objective.batches)
                _backward(value)
            losses.append(value.detach())
            step_of(step / self.steps)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                stale = 0 if best.update(leaves) else stale + 1
                if self.patience is not None and stale >= self.patience:
                    break
        curves = torch.stack(losses, 1).tolist() if losses else [[] for _ in seeds]
        return [
            Solution({n: e[i] for n, e in best.elements.items()}, {n: x[i] for n, x in best.scores.items()}, value, tuple(curves[i]))
            for i, value in enumerate(best.values.tolist())
        ]

    def _mix(self, pairs: Pairs, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def single(b: Tensors, scores: Tensors) -> dict[str, Tensor]:
            return apply_soft(pairs.spec, b, soft_permutations(pairs.spec, scores, self.iterations))

        mixed: dict[str, Tensor] = vectorise(single, pairs.b, dict(leaves))
        return mixed

    def _lambdas(self, generators: Sequence[torch.Generator], pairs: Pairs) -> Tensor:
        low, high = self.interval
        draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
        return (low + (high - low) * draws).to(next(iter(pairs.a.values())))


class _Best:
    """The best assignment of every pair so far.

    Attributes:
        elements: by cell, (P, U).
        scores: that led to them, by cell, (P, U, U).
        values: (P,) in float64 on the CPU.
    """

    elements: dict[str, Tensor]
    scores: dict[str, Tensor]
    values: Tensor

    def __init__(self, pairs: Pairs, objective: Objective, batches: int) -> None:
        self.pairs, self.objective, self.batches = pairs, objective, batches
        self.elements, self.scores = {}, {}

    def update(self, scores: Mapping[str, Tensor]) -> bool:
        """Judges the assignment of the scores; whether any pair improved."""
        scores = {name: s.detach() for name, s in scores.items()}
        found = assign_spec(self.pairs.spec, scores)
        if not self.elements:
            self.scores = {name: s.clone() for name, s in scores.items()}
            self.elements, self.values = found, self._judge(found)
            return True
        same = torch.stack([(perm == self.elements[name]).all(-1) for name, perm in found.items()]).all(0)
        better = torch.zeros_like(same)
        if not bool(same.all()):
            values = self._judge(found)
            better = ~same & ((values < self.values) | self.values.isnan())
            self.values = torch.where(better, values, self.values)
            for name, perm in found.items():
                self.elements[name] = torch.where(better[:, None], perm, self.elements[name])
        taken = torch.nonzero(same | better).flatten().to(next(iter(scores.values())).device, non_blocking=True)
        for name, old in self.scores.items():
            old[taken] = scores[name][taken]
        return bool(better.any())

    def _judge(self, elements: Mapping[str, Tensor]) -> Tensor:
        pairs = self.pairs
        if len(next(iter(elements.values()))) == 1:  # a gather of one network is faster and needs less memory
            one = group.move_tensors(pairs.spec, {n: e[0] for n, e in elements.items()}, {n: t[0] for n, t in pairs.b.items()})
            moved = {n: t[None] for n, t in one.items()}
        else:
            moved = vectorise(lambda e, b: group.move_tensors(pairs.spec, e, b), dict(elements), pairs.b)
        sample = next(iter(pairs.a.values()))
        middle = torch.full((len(sample),), 0.5).to(sample)
        with torch.no_grad():
            values = torch.stack([self.objective(pairs.a, moved, middle, batch) for batch in range(self.batches)])
        return values.double().mean(0).cpu()


def _backward(value: Tensor) -> None:
    try:
        torch.autograd.backward(value.sum())
    except RuntimeError as failure:
        if "inplace" not in str(failure):
            raise
        raise UnsupportedNetwork(
            "the network cannot be differentiated, so its permutations cannot be refined by gradients: it writes in place over values that "
            f"its derivative needs ({str(failure).split(';')[0]})",
            remedy="make that operation write to a new tensor (training the network needs it too), or align it by another method",
        ) from None


def between(a: Tensors, moved: Tensors, lam: Tensor) -> dict[str, Tensor]:
    """The tensors of lambda A + (1 - lambda) B, of one pair or, with lambda (P,), of many."""
    return {n: torch.lerp(moved[n], t, lam.reshape(lam.shape + (1,) * (t.dim() - lam.dim())).expand_as(t)) for n, t in a.items()}


def start_scores(
    problems: Sequence[Problem], like: Tensor, *, spread: float | None = None, confidence: float | None = None
) -> dict[str, Tensor]:
    """Scores to start a descent from, (P, U, U) by cell.

    Args:
        problems: each with `scores`, `start` or neither.
        like: dtype and device.
        spread: scores of an earlier method are scaled to this standard deviation, per cell; None ignores them.
        confidence: a permutation becomes a matrix c at its entries and 0 elsewhere, c such that a row of its softmax gives the unit
            chosen this share: c = log(confidence (U - 1) / (1 - confidence)). Without a factor that grows with the width U a start
            is lost in the first Sinkhorn projection; below 1/2 (two units) it would be lost at once. None means c = 1, as published. Problems without a start begin at the
            identity with c = 1.
    """
    spec = problems[0].spec
    rows: list[dict[str, Tensor]] = []
    for problem in problems:
        if spread is not None and problem.scores:
            rows.append({n: spread * s.to(like) / s.std().clamp(min=1e-12).to(like) for n, s in problem.scores.items()})
            continue
        element = group.identity(spec) if problem.start is None else problem.start
        matrices = matrices_of(spec, element, like)
        share = None if problem.start is None else confidence
        rows.append({c.name: matrices[c.name] * _certainty(c.size, share) for c in spec.cells})
    return {cell.name: torch.stack([row[cell.name] for row in rows]) for cell in spec.cells}


def _certainty(units: int, share: float | None) -> float:
    return 1.0 if share is None else max(math.log(max(units - 1, 1) * share / (1.0 - share)), 0.5)


def check_descent(
    name: str, steps: int, rate: float, iterations: int, confidence: float, every: int, examples: int
) -> None:
    """Returns nothing if the settings of a descent can be used.

    Raises:
        InvalidInput: lists every setting out of range.
    """
    counts = {"steps": steps, "iterations": iterations, "every": every, "examples": examples}
    problems = [f"{key}={value!r}, expected at least 1" for key, value in counts.items() if value < 1]
    problems += [f"rate={rate!r}, expected a positive number"] if not rate > 0 else []
    problems += [f"confidence={confidence!r}, expected a number between 0 and 1"] if not 0 < confidence < 1 else []
    if problems:
        raise InvalidInput(f"{name}: found " + "; ".join(problems))
