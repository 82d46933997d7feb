"""MergeMany: exact copies, monotone sweeps, and an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

import graphalign.methods.merge_many as module
from graphalign import group
from graphalign.methods.joint_objective import joint_objective, place, total
from graphalign.methods.merge_many import merge_many
from graphalign.methods.weight import ascend
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors
from tests.copies import copies, independent
from tests.traced import cast, traced

QUADRATIC = ["shared_linear", "tied_autoencoder"]
"""Families in which one tensor holds the units of one cell on two axes."""


def pick(spec: NetworkSpec, states: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{n: state[n] for n in matched_tensors(spec)} for state in cast_all(states)]


def cast_all(states: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [cast(state, torch.float64) for state in states]


def random_start(spec: NetworkSpec, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [group.random_element(spec, generator) for _ in range(count)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["cnn_flatten", "vgg_11_bn", "encoder_layer_relu"])
def test_exact_copies_are_recovered_from_the_identity(name: str) -> None:
    spec = traced(name).spec
    weights = pick(spec, copies(spec, traced(name).state, 4))
    elements, objectives = merge_many(spec, weights, [group.identity(spec)] * 4, generator())
    placed = [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]
    assert all(torch.equal(own[n], placed[0][n]) for own in placed for n in own)
    assert objectives[-1] > objectives[0]


@pytest.mark.parametrize("name", ["mlp_3", "densenet", "resnext", "gpt", *QUADRATIC])
def test_no_sweep_lowers_the_objective(name: str) -> None:
    spec = traced(name).spec
    weights = pick(spec, independent(name, 4))
    for seed in range(2):
        start = random_start(spec, 4, seed)
        elements, objectives = merge_many(spec, weights, start, generator(seed))
        assert len(objectives) > 2
        assert objectives == sorted(objectives)
        placed = [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]
        assert objectives[-1] == pytest.approx(joint_objective(placed), rel=1e-12)
        first = [place(spec, element, own) for element, own in zip(start, weights, strict=True)]
        assert objectives[0] == pytest.approx(joint_objective(first), rel=1e-12)


@pytest.mark.parametrize("name", ["mlp_3", "resnext", "gpt", *QUADRATIC])
def test_it_ends_where_no_network_can_be_matched_better(name: str) -> None:
    spec = traced(name).spec
    weights = pick(spec, independent(name, 3))
    elements, _ = merge_many(spec, weights, random_start(spec, 3), generator())
    placed = [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]
    for k in range(3):
        others = total(placed[j] for j in range(3) if j != k)
        found, _ = ascend(spec, others, weights[k], elements[k], generator())
        assert all(torch.equal(perm, elements[k][cell]) for cell, perm in found.items())


def test_every_network_is_matched_to_the_sum_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the mean of all, itself included: that would pull it towards where it is."""
    spec = traced("mlp_2").spec
    weights = pick(spec, independent("mlp_2", 3))
    seen: list[dict[str, Tensor]] = []

    def recorded(
        spec: NetworkSpec, a: dict[str, Tensor], b: dict[str, Tensor], start: dict[str, Tensor], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], float]:
        seen.append(a)
        return dict(start), 0.0

    monkeypatch.setattr(module, "ascend", recorded)
    merge_many(spec, weights, [group.identity(spec)] * 3, generator())
    assert len(seen) == 3
    for k in range(3):
        expected = total(weights[j] for j in range(3) if j != k)
        assert sum(all(torch.equal(others[n], expected[n]) for n in expected) for others in seen) == 1


def test_networks_of_opposite_sign_are_aligned_too() -> None:
    """All inner products are negative; the objective grows, and stays below zero."""
    spec = traced("mlp_2").spec
    weights = [
        {n: t.abs() * (1 if k else -1) for n, t in own.items()} for k, own in enumerate(pick(spec, independent("mlp_2", 2)))
    ]
    _, objectives = merge_many(spec, weights, random_start(spec, 2), generator())
    assert objectives[0] < objectives[-1] < 0


@pytest.mark.parametrize("count", [1, 2])
def test_one_network_stays_and_two_are_weight_matching(count: int) -> None:
    spec = traced("mlp_2").spec
    weights = pick(spec, independent("mlp_2", count))
    start = random_start(spec, count)
    kept = [{cell: perm.clone() for cell, perm in element.items()} for element in start]
    elements, objectives = merge_many(spec, weights, start, generator())
    assert all(torch.equal(a[c], b[c]) for a, b in zip(start, kept, strict=True) for c in a)
    if count == 1:
        assert objectives == [0.0]
        assert all(torch.equal(perm, start[0][cell]) for cell, perm in elements[0].items())
    else:
        assert objectives[-1] > objectives[0]


def test_duplicated_units_do_not_keep_it_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SWEEPS", 10)
    spec = traced("mlp_2").spec
    weights = pick(spec, independent("mlp_2", 3))
    for own in weights:
        for layout in spec.axes:
            rows = own[layout.tensor].movedim(layout.axis, 0)
            rows[4:] = rows[: len(rows) - 4].clone()
    _, objectives = merge_many(spec, weights, random_start(spec, 3), generator())
    assert len(objectives) < 10
