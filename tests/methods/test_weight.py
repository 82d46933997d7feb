"""Weight matching: planted permutations, monotone ascents, and weights at the edge."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from graphalign import align, group, trace
from graphalign.methods.problem import Problem
from graphalign.methods.weight import Weight, ascend, forward_matching
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors, objective, similarity
from tests.planted import RECOVERABLE, plant, recovered
from tests.traced import cast, other_state, traced


def gained(spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], element: Mapping[str, Tensor]) -> float:
    return objective(matched_tensors(spec), a, group.apply_to_state(spec, element, b))


@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered(name: str) -> None:
    network = traced(name)
    for seed in range(3):
        b, element = plant(network.spec, network.state, seed=seed)
        found = Weight()(Problem(network.spec, network.state, b)).permutations
        assert recovered(found, element) == 1.0


@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered_under_noise(name: str) -> None:
    network = traced(name)
    for seed in range(3):
        b, element = plant(network.spec, network.state, noise=0.1, seed=seed)
        found = Weight()(Problem(network.spec, network.state, b)).permutations
        assert recovered(found, element) >= 0.95
        assert gained(network.spec, network.state, b, found) >= gained(network.spec, network.state, b, element) * (1 - 1e-6)


@pytest.mark.parametrize("name", [*RECOVERABLE, "shared_linear", "tied_autoencoder", "llama", "shufflenet"])
def test_the_objective_never_falls_below_that_of_any_start(name: str) -> None:
    network, b = traced(name), other_state(name)
    spec, a = network.spec, network.state
    found = Weight()(Problem(spec, a, b)).permutations
    group.check_element(spec, found)
    best = gained(spec, a, b, found)
    slack = 1e-6 * abs(best)
    assert best >= gained(spec, a, b, group.identity(spec)) - slack
    assert best >= gained(spec, a, b, forward_matching(spec, pick(spec, a), pick(spec, b))) - slack


def pick(spec: NetworkSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: state[n] for n in matched_tensors(spec)}


@pytest.mark.parametrize("name", ["mlp_3", "resnet_basic", "resnext", "gpt", "shared_linear", "tied_autoencoder"])
def test_every_step_of_an_ascent_grows_the_objective(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tensor holds one cell on two axes the objective is quadratic, and a step on its gradient alone may lower it."""
    import graphalign.methods.weight as module

    network, spec = traced(name), traced(name).spec
    a, b = (pick(spec, cast(s, torch.float64)) for s in (network.state, other_state(name)))
    values: list[float] = []
    improve = module._improve

    def recorded(spec: NetworkSpec, cells: object, names: object, a: object, placed: dict[str, Tensor], *rest: object) -> bool:
        accepted = improve(spec, cells, names, a, placed, *rest)  # type: ignore[arg-type]
        if accepted:
            values.append(objective(tuple(placed), a, placed))  # type: ignore[arg-type]
        return accepted

    monkeypatch.setattr(module, "_improve", recorded)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        start = group.random_element(spec, generator)
        values[:] = [objective(tuple(a), a, group.apply_to_state(spec, start, {**network.state, **b}))]
        found, value = ascend(spec, a, b, start, generator)
        assert len(values) > 1
        assert values == sorted(values)
        assert value == pytest.approx(values[-1], rel=1e-12)
        moved = group.apply_to_state(spec, found, {**network.state, **b})
        assert value == pytest.approx(objective(tuple(a), a, moved), rel=1e-12)


@pytest.mark.parametrize("name", ["mlp_3", "densenet", "gpt"])
def test_an_ascent_ends_where_no_single_swap_helps(name: str) -> None:
    network, spec = traced(name), traced(name).spec
    a, b = (pick(spec, cast(s, torch.float64)) for s in (network.state, other_state(name)))
    found, value = ascend(spec, a, b, group.identity(spec), torch.Generator().manual_seed(0))
    placed = group.apply_to_state(spec, found, {**cast(network.state, torch.float64), **b})
    for cell in spec.cells:
        if cell.blocks == 1:
            for i in range(cell.units - 1):
                swap = group.identity(spec)
                swap[cell.name][[i, i + 1]] = swap[cell.name][[i + 1, i]]
                assert objective(tuple(a), a, group.apply_to_state(spec, swap, placed)) <= value + 1e-6 * abs(value)


@pytest.mark.parametrize("name", ["mlp_2", "resnext", "gpt"])
def test_similarity_is_the_objective_of_single_units(name: str) -> None:
    """Summed along the diagonal it is the part of the objective that the cell's axes contribute."""
    network, spec = traced(name), traced(name).spec
    a, b = (cast(s, torch.float64) for s in (network.state, other_state(name)))
    for cell in spec.cells:
        expected = sum(
            float((a[x.tensor] * b[x.tensor]).movedim(x.axis, 0)[torch.from_numpy(x.positions(cell.name)).flatten()].sum())
            for x in spec.axes_of_cell[cell.name] if x.groups == 1 and x.tensor not in spec.buffers
        ) + sum(
            float((a[x.tensor] * b[x.tensor]).sum())
            for x in spec.axes_of_cell[cell.name] if x.groups > 1
        )  # fmt: skip
        assert float(similarity(spec, cell, a, b).diagonal().sum()) == pytest.approx(expected, rel=1e-10)


# -- weights at the edge ----------------------------------------------------------------------------------------------------


def mlp(width: int = 12) -> tuple[NetworkSpec, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    return trace(model, torch.zeros(1, 5)), {n: p.detach() for n, p in model.state_dict().items()}


def test_duplicated_and_dead_units_do_not_keep_it_from_ending() -> None:
    spec, a = mlp()
    a["0.weight"][6:] = a["0.weight"][:6]
    a["0.bias"][6:] = a["0.bias"][:6]
    a["2.weight"][:, 6:] = a["2.weight"][:, :6]
    for tensor in ("2.weight", "2.bias"):
        a[tensor][8:] = 0.0
    a["4.weight"][:, 8:] = 0.0
    b, element = plant(spec, a)
    found = Weight(restarts=3)(Problem(spec, a, b)).permutations
    moved = group.apply_to_state(spec, found, b)
    assert all(torch.equal(moved[n], a[n]) for n in a)
    assert recovered(found, element) < 1.0  # equal units may have traded places


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constant_weights_end_at_once(fill: float) -> None:
    spec, a = mlp()
    constant = {n: torch.full_like(t, fill) for n, t in a.items()}
    group.check_element(spec, Weight()(Problem(spec, constant, {n: t.clone() for n, t in constant.items()})).permutations)


def test_biases_alone_are_enough() -> None:
    spec, a = mlp()
    for name in ("0.weight", "2.weight", "4.weight"):
        a[name] = torch.ones_like(a[name])
    b, element = plant(spec, a)
    assert recovered(Weight()(Problem(spec, a, b)).permutations, element) == 1.0


def test_running_statistics_move_but_are_not_compared() -> None:
    network = traced("cnn_flatten_bn")
    spec, a, b = network.spec, network.state, dict(other_state("cnn_flatten_bn"))
    assert any(n.endswith("running_var") for n in spec.axes_of_tensor)
    assert not any("running" in n for n in matched_tensors(spec))
    expected = Weight()(Problem(spec, a, b)).permutations
    for name in b:
        if "running" in name:
            b[name] = torch.rand(b[name].shape, generator=torch.Generator().manual_seed(1)) * 100 + 0.1
    found = Weight()(Problem(spec, a, b)).permutations
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_float_types(dtype: torch.dtype) -> None:
    network = traced("resnet_basic")
    b, element = plant(network.spec, network.state)
    found = Weight()(Problem(network.spec, cast(network.state, dtype), cast(b, dtype))).permutations
    assert recovered(found, element) == 1.0


def test_large_and_small_weights_make_no_difference() -> None:
    network, b = traced("mlp_3"), other_state("mlp_3")
    expected = Weight()(Problem(network.spec, network.state, b)).permutations
    for scale in (1e-12, 1e12):
        large_a, large_b = ({n: t * scale for n, t in s.items()} for s in (network.state, b))
        scaled = Weight()(Problem(network.spec, large_a, large_b)).permutations
        assert all(torch.equal(scaled[n], expected[n]) for n in expected)


def test_it_is_deterministic_and_modifies_nothing() -> None:
    network, b = traced("vgg_11_bn"), other_state("vgg_11_bn")
    before = {n: t.clone() for n, t in [*network.state.items(), *((f"b.{k}", v) for k, v in b.items())]}
    first, again = (Weight()(Problem(network.spec, network.state, b, seed=3)).permutations for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(torch.equal(before[n], t) for n, t in network.state.items())
    assert all(torch.equal(before[f"b.{n}"], t) for n, t in b.items())


def test_restarts_can_only_help() -> None:
    network, b = traced("mlp_6"), other_state("mlp_6")
    plain, more = (Weight(restarts=n)(Problem(network.spec, network.state, b)).permutations for n in (0, 5))
    assert gained(network.spec, network.state, b, more) >= gained(network.spec, network.state, b, plain)


def test_a_network_aligns_with_itself_by_the_identity() -> None:
    network = traced("densenet")
    alignment = align(network.model, network.model, example_input=network.example, method="weight")
    assert alignment.moved == 0.0
