"""Alignments as Git Re-Basin writes them: arrays by the names P_0, P_1, ... and, for every axis of every tensor, which one moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.errors import InvalidInput
from graphalign.spec import AxisLayout, NetworkSpec

Axes = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class AxisPermutations:
    """Permutations and the axes that they move (Ainsworth et al. 2022, arXiv 2209.04836).

    `w.take(permutations[axes_to_perm[tensor][k]], axis=k)` for every axis k with a name brings a tensor of B into the order of A.

    Attributes:
        permutations: by name, int64 arrays: entry i is the index that goes to place i. P_0, P_1, ... in the order in which the
            network computes the units; axes on which units are repeated (after a flatten) or joined (a concatenation) have
            arrays of their own after these.
        axes_to_perm: by tensor, the name for each of its axes, None where nothing moves.
    """

    permutations: Mapping[str, NDArray[np.int64]]
    axes_to_perm: Mapping[str, tuple[str | None, ...]]

    @property
    def perm_to_axes(self) -> dict[str, list[tuple[str, int]]]:
        """The same by name: the (tensor, axis) pairs that a permutation moves."""
        found: dict[str, list[tuple[str, int]]] = {name: [] for name in self.permutations}
        for tensor, names in self.axes_to_perm.items():
            for axis, name in enumerate(names):
                if name is not None:
                    found[name].append((tensor, axis))
        return found


def to_axis_permutations(alignment: Alignment) -> AxisPermutations:
    """An alignment in the form of Git Re-Basin; `from_axis_permutations` reads it again.

    Raises:
        InvalidInput: a grouped convolution whose input axis moves differently in every group, which no single array describes.
    """
    spec = alignment.spec
    if grouped := [f"axis {layout.axis} of '{layout.tensor}'" for layout in spec.axes if layout.groups > 1]:
        raise InvalidInput(
            f"to_axis_permutations: found grouped convolutions, expected one permutation for each axis: {', '.join(grouped)} would need one for "
            "every group; save the alignment with Alignment.save"
        )
    names = {(cell.name,): f"P_{i}" for i, cell in enumerate(spec.cells)}
    permutations = {f"P_{i}": alignment.permutations[cell.name].numpy().copy() for i, cell in enumerate(spec.cells)}
    seen: dict[Any, str] = {}
    axes: dict[str, list[str | None]] = {tensor: [None] * len(shape) for tensor, shape in spec.shapes.items()}
    for layout in spec.axes:
        whole = layout.whole
        if whole is not None and whole.cell is not None and whole.repeat == 1 and whole.count == spec.by_name[whole.cell].units:
            name = names[(whole.cell,)]
        elif layout.segments in seen:
            name = seen[layout.segments]
        else:
            name = seen[layout.segments] = f"P_{len(permutations)}"
            permutations[name] = group.gather_index(spec, layout, alignment.permutations).numpy()
        axes[layout.tensor][layout.axis] = name
    return AxisPermutations(permutations, {tensor: tuple(found) for tensor, found in axes.items()})


def from_axis_permutations(spec: NetworkSpec, permutations: Mapping[str, Any], axes_to_perm: Axes | None = None, method: str = "git-re-basin") -> Alignment:
    """The alignment that permutations in the form of Git Re-Basin describe.

    Args:
        spec: what may move.
        permutations: arrays, tensors or lists of indices by name.
        axes_to_perm: by tensor, the name for each of its axes (the "axes_to_perm" of a permutation spec). None if the names are P_0, P_1, ...
            in the order of the cells of the spec, as `to_axis_permutations` gives them.
        method: what to note as the method of the alignment.

    Raises:
        InvalidInput: names that are missing, axes that no cell of the spec has, arrays that are no permutations of a cell or contradict
            each other; all of them are listed.
    """
    arrays = {name: torch.as_tensor(np.asarray(values)) for name, values in permutations.items()}
    if wrong := [f"'{n}' has dtype {a.dtype} and shape {tuple(a.shape)}" for n, a in arrays.items() if a.dim() != 1 or a.is_floating_point()]:
        raise InvalidInput(f"from_axis_permutations: {', '.join(wrong)}, expected one-dimensional arrays of indices")
    if axes_to_perm is None:
        missing = [f"P_{i} for '{cell.name}'" for i, cell in enumerate(spec.cells) if f"P_{i}" not in arrays]
        if missing:
            raise InvalidInput(
                f"from_axis_permutations: found {', '.join(arrays) or 'nothing'}, expected {', '.join(missing)} too; pass axes_to_perm if "
                "the names mean something else"
            )
        return Alignment(spec, {cell.name: arrays[f"P_{i}"].long() for i, cell in enumerate(spec.cells)}, method)
    problems = [f"'{tensor}' is no tensor of the spec" for tensor in axes_to_perm if tensor not in spec.shapes]
    named: list[tuple[AxisLayout, str]] = []
    layouts = {(layout.tensor, layout.axis): layout for layout in spec.axes}
    for tensor, names in axes_to_perm.items():
        for axis, name in enumerate(names):
            layout = layouts.get((tensor, axis))
            if name is None or tensor not in spec.shapes:
                continue
            if name not in arrays:
                problems.append(f"axis {axis} of '{tensor}' names '{name}', which is not among the permutations")
            elif layout is None:
                if not torch.equal(arrays[name], torch.arange(len(arrays[name]))):
                    problems.append(f"axis {axis} of '{tensor}' may not move, and '{name}' moves it")
            elif layout.groups == 1:
                if len(arrays[name]) != layout.length:
                    problems.append(f"'{name}' has {len(arrays[name])} entries, axis {axis} of '{tensor}' has {layout.length}")
                else:
                    named.append((layout, name))
    found: dict[str, Tensor] = {}
    for layout, name in named:
        for cell in layout.cells:
            if cell not in found and len(layout.positions(cell)) == spec.by_name[cell].units:
                source = arrays[name][torch.from_numpy(layout.positions(cell)[:, 0])].clamp(0, layout.length - 1)
                found[cell] = torch.from_numpy(layout.units_of(cell))[source]
    problems += [f"no axis of cell '{cell.name}' has a name" for cell in spec.cells if cell.name not in found]
    if not problems:
        group.check_element(spec, found)
        for layout, name in named:
            if not torch.equal(group.gather_index(spec, layout, found), arrays[name].long()):
                problems.append(f"'{name}' on axis {layout.axis} of '{layout.tensor}' is not what the permutations of other axes make of it")
    if problems:
        listed = "\n".join(f"  - {p}" for p in dict.fromkeys(problems))
        raise InvalidInput(f"these permutations are no alignment of the network:\n{listed}\nPass the permutations and axes of this architecture.")
    return Alignment(spec, {cell.name: found[cell.name] for cell in spec.cells}, method)
