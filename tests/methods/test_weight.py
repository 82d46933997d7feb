"""Weight matching: planted permutations, monotone ascents, starts and orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from graphalign import group
from graphalign.methods.problem import Problem
from graphalign.methods.weight import Weight, ascend, forward_matching
from graphalign.spec import NetworkSpec
from graphalign.tracked_similarity import TrackedSimilarity
from graphalign.weight_costs import matched_tensors, objective, similarity
from tests.networks import FAMILIES
from tests.planted import RECOVERABLE, plant, recovered
from tests.traced import Runner, cast, other_state, traced


def gained(spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], element: Mapping[str, Tensor]) -> float:
    return objective(matched_tensors(spec), a, group.apply_to_state(spec, element, b))


@pytest.mark.parametrize("name", RECOVERABLE)
def test_trap_planted_permutations_are_recovered(name: str) -> None:
    network = traced(name)
    for seed in range(3):
        b, element = plant(network.spec, network.state, seed=seed)
        found = Weight()(Problem(network.spec, network.state, b)).permutations
        assert all(perm.dtype == torch.long for perm in found.values())
        assert recovered(found, element) == 1.0


@pytest.mark.parametrize("name", ["mlp_1", "dropout_identity", "swiglu"])
def test_trap_one_hidden_layer_is_solved_exactly_from_any_start(name: str) -> None:
    """One assignment, against scipy's: a similarity that is minimised, transposed or scattered ends elsewhere."""
    network, spec = traced(name), traced(name).spec
    a, b = (pick(spec, cast(s, torch.float64)) for s in (network.state, other_state(name)))
    (cell,) = spec.cells
    _, columns = linear_sum_assignment(similarity(spec, cell, a, b).numpy(), maximize=True)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        found, values = ascend(spec, a, b, group.random_element(spec, generator), generator)
        assert found[cell.name].tolist() == columns.tolist() != torch.argsort(found[cell.name]).tolist()
        assert len(values) == 2


@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered_under_noise(name: str) -> None:
    network = traced(name)
    for seed in range(3):
        b, element = plant(network.spec, network.state, noise=0.1, seed=seed)
        found = Weight()(Problem(network.spec, network.state, b)).permutations
        assert recovered(found, element) >= 0.95
        assert gained(network.spec, network.state, b, found) >= gained(network.spec, network.state, b, element) * (1 - 1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_function_of_the_moved_network_is_unchanged(name: str) -> None:
    network = traced(name)
    found = Weight()(Problem(network.spec, other_state(name), network.state)).permutations
    assert Runner(network).difference(group.apply_to_state(network.spec, found, cast(network.state, torch.float64))) <= 1e-10


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
def test_trap_every_step_grows_the_objective_even_where_it_is_quadratic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tensor holds one cell on two axes a step on the gradient alone may lower the objective."""
    import graphalign.methods.weight as module

    network, spec = traced(name), traced(name).spec
    a, b = (pick(spec, cast(s, torch.float64)) for s in (network.state, other_state(name)))
    values: list[float] = []
    improve = module._improve

    def recorded(tracked: TrackedSimilarity, *rest: Any) -> float:
        gain = improve(tracked, *rest)
        if gain:
            values.append(objective(tuple(a), a, tracked.placed))
            assert gain == pytest.approx(values[-1] - values[-2], abs=1e-9 * abs(values[-1]))
        return gain

    monkeypatch.setattr(module, "_improve", recorded)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        start = group.random_element(spec, generator)
        values[:] = [objective(tuple(a), a, group.apply_to_state(spec, start, {**network.state, **b}))]
        found, sweeps = ascend(spec, a, b, start, generator)
        assert len(values) > 1
        assert values == sorted(values)
        assert list(sweeps) == sorted(sweeps)
        assert (sweeps[0], sweeps[-1]) == pytest.approx((values[0], values[-1]), rel=1e-12)
        moved = group.apply_to_state(spec, found, {**network.state, **b})
        assert sweeps[-1] == pytest.approx(objective(tuple(a), a, moved), rel=1e-12)


@pytest.mark.parametrize("name", ["mlp_3", "densenet", "gpt"])
def test_an_ascent_ends_where_no_single_swap_helps(name: str) -> None:
    network, spec = traced(name), traced(name).spec
    a, b = (pick(spec, cast(s, torch.float64)) for s in (network.state, other_state(name)))
    found, (*_, value) = ascend(spec, a, b, group.identity(spec), torch.Generator().manual_seed(0))
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


@pytest.mark.parametrize("order", ["random", "forward", "backward", "alternate"])
@pytest.mark.parametrize("name", ["mlp_6", "resnext"])
def test_every_order_of_sweeps_ends_where_no_group_improves(name: str, order: Any) -> None:
    network, b = traced(name), other_state(name)
    problem = Problem(network.spec, network.state, b, start=group.random_element(network.spec, torch.Generator().manual_seed(0)))
    found = Weight(order=order)(problem)
    assert len(found.losses) > 1
    assert list(found.losses) == sorted(found.losses)
    assert found.objective == found.losses[-1] == pytest.approx(gained(network.spec, network.state, b, found.permutations), rel=1e-6)
    again = Weight(order=order)(Problem(network.spec, network.state, b, start=found.permutations))
    assert all(torch.equal(again.permutations[n], found.permutations[n]) for n in found.permutations)


@pytest.mark.parametrize("name", ["mlp_3", "vgg_11_bn", "gpt", "shared_linear"])
def test_it_starts_where_it_is_told_and_never_ends_below(name: str) -> None:
    network, b = traced(name), other_state(name)
    for seed in range(3):
        start = group.random_element(network.spec, torch.Generator().manual_seed(seed))
        found = Weight()(Problem(network.spec, network.state, b, start=start))
        assert found.objective is not None
        assert found.objective >= gained(network.spec, network.state, b, start)
    planted, element = plant(network.spec, network.state)
    kept = Weight()(Problem(network.spec, network.state, planted, start=element))
    assert recovered(kept.permutations, element) == 1.0


def test_restarts_can_only_help() -> None:
    network, b = traced("mlp_6"), other_state("mlp_6")
    plain, more = (Weight(restarts=n)(Problem(network.spec, network.state, b)) for n in (0, 20))
    assert plain.objective is not None
    assert more.objective is not None
    assert more.objective > plain.objective
    assert more.objective == pytest.approx(gained(network.spec, network.state, b, more.permutations), rel=1e-6)
