"""Transport plans as objects: applied to modules and state dicts, saved, printed, and refused where they contradict themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graphalign import Alignment, CorruptFile, InvalidInput, SpecMismatch, TransportPlan, align, group, save_state
from graphalign.methods.transport import Transport
from tests.networks import mlp
from tests.traced import Runner, other_state, traced
from tests.widened import WIDTHS, Widened, widened


@pytest.fixture(scope="module")
def network() -> Widened:
    return widened(WIDTHS["cnn_flatten"])


@pytest.fixture(scope="module")
def plan(network: Widened) -> TransportPlan:
    return Transport().plan(network.architectures, *network.states, template=network.narrow)


def test_a_module_becomes_a_copy_of_the_template(network: Widened, plan: TransportPlan) -> None:
    before = {n: t.clone() for n, t in group.all_tensors(network.narrow).items()}
    other = {n: t + 1 if t.is_floating_point() else t + 7 for n, t in group.all_tensors(network.wide).items()}
    wide = nn.Sequential(*(type(layer)(*arguments(layer)) for layer in network.wide)).double()  # type: ignore[arg-type]
    wide.load_state_dict(other)
    moved = plan.apply(wide)
    assert type(moved) is type(network.narrow)
    assert moved is not network.narrow
    assert all(torch.equal(before[n], t) for n, t in group.all_tensors(network.narrow).items())
    expected = plan.apply(group.all_tensors(wide))
    assert all(torch.equal(expected[n], t) for n, t in group.all_tensors(moved).items())
    assert int(moved.get_buffer("3.num_batches_tracked")) == 7
    assert torch.equal(moved.get_parameter("9.bias"), wide.get_parameter("9.bias"))


def arguments(layer: nn.Module) -> tuple[object, ...]:
    found = {
        nn.Conv2d: ("in_channels", "out_channels", "kernel_size"), nn.Linear: ("in_features", "out_features"),
        nn.BatchNorm2d: ("num_features",), nn.MaxPool2d: ("kernel_size",),
    }  # fmt: skip
    return tuple(getattr(layer, name) for name in found.get(type(layer), ()))


def test_keys_beyond_the_spec_are_kept(network: Widened, plan: TransportPlan) -> None:
    extra = torch.ones(3)
    assert torch.equal(plan.apply({**network.states[1], "extra": extra})["extra"], extra)


def test_a_module_needs_a_template(network: Widened, plan: TransportPlan) -> None:
    bare = replace(plan, template=None)
    with pytest.raises(InvalidInput, match="found a module and no template of A's widths; pass template="):
        bare.apply(network.wide)
    assert type(bare.apply(network.wide, template=network.narrow)) is type(network.narrow)
    with pytest.raises(SpecMismatch, match="the template does not fit the spec"):
        bare.apply(network.wide, template=network.wide)


def test_a_network_of_other_widths_is_refused(network: Widened, plan: TransportPlan) -> None:
    with pytest.raises(SpecMismatch, match=r"network B does not fit the spec:\n  - '0.weight' has shape \(6, 3, 3, 3\), expected \(12, 3, 3, 3\)"):
        plan.apply(network.states[0])


def test_permutations_are_refused_where_units_are_mixed(plan: TransportPlan) -> None:
    assert not plan.is_permutation
    for ask in (lambda: plan.permutations, plan.to_alignment):
        with pytest.raises(InvalidInput, match="cell '0': 6 units of A get parts of 12 units of B"):
            ask()


def test_an_entropic_plan_of_equal_widths_is_no_permutation() -> None:
    net = traced("mlp_2")
    soft = Transport(regularisation=0.1).plan((net.architecture,) * 2, net.state, dict(other_state("mlp_2")))
    assert not soft.is_permutation
    with pytest.raises(InvalidInput, match="cell '0': 8 units of A get parts of 8 units of B"):
        soft.to_alignment()


@pytest.mark.parametrize("template", [True, False])
def test_plans_are_saved_and_read_again(tmp_path: Path, plan: TransportPlan, network: Widened, template: bool) -> None:
    kept = replace(plan, mass_preserving=False, seed=3) if template else plan
    file = tmp_path / "plan.safetensors"
    kept.save(file)
    again = TransportPlan.load(file)
    assert again.spec_a == kept.spec_a
    assert again.spec_b == kept.spec_b
    assert (again.mass_preserving, again.seed, again.method) == (kept.mass_preserving, kept.seed, "transport")
    assert set(again.contracted) == set(kept.contracted)
    assert again.template is None
    moved, expected = again.apply(network.states[1]), kept.apply(network.states[1])
    assert all(torch.equal(moved[n], t) for n, t in expected.items())
    with pytest.raises(InvalidInput, match="exists already; pass force=True"):
        kept.save(file)
    kept.save(file, force=True)


def test_other_files_are_refused(tmp_path: Path, plan: TransportPlan) -> None:
    file = tmp_path / "weights.safetensors"
    save_state({"w": torch.ones(2)}, file)
    with pytest.raises(CorruptFile, match="found format 'pt', expected 'graphalign-transport-plan-1'"):
        TransportPlan.load(file)
    net = traced("mlp_1")
    Alignment(net.spec, group.identity(net.spec)).save(file, force=True)
    with pytest.raises(CorruptFile, match="found format 'graphalign-alignment-1'"):
        TransportPlan.load(file)
    save_state(dict(plan.plans), file, metadata={"format": "graphalign-transport-plan-1"}, force=True)
    with pytest.raises(CorruptFile, match="the plan in it cannot be used.*write it again with TransportPlan.save"):
        TransportPlan.load(file)


def test_plans_are_checked_all_at_once(plan: TransportPlan) -> None:
    wrong = {"0": torch.ones(3, 4), "2": -plan.plans["2"], "nonsense": torch.ones(1, 1)}
    with pytest.raises(InvalidInput) as caught:
        replace(plan, plans=wrong)
    for message in (
        r"cell '0': found a plan of shape (3, 4), expected (6, 12)", "cell '2': found entries below 0 or not finite",
        "cell '7' has no plan; expected shape (5, 10)", "'nonsense' is no cell of A",
    ):  # fmt: skip
        assert message in str(caught.value)
    lonely = plan.plans["0"].clone()
    lonely[:, 2] = 0
    with pytest.raises(InvalidInput, match="cell '0': some unit gets or gives no mass at all"):
        replace(plan, plans={**plan.plans, "0": lonely})


def test_the_text_of_a_plan_says_what_it_is(plan: TransportPlan) -> None:
    assert repr(plan) == "TransportPlan(3 cells, 38 units of B to 19 of A, mass-preserving)"
    assert repr(replace(plan, mass_preserving=False)).endswith("averaging)")
    net = traced("mlp_1")
    same = Transport().plan((net.architecture,) * 2, net.state, net.state)
    assert repr(same) == "TransportPlan(1 cell, 8 units of B to 8 of A, a permutation)"


# align


def test_align_returns_a_plan_between_any_widths(network: Widened, tmp_path: Path) -> None:
    """Modules, state dicts and paths; settings by name or as an instance."""
    file = tmp_path / "wide.safetensors"
    save_state(network.wide.state_dict(), file)
    narrow, wide = network.states
    found = [
        align(network.narrow, network.wide, example_input=network.example, method="transport"),
        align(network.narrow, network.wide, example_input=network.example, method=Transport(ground="squared"), seed=2),
        align(network.narrow, wide, example_input=network.example, method="transport"),
        align(narrow, str(file), method="transport"),
    ]
    assert [type(plan) for plan in found] == [TransportPlan] * 4
    assert found[1].seed == 2
    for plan in found:
        moved = plan.apply(wide)
        assert all(torch.allclose(moved[n], t) for n, t in narrow.items())
    assert type(found[0].apply(network.wide)) is type(network.narrow)
    assert found[3].template is None
    data = [torch.randn(20, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    by_activations = align(network.narrow, network.wide, example_input=network.example, method="transport", cost="activations", data=data)
    assert not by_activations.is_permutation


def test_align_of_equal_widths_gives_permutations() -> None:
    net = traced("resnet_basic")
    plan = align(net.model, dict(other_state("resnet_basic")), example_input=net.example, method="transport")
    assert plan.is_permutation
    assert plan.template is not None
    assert Runner(net).difference(plan.to_alignment().apply(Runner(net).state)) < 1e-10


def test_transport_can_be_where_another_method_starts() -> None:
    net = traced("mlp_2")
    found = align(net.model, dict(other_state("mlp_2")), example_input=net.example, method="weight", init="transport")
    assert found.method == "transport+weight"


def test_transport_is_not_refined_itself() -> None:
    a, b = mlp([8]), mlp([16])
    for options in ({"init": "weight"}, {"refine": "weight"}):
        with pytest.raises(InvalidInput, match="returns a plan between any widths, which has no init and no refine.*pass init='transport'"):
            align(a, b, example_input=torch.zeros(2, 5), method="transport", **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["weight", "naive", "gnn", "activation"])
def test_different_widths_given_to_a_permutation_method_point_to_transport(method: str) -> None:
    a, b = mlp([8, 7]), mlp([16, 7])
    with pytest.raises(SpecMismatch, match=r"cell '0': 8 units in A, 16 in B\n.*use method=\"transport\""):
        align(a, b, example_input=torch.zeros(2, 5), method=method)
    with pytest.raises(SpecMismatch, match=r"'0.weight' is \(8, 5\) in A and \(16, 5\) in B(.|\n)*use method=\"transport\""):
        align(a, b.state_dict(), example_input=torch.zeros(2, 5), method=method)
    with pytest.raises(SpecMismatch, match="use method=\"transport\""):
        align(a.state_dict(), b.state_dict(), method=method)


def test_other_differences_do_not_point_to_transport() -> None:
    a, b = mlp([8, 7]), mlp([8])
    with pytest.raises(SpecMismatch) as caught:
        align(a, b, example_input=torch.zeros(2, 5), method="weight")
    assert "transport" not in str(caught.value)
    with pytest.raises(SpecMismatch, match="do not correspond layer by layer"):
        align(a, b, example_input=torch.zeros(2, 5), method="transport")


def test_a_module_without_an_example_input_is_refused() -> None:
    with pytest.raises(InvalidInput, match="found a module and no example_input"):
        align(mlp([8]), mlp([16]), method="transport")
