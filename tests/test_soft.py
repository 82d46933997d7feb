"""Soft permutations: doubly stochastic, and exactly the group's action where they are hard."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphalign import group
from graphalign.assignment import assign_spec
from graphalign.soft import SoftPermutation, apply_soft, from_matrix, matrices_of, sinkhorn, soft_permutations
from graphalign.spec import AxisLayout, Cell, NetworkSpec, Segment
from tests.networks import FAMILIES
from tests.traced import Runner, cast, other_state, traced


def random_scores(name: str, spread: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = traced(name).spec.cells
    return {c.name: torch.randn(c.units, c.units, generator=generator, dtype=torch.float64) * spread for c in cells}


def hard(name: str, element: dict[str, Tensor]) -> dict[str, SoftPermutation]:
    spec = traced(name).spec
    matrices = matrices_of(spec, element, torch.zeros((), dtype=torch.float64))
    return {cell.name: from_matrix(cell, matrices[cell.name]) for cell in spec.cells}


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_sinkhorn_is_doubly_stochastic(spread: float) -> None:
    scored = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread
    soft = sinkhorn(scored, 3000)
    assert bool((soft > 0).all())
    assert torch.allclose(soft.sum(-1), torch.ones(3, 7, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(soft.sum(-2), torch.ones(3, 7, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_follows_permutations_and_transposition(iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scored = torch.randn(6, 6, generator=generator, dtype=torch.float64) * 3
    g, h = (torch.randperm(6, generator=generator) for _ in range(2))
    soft = sinkhorn(scored, iterations)
    assert torch.allclose(sinkhorn(scored.T, iterations), soft.T, atol=1e-14)
    assert torch.allclose(sinkhorn(scored[g][:, h], iterations), soft[g][:, h], atol=1e-14)


def test_sinkhorn_of_sharp_scores_is_the_assignment() -> None:
    perm = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    scored = torch.eye(9)[perm] * 1e4 + torch.randn(9, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sinkhorn(scored, 20).argmax(1), perm)
    assert sinkhorn(torch.full((4, 4), -1e6), 20).isfinite().all()


# -- networks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_hard_matrices_act_as_the_group(name: str) -> None:
    """In every family, grouped convolutions and attention heads included."""
    spec, state = traced(name).spec, cast(other_state(name), torch.float64)
    element = group.random_element(spec, torch.Generator().manual_seed(3))
    expected = group.apply_to_state(spec, element, state)
    found = apply_soft(spec, state, hard(name, element))
    assert found.keys() == spec.shapes.keys() & state.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


@pytest.mark.parametrize("name", ["mlp_2", "attention", "resnext", "gpt", "shufflenet", "resnet_basic"])
def test_sharp_scores_act_as_their_assignment(name: str) -> None:
    network = traced(name)
    element = group.random_element(network.spec, torch.Generator().manual_seed(4))
    sharp = matrices_of(network.spec, element, torch.zeros((), dtype=torch.float64))
    scores = {cell: 100.0 * sharp[cell] + noise for cell, noise in random_scores(name, 1.0).items()}
    assert all(torch.equal(perm, element[cell]) for cell, perm in assign_spec(network.spec, scores).items())
    state = cast(network.state, torch.float64)
    found = apply_soft(network.spec, state, soft_permutations(network.spec, scores, 50))
    expected = group.apply_to_state(network.spec, element, state)
    assert all(torch.allclose(tensor, expected[key], atol=1e-6) for key, tensor in found.items())
    assert Runner(network).difference({**cast(network.state, torch.float64), **found}) < 1e-5


@pytest.mark.parametrize("name", ["mlp_2", "attention", "resnext"])
def test_soft_permutations_are_doubly_stochastic_and_differentiable(name: str) -> None:
    spec = traced(name).spec
    scores = {cell: s.requires_grad_() for cell, s in random_scores(name, 1.0).items()}
    soft = soft_permutations(spec, scores, 200)
    for cell in spec.cells:
        matrix = soft[cell.name].matrix
        assert torch.allclose(matrix.sum(0), torch.ones(cell.units, dtype=torch.float64), atol=1e-6)
        assert torch.allclose(matrix.sum(1), torch.ones(cell.units, dtype=torch.float64), atol=1e-6)
        if cell.blocks > 1:
            rebuilt = from_matrix(cell, matrix).inner
            assert rebuilt is not None
            assert torch.allclose(rebuilt, soft[cell.name].inner, atol=1e-6)  # type: ignore[arg-type]
    state = cast(traced(name).state, torch.float64)
    loss = sum((t.square().sum() for t in apply_soft(spec, state, soft).values()), torch.zeros((), dtype=torch.float64))
    gradients = torch.autograd.grad(loss, list(scores.values()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert any(float(g.abs().max()) > 0 for g in gradients)


@pytest.mark.parametrize("name", ["mlp_2", "resnext", "gpt"])
def test_many_networks_are_mixed_at_once(name: str) -> None:
    spec = traced(name).spec
    states = [cast(s, torch.float64) for s in (traced(name).state, other_state(name))]
    scores = [random_scores(name, 2.0, seed) for seed in (0, 1)]
    singly = [apply_soft(spec, state, soft_permutations(spec, s, 20)) for state, s in zip(states, scores, strict=True)]
    both = torch.func.vmap(lambda state, s: apply_soft(spec, state, soft_permutations(spec, s, 20)))(
        {n: torch.stack([s[n] for s in states]) for n in states[0]}, {n: torch.stack([s[n] for s in scores]) for n in scores[0]}
    )
    for key, tensor in both.items():
        assert torch.allclose(tensor, torch.stack([s[key] for s in singly]), atol=1e-12)


# -- specs written by hand --------------------------------------------------------------------------------------------------------


def test_blocks_are_mixed_by_all_cells_of_their_group() -> None:
    """The scores of one cell say nothing: it follows the blocks of the other."""
    spec = NetworkSpec(
        (Cell("q", 2, 2, "h"), Cell("v", 2, 2, "h")),
        (AxisLayout("q.weight", 0, (Segment("q", 0, 4),)), AxisLayout("v.weight", 0, (Segment("v", 0, 4),))),
        {"q.weight": (4, 1), "v.weight": (4, 1)},
    )
    swapped = 50.0 * torch.eye(4)[[2, 3, 0, 1]]
    for scores in ({"q": torch.zeros(4, 4), "v": swapped}, {"q": swapped, "v": torch.zeros(4, 4)}):
        for soft in soft_permutations(spec, scores, 50).values():
            assert torch.allclose(soft.matrix[:2, 2:].sum(1), torch.ones(2), atol=1e-4)


def test_the_order_inside_rigid_blocks_is_not_mixed() -> None:
    layouts = (AxisLayout("r.weight", 0, (Segment("r", 0, 6),)),)
    spec = NetworkSpec((Cell("r", 2, 3, "h", rigid=True),), layouts, {"r.weight": (6, 1)})
    scores = {"r": torch.randn(6, 6, generator=torch.Generator().manual_seed(0))}
    soft = soft_permutations(spec, scores, 50)["r"]
    blocks = soft.matrix.reshape(3, 2, 3, 2).transpose(1, 2)
    assert torch.equal(blocks, blocks[..., :1, :1] * torch.eye(2))


@pytest.mark.parametrize("blocks", [1, 2])
def test_inputs_of_a_group_may_hold_a_unit_more_than_once(blocks: int) -> None:
    """Position k of a unit goes to position k of another, never to the unit's next position."""
    if blocks == 2:
        cells = (Cell("in", 2, 2, "h"), Cell("out", 3, 2, "h"))
        inputs, rows = (Segment("in", 0, 4, 2),), (AxisLayout("conv.weight", 0, (Segment("out", 0, 6),)),)
    else:
        cells = (Cell("in", 2),)
        inputs, rows = (Segment("in", 0, 2, 2), Segment(None, 0, 4)), ()
    spec = NetworkSpec(cells, (*rows, AxisLayout("conv.weight", 1, inputs, groups=2)), {"conv.weight": (6, 4)})
    state = {"conv.weight": torch.randn(6, 4, generator=torch.Generator().manual_seed(0))}
    for seed in range(4):
        element = group.random_element(spec, torch.Generator().manual_seed(seed))
        matrices = matrices_of(spec, element, torch.zeros(()))
        found = apply_soft(spec, state, {c.name: from_matrix(c, matrices[c.name]) for c in spec.cells})
        assert torch.equal(found["conv.weight"], group.apply_to_state(spec, element, state)["conv.weight"])


def test_integer_tensors_are_passed_on() -> None:
    spec = NetworkSpec((Cell("a", 3),), (AxisLayout("index", 0, (Segment("a", 0, 3),)),), {"index": (3,)})
    state = {"index": torch.arange(3)}
    assert apply_soft(spec, state, {"a": SoftPermutation(torch.full((3, 3), 1 / 3))})["index"] is state["index"]
