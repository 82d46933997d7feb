"""n networks in one universe: cycles that close, directions, every family, edges and errors."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphalign
from graphalign import InvalidInput, NetworkSpec, SpecMismatch, align, group, trace
from graphalign.methods.joint_objective import joint_objective, place
from graphalign.methods.universe import Universe, UniverseSolution, universe
from graphalign.soft import matrices_of
from graphalign.weight_costs import matched_tensors
from tests.copies import copies, independent
from tests.networks import FAMILIES
from tests.planted import RECOVERABLE, plant
from tests.traced import Runner, cast, other_state, traced

ALGORITHMS = ["merge_many", "frank_wolfe"]


def unmoved(element: Any) -> bool:
    return all(torch.equal(perm, torch.arange(len(perm))) for perm in element.values())


def objective(spec: NetworkSpec, states: list[dict[str, Tensor]], elements: Any) -> float:
    names = matched_tensors(spec)
    return joint_objective([place(spec, e, {n: s[n] for n in names}) for e, s in zip(elements, states, strict=True)])


def mixed_up(count: int = 4) -> UniverseSolution:
    """A solution with random elements, none of which is its own inverse."""
    spec = traced("gpt").spec
    generator = torch.Generator().manual_seed(0)
    elements = tuple(group.random_element(spec, generator) for _ in range(count))
    return UniverseSolution(spec, elements, 0.0, ())


# -- composition ------------------------------------------------------------------------------------------------------------


def test_alignments_around_any_cycle_cancel_exactly() -> None:
    found = mixed_up()
    for length in (2, 3, 4):
        for cycle in permutations(range(4), length):
            around = found.pairwise(cycle[0], cycle[0])
            for i, j in zip((*cycle[1:], cycle[0]), cycle, strict=True):
                around = around.compose(found.pairwise(i, j))
            assert unmoved(around.permutations)
    assert not unmoved(found.pairwise(0, 1).compose(found.pairwise(0, 1)).permutations)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["mlp_3", "densenet"])
def test_what_is_found_is_cycle_consistent(name: str, algorithm: str) -> None:
    spec = traced(name).spec
    found = universe(spec, independent(name, 3), algorithm=algorithm)
    for i, j, k in permutations(range(3)):
        through = found.pairwise(j, k).compose(found.pairwise(i, j))
        direct = found.pairwise(i, k)
        assert all(torch.equal(through.permutations[c], direct.permutations[c]) for c in spec.by_name)
        assert unmoved(found.pairwise(i, j).compose(found.pairwise(j, i)).permutations)


def test_trap_the_way_to_the_universe_is_undone_by_the_inverse_index() -> None:
    """Network i leaves the universe by the inverse of the way it came; three-cycles tell the two apart, two-cycles do not."""
    torch.manual_seed(0)
    spec = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    (cell,) = spec.by_name
    to, fro = {cell: torch.tensor([1, 2, 0])}, {cell: torch.tensor([0, 2, 1])}
    found = UniverseSolution(spec, (to, fro), 0.0, ())
    # universe slot 0 holds unit 1 of network 0 and unit 0 of network 1, so unit 0 of network 1 goes where unit 1 of network 0 is
    assert found.pairwise(0, 1).permutations[cell].tolist() == [1, 0, 2]
    assert found.pairwise(1, 0).permutations[cell].tolist() == [1, 0, 2]
    assert UniverseSolution(spec, (to, group.identity(spec)), 0.0, ()).pairwise(0, 1).permutations[cell].tolist() == [2, 0, 1]
    assert UniverseSolution(spec, (to, group.identity(spec)), 0.0, ()).pairwise(1, 0).permutations[cell].tolist() == [1, 2, 0]


# -- exact copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECOVERABLE)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exact_copies_are_recovered(algorithm: str, name: str) -> None:
    spec = traced(name).spec
    states = copies(spec, traced(name).state, 4)
    found = universe(spec, states, algorithm=algorithm)
    for i, j in permutations(range(4), 2):
        moved = found.pairwise(i, j).apply(states[j])
        assert all(torch.equal(moved[n], states[i][n]) for n in spec.axes_of_tensor)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_noisy_copies_are_recovered(algorithm: str) -> None:
    spec = traced("cnn_flatten").spec
    states = [cast(s, torch.float64) for s in copies(spec, traced("cnn_flatten").state, 4, noise=0.2)]
    planted = [plant(spec, traced("cnn_flatten").state, seed=k)[1] for k in range(4)]
    found = universe(spec, states, algorithm=algorithm)
    true = UniverseSolution(spec, tuple(planted), 0.0, ())
    for i, j in permutations(range(4), 2):
        assert all(torch.equal(found.pairwise(i, j).permutations[c], true.pairwise(i, j).permutations[c]) for c in spec.by_name)
    assert found.objective == pytest.approx(objective(spec, states, planted), rel=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("start", ["identity", "random"])
def test_copies_are_recovered_without_weight_matching(algorithm: str, start: str) -> None:
    spec = traced("mlp_2").spec
    states = copies(spec, traced("mlp_2").state, 5)
    found = universe(spec, states, algorithm=algorithm, start=start, restarts=2)
    moved = [found.pairwise(0, k).apply(states[k]) for k in range(5)]
    assert all(torch.equal(m[n], states[0][n]) for m in moved for n in spec.axes_of_tensor)


# -- families ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_aligned_networks_keep_their_function(name: str) -> None:
    network = traced(name)
    states = [cast(s, torch.float64) for s in (other_state(name), network.state)]
    found = universe(network.spec, states)
    runner = Runner(network)
    assert runner.difference({**runner.state, **found.pairwise(0, 1).apply(states[1])}) <= 1e-10


@pytest.mark.parametrize("name", ["resnext", "llama", "shared_linear"])
def test_networks_aligned_by_frank_wolfe_keep_their_function(name: str) -> None:
    network = traced(name)
    states = [cast(s, torch.float64) for s in (other_state(name), network.state)]
    found = universe(network.spec, states, algorithm="frank_wolfe")
    runner = Runner(network)
    assert runner.difference({**runner.state, **found.pairwise(0, 1).apply(states[1])}) <= 1e-10
    assert not unmoved(found.pairwise(0, 1).permutations)


def test_running_statistics_move_and_do_not_count() -> None:
    spec = traced("vgg_11_bn").spec
    states = copies(spec, traced("vgg_11_bn").state, 3)
    generator = torch.Generator().manual_seed(0)
    strange = [
        {n: t + 1e4 * torch.rand(t.shape, generator=generator) if n in spec.buffers and t.is_floating_point() else t for n, t in s.items()}
        for s in states
    ]  # fmt: skip
    found, other = universe(spec, states), universe(spec, strange)
    assert other.objective == found.objective
    assert all(torch.equal(a[c], b[c]) for a, b in zip(found.elements, other.elements, strict=True) for c in a)
    name = next(n for n in spec.buffers if n.endswith("running_mean"))
    assert torch.equal(found.pairwise(0, 1).apply(states[1])[name], states[0][name])


# -- objective --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["mlp_3", "tied_autoencoder", "attention"])
def test_the_result_is_no_worse_than_the_start(name: str, algorithm: str) -> None:
    spec = traced(name).spec
    states = [cast(s, torch.float64) for s in independent(name, 3)]
    generator = torch.Generator().manual_seed(1)
    start = [group.random_element(spec, generator) for _ in range(3)]
    good = universe(spec, states).elements
    for first in (start, good):
        found = universe(spec, states, algorithm=algorithm, start=first)
        assert found.objective >= objective(spec, states, first) * (1 - 1e-12)
        assert found.objective == pytest.approx(objective(spec, states, found.elements), rel=1e-12)
        assert found.objectives[-1] == found.objective


def test_a_rounding_that_loses_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphalign.methods.universe as module

    spec, states = traced("mlp_6").spec, independent("mlp_6", 4)
    good = universe(spec, states)

    def astray(spec: NetworkSpec, weights: Any, start: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        like = next(iter(weights[0].values()))
        return [matrices_of(spec, group.random_element(spec, generator), like) for _ in weights], [good.objective + 1]

    monkeypatch.setattr(module, "frank_wolfe", astray)
    assert universe(spec, states, start="random", algorithm="frank_wolfe", seed=1).objective < good.objective
    assert universe(spec, states, start=good.elements, algorithm="frank_wolfe").objective == good.objective


def test_more_restarts_are_no_worse() -> None:
    spec, states = traced("mlp_3").spec, independent("mlp_3", 4)
    values = [universe(spec, states, start="random", restarts=r).objective for r in (0, 2, 6)]
    assert values == sorted(values)
    assert values[0] < values[-1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_trap_networks_whose_inner_products_are_all_negative(algorithm: str) -> None:
    """A best value that starts at zero would keep whatever it began with."""
    spec = traced("mlp_2").spec
    states = [{n: t.double().abs() * (1 if k else -1) for n, t in s.items()} for k, s in enumerate(independent("mlp_2", 2))]
    start = [group.random_element(spec, torch.Generator().manual_seed(k)) for k in range(2)]
    found = universe(spec, states, algorithm=algorithm, start=start)
    assert objective(spec, states, start) < found.objective < 0
    assert objective(spec, states, [group.identity(spec)] * 2) < found.objective


def test_frank_wolfe_finds_more_than_coordinate_ascent_on_average() -> None:
    spec = traced("mlp_6").spec
    gains = []
    for seed in range(3):
        states = independent("mlp_6", 4 * (seed + 1))[-4:]
        ascent, conditional = (universe(spec, states, algorithm=a).objective for a in ALGORITHMS)
        gains.append(conditional / ascent - 1)
    assert sum(gains) > 0


# -- edges ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_network_stays_as_it_is(algorithm: str) -> None:
    network = traced("mlp_2")
    found = universe(network.spec, [network.state], algorithm=algorithm)
    assert unmoved(found.elements[0])
    assert unmoved(found.pairwise(0, 0).permutations)
    assert found.objective == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_network_without_movable_units(algorithm: str) -> None:
    spec = NetworkSpec(cells=(), axes=(), shapes={"weight": (2, 3)})
    found = universe(spec, [{"weight": torch.zeros(2, 3)}, {"weight": torch.ones(2, 3)}], algorithm=algorithm)
    assert found.elements == ({}, {})
    assert found.objective == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(algorithm: str, dtype: torch.dtype) -> None:
    spec = traced("mlp_3").spec
    states = [cast(s, dtype) for s in copies(spec, traced("mlp_3").state, 3)]
    kept = [{n: t.clone() for n, t in s.items()} for s in states]
    found = universe(spec, states, algorithm=algorithm)
    moved = found.pairwise(2, 0).apply(states[0])
    assert all(torch.equal(moved[n], states[2][n]) and moved[n].dtype == dtype for n in spec.axes_of_tensor)
    assert all(torch.equal(a[n], b[n]) for a, b in zip(states, kept, strict=True) for n in a)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_networks_of_different_precision(algorithm: str) -> None:
    spec = traced("mlp_3").spec
    states = [
        cast(s, d)
        for s, d in zip(copies(spec, traced("mlp_3").state, 3), (torch.float64, torch.bfloat16, torch.float32), strict=True)
    ]
    found = universe(spec, states, algorithm=algorithm)
    moved = found.pairwise(0, 2).apply(states[2])
    assert all(torch.equal(moved[n].double(), states[0][n]) for n in spec.axes_of_tensor)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_results_depend_on_nothing_but_the_seed(algorithm: str) -> None:
    spec, states = traced("mlp_3").spec, independent("mlp_3", 3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = universe(spec, states, algorithm=algorithm, start="random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    again = universe(spec, states, algorithm=algorithm, start="random", seed=3)
    other = universe(spec, states, algorithm=algorithm, start="random", seed=4)
    assert one.objectives == again.objectives
    assert all(torch.equal(a[c], b[c]) for a, b in zip(one.elements, again.elements, strict=True) for c in a)
    assert one.objectives != other.objectives


def test_gradients_may_be_off() -> None:
    spec, states = traced("mlp_2").spec, independent("mlp_2", 2)
    with torch.no_grad():
        inside = universe(spec, states, algorithm="frank_wolfe")
    parameters = [{n: t.clone().requires_grad_() for n, t in s.items()} for s in states]
    assert universe(spec, parameters, algorithm="frank_wolfe").objectives == inside.objectives


def test_the_reference_is_the_network_that_others_are_matched_to() -> None:
    spec, states = traced("mlp_6").spec, independent("mlp_6", 3)
    values = {universe(spec, states, reference=k).objectives[0] for k in range(3)}
    assert len(values) == 3


# -- as a pairwise method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_aligns_two_networks(algorithm: str) -> None:
    network = traced("mlp_3")
    b, _ = plant(network.spec, network.state, seed=5)
    found = align(network.state, b, method="universe", algorithm=algorithm)
    assert found.method == "universe"
    assert all(torch.equal(found.apply(b)[n], network.state[n]) for n in network.spec.axes_of_tensor)
    assert found.history[0].objective == pytest.approx(
        objective(network.spec, [network.state, network.state], [group.identity(network.spec)] * 2)
    )
    assert len(found.history[0].losses) > 1


def test_it_starts_from_what_was_found_before() -> None:
    network, b = traced("mlp_6"), other_state("mlp_6")
    first = align(network.state, b, method="weight")
    found = align(network.state, b, method="weight", refine="universe")
    assert found.history[1].losses[0] == pytest.approx(first.history[0].objective)
    assert found.history[1].objective >= first.history[0].objective * (1 - 1e-6)


def test_two_networks_keep_the_order_of_a() -> None:
    network = traced("mlp_3")
    found = Universe()(graphalign.methods.Problem(network.spec, network.state, network.state))
    assert unmoved(found.permutations)


# -- errors -----------------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_listed_together() -> None:
    network = traced("mlp_2")
    with pytest.raises(InvalidInput) as raised:
        universe(network.spec, [network.state], algorithm="best", start="here", softness=1.0, restarts=-1)
    message = str(raised.value)
    assert "algorithm: found 'best', expected one of merge_many, frank_wolfe" in message
    assert "start: found 'here', expected one of weight, identity, random, merge_many" in message
    assert "softness: found 1.0, expected at least 0 and less than 1" in message
    assert "restarts: found -1, expected 0 to 10000" in message
    with pytest.raises(InvalidInput, match="restarts: found 10001, expected 0 to 10000"):
        Universe(restarts=10_001)


def test_merge_many_does_not_start_from_itself() -> None:
    with pytest.raises(
        InvalidInput, match="start: found 'merge_many', which is what runs; expected another start, or algorithm='frank_wolfe'"
    ):
        Universe(start="merge_many")
    spec, states = traced("mlp_3").spec, independent("mlp_3", 3)
    assert universe(spec, states, algorithm="frank_wolfe", start="merge_many").objective >= universe(spec, states).objective


def test_wrong_networks_are_named() -> None:
    network = traced("mlp_2")
    broken = {n: t for n, t in network.state.items() if n != "2.weight"}
    with pytest.raises(InvalidInput, match="universe: found no network, expected at least one"):
        universe(network.spec, [])
    with pytest.raises(InvalidInput, match="found reference=2, expected the number of a network, 0 to 1"):
        universe(network.spec, [network.state] * 2, reference=2)
    with pytest.raises(SpecMismatch, match="network 1 does not fit the spec:\n  - '2.weight' is missing"):
        universe(network.spec, [network.state, broken])
    with pytest.raises(InvalidInput, match="network 0 cannot be aligned:\n  - '0.weight' has 40 NaN of 40 entries"):
        universe(network.spec, [{**network.state, "0.weight": network.state["0.weight"] * float("nan")}])


def test_wrong_starts_are_refused() -> None:
    network = traced("mlp_2")
    with pytest.raises(InvalidInput, match="found 1 elements to start from and 2 networks, expected one each"):
        universe(network.spec, [network.state] * 2, start=[group.identity(network.spec)])
    with pytest.raises(InvalidInput, match="these permutations do not belong to the spec"):
        universe(network.spec, [network.state], start=[{}])


def test_there_must_be_such_networks() -> None:
    with pytest.raises(InvalidInput, match="pairwise: found networks 0 and 4, expected numbers from 0 to 3"):
        mixed_up().pairwise(0, 4)
    with pytest.raises(InvalidInput, match="pairwise: found networks -1 and 0"):
        mixed_up().pairwise(-1, 0)
