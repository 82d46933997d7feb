"""Optimal-transport fusion: permutations at equal widths, exact inverses of known splits, both conventions, and its refusals."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from graphalign import InvalidInput, SpecMismatch, group
from graphalign.converters.trace import trace_architecture
from graphalign.methods.problem import Problem
from graphalign.methods.transport import Transport
from graphalign.transport_plan import TransportPlan
from tests.networks import FAMILIES, mlp
from tests.planted import RECOVERABLE, plant, recovered
from tests.traced import Runner, cast, other_state, traced
from tests.widened import WIDTHS, Attentive, TiedHead, Widened, batches, pair, widened

split = cache(widened)


def plan_of(name: str, settings: Transport | None = None) -> TransportPlan:
    """The plan between two independent networks of a family of `tests.networks`."""
    network = traced(name)
    a, b = (cast(state, torch.float64) for state in (network.state, dict(other_state(name))))
    return (settings or Transport()).plan((network.architecture,) * 2, a, b)


def back(network: Widened, settings: Transport | None = None) -> TransportPlan:
    """The plan from the wide network of a split to the narrow one."""
    return (settings or Transport()).plan(network.architectures, *network.states, template=network.narrow)


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(group.all_tensors(a).values(), group.all_tensors(b).values(), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs if x.is_floating_point())


# Equal widths


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_plans_of_equal_widths_are_permutations_that_keep_the_function(name: str) -> None:
    """Attention heads and convolution groups too; the general maps of the plan and the gathers of its alignment agree bit by bit."""
    plan, runner = plan_of(name), Runner(traced(name))
    assert plan.is_permutation
    moved = plan.apply(runner.state)
    assert runner.difference(moved) <= 1e-10
    alignment = plan.to_alignment()
    assert all(torch.equal(alignment.permutations[n], perm) for n, perm in plan.permutations.items())
    assert all(torch.equal(tensor, moved[n]) for n, tensor in alignment.apply(runner.state).items())


@pytest.mark.parametrize("ground", ["euclidean", "squared", "cosine"])
@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered(name: str, ground: str) -> None:
    network = traced(name)
    b, element = plant(network.spec, network.state, noise=0.01, seed=1)
    plan = Transport(ground=ground).plan((network.architecture,) * 2, network.state, b)  # type: ignore[arg-type]
    assert recovered(plan.permutations, element) == 1.0


def test_exact_transport_is_linear_assignment_and_the_plan_of_pot() -> None:
    """Layer by layer on an MLP, the costs written out: rows of [W P, b] of B against rows of [W, b] of A."""
    network = traced("mlp_3")
    a, b = (cast(state, torch.float64) for state in (network.state, dict(other_state("mlp_3"))))
    plan = Transport(ground="squared").plan((network.architecture,) * 2, a, b)
    columns = torch.arange(5)
    for i, cell in zip((0, 2, 4), network.spec.cells, strict=True):
        x = torch.cat([a[f"{i}.weight"], a[f"{i}.bias"][:, None]], 1)
        y = torch.cat([b[f"{i}.weight"][:, columns], b[f"{i}.bias"][:, None]], 1)
        cost = (x[:, None] - y[None]).square().sum(2)
        columns = torch.as_tensor(linear_sum_assignment(cost.numpy())[1])
        assert torch.equal(plan.permutations[cell.name], columns)
        uniform = torch.full((len(cost),), 1 / len(cost), dtype=torch.float64)
        assert torch.allclose(plan.plans[cell.name], torch.as_tensor(ot.emd(uniform, uniform, cost)), atol=1e-12)


def test_as_a_method_it_gives_permutations_even_where_the_plan_mixes() -> None:
    network = traced("attention")
    problem = Problem(network.spec, network.state, other_state("attention"), architecture=network.architecture)
    exact = Transport()(problem)
    assert all(torch.equal(exact.permutations[n], p) for n, p in plan_of("attention").permutations.items())
    soft = Transport(regularisation=0.1)(problem)
    group.check_element(network.spec, soft.permutations)
    assert soft.scores is not None
    assert all(float(s.sum()) == pytest.approx(1) for s in soft.scores.values())


# Different widths


@pytest.mark.parametrize("name", WIDTHS)
def test_trap_mass_preserving_input_map_undoes_a_split_exactly(name: str) -> None:
    """Weights that leave two halves of a unit must be added up, not averaged: the published map shrinks them."""
    network = split(WIDTHS[name])
    assert float((network.outputs(network.narrow) - network.outputs(network.wide)).abs().max()) < 1e-12
    transported = back(network).apply(network.wide)
    assert largest_difference(transported, network.narrow) < 1e-14
    published = back(network, Transport(mass_preserving=False)).apply(network.wide)
    assert largest_difference(published, network.narrow) > 0.01
    assert float((network.outputs(published) - network.outputs(network.narrow)).abs().max()) > 0.01


def test_outgoing_sums_are_kept_at_widths_that_do_not_divide() -> None:
    torch.manual_seed(0)
    a, b = mlp([5, 3]).double(), mlp([8, 7]).double()
    example = torch.randn(2, 5, dtype=torch.float64)
    architectures = trace_architecture(a, example), trace_architecture(b, example)
    states = group.all_tensors(a), group.all_tensors(b)
    for settings in (Transport(), Transport(regularisation=0.05), Transport(importance="norm")):
        moved = settings.plan(architectures, *states).apply(states[1])
        assert torch.allclose(moved["4.weight"].sum(1), states[1]["4.weight"].sum(1), atol=1e-12)
        assert not torch.allclose(moved["4.weight"], states[0]["4.weight"])
    published = Transport(mass_preserving=False).plan(architectures, *states)
    assert torch.equal(published.plans["2"], Transport(mass_preserving=False).plan(architectures, *states).plans["2"])
    average = published.plans["2"] / published.plans["2"].sum(1, keepdim=True)
    assert torch.allclose(published.apply(states[1])["4.weight"], states[1]["4.weight"] @ average.T)


@pytest.mark.parametrize("regularisation", [None, 0.02])
def test_plans_have_uniform_masses_and_outputs_are_averages(regularisation: float | None) -> None:
    network = split(WIDTHS["cnn_flatten"])
    plan = back(network, Transport(regularisation=regularisation))
    for cell in network.architectures[0].spec.cells:
        table = plan.plans[cell.name]
        assert torch.allclose(table.sum(1), torch.full((len(table),), 1 / len(table), dtype=torch.float64), atol=1e-9)
        assert torch.allclose(table.sum(0), torch.full((table.shape[1],), 1 / table.shape[1], dtype=torch.float64), rtol=0.01)
    ones = {n: torch.ones_like(t) if n == "0.bias" else t for n, t in network.states[1].items()}
    assert torch.allclose(plan.apply(ones)["0.bias"], torch.ones(6, dtype=torch.float64))


def test_trap_biases_count_as_weights_of_a_constant_input() -> None:
    """Equal weights everywhere: only the biases tell the units apart."""
    torch.manual_seed(0)
    a = group.all_tensors(mlp([6]).double())
    a["0.weight"] = torch.ones_like(a["0.weight"])
    network = traced("mlp_1")
    state = {n: torch.ones_like(t).double() if n == "0.weight" else t.double() for n, t in network.state.items()}
    b, element = plant(network.spec, state)
    plan = Transport().plan((network.architecture,) * 2, state, b)
    assert recovered(plan.permutations, element) == 1.0
    assert torch.equal(plan.apply(b)["0.bias"], state["0.bias"])


def test_affine_parameters_count_and_running_statistics_do_not() -> None:
    network = traced("cnn_global_pool_bn")
    state = {n: torch.ones_like(t) if n.endswith((".weight", ".bias")) and t.dim() != 1 else t for n, t in network.state.items()}
    b, element = plant(network.spec, state)
    assert recovered(Transport().plan((network.architecture,) * 2, state, b).permutations, element) == 1.0
    other = dict(other_state("cnn_global_pool_bn"))
    expected = Transport().plan((network.architecture,) * 2, network.state, other)
    loud = {n: t * 100 + 1 if "running" in n else t for n, t in other.items()}
    found = Transport().plan((network.architecture,) * 2, network.state, loud)
    assert all(torch.equal(found.plans[n], p) for n, p in expected.plans.items())
    moved, perm = found.apply(loud), found.permutations
    norm = next(n for n in loud if n.endswith("running_var"))
    cell = network.spec.axes_of_tensor[norm][0].cells[0]
    assert torch.equal(moved[norm], loud[norm][perm[cell]])


def test_trap_logits_are_never_moved() -> None:
    network, plan = traced("mlp_2"), plan_of("mlp_2")
    assert not any(layout.tensor == "4.bias" for layout in network.spec.axes)
    b = dict(other_state("mlp_2"))
    assert torch.equal(plan.apply(b)["4.bias"], b["4.bias"])


def test_a_residual_stream_has_one_plan_from_all_that_writes_to_it() -> None:
    """The stem tells nothing; the units of the stream differ by the weights of the branch, which is found later."""
    network = traced("mlp_in_place_residual")
    state = {n: torch.zeros_like(t) if n.startswith("stem") or n == "second.bias" else t for n, t in network.state.items()}
    state["first.weight"] = torch.ones_like(state["first.weight"])  # the branch is told apart by its biases alone
    b, element = plant(network.spec, state)
    assert recovered(Transport().plan((network.architecture,) * 2, state, b).permutations, element) == 1.0


def test_importance_gives_large_units_more_mass() -> None:
    network = split(WIDTHS["mlp"])
    plan = back(network, Transport(importance="norm"))
    first = group.all_tensors(network.narrow)
    norms = torch.cat([first["0.weight"], first["0.bias"][:, None]], 1).norm(dim=1)
    masses = plan.plans[network.architectures[0].spec.cells[0].name].sum(1)
    assert torch.allclose(masses, norms / norms.sum(), atol=1e-2)
    assert torch.allclose(plan.apply(network.states[1])["0.weight"], network.states[0]["0.weight"], atol=0.1)


def test_a_dead_unit_has_its_place() -> None:
    network = split(WIDTHS["mlp"])
    a, b = network.states
    a = {n: t.clone() for n, t in a.items()}
    a["0.weight"][2], a["0.bias"][2] = 0, 0
    for settings in (Transport(importance="norm"), Transport(ground="cosine"), Transport(normalise=True, regularisation=0.05)):
        moved = settings.plan(network.architectures, a, b).apply(b)
        assert all(bool(t.isfinite().all()) for t in moved.values())


# Activations


@pytest.mark.parametrize("name", ["mlp", "mlp_batch_norm", "cnn_flatten", "resnet", "resnext", "densenet", "more_heads"])
def test_activations_undo_a_split(name: str) -> None:
    network = split(WIDTHS[name])
    plan = Transport(cost="activations").plan(
        network.architectures, *network.states, data=batches(network.example, 40), template=network.narrow
    )
    assert float((network.outputs(plan.apply(network.wide)) - network.outputs(network.narrow)).abs().max()) < 1e-10


@pytest.mark.parametrize("name", ["mlp_3", "cnn_flatten_bn", "resnet_basic", "encoder_layer_relu"])
def test_activations_recover_planted_permutations(name: str) -> None:
    network = traced(name)
    b, element = plant(network.spec, network.state, seed=2)
    data = [x.float() for x in batches(network.example.args[0], 64)]
    plan = Transport(cost="activations").plan((network.architecture,) * 2, network.state, b, data=data)
    moved = plan.apply(b)
    runner = Runner(network)
    assert runner.difference(cast(moved, torch.float64)) < 1e-5
    assert recovered(plan.permutations, element) > 0.7  # units that no input of the sample excites are alike


def test_activations_without_data_are_refused() -> None:
    network = traced("mlp_2")
    with pytest.raises(InvalidInput, match="cost='activations': found no data, which it needs; pass data=, a loader of inputs"):
        Transport(cost="activations").plan((network.architecture,) * 2, network.state, network.state)


def test_activations_that_are_not_finite_are_refused() -> None:
    network = traced("mlp_2")
    a = {n: t * 1e30 for n, t in network.state.items()}
    with pytest.raises(InvalidInput, match="NaN or infinity in the units of"):
        Transport(cost="activations").plan((network.architecture,) * 2, a, a, data=[torch.randn(8, 5) * 1e30])


# Regularisation


def test_trap_large_costs_do_not_underflow() -> None:
    """Entropic transport of weights times 1e6 is that of the weights, not NaN."""
    network = split(WIDTHS["mlp"])
    plans = []
    for scale in (1.0, 1e6, 1e-9):
        a, b = ({n: t * scale for n, t in state.items()} for state in network.states)
        plans.append(Transport(regularisation=0.01, ground="squared").plan(network.architectures, a, b, seed=0))
    first, *others = (plan.plans[network.architectures[0].spec.cells[0].name] for plan in plans)
    assert bool(first.isfinite().all())
    assert all(torch.allclose(first, plan, atol=1e-8) for plan in others)


def test_little_regularisation_is_near_exact_and_much_is_near_independence() -> None:
    network = split(WIDTHS["mlp"])
    name = network.architectures[0].spec.cells[0].name
    exact, little, much = (back(network, Transport(regularisation=r)).plans[name] for r in (None, 2e-3, 100.0))
    assert torch.allclose(exact, little, atol=1e-3)
    assert torch.allclose(much, torch.full_like(much, 1 / much.numel()), rtol=0.05)


# Settings and bad input


@pytest.mark.parametrize(
    "settings",
    [
        {"ground": "squared"}, {"ground": "cosine"}, {"normalise": True}, {"importance": "norm"}, {"regularisation": 0.05},
        {"cost": "activations"}, {"cost": "activations", "normalise": True},
    ],
    ids=str,
)  # fmt: skip
def test_trap_every_setting_changes_the_plan(settings: dict[str, Any]) -> None:
    a, b, example = pair((lambda k: mlp([12 * k, 9 * k]), lambda: torch.randn(2, 5)))
    architectures = trace_architecture(a, example), trace_architecture(b, example)
    data = batches(example, 30)
    base = {"cost": settings["cost"]} if len(settings) > 1 else {}
    plans = [Transport(**s).plan(architectures, group.all_tensors(a), group.all_tensors(b), data=data) for s in (base, settings)]
    assert any(not torch.allclose(plans[0].plans[n], table, atol=1e-6) for n, table in plans[1].plans.items())


def test_settings_are_checked_all_at_once() -> None:
    with pytest.raises(InvalidInput, match="cost='grads', expected one of weights, activations; and ground='l3'.*regularisation=-1") as caught:
        Transport(cost="grads", ground="l3", regularisation=-1)  # type: ignore[arg-type]
    assert "method 'transport'" in str(caught.value)


def test_a_missing_pot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(InvalidInput, match=r"POT \(import ot\), which is not installed; run: pip install 'graphalign\[transport\]'"):
        plan_of("mlp_1")


def test_networks_of_different_depth_are_refused() -> None:
    a, b = traced("mlp_2"), traced("mlp_3")
    with pytest.raises(SpecMismatch, match=r"A has 2 cells of units \(0, 2\), B has 3(.|\n)*'6.bias' is only in B(.|\n)*different depth have no plan"):
        Transport().plan((a.architecture, b.architecture), a.state, b.state)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ((lambda k: Attentive(8 * k, 2), WIDTHS["more_heads"][1]), "is read by no weight: its units are multiplied with each other"),
        ((lambda k: TiedHead(6 * k), lambda: torch.randint(11, (2, 5))), "is both produced and read by axis 1 of 'token.weight'"),
    ],
    ids=["head_size", "tied_embedding"],
)
def test_units_that_no_weights_make_up_for_are_refused(family: object, message: str) -> None:
    a, b, example = pair(family)  # type: ignore[arg-type]
    architectures = trace_architecture(a, example), trace_architecture(b, example)
    states = group.all_tensors(a), group.all_tensors(b)
    with pytest.raises(SpecMismatch, match=message):
        Transport().plan(architectures, *states)
    published = Transport(mass_preserving=False).plan(architectures, *states, template=a).apply(b)
    with torch.no_grad():
        assert bool(published(example).isfinite().all())


def test_inputs_stay_as_they_are() -> None:
    network = split(WIDTHS["resnext"])
    before = [{n: t.clone() for n, t in state.items()} for state in network.states]
    back(network).apply(network.wide)
    assert all(torch.equal(old[n], t) for old, new in zip(before, network.states, strict=True) for n, t in new.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_float_types(dtype: torch.dtype) -> None:
    network = split(WIDTHS["cnn_flatten"])
    a, b = (cast(state, dtype) for state in network.states)
    moved = Transport().plan(network.architectures, a, b).apply(b)
    assert all(t.dtype == a[n].dtype for n, t in moved.items())
    assert all(torch.allclose(t.double(), a[n].double(), atol=4 * torch.finfo(dtype).eps) for n, t in moved.items() if t.is_floating_point())
