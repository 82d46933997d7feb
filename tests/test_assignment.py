"""Assignment against trying all permutations, in one level and in two."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from graphalign import InvalidInput
from graphalign.assignment import assign, assign_group, assign_spec
from graphalign.group import check_element, join_blocks
from graphalign.spec import Cell
from graphalign.testing import brute_force_assignment
from tests.traced import traced


def value(scores: Tensor, perm: Tensor) -> float:
    return float(scores.double().gather(-1, perm[..., None]).sum())


@pytest.mark.parametrize("units", range(1, 6))
@pytest.mark.parametrize("kind", ["normal", "uniform", "integers", "large", "negative"])
def test_assignment_equals_trying_everything(units: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(units)
    for _ in range(25):
        scores = torch.randn(units, units, generator=generator, dtype=torch.float64)
        if kind == "uniform":
            scores = scores.abs() / (1 + scores.abs())
        elif kind == "integers":  # many ties: only the value is determined
            scores = scores.mul(2).round()
        elif kind == "large":
            scores = scores * 1e12
        elif kind == "negative":
            scores = -scores.exp()
        found, best = assign(scores), brute_force_assignment(scores)
        assert found.dtype == torch.long
        assert sorted(found.tolist()) == list(range(units))
        assert value(scores, found) == pytest.approx(value(scores, best), rel=1e-12, abs=1e-12)
        if kind == "normal":
            assert torch.equal(found, best)


def test_the_convention_is_row_to_column() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(assign(torch.eye(4)[order]), order)
    assert torch.equal(assign(torch.eye(4)[order].T), torch.argsort(order))


def test_batches_of_any_shape() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = assign(scores)
    assert found.shape == (2, 3, 4)
    for i, j in product(range(2), range(3)):
        assert torch.equal(found[i, j], assign(scores[i, j]))
    assert assign(torch.zeros(3, 1, 1)).tolist() == [[0], [0], [0]]
    assert assign(torch.zeros(0, 3, 3)).shape == (0, 3)


def test_scores_are_not_modified_and_any_float_type_will_do() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = scores.detach().clone()
    expected = assign(scores)
    assert torch.equal(scores.detach(), before)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(assign(scores.to(dtype)), expected)
    assert torch.equal(assign(scores.T.contiguous().T), expected)


def test_ties_are_decided_the_same_way_every_time() -> None:
    scores = torch.randint(0, 2, (30, 30), generator=torch.Generator().manual_seed(0)).float()
    assert all(torch.equal(assign(scores), assign(scores.clone())) for _ in range(5))
    assert torch.equal(assign(torch.zeros(6, 6)), assign(torch.zeros(6, 6)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = torch.zeros(2, 4, 4)
    scores[1, 2, 3] = bad
    with pytest.raises(InvalidInput, match="assign: the scores contain NaN or infinity; check the weights and inputs"):
        assign(scores)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 2)])
def test_scores_that_are_not_square_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=rf"found scores of shape \({', '.join(map(str, shape))},?\), expected \(\.\.\., U, U\)"):
        assign(torch.zeros(shape))


# -- two levels ---------------------------------------------------------------------------------------------------------------


def elements(cells: tuple[Cell, ...]) -> list[dict[str, Tensor]]:
    """The whole group: blocks trade places together, units move inside each block of each cell."""
    found = []
    inside = [[tuple(range(c.size))] if c.rigid else list(permutations(range(c.size))) for c in cells]
    choices = [list(product(orders, repeat=cells[0].blocks)) for orders in inside]
    for outer in permutations(range(cells[0].blocks)):
        for chosen in product(*choices):
            found.append({c.name: join_blocks(torch.tensor(outer), torch.tensor(inner)) for c, inner in zip(cells, chosen, strict=True)})
    return found


GROUPS = {
    "one cell": (Cell("a", 2, 3),),
    "three units": (Cell("a", 3, 2),),
    "two cells": (Cell("a", 2, 2, "a"), Cell("b", 3, 2, "a")),
    "one cell rigid": (Cell("a", 2, 3, "a", rigid=True), Cell("b", 2, 3, "a")),
    "all rigid": (Cell("a", 3, 4, rigid=True),),
    "blocks of one": (Cell("a", 1, 4, "a"), Cell("b", 1, 4, "a")),
    "single block": (Cell("a", 4, 1),),
}


@pytest.mark.parametrize("name", GROUPS)
def test_two_levels_equal_trying_the_whole_group(name: str) -> None:
    cells = GROUPS[name]
    everything = elements(cells)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        scores = {c.name: torch.randn(c.units, c.units, generator=generator, dtype=torch.float64) for c in cells}
        totals = [sum(value(scores[c.name], element[c.name]) for c in cells) for element in everything]
        best = everything[max(range(len(totals)), key=totals.__getitem__)]
        found = assign_group(cells, scores)
        assert all(torch.equal(found[c.name], best[c.name]) for c in cells)


def test_every_cell_of_a_spec_is_assigned_within_the_group() -> None:
    spec = traced("llama").spec
    generator = torch.Generator().manual_seed(0)
    found = assign_spec(spec, {c.name: torch.randn(c.units, c.units, generator=generator) for c in spec.cells})
    assert list(found) == [c.name for c in spec.cells]
    check_element(spec, found)
