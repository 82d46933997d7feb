"""Frank-Wolfe over n networks: gradients against autograd on pairs, exact steps, vertices and softness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

import graphalign.methods.frank_wolfe as module
from graphalign import group
from graphalign.assignment import assign_spec
from graphalign.methods.frank_wolfe import frank_wolfe, soften
from graphalign.methods.joint_objective import joint_objective, place
from graphalign.methods.merge_many import merge_many
from graphalign.soft import matrices_of
from graphalign.spec import Cell, NetworkSpec
from tests.copies import copies, independent
from tests.methods.test_merge_many import QUADRATIC, generator, pick, random_start
from tests.traced import traced

FAMILIES = ["mlp_3", "cnn_flatten", "densenet", "resnext", "llama", *QUADRATIC]
"""Flatten repeats, concatenated cells, grouped convolutions, attention heads, rigid blocks, one cell on two axes."""
LIKE = torch.zeros((), dtype=torch.float64)


def softened(spec: NetworkSpec, count: int, softness: float = 0.6) -> list[dict[str, Tensor]]:
    return [soften(spec, element, softness, LIKE) for element in random_start(spec, count)]


def pairs_objective(spec: NetworkSpec, weights: Sequence[Mapping[str, Tensor]], matrices: Sequence[dict[str, Tensor]]) -> Tensor:
    """The sum over all pairs, spelled out in O(n^2)."""
    placed = [module._place(spec, own, m) for own, m in zip(weights, matrices, strict=True)]
    return torch.stack([(p[n] * q[n]).sum() for p, q in combinations(placed, 2) for n in p]).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_the_sum_over_pairs(name: str) -> None:
    spec = traced(name).spec
    weights = pick(spec, independent(name, 3))
    matrices = softened(spec, 3)
    placed, found = module._gradients(spec, weights, matrices)
    leaves = [{c: m.clone().requires_grad_() for c, m in own.items()} for own in matrices]
    value = pairs_objective(spec, weights, leaves)
    slow = iter(torch.autograd.grad(value, [m for own in leaves for m in own.values()]))
    assert joint_objective(placed) == pytest.approx(float(value.detach()), rel=1e-10)
    for own in found:
        for gradient in own.values():
            expected = next(slow)
            assert torch.allclose(gradient, expected, atol=1e-10 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_at_permutations_soft_placement_is_the_action_of_the_group(name: str) -> None:
    spec = traced(name).spec
    (own,) = pick(spec, independent(name, 1))
    (element,) = random_start(spec, 1, seed=3)
    soft = module._place(spec, own, matrices_of(spec, element, LIKE))
    assert all(torch.equal(t, soft[n]) for n, t in place(spec, element, own).items())


@pytest.mark.parametrize("name", FAMILIES)
def test_placed_weights_are_polynomials_along_a_line(name: str) -> None:
    """Of as many degrees as the tensor has axes with units: the next difference vanishes, in grouped convolutions too."""
    spec = traced(name).spec
    (own,) = pick(spec, independent(name, 1))
    (matrices,) = softened(spec, 1)
    direction = module._difference(spec, random_start(spec, 1, seed=7)[0], matrices)
    points = [module._place(spec, own, module._along([matrices], [direction], i / 4)[0]) for i in range(5)]
    for tensor in own:
        differences = torch.stack([point[tensor] for point in points])
        assert float(differences.diff(dim=0).abs().max()) > 1e-6
        for _ in range(len(spec.axes_of_tensor[tensor]) + 1):
            differences = differences.diff(dim=0)
        assert float(differences.abs().max()) < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_the_step_is_the_best_on_the_line(name: str) -> None:
    """No point of a fine grid is better."""
    spec = traced(name).spec
    weights = pick(spec, independent(name, 3))
    matrices = softened(spec, 3)
    for sign in (1.0, -1.0):  # with one network negated many minima become maxima
        weights[0] = {n: sign * t for n, t in weights[0].items()}
        here, gradients = module._gradients(spec, weights, matrices)
        for vertices in ([assign_spec(spec, g) for g in gradients], random_start(spec, 3, seed=7)):
            directions = [module._difference(spec, vertex, own) for vertex, own in zip(vertices, matrices, strict=True)]
            end = [place(spec, vertex, own) for vertex, own in zip(vertices, weights, strict=True)]
            step = module._line_search(spec, weights, matrices, directions, here, end)
            points = [module._along(matrices, directions, at) for at in (step, *(i / 40 for i in range(41)))]
            best, *grid = (float(pairs_objective(spec, weights, point)) for point in points)
            assert best >= max(grid) - 1e-9 * abs(max(grid))


def test_the_step_is_found_inside_the_line() -> None:
    """One weight with two units: placed at matrices (1 - t, t) it shrinks towards the middle, and the best step is known."""
    spec = traced("mlp_1").spec
    weights = pick(spec, independent("mlp_1", 2))
    matrices = softened(spec, 2, softness=0.0)
    _, gradients = module._gradients(spec, weights, matrices)
    vertices = [assign_spec(spec, g) for g in gradients]
    directions = [module._difference(spec, vertex, own) for vertex, own in zip(vertices, matrices, strict=True)]
    here = [module._place(spec, own, m) for own, m in zip(weights, matrices, strict=True)]
    end = [place(spec, vertex, own) for vertex, own in zip(vertices, weights, strict=True)]
    step = module._line_search(spec, weights, matrices, directions, here, end)
    values = [float(pairs_objective(spec, weights, module._along(matrices, directions, i / 200))) for i in range(201)]
    assert 0.1 < step < 0.99
    assert step == pytest.approx(values.index(max(values)) / 200, abs=0.01)


@pytest.mark.parametrize("name", ["mlp_3", "attention", *QUADRATIC])
def test_the_objective_grows_and_matrices_stay_doubly_stochastic(name: str) -> None:
    spec = traced(name).spec
    weights = pick(spec, independent(name, 3))
    found = frank_wolfe(spec, weights, softened(spec, 3))
    assert len(found.objectives) > 3
    assert all(y > x for x, y in zip(found.objectives, found.objectives[1:], strict=False))
    assert found.objectives[-1] == pytest.approx(float(pairs_objective(spec, weights, found.matrices)), rel=1e-9)
    for own in found.matrices:
        for matrix in own.values():
            ones = torch.ones(len(matrix), dtype=matrix.dtype)
            assert bool((matrix >= -1e-12).all())
            assert torch.allclose(matrix.sum(0), ones, atol=1e-10)
            assert torch.allclose(matrix.sum(1), ones, atol=1e-10)


def test_trap_all_objectives_may_be_negative() -> None:
    """A best value that starts at zero would return the start."""
    spec = traced("mlp_2").spec
    weights = [
        {n: t.abs() * (1 if k else -1) for n, t in own.items()} for k, own in enumerate(pick(spec, independent("mlp_2", 2)))
    ]
    found = frank_wolfe(spec, weights, softened(spec, 2, softness=0.2))
    assert len(found.objectives) > 2
    assert found.objectives[0] < found.objectives[-1] < 0


def test_a_result_of_merge_many_is_stationary_until_it_is_softened() -> None:
    spec = traced("mlp_3").spec
    weights = pick(spec, independent("mlp_3", 3))
    elements, objectives = merge_many(spec, weights, random_start(spec, 3), generator())
    hard = frank_wolfe(spec, weights, [soften(spec, element, 0.0, LIKE) for element in elements])
    assert hard.objectives == [pytest.approx(objectives[-1])]
    soft = frank_wolfe(spec, weights, [soften(spec, element, 0.5, LIKE) for element in elements])
    assert len(soft.objectives) > 1


def test_it_stops_when_it_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = traced("mlp_3").spec
    weights = pick(spec, independent("mlp_3", 3))

    def lengths(patience: int, tolerance: float, iterations: int = 200) -> int:
        monkeypatch.setattr(module, "PATIENCE", patience)
        monkeypatch.setattr(module, "TOLERANCE", tolerance)
        monkeypatch.setattr(module, "MAX_ITERATIONS", iterations)
        return len(frank_wolfe(spec, weights, softened(spec, 3)).objectives)

    assert lengths(1, 0.003) < lengths(1000, 0.003) < lengths(1000, 0.0)
    assert lengths(1000, 0.0, iterations=2) == 3


def test_copies_are_found_from_the_uniform_start_of_one_known_network() -> None:
    spec = traced("mlp_2").spec
    weights = pick(spec, copies(spec, traced("mlp_2").state, 3))
    start = [soften(spec, group.identity(spec), 0.0 if not k else 0.9, LIKE) for k in range(3)]
    elements = [assign_spec(spec, own) for own in frank_wolfe(spec, weights, start).matrices]
    placed = [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]
    assert all(torch.equal(own[n], placed[0][n]) for own in placed for n in own)


@pytest.mark.parametrize("rigid", [False, True])
def test_softness_mixes_in_the_mean_of_all_elements(rigid: bool) -> None:
    """Two blocks of three units, by enumeration."""
    cell = Cell("c", size=3, blocks=2, rigid=rigid)
    spec = NetworkSpec(cells=(cell,), axes=(), shapes={})
    orders = [torch.tensor(p) for p in ([(0, 1, 2)] if rigid else permutations(range(3)))]
    outers = [torch.tensor([0, 1]), torch.tensor([1, 0])]
    every = [group.join_blocks(outer, torch.stack([p, q])) for outer in outers for p in orders for q in orders]
    if rigid:
        every = [group.join_blocks(outer, torch.stack([orders[0], orders[0]])) for outer in outers]
    mean = torch.stack([matrices_of(spec, {"c": perm}, LIKE)["c"] for perm in every]).mean(0)
    element = group.random_element(spec, generator())
    expected = 0.7 * matrices_of(spec, element, LIKE)["c"] + 0.3 * mean
    assert torch.allclose(soften(spec, element, 0.3, LIKE)["c"], expected)
