"""Weight matching at the edge: ties, dead units, weights that nothing but biases tells apart, other float types, bad settings."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from graphalign import InvalidInput, align, group, trace
from graphalign.methods.problem import Problem
from graphalign.methods.weight import Weight
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors
from tests.planted import plant, recovered
from tests.traced import cast, other_state, traced


def mlp(width: int = 12) -> tuple[NetworkSpec, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    return trace(model, torch.zeros(1, 5)), {n: p.detach() for n, p in model.state_dict().items()}


def test_trap_duplicated_and_dead_units_do_not_keep_it_from_ending() -> None:
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
    problem = Problem(spec, constant, {n: t.clone() for n, t in constant.items()})
    start = group.random_element(spec, torch.Generator().manual_seed(0))
    found = Weight()(replace(problem, start=start))
    assert group.same(found.permutations, start)  # nothing is gained by any other
    assert len(found.losses) <= 2
    assert found.objective == pytest.approx(Weight()(problem).objective)


def test_trap_biases_alone_are_enough() -> None:
    spec, a = mlp()
    for name in ("0.weight", "2.weight", "4.weight"):
        a[name] = torch.ones_like(a[name])
    b, element = plant(spec, a)
    assert recovered(Weight()(Problem(spec, a, b)).permutations, element) == 1.0


def test_trap_running_statistics_move_but_are_not_compared() -> None:
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


def test_half_precision_is_compared_in_single() -> None:
    """Inner products of these weights are beyond the largest number of half precision."""
    network = traced("mlp_3")
    b, element = plant(network.spec, network.state)
    large = [{n: (1000 * t).half() for n, t in state.items()} for state in (network.state, b)]
    assert recovered(Weight()(Problem(network.spec, *large)).permutations, element) == 1.0


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


def test_trap_ties_keep_the_old_permutation() -> None:
    """Equal units may trade places without end in single precision, if any gain above zero is taken for one."""
    spec, a = mlp(40)
    for name in ("0.weight", "0.bias"):
        a[name][20:] = a[name][:20]
    a["2.weight"][:, 20:] = a["2.weight"][:, :20]
    start = group.random_element(spec, torch.Generator().manual_seed(0))
    start["2"] = torch.arange(40)
    start["0"] = torch.cat([torch.arange(20, 40), torch.arange(20)])  # as good as the identity, to the last bit
    found = Weight()(Problem(spec, a, a, start=start))
    assert all(torch.equal(found.permutations[n], start[n]) for n in start)
    assert len(found.losses) == 1
    for seed in range(5):  # gains that are mere rounding
        generator = torch.Generator().manual_seed(seed)
        one, other = ({n: t * (1 + 1e-7 * torch.randn(t.shape, generator=generator)) for n, t in a.items()} for _ in range(2))
        found = Weight()(Problem(spec, one, other, start=start))
        assert all(torch.equal(found.permutations[n], start[n]) for n in start)


def test_trap_a_flatten_repeats_each_channel_on_the_next_layer() -> None:
    """The convolution's own weights are all alike, and so are the first positions of its channels in the linear layer."""
    network = traced("cnn_flatten")
    spec, a = network.spec, {n: t.clone() for n, t in network.state.items()}
    (last,) = (c for c in spec.cells if any(x.length > spec.by_name[c.name].units for x in spec.axes_of_cell[c.name]))
    for layout in spec.axes_of_cell[last.name]:
        if layout.length == last.units:
            a[layout.tensor] = torch.ones_like(a[layout.tensor])
        else:
            a[layout.tensor][:, torch.from_numpy(layout.positions(last.name)[:, 0])] = 1.0
    b, element = plant(spec, a)
    assert torch.equal(Weight()(Problem(spec, a, b)).permutations[last.name], element[last.name])


def test_trap_inputs_and_outputs_never_move() -> None:
    spec, a = mlp()
    b = {n: t.clone() for n, t in a.items()}
    b["0.weight"], b["4.weight"], b["4.bias"] = (
        a["0.weight"][:, [1, 2, 3, 4, 0]], a["4.weight"][[1, 2, 0]], a["4.bias"][[1, 2, 0]]
    )  # fmt: skip
    found = Weight()(Problem(spec, a, b)).permutations
    assert {n: len(p) for n, p in found.items()} == {"0": 12, "2": 12}
    moved = group.apply_to_state(spec, found, b)
    assert torch.equal(moved["4.bias"], b["4.bias"])
    assert not torch.equal(moved["0.weight"].sum(0), a["0.weight"].sum(0))


def test_trap_large_tensors_dominate_unless_costs_are_normalised() -> None:
    """A large bias that says one thing, many weights that say another: the cosine of every tensor counts the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 12), nn.ReLU(), nn.Linear(12, 30))
    spec, a = trace(model, torch.zeros(1, 30)), {n: p.detach().clone() for n, p in model.state_dict().items()}
    b, element = plant(spec, a)
    a["0.bias"] *= 1e4
    b["0.bias"] = 1e4 * torch.randn(12, generator=torch.Generator().manual_seed(3))
    plain, normalised = (Weight(normalise=flag)(Problem(spec, a, b)) for flag in (False, True))
    assert recovered(plain.permutations, element) < 0.5
    assert recovered(normalised.permutations, element) == 1.0
    assert normalised.objective == pytest.approx(sum(
        float(torch.cosine_similarity(a[n].flatten(), t.flatten(), dim=0))
        for n, t in group.apply_to_state(spec, normalised.permutations, b).items() if n in spec.axes_of_tensor
    ), rel=1e-5)  # fmt: skip


def test_a_dead_layer_can_be_normalised() -> None:
    spec, a = mlp()
    a["0.bias"] = torch.zeros(12)
    b, element = plant(spec, a)
    found = Weight(normalise=True)(Problem(spec, a, b))
    assert recovered(found.permutations, element) == 1.0
    assert list(found.losses) == sorted(found.losses)


def test_orders_of_sweeps_are_those_named() -> None:
    import graphalign.methods.weight as module

    generator = torch.Generator().manual_seed(0)
    sweeps = {name: [list(module._order(name, 4, k, generator)) for k in range(3)] for name in get_args(module.Order)}
    up, down = [0, 1, 2, 3], [3, 2, 1, 0]
    assert sweeps["forward"] == [up, up, up]
    assert sweeps["backward"] == [down, down, down]
    assert sweeps["alternate"] == [up, down, up]
    assert all(sorted(order) == up for order in sweeps["random"])
    assert len({tuple(order) for order in sweeps["random"]}) > 1


def test_a_start_is_not_modified() -> None:
    network, b = traced("mlp_3"), other_state("mlp_3")
    start = group.random_element(network.spec, torch.Generator().manual_seed(0))
    before = {n: p.clone() for n, p in start.items()}
    Weight()(Problem(network.spec, network.state, b, start=start))
    assert all(torch.equal(before[n], start[n]) for n in start)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="method 'weight': found order='sideways', expected one of random, forward, backward, alternate; restarts=-1, expected 0 to 10000"):
        Weight(order="sideways", restarts=-1)  # type: ignore[arg-type]


def test_the_best_of_all_starts_is_kept() -> None:
    """With an order that is not random, more restarts are more starts of the same ascents."""
    network, b = traced("mlp_6"), other_state("mlp_6")
    start = group.random_element(network.spec, torch.Generator().manual_seed(1))
    problem = Problem(network.spec, network.state, b, start=start)
    values = [Weight(restarts=n, order="forward")(problem).objective for n in range(10)]
    assert values == sorted(values)  # type: ignore[type-var]
    assert len(set(values)) > 2


def test_a_network_aligns_with_itself_by_the_identity() -> None:
    network = traced("densenet")
    alignment = align(network.model, network.model, example_input=network.example, method="weight")
    assert alignment.moved == 0.0


def test_restarts_that_would_never_end_are_refused() -> None:
    Weight(restarts=10_000)
    with pytest.raises(InvalidInput, match="restarts=10001, expected 0 to 10000"):
        Weight(restarts=10_001)
