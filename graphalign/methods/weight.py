"""Weight matching: coordinate ascent on the inner product of the weights (Ainsworth et al. 2023, arXiv 2209.04836, Alg. 1).

Maximises sum over parameters <W_A, pi(W_B)>, which minimises the L2 distance, one group of cells at a time. Every axis counts:
biases and affine parameters too, running statistics are moved and not compared. Where a tensor holds one cell on two axes the
objective is quadratic in the permutation; the assignment on its gradient is accepted only if the objective itself grows, so
the ascent is monotone everywhere. Ties keep the permutation they found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign import group
from graphalign.assignment import assign, assign_group
from graphalign.methods.problem import Problem, Solution
from graphalign.spec import AxisLayout, Cell, NetworkSpec
from graphalign.weight_costs import matched_tensors, objective, similarity, unit_rows

MAX_SWEEPS = 100
RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Weight:
    """The best of several ascents by objective.

    The starts are the identity, as in the paper, and a forward pass that matches cells in the order of the network, each on
    the weights whose other units are already matched; random elements follow.

    Attributes:
        restarts: number of random starting points besides the two standard ones.
    """

    restarts: int = 0

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem; its objective is the inner product of A and the moved B."""
        spec = problem.spec
        names = matched_tensors(spec)
        a = {n: problem.a[n].detach().float() if problem.a[n].dtype != torch.float64 else problem.a[n].detach() for n in names}
        b = {n: problem.b[n].detach().to(a[n].device, a[n].dtype) for n in names}
        generator = torch.Generator().manual_seed(problem.seed)
        starts = [problem.start] if problem.start is not None else [group.identity(spec), forward_matching(spec, a, b)]
        starts += [group.random_element(spec, generator) for _ in range(self.restarts)]
        best, best_value = dict(starts[0]), -float("inf")
        for start in starts:
            found, value = ascend(spec, a, b, start, generator)
            if value > best_value + RELATIVE_TOLERANCE * abs(best_value if best_value > -float("inf") else 0.0):
                best, best_value = found, value
        return Solution(best, objective=best_value)


def ascend(
    spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], start: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], float]:
    """Sweeps over the groups in random order until no group improves.

    Args:
        spec: what may move.
        a: weights of A.
        b: weights of B, in B's own order.
        start: permutations to start from.
        generator: order of the groups in each sweep.

    Returns:
        The permutations found and their objective.
    """
    names = tuple(a)
    current = {name: perm.clone() for name, perm in start.items()}
    placed = _move(spec, current, b, names)
    groups = list(spec.groups.values())
    touched = [tuple(n for n in names if any(cell.name in layout.cells for layout in spec.axes_of_tensor[n] for cell in cells))
               for cells in groups]  # fmt: skip
    neighbours = [[j for j, other in enumerate(touched) if set(other) & set(own)] for own in touched]
    pending = set(range(len(groups)))  # groups whose neighbours moved since they were last improved
    for _ in range(MAX_SWEEPS):
        for index in torch.randperm(len(groups), generator=generator).tolist():
            if index not in pending:
                continue
            pending.discard(index)
            for cells in _steps(groups[index]):
                if _improve(spec, cells, touched[index], a, placed, current):
                    pending.update(neighbours[index])
        if not pending:
            break
    return current, objective(names, a, placed)


def _steps(cells: tuple[Cell, ...]) -> list[tuple[Cell, ...]]:
    """A group as a whole; when it has several cells with blocks, afterwards each of them inside its blocks."""
    if cells[0].blocks == 1 or len(cells) == 1:
        return [cells]
    return [cells, *((cell,) for cell in cells if not cell.rigid and cell.size > 1)]


def _improve(
    spec: NetworkSpec, cells: tuple[Cell, ...], names: tuple[str, ...], a: Mapping[str, Tensor], placed: dict[str, Tensor],
    current: dict[str, Tensor],
) -> bool:  # fmt: skip
    """One assignment; keeps it if the objective grows. Updates `placed` and `current` in place."""
    scores = {cell.name: similarity(spec, cell, a, placed) for cell in cells}
    whole_group = len(spec.groups[cells[0].group or cells[0].name]) == len(cells)
    if whole_group:
        step = assign_group(cells, scores)
    else:
        step = {cells[0].name: _inside_blocks(cells[0], scores[cells[0].name])}
    if all(torch.equal(perm, torch.arange(len(perm))) for perm in step.values()):
        return False
    gain = sum(float(_taken(scores[name], perm) - scores[name].diagonal().double().sum()) for name, perm in step.items())
    scale = sum(float(s.abs().amax(1).double().sum()) for s in scores.values())
    if gain <= RELATIVE_TOLERANCE * scale:
        return False
    moved = _move(spec, {**group.identity(spec), **step}, placed, names)
    if (
        _is_quadratic(spec, cells, names)
        and objective(names, a, moved) - objective(names, a, placed) <= RELATIVE_TOLERANCE * scale
    ):
        return False
    placed.update(moved)
    for name, perm in step.items():
        current[name] = current[name][perm]
    return True


def _taken(scores: Tensor, perm: Tensor) -> Tensor:
    return scores.gather(1, perm[:, None].to(scores.device)).double().sum()


def _is_quadratic(spec: NetworkSpec, cells: tuple[Cell, ...], names: tuple[str, ...]) -> bool:
    """Whether some tensor holds units of these cells on two axes, so that the gain of a step is not the sum of its scores."""
    own = {cell.name for cell in cells}
    return any(sum(bool(own & set(layout.cells)) for layout in spec.axes_of_tensor[n]) > 1 for n in names)


def _inside_blocks(cell: Cell, scores: Tensor) -> Tensor:
    """The best order inside each block, blocks staying where they are."""
    rows = torch.arange(cell.blocks)
    diagonal = scores.reshape(cell.blocks, cell.size, cell.blocks, cell.size)[rows, :, rows]
    return group.join_blocks(rows, assign(diagonal))


def _move(
    spec: NetworkSpec, element: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: tuple[str, ...]
) -> dict[str, Tensor]:
    return {n: group.permute_tensor(spec, tensors[n], spec.axes_of_tensor[n], element) for n in names}


def forward_matching(spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permutations found in one pass from the inputs: each group on the axes whose other cells are already matched.

    Groups that no such axis reaches are matched on what does not depend on the order of the unknown units: their sorted
    weights.
    """
    element = group.identity(spec)
    pending = dict(spec.groups)
    known: set[str] = set()
    while pending:
        ready = [name for name, cells in pending.items() if any(_anchored(spec, cell, known, a) for cell in cells)]
        name = ready[0] if ready else next(iter(pending))
        cells = pending.pop(name)
        scores = {}
        for cell in cells:
            layouts = _anchored(spec, cell, known, a)
            axes = layouts or spec.axes_of_cell[cell.name]
            scores[cell.name] = _partial_similarity(spec, cell, axes, a, b, element, ordered=bool(layouts))
        element.update(assign_group(cells, scores))
        known.update(cell.name for cell in cells)
    return element


def _anchored(spec: NetworkSpec, cell: Cell, known: set[str], a: Mapping[str, Tensor]) -> list[AxisLayout]:
    return [
        layout for layout in spec.axes_of_cell[cell.name]
        if layout.tensor in a
        and all(set(other.cells) <= known for other in spec.axes_of_tensor[layout.tensor] if other.axis != layout.axis)
    ]  # fmt: skip


def _partial_similarity(
    spec: NetworkSpec, cell: Cell, layouts: Sequence[AxisLayout], a: Mapping[str, Tensor], b: Mapping[str, Tensor],
    element: Mapping[str, Tensor], ordered: bool,
) -> Tensor:  # fmt: skip
    """Inner products of unit i of A and unit j of B on some axes, B moved by `element`; (U, U) in float64.

    Squared distances differ from them only by terms of one unit alone, which no permutation changes.
    """
    total = torch.zeros(cell.units, cell.units, dtype=torch.float64)
    for layout in layouts:
        if layout.tensor not in a:
            continue
        placed = group.permute_tensor(spec, b[layout.tensor], spec.axes_of_tensor[layout.tensor], element)
        x, y = (unit_rows(layout, tensor, cell) for tensor in (a[layout.tensor], placed))
        if not ordered:
            x, y = x.sort(dim=1).values, y.sort(dim=1).values
        total += (x @ y.T).double().cpu()
    return total
