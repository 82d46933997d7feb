"""One training step's loss: a batch of pairs of one architecture, and every loss that has a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from graphalign.aligner import Aligner, common_type
from graphalign.encoder import encode_pair
from graphalign.errors import InvalidInput
from graphalign.forward import Forward
from graphalign.methods.consensus import INTERVAL
from graphalign.methods.descent import Objective, Pairs, Tensors
from graphalign.methods.gnn import code_examples
from graphalign.methods.objectives import Disagreement, LabelLoss, Predictions
from graphalign.methods.problem import Problem
from graphalign.training.cases import Case, Cases
from graphalign.training.evolution import estimate, few_numbers
from graphalign.training.losses import alignment_loss, assignment_loss, relative, weighted
from graphalign.training.planted import Augmentation, plant
from graphalign.training.sampling import Draw
from graphalign.training.teachers import Teachers
from graphalign.training.unrolled import mixed, unroll
from graphalign.training.views import Views


@dataclass(frozen=True)
class Losses:
    """Weights of the losses; 0 switches a loss off.

    Attributes:
        supervised: cross-entropy of the scores to planted permutations.
        alignment: L2 distance of the weights under soft permutations.
        lmc: loss of the network at a random lambda under soft permutations.
        distillation: cross-entropy of the scores to a teacher's permutations.
        imitation: the same of the scores after the steps of refinement.
        unrolled: loss of the network between A and B after the steps of refinement, through which it is differentiated.
        evolution: the same of hard permutations, whose derivative by the few parameters that are single numbers is estimated from the
            losses at two perturbed points (see `evolution.estimate`): no soft permutation stands in for a hard one.
    """

    supervised: float = 0.0
    alignment: float = 0.0
    lmc: float = 0.0
    distillation: float = 0.0
    imitation: float = 0.0
    unrolled: float = 1.0
    evolution: float = 0.0

    def __post_init__(self) -> None:
        problems = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if not getattr(self, f.name) >= 0]
        if problems or not any(asdict(self).values()):
            found = "; ".join(problems) or "no loss with a weight above 0"
            raise InvalidInput(f"found {found}, expected weights of at least 0, one of them above 0")


@dataclass(frozen=True)
class Unrolled:
    """Training through refinement.

    Attributes:
        steps: of refinement; a number of these is drawn.
        data: probability that the steps see real inputs; otherwise they see the aligner's own codes.
        outer: what the outer loss and the LMC loss measure: "kl" to the mean prediction of the two networks, or "labels".
        lam: lambda of the outer loss.
        hard: the outer loss is that of hard permutations with straight-through derivatives, instead of soft ones.
        sharpness: of the soft permutations in the outer loss.
        earlier: weight of the outer loss after one earlier step, drawn at random.
        perturbation: standard deviation of the perturbations of `evolution`.
    """

    steps: tuple[int, ...] = (10,)
    data: float = 0.5
    outer: str = "kl"
    lam: float = 0.5
    hard: bool = False
    sharpness: float = 1.0
    earlier: float = 0.3
    perturbation: float = 0.1

    def __post_init__(self) -> None:
        problems = [f"steps={self.steps!r}, expected numbers of at least 1"] if not self.steps or min(self.steps) < 1 else []
        problems += [f"outer={self.outer!r}, expected 'kl' or 'labels'"] if self.outer not in ("kl", "labels") else []
        problems += [f"{n}={getattr(self, n)!r}, expected a number from 0 to 1" for n in ("data", "lam") if not 0 <= getattr(self, n) <= 1]
        problems += [f"{n}={getattr(self, n)!r}, expected a number above 0" for n in ("sharpness", "perturbation") if not getattr(self, n) > 0]
        problems += [f"earlier={self.earlier!r}, expected at least 0"] if not self.earlier >= 0 else []
        if problems:
            raise InvalidInput("found " + "; ".join(problems))


class Loss(nn.Module):
    """From a draw to the total loss and its parts; the module that the engine wraps.

    Args:
        aligner: what is trained.
        cases: of the population.
        weights: of the losses.
        unrolled: see there.
        planted: see there.
        views: see there.
        teachers: see there.
    """

    def __init__(
        self, aligner: Aligner, cases: Cases, weights: Losses, unrolled: Unrolled, planted: Augmentation, views: Views, teachers: Teachers
    ) -> None:
        super().__init__()
        self.aligner = aligner
        self.cases, self.weights, self.unrolled, self.planted = cases, asdict(weights), unrolled, planted
        self.views, self.teachers = views, teachers

    def forward(self, draw: Draw) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum, and the value of every loss that is part of it."""
        case, generator = self.cases[draw.group], draw.generator
        real = float(torch.rand((), generator=generator)) < self.unrolled.data
        parts = {}
        if self.weights["supervised"]:
            parts["supervised"] = self._supervised(case, draw)
        if any(self.weights[name] for name in self.weights if name != "supervised"):
            parts |= self._of_pairs(case, draw, real)
        return weighted(parts, self.weights), {name: float(value.detach()) for name, value in parts.items()}

    def _supervised(self, case: Case, draw: Draw) -> Tensor:
        """Planted pairs, on codes half of the time and on real inputs otherwise."""
        spec, generator = case.architecture.spec, draw.generator
        scores, elements = [], []
        for i, _ in draw.pairs:
            planted, element = plant(spec, case.states[i], self.planted, generator)
            a, b = common_type(case.states[i], planted)
            seed = int(torch.randint(1 << 30, (), generator=generator))
            (name,) = (n for n in case.architecture.program.graph_signature.user_inputs if isinstance(n, str))
            x, _ = case.batch(draw.share.images, generator)
            inputs = {name: x[:, None]} if seed % 2 else None
            with torch.no_grad():
                agreement = encode_pair(case.architecture, a, b, inputs, seed=seed, codes=2 * draw.share.images)
            scores.append(self.aligner.combine(spec, a, b, agreement))
            elements.append(element)
        found = _stacked(scores)
        return assignment_loss({n: s / self.aligner.temperature for n, s in found.items()}, _stacked(elements))

    def _of_pairs(self, case: Case, draw: Draw, real: bool) -> dict[str, Tensor]:
        spec, generator, weights = case.architecture.spec, draw.generator, self.weights
        problems = [case.problem(i, j) for i, j in draw.pairs]
        pairs = Pairs.of(problems)
        views = [self.views.get(case, i, j, real=real) for i, j in draw.pairs]

        def scored() -> dict[str, Tensor]:
            return _stacked([self.aligner.combine(spec, p.a, p.b, v.agreement) for p, v in zip(problems, views, strict=True)])

        scores = scored()
        x, y = case.batch(2 * draw.share.images, generator)
        half = len(x) // 2
        inner: list[Any] = [x[:half]]
        if not real:
            codes = views[0].inputs
            chosen = torch.randperm(len(next(iter(codes.values()))), generator=generator)[: draw.share.images]
            inner = code_examples(case.architecture, {n: t[chosen.to(t.device)] for n, t in codes.items()})
        objective = self._objective(case, problems[0], pairs, (x[half:], y[half:]))
        logits = {n: s / self.aligner.temperature for n, s in scores.items()}
        parts = {}
        if weights["distillation"] or weights["imitation"]:
            taught = _stacked(self.teachers.get(case, draw.pairs))
        if weights["distillation"]:
            parts["distillation"] = assignment_loss(logits, taught)
        if weights["alignment"] or weights["lmc"]:
            moved = mixed(pairs, logits, self.aligner.config.sinkhorn_iterations, hard=False)
            lam = torch.rand(len(problems), generator=generator).to(x)
            if weights["alignment"]:
                parts["alignment"] = alignment_loss(spec, pairs.a, moved)
            if weights["lmc"]:
                parts["lmc"] = objective(pairs.a, moved, lam, 0).mean()
        if weights["unrolled"] or weights["imitation"] or weights["evolution"]:
            seed = int(torch.randint(1 << 30, (), generator=generator))
            inside = self._inner(case, problems[0], pairs, inner)
            steps = self.unrolled.steps[int(torch.randint(len(self.unrolled.steps), (), generator=generator))]
            iterations = self.aligner.config.sinkhorn_iterations

            def rolled(scores: Tensors) -> list[dict[str, Tensor]]:
                start = {n: self.aligner.refiner.begin(s) for n, s in scores.items()}
                refiner = self.aligner.refiner
                after = unroll(refiner, pairs, start, inside, steps=steps, iterations=iterations, interval=INTERVAL, seed=seed)
                return [start, *after]

            if weights["unrolled"] or weights["imitation"]:
                trajectory = rolled(scores)
            if weights["imitation"]:
                parts["imitation"] = assignment_loss(trajectory[-1], taught)
            if weights["unrolled"]:
                parts["unrolled"] = self._outer(objective, pairs, trajectory, generator)
            if weights["evolution"]:
                parts["evolution"] = estimate(
                    few_numbers(self.aligner), lambda: self._hard(objective, pairs, rolled(scored())), self.unrolled.perturbation, generator
                )
        return parts

    def _hard(self, objective: Objective, pairs: Pairs, trajectory: list[dict[str, Tensor]]) -> Tensor:
        """Mean logarithm of the losses of hard permutations after the last step: ratios count, as in the comparison of aligners."""
        return self._value(objective, pairs, trajectory[-1], True).clamp(min=1e-3).log().mean()

    def _value(self, objective: Objective, pairs: Pairs, scores: Tensors, hard: bool) -> Tensor:
        moved = mixed(pairs, scores, self.aligner.config.sinkhorn_iterations, hard=hard, sharpness=self.unrolled.sharpness)
        some = next(iter(pairs.a.values()))
        return objective(pairs.a, moved, torch.full((len(some),), self.unrolled.lam).to(some), 0)

    def _outer(self, objective: Objective, pairs: Pairs, trajectory: list[dict[str, Tensor]], generator: torch.Generator) -> Tensor:
        """The loss after the last step, and a share of that after an earlier one, relative to the loss at the start."""
        given = self.unrolled
        with torch.no_grad():
            reference = self._value(objective, pairs, trajectory[0], True)
        total = relative(self._value(objective, pairs, trajectory[-1], given.hard), reference)
        if given.earlier and len(trajectory) > 2:
            which = 1 + int(torch.randint(len(trajectory) - 2, (), generator=generator))
            total = total + given.earlier * relative(self._value(objective, pairs, trajectory[which], given.hard), reference)
        return total / (1 + given.earlier)

    def _objective(self, case: Case, problem: Problem, pairs: Pairs, batch: tuple[Tensor, Tensor]) -> Objective:
        """What the outer loss and the LMC loss measure."""
        assert problem.module is not None
        between = Forward(problem.module, batch_statistics=True)
        if self.unrolled.outer == "labels":
            return LabelLoss(between, [[batch]], case.loss)
        return Disagreement(between, Forward(problem.module), pairs.a, pairs.b, [[batch[0]]], _kind(case))

    def _inner(self, case: Case, problem: Problem, pairs: Pairs, parts: list[Any]) -> Objective:
        """What the steps lower, as in `graphalign.methods.consensus.Steps`."""
        assert problem.module is not None
        forward = Forward(problem.module, batch_statistics=True)
        return Disagreement(forward, forward, pairs.a, pairs.b, [parts], _kind(case))


def _kind(case: Case) -> Predictions:
    return "values" if case.signal else "classes"


def _stacked(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
