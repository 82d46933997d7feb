"""Doubly stochastic matrices in the place of permutations: from scores, and applied to the tensors of a network.

Everything here is differentiable, works on one network and may be vectorised over many by `torch.func.vmap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphalign import group
from graphalign.scaling import sinkhorn
from graphalign.spec import AxisLayout, Cell, NetworkSpec


class SoftPermutation(NamedTuple):
    """A doubly stochastic matrix of one cell.

    Attributes:
        matrix: (U, U); row i mixes the units of B that go to slot i.
        inner: (B, B, n, n) for a cell of several blocks: how the units inside are mixed if block j goes to block slot i; the
            matrix is the product of the mixture of blocks with it. None for an ordinary cell.
    """

    matrix: Tensor
    inner: Tensor | None = None


def soft_permutations(spec: NetworkSpec, scores: Mapping[str, Tensor], iterations: int) -> dict[str, SoftPermutation]:
    """The soft counterpart of `assignment.assign_spec`: Sinkhorn per cell, two-level where units have blocks.

    In a group whose cells have blocks, the units inside every pair of blocks are mixed first; the expected score of the pair,
    summed over the cells, is the score by which the blocks are mixed.

    Args:
        spec: what may move.
        scores: (U, U) by cell, divided by the temperature.
        iterations: of Sinkhorn.
    """
    found: dict[str, SoftPermutation] = {}
    for cells in spec.groups.values():
        if cells[0].blocks == 1:
            found.update({cell.name: SoftPermutation(sinkhorn(scores[cell.name], iterations)) for cell in cells})
        else:
            found.update(_two_level(cells, scores, iterations))
    return {cell.name: found[cell.name] for cell in spec.cells}


def _two_level(cells: tuple[Cell, ...], scores: Mapping[str, Tensor], iterations: int) -> dict[str, SoftPermutation]:
    blocks = cells[0].blocks
    inner: dict[str, Tensor] = {}
    values: list[Tensor] = []
    for cell in cells:
        pairs = scores[cell.name].reshape(blocks, cell.size, blocks, cell.size).transpose(1, 2)
        eye = torch.eye(cell.size, dtype=pairs.dtype, device=pairs.device)
        mixed = eye.expand_as(pairs) if cell.rigid or cell.size == 1 else sinkhorn(pairs, iterations)
        inner[cell.name] = mixed
        values.append((mixed * pairs).sum((-1, -2)))
    outer = sinkhorn(torch.stack(values).sum(0), iterations)
    return {cell.name: SoftPermutation(_join(outer, inner[cell.name]), inner[cell.name]) for cell in cells}


def _join(outer: Tensor, inner: Tensor) -> Tensor:
    blocks, size = outer.shape[-1], inner.shape[-1]
    return (outer[:, :, None, None] * inner).transpose(1, 2).reshape(blocks * size, blocks * size)


def from_matrix(cell: Cell, matrix: Tensor) -> SoftPermutation:
    """The soft permutation of a matrix (U, U) that mixes elements of the group, such as 0/1 matrices."""
    if cell.blocks == 1:
        return SoftPermutation(matrix)
    pairs = matrix.reshape(cell.blocks, cell.size, cell.blocks, cell.size).transpose(1, 2)
    outer = pairs.sum((-1, -2)) / cell.size
    eye = torch.eye(cell.size, dtype=matrix.dtype, device=matrix.device)
    used = (outer > 0)[:, :, None, None]
    return SoftPermutation(matrix, torch.where(used, pairs / outer.clamp(min=1e-30)[:, :, None, None], eye))


def matrices_of(spec: NetworkSpec, element: group.Permutations, like: Tensor) -> dict[str, Tensor]:
    """The 0/1 matrices of an element of the group, (U, U) by cell: 1 at [i, element[i]]; dtype and device of `like`."""
    return {
        cell.name: torch.eye(cell.units, dtype=like.dtype, device=like.device)[element[cell.name].to(like.device)]
        for cell in spec.cells
    }


def apply_soft(
    spec: NetworkSpec, state: Mapping[str, Tensor], permutations: Mapping[str, SoftPermutation]
) -> dict[str, Tensor]:
    """The tensors of B with the units on every axis mixed; with 0/1 matrices the same as `group.apply_to_state`.

    Tensors that carry no units and integer tensors are passed on as they are. Keys beyond the spec are left out.
    """
    moved = {}
    for name in spec.shapes:
        if name in state:
            layouts = spec.axes_of_tensor.get(name, ()) if state[name].is_floating_point() else ()
            moved[name] = mix_tensor(spec, state[name], layouts, permutations)
    return moved


def mix_tensor(
    spec: NetworkSpec, tensor: Tensor, layouts: tuple[AxisLayout, ...], permutations: Mapping[str, SoftPermutation]
) -> Tensor:
    """One tensor with the units on its axes mixed."""
    grouped = next((layout for layout in layouts if layout.groups > 1 and tensor.shape[layout.axis] > 1), None)
    for layout in layouts:
        if layout.groups == 1 and not (grouped is not None and layout.axis == 0):
            tensor = _mix_axis(tensor, layout, permutations)
    if grouped is not None:
        rows = next((layout for layout in layouts if layout.axis == 0 and layout.groups == 1), None)
        tensor = _mix_grouped(spec, tensor, grouped, rows, permutations)
    return tensor


def _mix_axis(tensor: Tensor, layout: AxisLayout, permutations: Mapping[str, SoftPermutation]) -> Tensor:
    moved = tensor.movedim(layout.axis, 0)
    shape = moved.shape
    for cell in layout.cells:
        positions = layout.positions(cell)
        matrix = permutations[cell].matrix
        flat = positions.reshape(-1)
        if len(flat) == shape[0] and (flat == np.arange(len(flat))).all():
            moved = (matrix @ moved.reshape(len(positions), -1)).reshape(shape)
            continue
        rest = np.setdiff1d(np.arange(shape[0]), flat)
        back = torch.from_numpy(np.argsort(np.concatenate([flat, rest]))).to(tensor.device)
        taken = moved.index_select(0, torch.from_numpy(flat).to(tensor.device))
        mixed = (matrix @ taken.reshape(len(positions), -1)).reshape(taken.shape)
        kept = moved.index_select(0, torch.from_numpy(rest).to(tensor.device))
        moved = torch.cat([mixed, kept]).index_select(0, back)
    return moved.movedim(0, layout.axis)


def _mix_grouped(
    spec: NetworkSpec, tensor: Tensor, layout: AxisLayout, rows: AxisLayout | None, permutations: Mapping[str, SoftPermutation]
) -> Tensor:
    """A grouped convolution: rows move with their block, and inputs are mixed as the block that the rows come from asks for.

    W'[g s, j] = sum over h, t, k of R[g s, h t] C[g, h][j, k] W[h t, k], for groups g, h, rows s, t and inputs j, k of a group.
    """
    groups, per_group = layout.groups, tensor.shape[layout.axis]
    size = tensor.shape[0] // groups
    eye = torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    row_mix = (eye if rows is None else _mix_axis(eye, rows, permutations)).reshape(groups, size, groups, size)
    inputs = _input_mix(spec, layout, per_group, permutations, tensor)
    weight = tensor.movedim(layout.axis, 1).reshape(groups, size, per_group, -1)
    mixed = torch.einsum("gsht,ghjk,htkx->gsjx", row_mix, inputs, weight)
    shape = tensor.movedim(layout.axis, 1).shape
    return mixed.reshape(shape).movedim(1, layout.axis)


def _input_mix(
    spec: NetworkSpec, layout: AxisLayout, per_group: int, permutations: Mapping[str, SoftPermutation], like: Tensor
) -> Tensor:
    """How the inputs of a group are mixed, by group slot and group that comes there; (G, G, I, I)."""
    groups = layout.groups
    mix = torch.eye(per_group, dtype=like.dtype, device=like.device).expand(groups, groups, per_group, per_group)
    for cell in layout.cells:
        units = layout.units_of(cell).reshape(groups, per_group)
        inner = permutations[cell].inner
        if inner is not None:
            size = spec.by_name[cell].size
            here = torch.from_numpy(units[0] >= 0).to(like.device)
            unit = torch.from_numpy(np.where(units[0] >= 0, units[0] % size, 0)).to(like.device)
            same = torch.from_numpy(_repeats(units[0])).to(like.device)
            taken = inner[:, :, unit][..., unit] * (same[:, None] == same[None])
            mix = torch.where(here[:, None] & here[None], taken, mix)
        else:
            matrix = permutations[cell].matrix
            for g in range(groups):
                here = torch.from_numpy(units[g] >= 0).to(like.device)
                unit = torch.from_numpy(np.where(units[g] >= 0, units[g], 0)).to(like.device)
                same = torch.from_numpy(_repeats(units[g])).to(like.device)
                taken = matrix[unit][:, unit] * (same[:, None] == same[None])
                where = (here[:, None] & here[None]).expand(groups, groups, per_group, per_group).clone()
                where[:g], where[g + 1 :] = False, False
                mix = torch.where(where, taken, mix)
    return mix


def _repeats(units: np.ndarray) -> np.ndarray:
    """How often each unit occurred before, position by position; int64."""
    seen: dict[int, int] = {}
    counts = []
    for unit in units.tolist():
        counts.append(seen.get(unit, 0))
        seen[unit] = counts[-1] + 1
    return np.array(counts, dtype=np.int64)
