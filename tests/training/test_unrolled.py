"""Training through refinement: the recorded steps are those of the method, and their derivatives are first-order ones."""

from __future__ import annotations

import pytest
import torch

from graphalign.forward import Forward
from graphalign.methods.consensus import INTERVAL, Steps
from graphalign.methods.descent import Pairs
from graphalign.methods.objectives import Disagreement
from graphalign.refiner import Refiner
from graphalign.training import unrolled
from graphalign.training.unrolled import unroll


@pytest.fixture
def pairs(mlp):
    return Pairs.of([mlp.problem(0, 1), mlp.problem(1, 2)])


@pytest.fixture
def refiner():
    made = Refiner()
    with torch.no_grad():
        made.output.copy_(0.1 * torch.randn(made.output.shape, generator=torch.Generator().manual_seed(0)))
    return made


def objective_of(case, pairs, x):
    forward = Forward(case.module, batch_statistics=True)
    return Disagreement(forward, forward, pairs.a, pairs.b, [[x]], "classes")


def start_of(pairs):
    generator = torch.Generator().manual_seed(0)
    return {c.name: 3 * torch.randn(2, c.units, c.units, generator=generator) for c in pairs.spec.cells}


def rolled(case, pairs, refiner, scores, steps=3):
    x, _ = case.batch(32, torch.Generator().manual_seed(1))
    return unroll(refiner, pairs, scores, objective_of(case, pairs, x), steps=steps, iterations=20, interval=INTERVAL, seed=0)


def test_the_recorded_steps_are_those_of_the_method(mlp, pairs, refiner, monkeypatch):
    x, _ = mlp.batch(32, torch.Generator().manual_seed(1))
    scores = start_of(pairs)
    trajectory = rolled(mlp, pairs, refiner, scores)
    seen = []
    real = Refiner.forward
    monkeypatch.setattr(Refiner, "forward", lambda self, s, g, v, t: seen.append((t, real(self, s, g, v, t))) or seen[-1][1])
    Steps(refiner, 3, 20, every=3).solve([mlp.problem(0, 1, seed=0), mlp.problem(1, 2, seed=1)], pairs, scores, [[x]])
    cells = list(scores)
    assert [time for time, _ in seen] == [t for t in (0.0, 1 / 3, 2 / 3) for _ in cells]
    for (_, (after, _)), (step, name) in zip(seen, [(s, n) for s in range(3) for n in cells], strict=True):
        torch.testing.assert_close(after, trajectory[step][name])


def test_derivatives_are_the_sum_over_updates(mlp, pairs):
    """As it is created the step is X - rate v: the derivative by log rate is the total displacement."""
    refiner, scores = Refiner(), start_of(pairs)
    trajectory = rolled(mlp, pairs, refiner, scores)
    name = next(iter(scores))
    weights = torch.randn(scores[name].shape, generator=torch.Generator().manual_seed(2))
    (trajectory[-1][name] * weights).sum().backward()
    expected = ((trajectory[-1][name].detach() - scores[name]) * weights).sum()
    torch.testing.assert_close(refiner.log_rate.grad[0], expected, rtol=1e-4, atol=1e-5)
    assert float(refiner.output.grad.abs().max()) > 0


def test_the_start_gets_its_derivative(mlp, pairs, refiner):
    scores = {n: s.requires_grad_() for n, s in start_of(pairs).items()}
    name = next(iter(scores))
    rolled(mlp, pairs, Refiner(), scores)[-1][name].sum().backward()
    torch.testing.assert_close(scores[name].grad, torch.ones_like(scores[name]))  # gradients of the objective are messages


def test_recomputed_steps_have_the_same_derivatives(mlp, pairs, refiner, monkeypatch):
    found = []
    for limit in (1, 1 << 40):
        monkeypatch.setattr(unrolled, "RECOMPUTED", limit)
        last = rolled(mlp, pairs, refiner, start_of(pairs))[-1]
        loss = torch.stack([s.square().sum() for s in last.values()]).sum()
        found.append(torch.autograd.grad(loss, [refiner.log_rate, refiner.momentum, refiner.hidden, refiner.output]))
    for recomputed, stored in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, stored)
