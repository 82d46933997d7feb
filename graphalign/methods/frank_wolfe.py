"""Cycle-consistent alignment of n networks by Frank-Wolfe (Crisostomi et al. 2024, arXiv 2405.17897).

Every network k has a doubly stochastic matrix per cell that mixes its units into the slots of a universe; its softly placed
weights are U_k. The objective sum_{p<q} <U_p, U_q> is maximised over all matrices at once: its gradient with respect to U_k is
the sum of all other networks, and from there to the matrices it is linear algebra, so that all n gradients cost O(n). A linear
assignment per network and cell gives the direction, one step size for all of them the length.

The published line search evaluates the objective up to 20 times and finds a local maximum. Along a line the placed weights are
polynomials, of degree 2 where a tensor carries units on two axes; placed at so many points more than one, they give the
objective as a polynomial, which is maximised exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from graphalign.assignment import assign_spec
from graphalign.methods.joint_objective import joint_objective, joint_products, place, total
from graphalign.soft import SoftPermutation, apply_soft, matrices_of
from graphalign.spec import Cell, NetworkSpec

MAX_ITERATIONS = 200
TOLERANCE = 1e-6
PATIENCE = 5
"""Iterations in a row that gain less than TOLERANCE, as a share of the largest value the objective could have."""

Weights = Mapping[str, Tensor]
Matrices = dict[str, Tensor]


class FrankWolfe(NamedTuple):
    """What Frank-Wolfe ends with.

    Attributes:
        matrices: doubly stochastic (U, U) by cell, per network: rows are universe slots, columns the network's own units.
        objectives: of the start and after every iteration; they never decrease.
    """

    matrices: list[Matrices]
    objectives: list[float]


def frank_wolfe(spec: NetworkSpec, weights: Sequence[Weights], start: Sequence[Matrices]) -> FrankWolfe:
    """Steps until the objective hardly grows, or the linearised problem promises no growth.

    A vertex where no network gains from an assignment of one cell, such as a result of MergeMany, is a stationary point: soften
    it first.

    Args:
        spec: what may move.
        weights: tensors to match of each network, in its own order, all of one dtype on one device.
        start: doubly stochastic matrices (U, U) by cell, per network.
    """
    bound = (len(weights) - 1) / 2 * sum(float(t.double().square().sum()) for own in weights for t in own.values())
    matrices = best = [dict(own) for own in start]
    objectives: list[float] = []
    stalled = 0
    for _ in range(MAX_ITERATIONS + 1):
        placed, gradients = _gradients(spec, weights, matrices)
        value = joint_objective(placed)
        if objectives and value <= objectives[-1]:
            break
        stalled = stalled + 1 if objectives and value - objectives[-1] < TOLERANCE * bound else 0
        objectives.append(value)
        best = matrices
        vertices = [assign_spec(spec, gradient) for gradient in gradients]
        directions = [_difference(spec, vertex, own) for vertex, own in zip(vertices, matrices, strict=True)]
        promise = sum(float((g[c] * d[c]).sum()) for g, d in zip(gradients, directions, strict=True) for c in g)
        if stalled == PATIENCE or promise <= TOLERANCE * bound:
            break
        end = [place(spec, vertex, own) for vertex, own in zip(vertices, weights, strict=True)]
        matrices = _along(matrices, directions, _line_search(spec, weights, matrices, directions, placed, end))
    return FrankWolfe(best, objectives)


def soften(spec: NetworkSpec, element: Mapping[str, Tensor], softness: float, like: Tensor) -> Matrices:
    """The matrices of an element with a share `softness` of the mean of all elements of the group mixed in."""
    hard = matrices_of(spec, element, like)
    return {
        name: (1 - softness) * matrix + softness * _uniform(spec.by_name[name], matrix) for name, matrix in hard.items()
    }  # fmt: skip


def _uniform(cell: Cell, like: Tensor) -> Tensor:
    """The mean of all permutations of a cell; (U, U)."""
    if not cell.rigid:
        return torch.full_like(like, 1 / cell.units)
    inside = torch.eye(cell.size, dtype=like.dtype, device=like.device)
    return torch.kron(torch.full((cell.blocks, cell.blocks), 1 / cell.blocks, dtype=like.dtype, device=like.device), inside)


def _place(spec: NetworkSpec, weights: Weights, matrices: Matrices) -> dict[str, Tensor]:
    """The tensors of one network softly placed, multilinear in the matrices.

    The inputs of a grouped convolution are mixed by the joint share of block and unit, not by the share of the unit given the
    block: at elements of the group the two agree, and only the former is linear in the matrix.
    """
    soft = {}
    for name, matrix in matrices.items():
        cell = spec.by_name[name]
        joint = matrix.reshape(cell.blocks, cell.size, cell.blocks, cell.size).transpose(1, 2) if cell.blocks > 1 else None
        soft[name] = SoftPermutation(matrix, joint)
    return apply_soft(spec, weights, soft)


def _gradients(
    spec: NetworkSpec, weights: Sequence[Weights], matrices: Sequence[Matrices]
) -> tuple[list[Matrices], list[Matrices]]:
    """The softly placed weights U_k, and the gradient of the objective with respect to every matrix.

    The derivative with respect to U_k is the sum of the other networks, so that all gradients together take O(n).
    """
    leaves = [{c: m.detach().requires_grad_() for c, m in own.items()} for own in matrices]
    with torch.enable_grad():
        placed = [_place(spec, own, leaf) for own, leaf in zip(weights, leaves, strict=True)]
    values = [{n: t.detach() for n, t in own.items()} for own in placed]
    summed = total(values)
    gradients = []
    for leaf, own, value in zip(leaves, placed, values, strict=True):
        moved = [n for n in own if own[n].requires_grad]
        others = [summed[n] - value[n] for n in moved]
        found = torch.autograd.grad(
            [own[n] for n in moved], list(leaf.values()), others, allow_unused=True, materialize_grads=True
        )  # fmt: skip
        gradients.append(dict(zip(leaf, found, strict=True)))
    return values, gradients


def _along(matrices: Sequence[Matrices], directions: Sequence[Matrices], step: float) -> list[Matrices]:
    return [{c: own[c] + step * way[c] for c in own} for own, way in zip(matrices, directions, strict=True)]


def _difference(spec: NetworkSpec, vertex: Mapping[str, Tensor], matrices: Matrices) -> Matrices:
    to = matrices_of(spec, vertex, next(iter(matrices.values())))
    return {c: to[c] - own for c, own in matrices.items()}


def _line_search(
    spec: NetworkSpec, weights: Sequence[Weights], matrices: Sequence[Matrices], directions: Sequence[Matrices],
    here: Sequence[Weights], end: Sequence[Weights],
) -> float:  # fmt: skip
    """The step in [0, 1] where the objective is largest.

    Args:
        spec: what may move.
        weights: tensors to match of each network.
        matrices: where the line starts.
        directions: where it leads.
        here: softly placed weights at step 0.
        end: placed weights at step 1.
    """
    degree = max(len(spec.axes_of_tensor[name]) for name in weights[0])
    steps = np.arange(degree + 1) / degree
    with torch.no_grad():
        inner = [_along(matrices, directions, float(step)) for step in steps[1:-1]]
        points = [here, *([_place(spec, own, m) for own, m in zip(weights, moved, strict=True)] for moved in inner), end]
    basis = [Polynomial.fromroots(np.delete(steps, i)) / np.prod(step - np.delete(steps, i)) for i, step in enumerate(steps)]
    products = joint_products(points)
    curve = sum((products[i, j] * p * q for i, p in enumerate(basis) for j, q in enumerate(basis)), Polynomial([0.0]))
    roots = np.asarray(curve.deriv().roots(), dtype=np.complex128)
    extrema = roots.real[(abs(roots.imag) < 1e-6) & (roots.real > 0) & (roots.real < 1)]
    return float(max([0.0, *extrema.tolist(), 1.0], key=lambda step: float(curve(step))))
