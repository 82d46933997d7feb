"""Sinkhorn re-basin: planted permutations, warm starts that survive, the best hard iterate, and bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphalign import InvalidInput, align, group
from graphalign.assignment import assign_spec
from graphalign.methods import Problem
from graphalign.methods.descent import Pairs, start_scores
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.pairwise import prepare_pair
from graphalign.soft import apply_soft, sinkhorn, soft_permutations
from tests.planted import plant, recovered
from tests.traced import traced

CLASSES = 3


def mlp(seed: int, hidden: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def task(batches: int = 3, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """A separable task: which of three directions an input points along most."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(6, CLASSES, generator=generator)
    inputs = [torch.randn(size, 6, generator=generator) for _ in range(batches)]
    return [(x, (x @ directions).argmax(1)) for x in inputs]


def trained(seed: int) -> nn.Sequential:
    network = mlp(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(30):
        for x, y in task():
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(network(x), y))
            optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def problem() -> Problem:
    return prepare_pair(trained(0), trained(1), torch.zeros(1, 6)).problem(data=task())


def midpoint_loss(problem: Problem, element: dict[str, Tensor]) -> float:
    moved = group.apply_to_state(problem.spec, element, problem.b)
    middle = {n: 0.5 * (problem.a[n] + moved[n]) for n in moved}
    assert problem.module is not None
    losses = [nn.functional.cross_entropy(torch.func.functional_call(problem.module, middle, (x,)), y) for x, y in task()]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("name", ["mlp_3", "cnn_flatten", "resnet_basic", "encoder_layer_relu"])
def test_planted_permutations_are_recovered_from_weights_alone(name: str) -> None:
    network = traced(name)
    b, element = plant(network.spec, network.state)
    found = Sinkhorn("l2", steps=80, rate=1.0)(Problem(network.spec, network.state, b))
    assert recovered(found.permutations, element) == 1.0
    assert found.objective == pytest.approx(0.0, abs=1e-10)


def test_scores_of_an_earlier_method_say_more_than_its_permutations(problem: Problem) -> None:
    scores = {c.name: torch.randn(c.size, c.size, generator=torch.Generator().manual_seed(3)) for c in problem.spec.cells}
    known = replace(problem, start=assign_spec(problem.spec, scores), scores=scores)
    from_scores = Sinkhorn(steps=1, rate=1e-6, spread=2.0, patience=None)(known).scores
    assert from_scores is not None
    for name, found in from_scores.items():
        assert torch.allclose(found, 2.0 * scores[name] / scores[name].std(), atol=1e-4)
    ignored = Sinkhorn(steps=1, rate=1e-6, patience=None)(known).scores
    assert ignored is not None
    assert all(int((found.abs() > 1e-3).sum()) == len(found) for found in ignored.values())


@pytest.mark.parametrize("objective", ["midpoint", "random"])
def test_the_loss_of_hard_permutations_falls(problem: Problem, objective: str) -> None:
    found = Sinkhorn(objective, steps=60, examples=64)(problem)  # type: ignore[arg-type]
    start = midpoint_loss(problem, group.identity(problem.spec))
    assert found.objective is not None
    assert found.objective < 0.7 * start
    assert midpoint_loss(problem, found.permutations) == pytest.approx(found.objective, rel=1e-4)
    assert len(found.losses) == 60


def test_trap_the_soft_loss_is_not_the_hard_loss(problem: Problem) -> None:
    """What is returned is the best of the hard iterates: more steps, a wilder rate, never a worse hard loss than the start's."""
    for rate in (0.05, 5.0):
        found = Sinkhorn("midpoint", steps=20, rate=rate, every=1, examples=1000)(problem)
        assert found.objective is not None
        assert found.objective <= midpoint_loss(problem, group.identity(problem.spec)) + 1e-6
        assert midpoint_loss(problem, found.permutations) == pytest.approx(found.objective, rel=1e-4)
        assert abs(found.objective - found.losses[-1]) > 1e-3


def test_trap_a_warm_start_survives_the_first_projection() -> None:
    """A 0/1 matrix of 200 units is nearly uniform after Sinkhorn at temperature 1; the scaled start is not."""
    units = 200
    network = mlp(0, units)
    pair = prepare_pair(network, network, torch.zeros(1, 6))
    start = group.random_element(pair.spec, torch.Generator().manual_seed(0))
    (cell, *_) = pair.spec.cells
    like = torch.zeros(())
    for confidence, share in ((0.5, 0.5), (0.9, 0.9)):
        scores = start_scores([pair.problem(start=start)], like, confidence=confidence)[cell.name][0]
        chosen = sinkhorn(scores, 20)[torch.arange(units), start[cell.name]]
        assert torch.allclose(chosen, torch.full((units,), share), atol=1e-3)
    published = start_scores([pair.problem()], like, confidence=0.9)[cell.name][0]
    assert float(sinkhorn(published, 20).diagonal().mean()) < 0.02


@pytest.mark.parametrize("units", [2, 3, 50])
def test_trap_a_start_is_not_lost_in_narrow_cells(units: int) -> None:
    """log(confidence (U - 1) / (1 - confidence)) is 0 for two units and a half: no start at all."""
    pair = prepare_pair(mlp(0, units), mlp(1, units), torch.zeros(1, 6))
    for start in (group.identity(pair.spec), {c.name: torch.arange(units).roll(1) for c in pair.spec.cells}):
        scores = start_scores([pair.problem(start=start)], torch.zeros(()), confidence=0.5)
        assert group.same(assign_spec(pair.spec, {n: s[0] for n, s in scores.items()}), start)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float16), (torch.bfloat16, torch.float16)])
def test_networks_of_two_precisions_are_computed_in_the_higher(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    a, b = (mlp(k).to(dtype) for k, dtype in enumerate(dtypes))
    problem = prepare_pair(a, b, torch.zeros(1, 6, dtype=dtypes[0])).problem(data=task())
    pairs = Pairs.of([problem])
    expected = torch.float64 if torch.float64 in dtypes else torch.float32
    assert {t.dtype for side in (pairs.a, pairs.b) for t in side.values()} == {expected}
    for objective in ("random", "l2"):
        found = Sinkhorn(objective, steps=2, examples=64)(problem)  # type: ignore[arg-type]
        group.check_element(problem.spec, found.permutations)


def test_lambda_is_drawn_or_one_half(problem: Problem) -> None:
    """On the same examples in every step and almost without moving, the loss changes only if lambda does."""
    for objective, wide in (("random", True), ("midpoint", False)):
        losses = Sinkhorn(objective, steps=8, rate=1e-7, examples=1000)(problem).losses  # type: ignore[arg-type]
        assert (max(losses) - min(losses) > 0.1 * max(losses)) == wide


def test_starts_are_kept_where_nothing_is_better(problem: Problem) -> None:
    """From permutations that are best already, only better ones are returned."""
    best = Sinkhorn("midpoint", steps=60, examples=1000)(problem)
    again = Sinkhorn("midpoint", steps=5, rate=1e-4, examples=1000)(replace(problem, start=best.permutations))
    assert all(torch.equal(perm, best.permutations[n]) for n, perm in again.permutations.items())


def test_trap_the_assignment_maximises_the_scores(problem: Problem) -> None:
    found = Sinkhorn("midpoint", steps=3, rate=1e-6, examples=1000)(problem)
    assert found.scores is not None
    for name, perm in found.permutations.items():
        assert torch.equal(perm, torch.arange(len(perm)))  # the identity is where the scores start
        assert float(found.scores[name].diagonal().mean()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("objective", ["random", "l2"])
def test_many_pairs_at_once_end_where_each_ends_alone(objective: str) -> None:
    pairs = [prepare_pair(trained(k), trained(k + 1), torch.zeros(1, 6)).problem(seed=k, data=task()) for k in range(3)]
    solver = Sinkhorn(objective, steps=12, examples=64)  # type: ignore[arg-type]
    for alone, together in zip([solver(p) for p in pairs], solver.solve(pairs), strict=True):
        assert all(torch.equal(perm, together.permutations[n]) for n, perm in alone.permutations.items())
        assert alone.losses == pytest.approx(together.losses, rel=1e-4)
        assert alone.objective == pytest.approx(together.objective, rel=1e-4)


def test_it_stops_early_when_nothing_improves(problem: Problem) -> None:
    found = Sinkhorn("midpoint", steps=200, rate=1e-6, every=1, patience=4, examples=1000)(problem)
    assert len(found.losses) == 4


def test_trap_batch_norm_is_not_run_on_mixed_running_statistics() -> None:
    """The network between uses the batch: running statistics far off do not change the descent."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    other = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    pair = prepare_pair(network, other, torch.zeros(2, 6))
    found = Sinkhorn("midpoint", steps=5, examples=64)(pair.problem(data=task()))
    far = {n: t + 100.0 if n.endswith("running_mean") else t for n, t in pair.b.items()}
    again = Sinkhorn("midpoint", steps=5, examples=64)(replace(pair, b=far).problem(data=task()))
    assert found.losses == pytest.approx(again.losses, rel=1e-6)


def test_scores_are_those_of_the_permutations_returned(problem: Problem) -> None:
    """So that a method that starts from the scores starts from the result, however wild the last steps were."""
    found = Sinkhorn("midpoint", steps=15, rate=5.0, every=1, examples=1000)(problem)
    assert found.scores is not None
    assert group.same(assign_spec(problem.spec, found.scores), found.permutations)


def test_inputs_are_left_as_they_are(problem: Problem) -> None:
    before = {n: t.clone() for n, t in {**problem.a, **{f"b.{n}": t for n, t in problem.b.items()}}.items()}
    Sinkhorn(steps=3)(problem)
    after = {**problem.a, **{f"b.{n}": t for n, t in problem.b.items()}}
    assert all(torch.equal(t, before[n]) for n, t in after.items())


def test_soft_matrices_of_a_pair_move_only_b(problem: Problem) -> None:
    pairs = Pairs.of([problem])
    scores = {n: s[0] for n, s in start_scores([problem], torch.zeros(())).items()}
    mixed = apply_soft(problem.spec, {n: t[0] for n, t in pairs.b.items()}, soft_permutations(problem.spec, scores, 10))
    assert mixed["4.bias"] is not pairs.a["4.bias"]
    assert torch.equal(mixed["4.bias"], problem.b["4.bias"])  # logits stay where they are


# -- bad input ----------------------------------------------------------------------------------------------------------------------


def test_missing_data_and_labels_are_named() -> None:
    a, b = mlp(0), mlp(1)
    x = torch.zeros(1, 6)
    with pytest.raises(InvalidInput, match=r"method 'sinkhorn': found no data, which it needs; pass data= \(--align-data\), a loader of inputs or of \(inputs, labels\)"):
        align(a, b, example_input=x, method="sinkhorn")
    with pytest.raises(InvalidInput, match=r"loss 'cross_entropy': found a batch without targets, expected \(inputs, targets\)"):
        align(a, b, example_input=x, method="sinkhorn", data=[x for x, _ in task()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "l3"}, "sinkhorn: found objective 'l3', expected one of random, midpoint, l2"),
        ({"steps": 0, "rate": -1.0}, "sinkhorn: found steps=0, expected at least 1; rate=-1.0, expected a positive number"),
        ({"confidence": 1.0}, "sinkhorn: found confidence=1.0, expected a number between 0 and 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        align(mlp(0), mlp(1), example_input=torch.zeros(1, 6), method="sinkhorn", **settings)


def test_pairs_of_two_architectures_are_refused() -> None:
    one, other = (prepare_pair(mlp(0, h), mlp(1, h), torch.zeros(1, 6)).problem() for h in (8, 9))
    with pytest.raises(InvalidInput, match="found pairs of different architectures, expected one; call once per architecture"):
        Sinkhorn("l2").solve([one, other])
    with pytest.raises(InvalidInput, match="found no pair of networks, expected at least one"):
        Sinkhorn("l2").solve([])
