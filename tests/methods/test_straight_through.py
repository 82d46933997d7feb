"""Straight-through matching: its gradient, what it is judged by, and every family."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import InvalidInput, align, group, interpolate
from graphalign.converters.trace import trace_architecture
from graphalign.evaluation import evaluate
from graphalign.forward import prediction
from graphalign.group import all_tensors
from graphalign.methods import straight_through
from graphalign.methods.problem import Problem
from graphalign.methods.straight_through import StraightThrough
from graphalign.methods.weight import Weight
from tests.networks import FAMILIES
from tests.traced import Runner, cast, other_state, traced

Batch = tuple[Tensor, Tensor]


@cache
def examples() -> tuple[Batch, ...]:
    """Eight batches of 64 points in five classes, which a random network with one hidden layer tells apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 10, generator=generator)
    labels = (torch.tanh(x @ torch.randn(10, 8, generator=generator)) @ torch.randn(8, 5, generator=generator)).argmax(1)
    return tuple(zip(x.split(64), labels.split(64), strict=True))


@cache
def network(seed: int, norm: bool = False) -> nn.Module:
    """A small network trained on the examples."""
    torch.manual_seed(seed)
    norms: list[nn.Module] = [nn.BatchNorm1d(16)] if norm else []
    model = nn.Sequential(nn.Linear(10, 16), *norms, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        for x, y in examples():
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
    return model.eval()


def problem(**changes: Any) -> Problem:
    a, b = network(0), network(1)
    architecture = trace_architecture(a, torch.zeros(2, 10))
    settings = {"architecture": architecture, "module": copy.deepcopy(a), "data": examples(), **changes}
    return Problem(architecture.spec, all_tensors(a), all_tensors(b), **settings)


def midpoint_loss(element: dict[str, Tensor], batches: Any) -> float:
    a, b = network(0), network(1)
    moved = group.apply_to_module(problem().spec, element, b)
    return evaluate(interpolate(a, moved, 0.5), list(batches)).loss


def test_it_ends_below_weight_matching_on_batches_that_it_has_not_learned_on() -> None:
    given = problem()
    start = Weight()(given).permutations
    found = StraightThrough(steps=30, rate=0.1, every=1)(given)
    group.check_element(given.spec, found.permutations)
    held_out = examples()[-2:]
    assert found.objective == pytest.approx(midpoint_loss(found.permutations, held_out), rel=1e-4)
    assert found.objective < 0.95 * midpoint_loss(start, held_out)
    assert len(found.losses) == 30
    assert found.losses[0] == pytest.approx(midpoint_loss(start, examples()[:1]), rel=1e-4)


def test_trap_permutations_are_judged_on_batches_that_are_held_out() -> None:
    """Labels that were drawn at random to learn on lower the loss of their own batches, and nothing else."""
    generator = torch.Generator().manual_seed(1)
    noise = [(x, torch.randint(5, y.shape, generator=generator)) for x, y in examples()[:6]]
    given = problem(data=[*noise, *examples()[6:]])
    start = Weight()(given).permutations
    found = StraightThrough(steps=30, rate=0.3, every=1)(given)
    assert found.objective is not None
    assert min(found.losses) < found.losses[0]
    assert found.objective == pytest.approx(midpoint_loss(found.permutations, examples()[6:]), rel=1e-4)
    assert found.objective <= midpoint_loss(start, examples()[6:]) * (1 + 1e-6)
    unheld = StraightThrough(steps=30, rate=0.3, every=1)(problem(data=[*noise, *noise[:2]]))
    assert midpoint_loss(unheld.permutations, examples()[6:]) > found.objective  # judged by noise it takes what is worse


def test_it_starts_where_it_is_told_and_returns_nothing_worse() -> None:
    given = problem()
    good = StraightThrough(steps=30, rate=0.1, every=1)(given)
    assert good.objective is not None
    again = StraightThrough(steps=3)(problem(start=good.permutations))
    assert again.objective is not None
    assert again.objective <= good.objective
    assert again.losses[0] == pytest.approx(midpoint_loss(good.permutations, examples()[:1]), rel=1e-4)
    random = group.random_element(given.spec, torch.Generator().manual_seed(0))
    before = {n: p.clone() for n, p in random.items()}
    at_once = StraightThrough(steps=1)(problem(start=random))
    assert at_once.objective == pytest.approx(midpoint_loss(random, examples()[6:]), rel=1e-4)
    better = StraightThrough(steps=30, every=1, rate=0.3)(problem(start=random))
    assert better.objective is not None
    assert better.objective < midpoint_loss(random, examples()[6:])
    assert all(torch.equal(before[n], random[n]) for n in random)


def test_trap_every_projection_starts_from_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    ascend = straight_through.ascend

    def recorded(spec: Any, a: Any, b: Any, start: Any, generator: Any) -> Any:
        result = ascend(spec, a, b, start, generator)
        calls.append((start, result[0]))
        return result

    given = problem()
    first = Weight()(given).permutations
    monkeypatch.setattr(straight_through, "ascend", recorded)
    StraightThrough(steps=30, rate=0.3)(given)
    assert len(calls) == 30
    starts, ends = [first, *(end for _, end in calls)], [start for start, _ in calls]
    assert all(torch.equal(x[n], y[n]) for x, y in zip(starts, ends, strict=False) for n in x)
    assert any(not torch.equal(calls[0][1][n], calls[-1][1][n]) for n in first)


def test_trap_the_forward_pass_is_the_hard_midpoint_and_the_gradient_that_of_the_moved_network() -> None:
    given = problem()
    middle = straight_through._Midpoint(given)
    element = group.random_element(given.spec, torch.Generator().manual_seed(3))
    free = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for n, t in middle.compared.items()}
    loss = middle.loss(middle.straight_through(free, element), examples()[0])
    assert float(loss.detach()) == pytest.approx(midpoint_loss(element, examples()[:1]), rel=1e-5)
    moved = {n: t.clone().requires_grad_() for n, t in middle.moved(element).items()}
    expected = torch.autograd.grad(middle.loss(moved, examples()[0]), [moved[n] for n in free])
    found = torch.autograd.grad(loss, list(free.values()))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(found, expected, strict=True))
    assert any(bool(x.abs().max() > 1e-4) for x in found)


def test_trap_the_midpoint_has_the_statistics_of_the_batch() -> None:
    """Running statistics belong to A and to B; with theirs the network between is judged wrongly."""
    a, b = network(0, norm=True), network(1, norm=True)
    architecture = trace_architecture(a, torch.zeros(2, 10))
    given = Problem(architecture.spec, all_tensors(a), all_tensors(b), 0, architecture, copy.deepcopy(a), examples())
    found = StraightThrough(steps=5, every=1)(given)
    between = interpolate(a, group.apply_to_module(given.spec, found.permutations, b), 0.5)
    plain = evaluate(between, examples()[6:]).loss
    between.train()
    assert found.objective == pytest.approx(evaluate(between, examples()[6:]).loss, rel=1e-4)
    assert found.objective != pytest.approx(plain, rel=1e-3)


def squares(outputs: Any, batch: Any) -> Tensor:
    return prediction(outputs).square().mean()


def inputs_like(name: str, seed: int) -> Any:
    """Inputs of a family, as a loader gives them: a tensor, a tuple of arguments, or a dict of keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = traced(name).example.args, traced(name).example.kwargs

    def drawn(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator) if x.is_floating_point() else torch.randint(11, x.shape, generator=generator)

    if kwargs and not args:
        return {key: drawn(value) for key, value in kwargs.items()}
    values = tuple(drawn(x) for x in (*args, *kwargs.values()))
    return (values, 0) if len(values) > 1 else values[0]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mixed_inputs"])  # a loader cannot mix the two forms
def test_every_family(name: str) -> None:
    case = traced(name)
    loader = [inputs_like(name, seed) for seed in range(3)]
    given = Problem(case.spec, case.state, other_state(name), 0, case.architecture, case.model, loader, squares)
    found = StraightThrough(steps=2, rate=0.1, every=1)(given)
    assert all(perm.dtype == torch.long for perm in found.permutations.values())
    assert len(found.losses) == 2
    moved = group.apply_to_state(case.spec, found.permutations, cast(case.state, torch.float64))
    assert Runner(case).difference(moved) <= 1e-10


def test_other_float_types() -> None:
    given = problem()
    for dtype in (torch.float16, torch.float64):
        half = Problem(given.spec, cast(given.a, dtype), cast(given.b, dtype), 0, given.architecture,
                       copy.deepcopy(network(0)).to(dtype), given.data)  # fmt: skip
        found = StraightThrough(steps=5, every=1)(half)
        assert found.objective == pytest.approx(midpoint_loss(found.permutations, examples()[6:]), rel=1e-2)


def test_it_is_deterministic_and_modifies_nothing() -> None:
    given = problem(seed=3)
    assert given.module is not None
    before = {n: t.clone() for n, t in (*given.a.items(), *((f"b.{n}", t) for n, t in given.b.items()))}
    module = {n: t.clone() for n, t in all_tensors(given.module).items()}
    first, again = (StraightThrough(steps=20, rate=0.1)(given) for _ in range(2))
    assert first.losses == again.losses
    assert all(torch.equal(first.permutations[n], again.permutations[n]) for n in first.permutations)
    assert all(torch.equal(before[n], t) for n, t in given.a.items())
    assert all(torch.equal(before[f"b.{n}"], t) for n, t in given.b.items())
    assert all(torch.equal(module[n], t) for n, t in all_tensors(given.module).items())
    assert not any(t.requires_grad for t in given.a.values())


def test_networks_that_overwrite_activations_have_derivatives() -> None:
    """Against differences of the loss; plain automatic differentiation refuses this network."""
    case = traced("mlp_in_place_residual")
    a, b = (cast(s, torch.float64) for s in (case.state, other_state("mlp_in_place_residual")))
    module = copy.deepcopy(case.model).double()
    given = Problem(case.spec, a, b, 0, case.architecture, module, None, squares)
    middle = straight_through._Midpoint(given)
    element, batch = group.identity(case.spec), torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.backward(middle.loss({n: t.clone().requires_grad_() for n, t in b.items()}, batch))
    free = {n: t.clone().requires_grad_() for n, t in middle.compared.items()}
    middle.backward(free, element, batch)
    for name, leaf in free.items():
        nudge = 1e-6 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        up, down = (float(middle.loss({**b, name: b[name] + sign * nudge}, batch)) for sign in (1, -1))
        assert leaf.grad is not None
        assert float((leaf.grad * nudge).sum()) == pytest.approx((up - down) / 2, rel=1e-4, abs=1e-12)


def test_weights_that_explode_end_the_descent() -> None:
    steep = problem(loss=lambda outputs, batch: 1e6 * F.cross_entropy(outputs, batch[1]))
    found = StraightThrough(steps=50, rate=3e38)(steep)
    assert 1 <= len(found.losses) < 50
    group.check_element(problem().spec, found.permutations)


def test_align_runs_it_after_another_method() -> None:
    alignment = align(
        network(0), network(1), example_input=torch.zeros(2, 10), method="activation", refine=StraightThrough(steps=5), data=examples()
    )
    assert alignment.method == "activation+straight_through"
    assert alignment.history[1].losses


MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"data": None}, r"method 'straight_through': found no data, which it needs; pass data= \(--align-data\), a loader of inputs or of \(inputs, labels\)"),
    "module": ({"module": None}, "method 'straight_through': found no module, which it needs; pass modules and an example_input"),
    "labels": ({"data": [x for x, _ in examples()]}, r"loss 'cross_entropy': found a batch without targets, expected \(inputs, targets\)"),
    "batches": ({"data": examples()[:1]}, "straight_through: found 1 batch, expected at least 2"),
    "a finite loss": (
        {"loss": lambda outputs, batch: outputs.mean() / 0}, "straight_through: found a loss of -?(inf|nan) at the start, expected a finite one"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_named(case: str) -> None:
    changes, message = MISSING[case]
    with pytest.raises(InvalidInput, match=message):
        StraightThrough(steps=2)(problem(**changes))


def test_settings_out_of_range_are_refused_at_once() -> None:
    message = (
        "straight_through: found steps=0, expected at least 1; batches=1, expected at least 2; rate=-1, expected a positive number; "
        "momentum=1.0, expected a number from 0 to below 1"
    )
    with pytest.raises(InvalidInput, match=message):
        StraightThrough(steps=0, rate=-1, momentum=1.0, batches=1)
