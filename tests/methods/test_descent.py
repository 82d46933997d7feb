"""The descent behind Sinkhorn re-basin and consensus refinement, step by step: what it asks of an objective and does with the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphalign import group
from graphalign.methods.descent import Descent, Pairs, Tensors, between, start_scores
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.rules import Refined
from graphalign.pairwise import prepare_pair
from graphalign.refiner import Refiner
from graphalign.soft import soft_permutations
from tests.methods.test_sinkhorn import mlp
from tests.traced import traced

STEPS = Descent(Refined(Refiner(rate=5.0)), steps=6, iterations=10, interval=(0.2, 0.4), every=1, patience=None, judged=2)


class Scripted:
    """Pulls the first weight another way for every batch, and judges by a list of values; keeps a record of what it is asked."""

    def __init__(self, looks: list[float], batches: int = 3) -> None:
        self.batches = batches
        self.looks = iter(looks)
        self.value = 0.0
        self.steps: list[tuple[int, Tensor]] = []
        self.judged: list[tuple[int, Tensor, Tensor]] = []

    def __call__(self, a: Tensors, moved: Tensors, lam: Tensor, batch: int) -> Tensor:
        if torch.is_grad_enabled():
            self.steps.append((batch, lam))
            pull = torch.randn(moved["0.weight"].shape, generator=torch.Generator().manual_seed(batch))
            return (pull * moved["0.weight"] * torch.tensor([1.0, 100.0])[:, None, None]).sum((1, 2)) + moved["2.bias"].square().sum(1)
        if batch == 0:
            self.value = next(self.looks, self.value)
        self.judged.append((batch, lam, moved["0.weight"]))
        return torch.full_like(lam, self.value)


@pytest.fixture
def pairs() -> Pairs:
    return Pairs.of([prepare_pair(mlp(k), mlp(k + 1), torch.zeros(1, 6)).problem() for k in range(2)])


def scores(pairs: Pairs) -> dict[str, Tensor]:
    return {c.name: torch.eye(c.units).expand(2, -1, -1) for c in pairs.spec.cells}


def run(pairs: Pairs, objective: Scripted, **settings: Any) -> list[Solution]:
    return replace(STEPS, **settings)(pairs, scores(pairs), [0, 1], objective)


def test_lambda_one_is_a(pairs: Pairs) -> None:
    for lam, side in ((1.0, pairs.a), (0.0, pairs.b)):
        found = between(pairs.a, pairs.b, torch.full((2,), lam))
        assert all(torch.equal(t, side[n]) for n, t in found.items())
    each = between(pairs.a, pairs.b, torch.tensor([1.0, 0.0]))
    assert all(torch.equal(t[0], pairs.a[n][0]) and torch.equal(t[1], pairs.b[n][1]) for n, t in each.items())


def test_steps_take_the_batches_in_turn_and_lambdas_from_the_interval(pairs: Pairs) -> None:
    objective = Scripted([1.0])
    run(pairs, objective)
    assert [batch for batch, _ in objective.steps] == [0, 1, 2, 0, 1, 2]
    lambdas = torch.stack([lam for _, lam in objective.steps])
    assert bool(((lambdas >= 0.2) & (lambdas <= 0.4)).all())
    assert len(lambdas.unique()) == lambdas.numel()


def test_permutations_are_judged_at_the_midpoint_on_the_first_batches(pairs: Pairs) -> None:
    objective = Scripted([1.0])
    run(pairs, objective)
    assert {batch for batch, _, _ in objective.judged} == {0, 1}
    assert all(torch.equal(lam, torch.tensor([0.5, 0.5])) for _, lam, _ in objective.judged)


@pytest.mark.parametrize(("looks", "best"), [([1, 2, 3, 4, 5, 6, 7], 0), ([7, 6, 5, 4, 3, 2, 1], 6), ([3, 2, 1, 2, 3, 4, 5], 2)])
def test_trap_the_best_look_is_returned_not_the_last(pairs: Pairs, looks: list[float], best: int) -> None:
    objective = Scripted(looks)
    found = run(pairs, objective)
    seen = [weight for batch, _, weight in objective.judged if batch == 0]
    assert len(seen) == 7
    assert not torch.equal(seen[0], seen[-1])
    for i, solution in enumerate(found):
        assert solution.objective == looks[best]
        moved = group.apply_to_state(pairs.spec, solution.permutations, {n: t[i] for n, t in pairs.b.items()})
        assert torch.equal(moved["0.weight"], seen[best][i])


def test_the_end_is_looked_at_whatever_the_interval_of_looks(pairs: Pairs) -> None:
    found = run(pairs, Scripted([3.0, 2.0, 1.0]), steps=3, every=2)
    assert found[0].objective == 1.0


def test_patience_begins_anew_with_every_improvement(pairs: Pairs) -> None:
    assert len(run(pairs, Scripted([10.0, 11.0, 9.0, 10.0, 10.0, 10.0]), patience=2)[0].losses) == 4
    assert len(run(pairs, Scripted([10.0, 11.0, 10.0, 9.0]), patience=2)[0].losses) == 2


def test_a_step_of_normalised_gradients_is_as_long_in_every_cell_of_every_pair(pairs: Pairs) -> None:
    (one, other) = run(pairs, Scripted([1.0]), steps=1, rule=Refined(Refiner(rate=0.01)))
    for solution in (one, other):
        assert solution.scores is not None
        for name, start in scores(pairs).items():
            change = solution.scores[name] - start[0]
            assert float(change.square().mean().sqrt()) == pytest.approx(0.01, rel=1e-3)


def test_steps_add_up_with_momentum_one_half(pairs: Pairs) -> None:
    """Two steps down the same gradient go 1 + 3/2 times as far as one."""
    solution = run(pairs, Scripted([1.0], batches=1), steps=2, rule=Refined(Refiner(rate=1e-3)))[0]
    assert solution.scores is not None
    for name, start in scores(pairs).items():
        change = solution.scores[name] - start[0]
        assert float(change.square().mean().sqrt()) == pytest.approx(2.5e-3, rel=0.02)


def test_the_confidence_of_a_start_is_that_among_the_units_of_a_block() -> None:
    network = traced("resnext")
    problem = Problem(network.spec, network.state, network.state, start=group.identity(network.spec))
    scores = start_scores([problem], torch.zeros(()), confidence=0.8)
    (cell, *_) = (c for c in network.spec.cells if c.blocks > 1 and c.size > 2)
    inner = soft_permutations(network.spec, {n: s[0] for n, s in scores.items()}, 50)[cell.name].inner
    assert inner is not None
    assert float(inner[0, 0].diagonal().mean()) == pytest.approx(0.8, abs=1e-3)


def test_a_start_without_permutations_is_as_published_and_scores_are_scaled_cell_by_cell() -> None:
    problem = prepare_pair(mlp(0), mlp(1), torch.zeros(1, 6)).problem()
    like = torch.zeros(())
    plain = start_scores([problem], like, confidence=0.9)
    assert all(torch.equal(s[0], torch.eye(s.shape[-1])) for s in plain.values())
    given = {n: (k + 1.0) * torch.randn(12, 12, generator=torch.Generator().manual_seed(k)) for k, n in enumerate(plain)}
    scaled = start_scores([replace(problem, scores=given)], like, spread=2.0, confidence=0.9)
    for name, s in scaled.items():
        assert float(s.std()) == pytest.approx(2.0, rel=1e-4)
        assert torch.allclose(s[0] / s[0, 0, 0], given[name] / given[name][0, 0], rtol=1e-4)
    ignored = start_scores([replace(problem, scores=given)], like, confidence=0.9)
    assert all(torch.equal(s, plain[n]) for n, s in ignored.items())
