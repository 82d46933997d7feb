"""The part of the similarity that other cells do not change, and what is saved by it."""

from __future__ import annotations

import pytest
import torch

from graphalign import group
from graphalign.fixed_similarity import FixedSimilarity
from graphalign.methods import weight
from graphalign.methods.problem import Problem
from graphalign.methods.weight import Weight
from graphalign.tracked_similarity import TrackedSimilarity
from graphalign.weight_costs import matched_tensors, similarity
from tests.networks import FAMILIES
from tests.planted import plant
from tests.traced import cast, other_state, traced


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_same_whatever_the_other_cells_do(name: str) -> None:
    network, spec = traced(name), traced(name).spec
    a, b = ({n: cast(s[n], torch.float64) for n in matched_tensors(spec)} for s in (network.state, other_state(name)))
    fixed = FixedSimilarity(spec, a, b)
    element = group.random_element(spec, torch.Generator().manual_seed(0))
    moved = group.apply_to_state(spec, element, {**network.state, **b})
    for cell in spec.cells:
        expected = similarity(spec, cell, a, moved, fixed.layouts[cell.name])
        assert torch.allclose(fixed.of(cell)[:, element[cell.name]], expected, atol=1e-9)


def test_starting_points_share_it() -> None:
    network, spec = traced("mlp_3"), traced("mlp_3").spec
    a, b = ({n: s[n].double() for n in matched_tensors(spec)} for s in (network.state, other_state("mlp_3")))
    fixed = FixedSimilarity(spec, a, b)
    assert all(any(x.tensor.endswith("bias") for x in layouts) for layouts in fixed.layouts.values())
    for seed in range(3):
        element = group.random_element(spec, torch.Generator().manual_seed(seed))
        shared, own = (TrackedSimilarity(spec, a, b, element, *more) for more in ((fixed,), ()))
        assert shared.fixed is fixed
        assert all(torch.allclose(shared.of(cell), own.of(cell), atol=1e-9) for cell in spec.cells)


def test_a_match_is_clear_when_every_unit_prefers_its_partner() -> None:
    network, spec = traced("mlp_3"), traced("mlp_3").spec
    noisy, element = plant(spec, network.state, noise=0.1, seed=0)
    a = {n: network.state[n] for n in matched_tensors(spec)}
    assert TrackedSimilarity(spec, a, noisy, element).clear
    assert not TrackedSimilarity(spec, a, noisy, group.identity(spec)).clear
    twins = {n: t.clone() for n, t in a.items()}
    for layout in spec.axes_of_cell[spec.cells[0].name]:
        twins[layout.tensor].select(layout.axis, 1).copy_(twins[layout.tensor].select(layout.axis, 0))
    assert not TrackedSimilarity(spec, twins, twins, group.identity(spec)).clear, "two units are alike"


@pytest.mark.parametrize(("noise", "restarts", "ascents"), [(0.1, 0, 1), (0.1, 2, 4), (None, 0, 2)])
def test_a_clear_match_needs_no_second_start(noise: float | None, restarts: int, ascents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = traced("mlp_3")
    b = other_state("mlp_3") if noise is None else plant(network.spec, network.state, noise=noise, seed=0)[0]
    starts = []
    climb = weight.climb
    monkeypatch.setattr(weight, "climb", lambda tracked, *more: starts.append(tracked) or climb(tracked, *more))
    Weight(restarts=restarts)(Problem(network.spec, network.state, b))
    assert len(starts) == ascents
