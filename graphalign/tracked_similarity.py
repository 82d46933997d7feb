"""The similarity of every cell while permutations change, kept up to date at the cost of what has changed.

A coordinate ascent on the weights moves all units of a cell at first and a few at a time for most of its way. The similarity of
the cells beside them then changes by the products of those few columns alone, which are a small part of the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from graphalign import group
from graphalign.fixed_similarity import FixedSimilarity
from graphalign.spec import AxisLayout, Cell, NetworkSpec
from graphalign.weight_costs import similarity, unit_rows


class TrackedSimilarity:
    """Weights of A, weights of B in the slots of changing permutations, and how alike the units of a cell are at any time.

    Attributes:
        spec: what may move.
        a: weights of A.
        placed: weights of B in the slots of the current permutations; a copy.
        element: the current permutations.
        fixed: what does not depend on them, shared with other starting points.
    """

    def __init__(
        self, spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], start: Mapping[str, Tensor],
        fixed: FixedSimilarity | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.a = spec, a
        self.fixed = fixed or FixedSimilarity(spec, a, b)
        self.element = {name: perm.to("cpu") for name, perm in start.items()}
        self.placed = {n: group.permute_tensor(spec, b[n], spec.axes_of_tensor[n], self.element) for n in a}
        self._stay = group.identity(spec)
        self._orders = {
            (x.tensor, x.axis): group.gather_index(spec, x, self.element) for x in spec.axes if x.groups == 1 and x.tensor in a
        }
        self._kept: dict[str, Tensor] = {}
        self._seen: dict[str, dict[tuple[str, int], Tensor]] = {}

    def of(self, cell: Cell) -> Tensor:
        """Inner products of unit i of A with the unit of B in slot j, as `graphalign.weight_costs.similarity`; (U, U).

        The result may be overwritten by the next call.
        """
        steady, unsteady = self._layouts[cell.name]
        kept = self._kept.get(cell.name)
        if kept is None:
            fixed = self.fixed.layouts[cell.name]
            kept = self.fixed.of(cell)[:, self.element[cell.name].to(next(iter(self.a.values())).device)]
            if rest := [x for x in steady if x not in fixed]:
                kept += similarity(self.spec, cell, self.a, self.placed, rest)
        else:
            for layout in steady:
                change = self._change(cell, layout)
                if change is not None:
                    kept += change
        self._kept[cell.name] = kept
        self._seen[cell.name] = {key: self._orders[key] for x in steady for key in self._others(x)}
        return kept + similarity(self.spec, cell, self.a, self.placed, unsteady) if unsteady else kept

    @property
    def clear(self) -> bool:
        """Whether every unit of A is more like the unit of B in its slot than like any other, in every cell."""
        for cell in self.spec.cells:
            scores = self.of(cell)
            own = scores.diagonal()[:, None]
            if int((scores >= own).sum()) > cell.units:
                return False
        return True

    def moved(self, step: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of B that a step changes, as they would be after it: `step[cell][i]` is the slot whose unit goes to slot i."""
        element = {**self._stay, **step}
        return {n: group.permute_tensor(self.spec, self.placed[n], x, element) for n, x in self._touched(step).items()}

    def move(self, step: Mapping[str, Tensor]) -> None:
        """Takes a step."""
        element = {**self._stay, **step}
        for name, layouts in self._touched(step).items():
            tensor = self.placed[name]
            grouped = any(layout.groups > 1 for layout in self.spec.axes_of_tensor[name])
            if grouped:
                self.placed[name] = group.permute_tensor(self.spec, tensor, layouts, element)
            for layout in layouts:
                if layout.groups == 1:
                    index = group.gather_index(self.spec, layout, element)
                    self._orders[name, layout.axis] = self._orders[name, layout.axis][index]
                    if not grouped:
                        slots = torch.nonzero(index != torch.arange(len(index))).flatten()
                        entries = tensor.index_select(layout.axis, index[slots].to(tensor.device))
                        tensor.index_copy_(layout.axis, slots.to(tensor.device), entries)
        for name, perm in step.items():
            self.element[name] = self.element[name][perm]
            if name in self._kept:
                self._kept[name] = self._kept[name][:, perm.to(self._kept[name].device)]

    def _touched(self, step: Mapping[str, Tensor]) -> dict[str, tuple[AxisLayout, ...]]:
        """By tensor the axes that carry units of a step."""
        axes: dict[str, dict[int, AxisLayout]] = {}
        for cell in step:
            for layout in self.spec.axes_of_cell[cell]:
                if layout.tensor in self.placed:
                    axes.setdefault(layout.tensor, {})[layout.axis] = layout
        return {tensor: tuple(layouts.values()) for tensor, layouts in axes.items()}

    @cached_property
    def _layouts(self) -> dict[str, tuple[tuple[AxisLayout, ...], tuple[AxisLayout, ...]]]:
        """By cell the axes whose products can be followed, and those that are computed anew every time.

        The latter are those of grouped convolutions.
        """
        result = {}
        for cell in self.spec.cells:
            present = [layout for layout in self.spec.axes_of_cell[cell.name] if layout.tensor in self.a]
            grouped = [any(x.groups > 1 for x in self.spec.axes_of_tensor[layout.tensor]) for layout in present]
            steady = tuple(layout for layout, anew in zip(present, grouped, strict=True) if not anew)
            unsteady = tuple(layout for layout, anew in zip(present, grouped, strict=True) if anew)
            result[cell.name] = steady, unsteady
        return result

    def _others(self, layout: AxisLayout) -> list[tuple[str, int]]:
        return [(x.tensor, x.axis) for x in self.spec.axes_of_tensor[layout.tensor] if x.axis != layout.axis]

    def _change(self, cell: Cell, layout: AxisLayout) -> Tensor | None:
        """How much the product over one axis has changed since it was last computed, other axes of its tensor having moved."""
        seen = self._seen[cell.name]
        changed = [(key, seen[key]) for key in self._others(layout) if seen[key] is not self._orders[key]]
        if not changed:
            return None
        a, now = self.a[layout.tensor], self.placed[layout.tensor]
        if len(changed) == 1:  # only the indices that have changed count
            (key, old), axis = changed[0], changed[0][0][1]
            slots = torch.nonzero(old != self._orders[key]).flatten()
            before = self._slots_of(key, old[slots])
            a, now, was = (t.index_select(axis, i.to(t.device)) for t, i in ((a, slots), (now, slots), (now, before)))
        else:
            was = now
            for key, old in changed:
                was = was.index_select(key[1], self._slots_of(key, old).to(was.device))
        return unit_rows(layout, a, cell) @ unit_rows(layout, now - was, cell).T

    def _slots_of(self, key: tuple[str, int], indices: Tensor) -> Tensor:
        """Where the given indices of B's own order now are on an axis."""
        where = torch.empty_like(self._orders[key])
        where[self._orders[key]] = torch.arange(len(where))
        return where[indices]
