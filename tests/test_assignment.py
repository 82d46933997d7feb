"""Assignment against trying all permutations, in one level and in two."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import graphalign
from graphalign import InvalidInput
from graphalign.assignment import _assign_by, assign, assign_group, assign_spec
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


def hard_scores(kind: str, units: int, generator: torch.Generator) -> Tensor:
    """Scores (8, units, units) on which assignment solvers differ in their search."""
    scores = torch.randn(8, units, units, generator=generator, dtype=torch.float64)
    if kind == "two magnitudes":
        return scores * 10.0 ** torch.randint(-4, 3, (units, 1), generator=generator)
    if kind == "low rank":
        a, b = torch.randn(2, 8, units, 4, generator=generator, dtype=torch.float64).relu()
        return a @ b.mT
    if kind == "dead units":
        scores[:, units // 2 :] = 0
    elif kind == "nearly equal":
        scores = 1 + 1e-6 * scores
    return scores


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "two magnitudes", "low rank", "dead units", "nearly equal"])
def test_larger_assignments_are_as_good_as_those_of_scipy(kind: str, dtype: torch.dtype) -> None:
    scores = hard_scores(kind, 70, torch.Generator().manual_seed(0)).to(dtype)
    found = assign(scores)
    for one, perm in zip(scores.double(), found, strict=True):
        rows, columns = linear_sum_assignment(one.numpy(), maximize=True)
        assert value(one, perm) == pytest.approx(float(one.numpy()[rows, columns].sum()), rel=1e-14, abs=1e-14)


def test_problems_that_need_no_solver_and_those_that_do_share_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(6, generator=generator)
    scores = torch.randn(4, 6, 6, generator=generator)
    scores[1] = scores[3] = 10 * torch.eye(6)[order] + scores[1]  # the best columns of all rows differ
    assert torch.equal(assign(scores)[1], order)
    for one, perm in zip(scores, assign(scores), strict=True):
        assert torch.equal(perm, brute_force_assignment(one))


def brute_force_batch(costs: Tensor) -> Tensor:
    assert costs.dtype == torch.float64
    return torch.stack([brute_force_assignment(-one) for one in costs])


def test_a_solver_for_another_device_gives_the_same_permutations() -> None:
    scores = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = _assign_by(brute_force_batch, scores)
    assert found.dtype == torch.long
    assert torch.equal(found, assign(scores))
    with pytest.raises(InvalidInput, match="assign: the scores contain NaN or infinity"):
        _assign_by(brute_force_batch, scores / 0)


def test_the_solver_of_torch_linear_assignment_gives_the_same_permutations() -> None:
    reason = "torch-linear-assignment, the extra 'cuda', is not installed"
    package = pytest.importorskip("torch_linear_assignment", reason=reason)
    scores = torch.randn(5, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_assign_by(package.batch_linear_assignment, scores), assign(scores))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_can_assign() -> None:
    code = (
        "import os, torch\n"
        "from graphalign.assignment import assign\n"
        "torch.set_num_threads(2)\n"
        "scores = torch.randn(64, 30, 30, generator=torch.Generator().manual_seed(0))\n"
        "expected = assign(scores)\n"
        "child = os.fork()\n"
        "if not child: os._exit(0 if torch.equal(assign(scores), expected) else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(graphalign.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=30)


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
