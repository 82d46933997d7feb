"""What may move in a network: cells of interchangeable units and every tensor axis that moves with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from graphalign.errors import InvalidInput

MOST = (1 << 63) - 1
"""Most entries of a tensor, and most units of a kind: what 64 bits count."""


@dataclass(frozen=True)
class Cell:
    """A set of interchangeable units: one permutation of the network's symmetry group.

    Units are numbered 0 .. blocks * size - 1, block after block. With one block every order is allowed. With several
    (attention heads, convolution groups) units move inside their block, and whole blocks trade places.

    Attributes:
        name: where the units are first produced.
        size: units in one block.
        blocks: number of blocks; 1 for an ordinary cell.
        group: cells of one group exchange their blocks together; an ordinary cell is a group of its own.
        rigid: the order inside a block is fixed, only blocks move (rotary embeddings).
        activation: the nonlinearities that read these units, sorted.
        scale_free: a positive factor on a unit can be undone by its consumers.
        sign_free: the sign of a unit can be undone by its consumers.
    """

    name: str
    size: int
    blocks: int = 1
    group: str = ""
    rigid: bool = False
    activation: tuple[str, ...] = ()
    scale_free: bool = False
    sign_free: bool = False

    @property
    def units(self) -> int:
        """Number of units U of the cell."""
        return self.size * self.blocks


@dataclass(frozen=True)
class Segment:
    """A run of indices along a tensor axis: units start .. start + count - 1 of a cell, each `repeat` times in a row.

    Attributes:
        cell: the cell's name, or None where nothing may move.
        start: first unit.
        count: number of units.
        repeat: consecutive indices of one unit (positions after a flatten).
    """

    cell: str | None
    start: int
    count: int
    repeat: int = 1

    @property
    def length(self) -> int:
        """Number of indices covered."""
        return self.count * self.repeat


@dataclass(frozen=True)
class AxisLayout:
    """Which unit sits at each index of one axis of one tensor.

    Attributes:
        tensor: state-dict key of a parameter or buffer.
        axis: the axis.
        segments: runs of units; their lengths add up to the length of the axis times `groups`.
        groups: more than 1 for the input axis of a grouped convolution, whose index j means input
            `g * length + j` in the rows of group g.
    """

    tensor: str
    axis: int
    segments: tuple[Segment, ...]
    groups: int = 1

    @property
    def length(self) -> int:
        """Indices described, over all groups."""
        return sum(segment.length for segment in self.segments)

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells on this axis, in order of appearance."""
        return tuple(dict.fromkeys(s.cell for s in self.segments if s.cell is not None))

    @property
    def whole(self) -> Segment | None:
        """The only segment, if the axis holds units of one cell in order from the first on, and nothing else."""
        first = self.segments[0] if len(self.segments) == 1 else None
        return first if first is not None and first.cell is not None and first.start == 0 else None

    def positions(self, cell: str) -> np.ndarray:
        """Indices at which each unit of `cell` sits, in increasing order; int64, shape (U, indices per unit)."""
        table = self._positions.get(cell)
        if table is None:
            units = self.units_of(cell)
            indices = np.flatnonzero(units >= 0)
            order = np.argsort(units[indices], kind="stable")
            table = indices[order].reshape(len(np.unique(units[indices])), -1)
            self._positions[cell] = table
        return table

    @cached_property
    def _positions(self) -> dict[str, np.ndarray]:
        return {}

    def units_of(self, cell: str) -> np.ndarray:
        """Unit of `cell` at each index, -1 where there is none; int64, shape (length,)."""
        parts = [
            np.repeat(np.arange(s.start, s.start + s.count), s.repeat)
            if s.cell == cell
            else np.full(s.length, -1, dtype=np.int64)
            for s in self.segments
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Rescaling:
    """A positive factor per unit of a cell that leaves the function unchanged.

    Attributes:
        cell: the cell whose units are scaled.
        multiplied: (tensor, axis) pairs multiplied by the factors.
        divided: (tensor, axis) pairs divided by them.
    """

    cell: str
    multiplied: tuple[tuple[str, int], ...]
    divided: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FixedUnits:
    """Units that must stay where they are.

    Attributes:
        name: where they are produced.
        count: how many.
        reason: why they cannot move.
    """

    name: str
    count: int
    reason: str


@dataclass(frozen=True)
class NetworkSpec:
    """The permutation symmetries of an architecture: cells and the tensor axes they move. Holds no weights.

    Attributes:
        cells: the cells, in the order in which the network computes them.
        axes: one layout per tensor axis that carries at least one movable unit.
        shapes: shape of every parameter and buffer, in state-dict order.
        fixed: units that may not move, with the reason.
        rescalings: exact positive-scale freedoms.
        aliases: state-dict keys that name the same tensor as another key (tied weights) -> that key.
        buffers: which of the tensors are buffers (running statistics), which move but are not compared.
    """

    cells: tuple[Cell, ...]
    axes: tuple[AxisLayout, ...]
    shapes: Mapping[str, tuple[int, ...]]
    fixed: tuple[FixedUnits, ...] = ()
    rescalings: tuple[Rescaling, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {k: tuple(int(n) for n in v) for k, v in self.shapes.items()})
        object.__setattr__(self, "aliases", dict(self.aliases))
        problems = list(_problems(self))
        if problems:
            raise InvalidInput("the spec is inconsistent:\n" + "\n".join(f"  - {p}" for p in problems))

    def __hash__(self) -> int:
        return hash((self.cells, self.axes, tuple(self.shapes.items())))

    @cached_property
    def by_name(self) -> dict[str, Cell]:
        """Cells by name."""
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def groups(self) -> dict[str, tuple[Cell, ...]]:
        """Cells by group; the cells of a group have the same number of blocks and exchange them together."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.group or cell.name, []).append(cell)
        return {name: tuple(cells) for name, cells in groups.items()}

    @cached_property
    def axes_of_tensor(self) -> dict[str, tuple[AxisLayout, ...]]:
        """Layouts by tensor; only tensors that move are listed."""
        found: dict[str, list[AxisLayout]] = {}
        for layout in self.axes:
            found.setdefault(layout.tensor, []).append(layout)
        return {tensor: tuple(layouts) for tensor, layouts in found.items()}

    @cached_property
    def axes_of_cell(self) -> dict[str, tuple[AxisLayout, ...]]:
        """Layouts by cell name."""
        found: dict[str, list[AxisLayout]] = {cell.name: [] for cell in self.cells}
        for layout in self.axes:
            for cell in layout.cells:
                found[cell].append(layout)
        return {cell: tuple(layouts) for cell, layouts in found.items()}

    def __str__(self) -> str:
        from graphalign.spec_format import format_table

        return format_table(self)

    def __repr__(self) -> str:
        units = sum(cell.units for cell in self.cells)
        return f"NetworkSpec({units} movable units in {len(self.cells)} cells, {len(self.shapes)} tensors, {len(self.fixed)} fixed)"

    def _repr_html_(self) -> str:
        from graphalign.spec_format import format_html

        return format_html(self)


def _equally_often(layout: AxisLayout, cell: Cell) -> bool:
    """Whether an axis holds every unit of a cell the same number of times; judged by runs, however many units a file claims."""
    changes = {0: 0, cell.units: 0}
    for s in layout.segments:
        if s.cell == cell.name and s.count > 0:
            changes[s.start] = changes.get(s.start, 0) + s.repeat
            changes[s.start + s.count] = changes.get(s.start + s.count, 0) - s.repeat
    inside = [changes[unit] for unit in sorted(changes) if 0 < unit < cell.units]
    return changes[0] > 0 and not any(inside)


def _problems(spec: NetworkSpec) -> Iterator[str]:
    names = [cell.name for cell in spec.cells]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"cell '{name}' is defined twice"
    for cell in spec.cells:
        if cell.size < 1 or cell.blocks < 1:
            yield f"cell '{cell.name}' has {cell.blocks} blocks of {cell.size} units; both must be at least 1"
    for name, cells in spec.groups.items():
        if len({cell.blocks for cell in cells}) > 1:
            yield f"group '{name}' joins cells with different numbers of blocks: " + ", ".join(
                f"{cell.name} has {cell.blocks}" for cell in cells
            )
    for tensor, sizes in spec.shapes.items():
        if min(sizes, default=0) < 0 or math.prod(sizes) > MOST:
            yield f"'{tensor}': found shape {sizes!s:.80}, expected dimensions of at least 0 and at most {MOST} entries"
    seen: set[tuple[str, int]] = set()
    for layout in spec.axes:
        where = f"axis {layout.axis} of '{layout.tensor}'"
        if (layout.tensor, layout.axis) in seen:
            yield f"{where} is described twice"
        seen.add((layout.tensor, layout.axis))
        shape = spec.shapes.get(layout.tensor)
        if shape is None:
            yield f"{where}: the tensor is not in shapes"
            continue
        if not 0 <= layout.axis < len(shape):
            yield f"{where} does not exist in shape {shape}"
            continue
        if layout.groups < 1 or layout.length != shape[layout.axis] * layout.groups:
            yield (
                f"{where}: segments cover {layout.length} indices in {layout.groups} groups, "
                f"the tensor has {shape[layout.axis]} there"
            )
        for segment in layout.segments:
            if segment.count < 0 or segment.repeat < 1 or segment.start < 0:
                yield f"{where}: segment {segment} has a negative start or count, or a repeat below 1"
            if segment.cell is None:
                continue
            found = spec.by_name.get(segment.cell)
            if found is None:
                yield f"{where} names the unknown cell '{segment.cell}'"
            elif segment.start + segment.count > found.units:
                yield f"{where} uses unit {segment.start + segment.count - 1} of '{found.name}', which has {found.units}"
            elif not _equally_often(layout, found):
                yield f"{where}: the units of '{found.name}' do not all appear equally often"
    for fixed in spec.fixed:
        if not 1 <= fixed.count <= MOST:
            yield f"fixed units of '{fixed.name}': found count {fixed.count!s:.40}, expected 1 to {MOST}"
    for rescaling in spec.rescalings:
        if rescaling.cell not in spec.by_name:
            yield f"a rescaling names the unknown cell '{rescaling.cell}'"
        for tensor, axis in (*rescaling.multiplied, *rescaling.divided):
            if (tensor, axis) not in seen:
                yield f"the rescaling of '{rescaling.cell}' names axis {axis} of '{tensor}', which carries no units"
