"""What is right is known, and whatever is wrong in the weights that come back is seen."""

from __future__ import annotations

import pytest
import torch

from graphalign import group
from graphalign.bench.networks import KINDS, Network, build
from graphalign.bench.pairs import make_pair
from graphalign.bench.settings import read_entries
from tests.bench.composed import composed

FAMILIES = read_entries(Network, composed("methods").sizes["families"], "families")
SIZES = {"mlp": (6, 8, 7, 3), **{network.kind: network.sizes for network in FAMILIES}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_shuffled_and_the_answer_is_right(kind: str) -> None:
    pair = make_pair(kind, SIZES[kind], 0.0, seed=0)
    assert pair.recovered(pair.right) == 1.0
    assert pair.recovered(pair.b) < 0.5
    assert pair.change_of_function(pair.b) == 0.0
    assert pair.change_of_function(pair.right) < 1e-12
    assert all(torch.equal(pair.right[name], tensor) for name, tensor in pair.a.items())


def test_noise_is_on_b_alone() -> None:
    clean, noisy = (make_pair("mlp", (6, 8, 3), noise, seed=0) for noise in (0.0, 1.0))
    assert all(torch.equal(clean.a[name], noisy.a[name]) for name in clean.a)
    for name, tensor in noisy.right.items():
        assert 0.3 < float((tensor - noisy.a[name]).std() / noisy.a[name].std()) < 3
    assert noisy.recovered(noisy.right) == 1.0
    assert noisy.recovered(clean.right) == 0.0


def test_units_moved_in_one_tensor_only_are_not_back() -> None:
    pair = make_pair("mlp", (6, 8, 7, 3), 0.0, seed=0)
    half = {**pair.right, "2.weight": pair.right["2.weight"][:, torch.tensor([1, 2, 0, *range(3, 8)])]}
    assert pair.recovered(half) == pytest.approx(12 / 15)
    assert pair.change_of_function(half) > 1e-3


def test_running_statistics_left_behind_change_the_function() -> None:
    pair = make_pair("batch_norm_mlp", (5, 6, 3), 0.0, seed=0)
    half = {name: pair.b[name] if "running" in name else tensor for name, tensor in pair.right.items()}
    assert pair.recovered(half) == 1.0
    assert pair.change_of_function(half) > 1e-3


def test_a_unit_is_back_whatever_the_order_of_its_neighbours() -> None:
    pair = make_pair("mlp", (6, 8, 7, 3), 0.0, seed=0)
    element = group.identity(pair.spec)
    first = pair.spec.cells[0]
    element[first.name] = torch.roll(element[first.name], 1)
    moved = group.apply_to_state(pair.spec, element, pair.right)
    assert pair.recovered(moved) == pytest.approx(1 - first.units / 15)


def test_processes_build_the_same_network() -> None:
    torch.manual_seed(0)
    one, _ = build("mlp", (4, 5, 3))
    torch.manual_seed(0)
    other, example = build("mlp", [4, 5, 3])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not other.training
    assert other(example).shape == (1, 3)


def test_the_biases_alone_tell_units_apart() -> None:
    network, _ = build("bias_only", (4, 9))
    assert all(len(p.unique()) == 1 for p in network.parameters() if p.dim() == 2)
