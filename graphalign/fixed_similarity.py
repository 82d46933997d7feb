"""The part of the similarity of cells that no other cell has a say in, computed once for all starting points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from graphalign.spec import AxisLayout, Cell, NetworkSpec
from graphalign.weight_costs import similarity


class FixedSimilarity:
    """The part of every cell's similarity that the permutations of other cells do not change, computed once.

    It comes from the axes of tensors that hold no other cell: weights that read the inputs or write the outputs, biases.

    Attributes:
        spec: what may move.
        a: weights of A.
        b: weights of B, in B's own order.
    """

    def __init__(self, spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        self.spec, self.a, self.b = spec, a, b
        self._found: dict[str, Tensor] = {}

    @cached_property
    def layouts(self) -> dict[str, tuple[AxisLayout, ...]]:
        """The axes by cell; a cell may have none."""
        return {
            cell.name: tuple(
                x for x in self.spec.axes_of_cell[cell.name]
                if x.tensor in self.a and x.groups == 1 and x.cells == (cell.name,) and len(self.spec.axes_of_tensor[x.tensor]) == 1
            )
            for cell in self.spec.cells
        }  # fmt: skip

    def of(self, cell: Cell) -> Tensor:
        """Inner products of unit i of A and unit j of B in its own order, over these axes; (U, U), not to be written to."""
        if cell.name not in self._found:
            self._found[cell.name] = similarity(self.spec, cell, self.a, self.b, self.layouts[cell.name])
        return self._found[cell.name]
