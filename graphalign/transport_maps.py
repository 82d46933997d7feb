"""Moving weights by transport plans: maps that merge units, and what they do to one axis of one tensor.

A plan T (U_A, U_B) says how much of unit j of B goes to unit i of A. Where units are produced, a unit of A is an average of units
of B: its map is T with rows that sum to 1. Where units are read, the weights that leave a unit of B are distributed over the
units of A: columns sum to 1, so that the sum of what is read is kept whatever the widths. Singh and Jaggi (2020, arXiv 1910.05653)
use the first map on both sides, which shrinks every layer's input by the ratio of the widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign.correspondence import Correspondence, fixed_indices
from graphalign.spec import AxisLayout

Axis = tuple[str, int]


@dataclass(frozen=True)
class Maps:
    """What plans do to the tensors of B.

    Attributes:
        between: A's cells and axes, and their partners in B.
        plans: by cell of A, (U_A, U_B), entries of at least 0.
        contracted: (tensor, axis) pairs that a weight sums over.
        mass_preserving: whether weights that are read are distributed (sums are kept) or averaged.
    """

    between: Correspondence
    plans: Mapping[str, Tensor]
    contracted: frozenset[Axis]
    mass_preserving: bool

    def move(self, name: str, tensor: Tensor, skip: int | None = None) -> Tensor:
        """A tensor of B in the widths of A; axis `skip` stays as it is. On the device and in the dtype of the tensor."""
        exact = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
        pairs = self.between.layouts(name)
        grouped = next((a for a, _ in pairs if a.groups > 1), None)
        for a, b in pairs:
            if a.axis != skip and (grouped is None or a.axis not in (0, grouped.axis)):
                exact = self._move_axis(exact, a, b)
        if grouped is not None:
            exact = self._move_grouped(exact, name, grouped.axis)
        return exact.to(tensor.dtype)

    def _move_axis(self, tensor: Tensor, a: AxisLayout, b: AxisLayout) -> Tensor:
        rows = tensor.movedim(a.axis, 0)
        flat = rows.reshape(rows.shape[0], -1)
        moved = flat.new_zeros(a.length, flat.shape[1])
        moved[_index(fixed_indices(a), flat)] = flat[_index(fixed_indices(b), flat)]
        for cell in a.cells:
            to, source = a.positions(cell), b.positions(self.between.cells[cell])
            units = flat[_index(source.reshape(-1), flat)].reshape(len(source), -1)
            merged = self.map(cell, (a.tensor, a.axis)).to(units) @ units
            moved[_index(to.reshape(-1), flat)] = merged.reshape(to.size, -1)
        return moved.reshape(a.length, *rows.shape[1:]).movedim(0, a.axis)

    def map(self, cell: str, axis: Axis) -> Tensor:
        """The map of a cell on an axis, (U_A, U_B) float64: rows sum to 1, or columns where weights are distributed."""
        plan = self.plans[cell]
        return normalised(plan, 0 if self.mass_preserving and axis in self.contracted else 1)

    def dense(self, a: AxisLayout, b: AxisLayout) -> Tensor:
        """The plan of all indices of an axis, (indices of A, indices of B)."""
        plan = torch.zeros(a.length, b.length, dtype=torch.float64)
        plan[torch.from_numpy(fixed_indices(a)), torch.from_numpy(fixed_indices(b))] = 1.0
        for cell in a.cells:
            for to, source in zip(a.positions(cell).T, b.positions(self.between.cells[cell]).T, strict=True):
                plan[torch.from_numpy(to)[:, None], torch.from_numpy(source)[None]] = self.plans[cell]
        return plan

    def inside_groups(self, name: str, axis: int) -> Tensor:
        """Maps of the inputs of a grouped convolution for every pair of groups; (G_A, n_A, G_B, n_B) float64.

        Group g of A only sums over its own inputs. If it takes the part of group h of B, the weights of h are distributed over
        the inputs of g alone, whatever share of h the group gets.

        Args:
            name: the weight.
            axis: of its inputs, 0 or the axis that is described group by group.
        """
        a, b, groups_a, groups_b = self._grouped_axis(name, axis)
        plan = self.dense(a, b) if a is not None and b is not None else torch.eye(*self._rows(name), dtype=torch.float64)
        blocks = plan.reshape(groups_a, -1, groups_b, plan.shape[1] // groups_b)
        return normalised(blocks, 1 if self.mass_preserving else 3)

    def _rows(self, name: str) -> tuple[int, int]:
        return self.between.spec_a.shapes[name][0], self.between.spec_b.shapes[name][0]

    def _grouped_axis(self, name: str, axis: int) -> tuple[AxisLayout | None, AxisLayout | None, int, int]:
        pairs = {a.axis: (a, b) for a, b in self.between.layouts(name)}
        groups_a, groups_b = next((a.groups, b.groups) for a, b in pairs.values() if a.groups > 1)
        a, b = pairs.get(axis, (None, None))
        return a, b, groups_a, groups_b

    def _move_grouped(self, tensor: Tensor, name: str, axis: int) -> Tensor:
        """The weight of a grouped convolution: (rows, entries of a group), whose groups move as a whole."""
        inputs, outputs = (axis, 0) if (name, axis) in self.contracted else (0, axis)
        a, b, groups_a, groups_b = self._grouped_axis(name, outputs)
        plan = self.dense(a, b) if a is not None and b is not None else torch.eye(*self._rows(name), dtype=torch.float64)
        average = normalised(plan, 1).reshape(groups_a, -1, groups_b, plan.shape[1] // groups_b).to(tensor)
        inside = self.inside_groups(name, inputs).to(tensor)
        weight = split_groups(tensor, axis, groups_b, inputs)  # (H, P, J, T)
        moved = torch.einsum("gohp,hpjt->gohjt", average, weight)
        moved = torch.einsum("gohjt,gihj->goit", moved, inside)
        return join_groups(moved, axis, self.between.spec_a.shapes[name], inputs)


def split_groups(tensor: Tensor, axis: int, groups: int, inputs: int) -> Tensor:
    """The weight of a grouped convolution as (groups, outputs, inputs, kernel), whichever of axes 0 and `axis` is the input."""
    split = tensor.movedim(axis, 1)
    split = split.reshape(groups, split.shape[0] // groups, split.shape[1], -1)
    return split if inputs == axis else split.transpose(1, 2)


def join_groups(weight: Tensor, axis: int, shape: tuple[int, ...], inputs: int) -> Tensor:
    """The inverse of `split_groups` for a weight of that shape."""
    split = weight if inputs == axis else weight.transpose(1, 2)
    kernel = [n for i, n in enumerate(shape) if i not in (0, axis)]
    return split.reshape(shape[0], shape[axis], *kernel).movedim(1, axis)


def normalised(plan: Tensor, axis: int) -> Tensor:
    """A plan whose entries sum to 1 along an axis, where there is any mass."""
    mass = plan.sum(axis, keepdim=True)
    return plan / torch.where(mass > 0, mass, torch.ones_like(mass))


def _index(positions: object, like: Tensor) -> Tensor:
    return torch.as_tensor(positions, device=like.device)
