"""The objective of n networks against the sum over pairs."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import graphalign.methods.joint_objective as module
from graphalign import group
from graphalign.methods.joint_objective import joint_objective, joint_products, place, total
from graphalign.weight_costs import matched_tensors
from tests.traced import other_state, traced


def networks(count: int, seed: int = 0, offset: float = 0.0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(7, 5, generator=generator) + offset, "b": torch.randn(3, generator=generator)} for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_is_the_sum_over_pairs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTIVE_PART", 4)  # tensors are read part by part
    own = networks(count)
    slow = sum(float((p[n].double() * q[n].double()).sum()) for p, q in combinations(own, 2) for n in p)
    assert joint_objective(own) == pytest.approx(slow, rel=1e-10, abs=1e-10)


def test_products_are_the_bilinear_form_of_the_objective() -> None:
    x, y = networks(4), networks(4, seed=1)
    slow = sum(
        float((x[p][n].double() * y[q][n].double()).sum()) / 2 for p in range(4) for q in range(4) if p != q for n in x[0]
    )  # fmt: skip
    products = joint_products([x, y])
    assert products[0, 1] == pytest.approx(slow, rel=1e-10)
    assert products[1, 0] == pytest.approx(slow, rel=1e-10)
    assert products[1, 1] == pytest.approx(joint_objective(y), rel=1e-10)


def test_large_common_parts_do_not_drown_it() -> None:
    own = networks(3, offset=1000.0)
    slow = sum(float((p[n].double() * q[n].double()).sum()) for p, q in combinations(own, 2) for n in p)
    assert joint_objective(own) == pytest.approx(slow, rel=1e-12)


def test_the_total_leaves_its_parts_alone() -> None:
    own = networks(3)
    kept = [{n: t.clone() for n, t in network.items()} for network in own]
    summed = total(own)
    assert torch.allclose(summed["w"], own[0]["w"] + own[1]["w"] + own[2]["w"])
    assert all(torch.equal(a[n], b[n]) for a, b in zip(own, kept, strict=True) for n in a)


def test_placing_is_the_action_of_the_group_on_some_tensors() -> None:
    network = traced("resnext")
    element = group.random_element(network.spec, torch.Generator().manual_seed(0))
    weights = {n: other_state("resnext")[n] for n in matched_tensors(network.spec)}
    moved = group.apply_to_state(network.spec, element, other_state("resnext"))
    assert all(torch.equal(t, moved[n]) for n, t in place(network.spec, element, weights).items())
