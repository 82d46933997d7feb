"""How well each unit's own weights agree: the similarity that weight matching maximises, for any spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphalign import group
from graphalign.converted import sample_of
from graphalign.spec import AxisLayout, Cell, NetworkSpec

OBJECTIVE_PART = 2**20
"""Entries converted to float64 at once."""


def unit_rows(layout: AxisLayout, tensor: Tensor, cell: Cell) -> Tensor:
    """The entries of a tensor that belong to each unit of a cell; shape (U, entries per unit).

    The input axis of a grouped convolution is read group by group.
    """
    if layout.groups == 1:
        rows = tensor.movedim(layout.axis, 0)
    else:
        split = tensor.reshape(layout.groups, tensor.shape[0] // layout.groups, *tensor.shape[1:])
        rows = split.movedim(1, -1).movedim(layout.axis, 1).flatten(0, 1)
    if layout.whole is not None and layout.whole.count == cell.units and layout.length == len(rows):
        return rows.reshape(cell.units, -1)
    positions = layout.positions(cell.name)
    if positions.size == len(rows) and (positions.reshape(-1) == np.arange(len(rows))).all():
        return rows.reshape(positions.shape[0], -1)
    index = torch.from_numpy(positions.reshape(-1)).to(tensor.device)
    return rows.reshape(rows.shape[0], -1)[index].reshape(positions.shape[0], -1)


def matched_tensors(spec: NetworkSpec) -> tuple[str, ...]:
    """Tensors that count in weight matching: parameters; running statistics move with them but are not compared."""
    return tuple(name for name in spec.axes_of_tensor if name not in spec.buffers)


def similarity(
    spec: NetworkSpec, cell: Cell, a: Mapping[str, Tensor], b: Mapping[str, Tensor], layouts: Sequence[AxisLayout] | None = None
) -> Tensor:
    """Inner products of unit i of A with the unit in slot j of B, over every axis that carries the cell or those given; (U, U).

    B must already be in the slots of the current permutations, so the result is relative to them. Where one tensor holds the
    cell on two axes this is the gradient of the quadratic objective at the current permutation.
    """
    total: Tensor | None = None
    for layout in spec.axes_of_cell[cell.name] if layouts is None else layouts:
        if layout.tensor in spec.buffers or layout.tensor not in a:
            continue
        product = unit_rows(layout, a[layout.tensor], cell) @ unit_rows(layout, b[layout.tensor], cell).T
        total = product if total is None else total + product
    if total is None:
        some = next(iter(a.values()))
        return torch.zeros(cell.units, cell.units, dtype=some.dtype, device=some.device)
    return total


def similarity_cosine(
    spec: NetworkSpec, cell: Cell, a: Mapping[str, Tensor], b: Mapping[str, Tensor], element: Mapping[str, Tensor]
) -> Tensor:
    """Cosine in [-1, 1] of the weights of unit i of A and unit j of B with the neighbours of B moved by `element`; (U, U).

    The weights of every axis are divided by their root mean square. B is moved tensor by tensor, so that no second copy of the network
    is held. Entries that are told apart only by an order inside blocks do not count (see `_is_comparable`).
    """
    parts: tuple[Tensor, Tensor, Tensor] | None = None
    for layout in spec.axes_of_cell[cell.name]:
        if layout.tensor in spec.buffers or layout.tensor not in a or not _is_comparable(spec, layout):
            continue
        x, y = unit_rows(layout, a[layout.tensor], cell), _among_neighbours(spec, layout, b[layout.tensor], cell, element)
        own_a, own_b = (torch.linalg.vector_norm(rows, dim=1).square() for rows in (x, y))
        scale = (own_a.mean() + own_b.mean()) / x.shape[1] + torch.finfo(x.dtype).tiny
        own = ((x @ y.T).div_(scale), own_a / scale, own_b / scale)
        if parts is None:
            parts = own
            continue
        for total, part in zip(parts, own, strict=True):
            total += part
    if parts is None:
        return sample_of(a).new_zeros(cell.units, cell.units)
    product, squares_a, squares_b = parts
    norms = [s.sqrt() + 1e-6 * s.mean().sqrt() + torch.finfo(s.dtype).tiny for s in (squares_a, squares_b)]
    return product.div_(norms[0][:, None]).div_(norms[1][None])


def _among_neighbours(spec: NetworkSpec, layout: AxisLayout, tensor: Tensor, cell: Cell, element: Mapping[str, Tensor]) -> Tensor:
    """`unit_rows` of a tensor of B in their own order, with the units on its other axes moved."""
    layouts = spec.axes_of_tensor[layout.tensor]
    if all(each.groups == 1 for each in layouts):
        return unit_rows(layout, group.permute_tensor(spec, tensor, layouts, element, skip=layout.axis), cell)
    rows = unit_rows(layout, group.permute_tensor(spec, tensor, layouts, element), cell)
    return rows[torch.argsort(element[cell.name]).to(rows.device, non_blocking=True)]


def _is_comparable(spec: NetworkSpec, layout: AxisLayout) -> bool:
    """Whether the entries of units in different blocks can be compared one by one.

    A grouped convolution joins the units of a block to those of the same block. Entry k of a unit then means the k-th unit of its
    own block, an order that says nothing in another block.
    """
    for grouped in spec.axes_of_tensor[layout.tensor]:
        if grouped.groups > 1 and any(spec.by_name[cell].blocks > 1 for cell in grouped.cells):
            shape = spec.shapes[layout.tensor]
            partners = shape[0] // grouped.groups if layout.axis == grouped.axis else shape[grouped.axis]
            if partners > 1:
                return False
    return True


def objective(names: tuple[str, ...], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Sum of <A, B> over the tensors named; larger means a smaller L2 distance."""
    return float(sum(_inner(a[n], b[n]) for n in names if n in a))


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """<x, y>, part by part in single precision or better, and in float64 for the sum of the parts."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    parts = zip(torch.split(x.reshape(-1), OBJECTIVE_PART), torch.split(y.reshape(-1), OBJECTIVE_PART), strict=True)
    return torch.stack([torch.dot(p.to(dtype), q.to(dtype)) for p, q in parts]).double().sum()
