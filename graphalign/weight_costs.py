"""How well each unit's own weights agree: the similarity that weight matching maximises, for any spec."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from graphalign.spec import AxisLayout, Cell, NetworkSpec


def unit_rows(layout: AxisLayout, tensor: Tensor, cell: Cell) -> Tensor:
    """The entries of a tensor that belong to each unit of a cell; shape (U, entries per unit).

    The input axis of a grouped convolution is read group by group.
    """
    if layout.groups == 1:
        rows = tensor.movedim(layout.axis, 0)
    else:
        split = tensor.reshape(layout.groups, tensor.shape[0] // layout.groups, *tensor.shape[1:])
        rows = split.movedim(1, -1).movedim(layout.axis, 1).flatten(0, 1)
    positions = layout.positions(cell.name)
    if positions.size == len(rows) and (positions.reshape(-1) == np.arange(len(rows))).all():
        return rows.reshape(positions.shape[0], -1)
    index = torch.from_numpy(positions.reshape(-1)).to(tensor.device)
    return rows.reshape(rows.shape[0], -1)[index].reshape(positions.shape[0], -1)


def matched_tensors(spec: NetworkSpec) -> tuple[str, ...]:
    """Tensors that count in weight matching: parameters; running statistics move with them but are not compared."""
    return tuple(name for name in spec.axes_of_tensor if name not in spec.buffers)


def similarity(spec: NetworkSpec, cell: Cell, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Inner products of unit i of A with the unit in slot j of B, over every axis that carries the cell; (U, U).

    B must already be in the slots of the current permutations, so the result is relative to them. Where one tensor holds the
    cell on two axes this is the gradient of the quadratic objective at the current permutation.
    """
    total: Tensor | None = None
    for layout in spec.axes_of_cell[cell.name]:
        if layout.tensor in spec.buffers or layout.tensor not in a:
            continue
        product = unit_rows(layout, a[layout.tensor], cell) @ unit_rows(layout, b[layout.tensor], cell).T
        total = product if total is None else total + product
    if total is None:
        some = next(iter(a.values()))
        return torch.zeros(cell.units, cell.units, dtype=some.dtype, device=some.device)
    return total


def similarity_cosine(spec: NetworkSpec, cell: Cell, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """`similarity` with the weights of every axis divided by their root mean square, as cosines in [-1, 1]; (U, U)."""
    parts = [
        (unit_rows(layout, a[layout.tensor], cell), unit_rows(layout, b[layout.tensor], cell))
        for layout in spec.axes_of_cell[cell.name]
        if layout.tensor not in spec.buffers and layout.tensor in a
    ]
    scaled_a, scaled_b = [], []
    for x, y in parts:
        scale = (x.square().mean() + y.square().mean()).sqrt() + torch.finfo(x.dtype).tiny
        scaled_a.append(x / scale)
        scaled_b.append(y / scale)
    x, y = torch.cat(scaled_a, 1), torch.cat(scaled_b, 1)
    norms = [t.norm(dim=1) + 1e-6 * t.norm() / len(t) ** 0.5 + torch.finfo(t.dtype).tiny for t in (x, y)]
    cosine: Tensor = (x @ y.T) / norms[0][:, None] / norms[1][None]
    return cosine


def objective(names: tuple[str, ...], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Sum of <A, B> over the tensors named, in float64; larger means a smaller L2 distance."""
    return float(sum((a[n].double() * b[n].double()).sum() for n in names if n in a))
