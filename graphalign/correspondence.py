"""Which cells and tensor axes of two networks correspond when they have the same layers in different widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphalign.errors import SpecMismatch
from graphalign.spec import AxisLayout, Cell, NetworkSpec


@dataclass(frozen=True)
class Correspondence:
    """Two specs of one depth, cell by cell and axis by axis.

    Attributes:
        spec_a: of the network whose widths are the target.
        spec_b: of the network that is brought to them.
        cells: name of B's cell by the name of A's; the names may differ, because some contain widths.
    """

    spec_a: NetworkSpec
    spec_b: NetworkSpec
    cells: Mapping[str, str]

    def pair(self, cell: str) -> tuple[Cell, Cell]:
        """The cell of A with that name, and its partner in B."""
        return self.spec_a.by_name[cell], self.spec_b.by_name[self.cells[cell]]

    def layouts(self, tensor: str) -> tuple[tuple[AxisLayout, AxisLayout], ...]:
        """Layouts of A and of B for every axis of a tensor that carries units."""
        other = {layout.axis: layout for layout in self.spec_b.axes_of_tensor.get(tensor, ())}
        return tuple((layout, other[layout.axis]) for layout in self.spec_a.axes_of_tensor.get(tensor, ()))


def correspond(spec_a: NetworkSpec, spec_b: NetworkSpec) -> Correspondence:
    """The correspondence of two specs: cells in the order of the network, tensors by name.

    Widths of cells and numbers of blocks may differ. Everything else must be the same: tensors and their names, kernel sizes,
    the axes that carry units, how often a unit appears on an axis, the units that may not move.

    Raises:
        SpecMismatch: lists everything that has no counterpart.
    """
    cells = {a.name: b.name for a, b in zip(spec_a.cells, spec_b.cells, strict=False)}
    problems = list(_cell_problems(spec_a, spec_b))
    problems += _tensor_problems(spec_a, spec_b)
    if not problems:
        problems += _axis_problems(spec_a, spec_b, cells)
    if problems:
        raise SpecMismatch(
            "A and B do not correspond layer by layer:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nPass two networks with the same layers and tensor names, of any widths; networks of different depth have no plan."
        )  # fmt: skip
    return Correspondence(spec_a, spec_b, cells)


def _cell_problems(spec_a: NetworkSpec, spec_b: NetworkSpec) -> Iterator[str]:
    if len(spec_a.cells) != len(spec_b.cells):
        yield f"A has {len(spec_a.cells)} cells of units ({_names(spec_a)}), B has {len(spec_b.cells)} ({_names(spec_b)})"
        return
    groups_a, groups_b = ([[cell.name for cell in cells] for cells in spec.groups.values()] for spec in (spec_a, spec_b))
    for a, b in zip(spec_a.cells, spec_b.cells, strict=True):
        where = f"cell '{a.name}' of A and '{b.name}' of B"
        if a.rigid != b.rigid or (a.rigid and a.size != b.size):
            order = [f"blocks of {cell.size} units in {'a fixed' if cell.rigid else 'any'} order" for cell in (a, b)]
            yield f"{where}: found {order[0]} and {order[1]}; a fixed order must be of the same length"
    index_a, index_b = ({cell.name: i for i, cell in enumerate(spec.cells)} for spec in (spec_a, spec_b))
    if [[index_a[n] for n in names] for names in groups_a] != [[index_b[n] for n in names] for names in groups_b]:
        yield f"cells exchange their blocks together in different groups: {groups_a} in A, {groups_b} in B"


def _names(spec: NetworkSpec) -> str:
    return ", ".join(cell.name for cell in spec.cells) or "none"


def _tensor_problems(spec_a: NetworkSpec, spec_b: NetworkSpec) -> Iterator[str]:
    for key in dict.fromkeys([*spec_a.shapes, *spec_b.shapes]):
        if key not in spec_a.shapes or key not in spec_b.shapes:
            yield f"'{key}' is only in {'A' if key in spec_a.shapes else 'B'}"
            continue
        a, b = spec_a.shapes[key], spec_b.shapes[key]
        if len(a) != len(b):
            yield f"'{key}' has shape {a} in A and {b} in B"
            continue
        movable_a, movable_b = ({layout.axis for layout in s.axes_of_tensor.get(key, ())} for s in (spec_a, spec_b))
        for axis in sorted(movable_a ^ movable_b):
            yield f"axis {axis} of '{key}' carries movable units only in {'A' if axis in movable_a else 'B'}"
        for axis in set(range(len(a))) - movable_a - movable_b:
            if a[axis] != b[axis]:
                yield f"axis {axis} of '{key}' cannot move and has length {a[axis]} in A and {b[axis]} in B"
    if dict(spec_a.aliases) != dict(spec_b.aliases):
        yield f"tensors are tied differently: {dict(spec_a.aliases)} in A, {dict(spec_b.aliases)} in B"


def _axis_problems(spec_a: NetworkSpec, spec_b: NetworkSpec, cells: Mapping[str, str]) -> Iterator[str]:
    other = {(layout.tensor, layout.axis): layout for layout in spec_b.axes}
    for a in spec_a.axes:
        b = other[(a.tensor, a.axis)]
        where = f"axis {a.axis} of '{a.tensor}'"
        if {cells[cell] for cell in a.cells} != set(b.cells):
            yield f"{where} carries {list(a.cells)} in A and {list(b.cells)} in B"
            continue
        if (a.groups > 1) != (b.groups > 1):
            yield f"{where} belongs to a convolution with {a.groups} groups in A and {b.groups} in B"
        for cell in a.cells:
            times = [layout.positions(name).shape[1] for layout, name in ((a, cell), (b, cells[cell]))]
            if times[0] != times[1]:
                yield f"{where}: every unit of '{cell}' appears {times[0]} times in A and {times[1]} times in B"
        fixed = [len(fixed_indices(layout)) for layout in (a, b)]
        if fixed[0] != fixed[1]:
            yield f"{where} has {fixed[0]} indices that cannot move in A and {fixed[1]} in B"


def fixed_indices(layout: AxisLayout) -> np.ndarray:
    """Indices of an axis at which nothing may move, int64."""
    return np.flatnonzero(np.concatenate([np.full(s.length, s.cell is None) for s in layout.segments]))


def differing_widths(spec_a: NetworkSpec, spec_b: NetworkSpec) -> list[str]:
    """Cells of different size, one line each, in networks that correspond otherwise; empty where they do not."""
    try:
        between = correspond(spec_a, spec_b)
    except SpecMismatch:
        return []
    pairs = map(between.pair, between.cells)
    return [f"cell '{a.name}': {a.units} units in A, {b.units} in B" for a, b in pairs if (a.size, a.blocks) != (b.size, b.blocks)]
