"""Weight matching: coordinate ascent on the inner product of the weights (Ainsworth et al. 2023, arXiv 2209.04836, Alg. 1).

Maximises sum over parameters <W_A, pi(W_B)>, which minimises the L2 distance, one group of cells at a time. Every axis counts:
biases and affine parameters too, running statistics are moved and not compared. Where a tensor holds one cell on two axes the
objective is quadratic in the permutation; the assignment on its gradient is accepted only if the objective itself grows, so
the ascent is monotone everywhere. Ties keep the permutation they found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from graphalign import group
from graphalign.assignment import assign, assign_group
from graphalign.errors import InvalidInput
from graphalign.fixed_similarity import FixedSimilarity
from graphalign.methods.problem import Problem, Solution
from graphalign.spec import AxisLayout, Cell, NetworkSpec
from graphalign.tracked_similarity import TrackedSimilarity
from graphalign.weight_costs import matched_tensors, objective, unit_rows

MAX_SWEEPS = 100
MAX_RESTARTS = 10_000
"""Above, a run would not end in a useful time: every restart is an ascent of up to MAX_SWEEPS sweeps."""
RELATIVE_TOLERANCE = 1e-6

Order = Literal["random", "forward", "backward", "alternate"]


@dataclass(frozen=True)
class Weight:
    """The best of several ascents by objective.

    Without permutations to start from, the starts are a forward pass that matches cells in the order of the network, each on the
    weights whose other units are already matched, and the identity, as in the paper. Random elements follow. The identity is left
    out where the forward pass ends at a clear match: every unit is more like its partner than like any other unit.

    Attributes:
        restarts: number of random starting points besides the standard ones or the one given, at most 10,000.
        order: of the cells in a sweep: drawn anew for every sweep as published, "forward" or "backward" as the network computes
            them, or the two in turn.
        normalise: every tensor counts by its cosine instead of its inner product, so that layers with large weights do not
            dominate: sum over parameters <W_A, pi(W_B)> / (|W_A| |W_B|).

    Raises:
        InvalidInput: a setting with a value that is not listed here.
    """

    restarts: int = 0
    order: Order = "random"
    normalise: bool = False

    def __post_init__(self) -> None:
        problems = [f"order={self.order!r}, expected one of {', '.join(get_args(Order))}"] if self.order not in get_args(Order) else []
        problems += [f"restarts={self.restarts!r}, expected 0 to {MAX_RESTARTS}"] if not 0 <= self.restarts <= MAX_RESTARTS else []
        if problems:
            raise InvalidInput("method 'weight': found " + "; ".join(problems))

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem; its objective is never below that of `problem.start`.

        The objective and the losses (one for every sweep of the best ascent) are what is maximised, as defined above.
        """
        spec = problem.spec
        a, b = _compared(problem, self.normalise)
        generator = torch.Generator().manual_seed(problem.seed)
        fixed = FixedSimilarity(spec, a, b)
        starts = [problem.start] if problem.start is not None else [forward_matching(spec, a, b, fixed), group.identity(spec)]
        starts += [group.random_element(spec, generator) for _ in range(self.restarts)]
        best = TrackedSimilarity(spec, a, b, starts[0], fixed)
        values = climb(best, generator, self.order)
        if self.restarts or not best.clear:
            for start in starts[1:]:
                tracked = TrackedSimilarity(spec, a, b, start, fixed)
                reached = climb(tracked, generator, self.order)
                if reached[-1] > values[-1] + RELATIVE_TOLERANCE * abs(values[-1]):
                    best, values = tracked, reached
        return Solution(best.element, objective=values[-1], losses=values[1:])


def _compared(problem: Problem, normalise: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of A and of B that are compared, in single precision or better, divided by their norms if asked for."""
    names = matched_tensors(problem.spec)
    a = {n: problem.a[n].detach().to(torch.promote_types(problem.a[n].dtype, torch.float32)) for n in names}
    b = {n: problem.b[n].detach().to(a[n].device, a[n].dtype) for n in names}
    if not normalise:
        return a, b
    scaled = ({n: t / (torch.linalg.vector_norm(t) + torch.finfo(t.dtype).tiny) for n, t in s.items()} for s in (a, b))
    return next(scaled), next(scaled)


def ascend(
    spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], start: Mapping[str, Tensor], generator: torch.Generator,
    order: Order = "random",
) -> tuple[dict[str, Tensor], tuple[float, ...]]:  # fmt: skip
    """Sweeps over the groups of cells until none of them improves.

    Args:
        spec: what may move.
        a: weights of A that are compared.
        b: weights of B, in B's own order, of the same type on the same device.
        start: permutations to start from.
        generator: of random orders.
        order: of the groups in each sweep, see `Weight`.

    Returns:
        The permutations found, and the objective sum <A, pi(B)> of the start and after every sweep: it never falls, and is the sum
        of the gains, whose rounding adds up in single precision.
    """
    tracked = TrackedSimilarity(spec, a, b, start)
    values = climb(tracked, generator, order)
    return tracked.element, values


def climb(tracked: TrackedSimilarity, generator: torch.Generator, order: Order = "random") -> tuple[float, ...]:
    """As `ascend`, from the permutations of a tracked similarity, which are moved; returns the objectives."""
    spec, a = tracked.spec, tracked.a
    names = tuple(a)
    groups = [_Group(spec, cells, a) for cells in spec.groups.values()]
    beside = [[j for j, other in enumerate(groups) if own.names & other.names and (i != j or own.again)]
              for i, own in enumerate(groups)]  # fmt: skip
    pending = set(range(len(groups)))  # groups whose neighbours moved since they were last improved
    values = [objective(names, a, tracked.placed)]
    for sweep in range(MAX_SWEEPS):
        gained = 0.0
        for index in _order(order, len(groups), sweep, generator):
            if index not in pending:
                continue
            pending.discard(index)
            for cells in groups[index].steps:
                gain = _improve(tracked, groups[index], cells)
                gained += gain
                if gain:
                    pending.update(beside[index])
        values.append(values[-1] + gained)
        if not pending:
            break
    return tuple(values)


def _order(order: Order, count: int, sweep: int, generator: torch.Generator) -> Sequence[int]:
    if order == "random":
        return [int(i) for i in torch.randperm(count, generator=generator)]
    backward = order == "backward" or (order == "alternate" and sweep % 2 == 1)
    return range(count)[:: -1 if backward else 1]


class _Group:
    """Cells that move together, and what depends on them.

    Attributes:
        cells: the cells.
        steps: the group as a whole; if it has several cells with blocks, afterwards each of them inside its blocks.
        names: the tensors that hold its units.
        quadratic: whether some tensor holds them on two axes, so that the gain of a step is not the sum of its scores.
        again: whether a group that has just been improved may be improved once more.
    """

    def __init__(self, spec: NetworkSpec, cells: tuple[Cell, ...], tensors: Mapping[str, Tensor]) -> None:
        inner = [(cell,) for cell in cells if not cell.rigid and cell.size > 1]
        own = {cell.name for cell in cells}
        self.cells = cells
        self.steps = [cells, *inner] if cells[0].blocks > 1 and len(cells) > 1 else [cells]
        self.names = {x.tensor for name in own for x in spec.axes_of_cell[name] if x.tensor in tensors}
        self.quadratic = any(sum(bool(own & set(x.cells)) for x in spec.axes_of_tensor[n]) > 1 for n in self.names)
        self.again = self.quadratic or len(self.steps) > 1


def _improve(tracked: TrackedSimilarity, group_: _Group, cells: tuple[Cell, ...]) -> float:
    """One assignment; takes the step if the objective grows, and returns by how much, else 0."""
    scores = {cell.name: tracked.of(cell) for cell in cells}
    if cells is group_.cells:
        step = assign_group(cells, scores)
    else:
        step = {cells[0].name: _inside_blocks(cells[0], scores[cells[0].name])}
    if all(torch.equal(perm, torch.arange(len(perm))) for perm in step.values()):
        return 0.0
    gain = sum(float(_taken(scores[name], perm) - scores[name].diagonal().double().sum()) for name, perm in step.items())
    least = RELATIVE_TOLERANCE * sum(float(s.abs().amax(1).double().sum()) for s in scores.values())
    if gain > least and group_.quadratic:
        moved = tracked.moved(step)
        names = tuple(moved)
        gain = objective(names, tracked.a, moved) - objective(names, tracked.a, tracked.placed)
    if gain <= least:
        return 0.0
    tracked.move(step)
    return gain


def _taken(scores: Tensor, perm: Tensor) -> Tensor:
    return scores.gather(1, perm[:, None].to(scores.device)).double().sum()


def _inside_blocks(cell: Cell, scores: Tensor) -> Tensor:
    """The best order inside each block, blocks staying where they are."""
    rows = torch.arange(cell.blocks)
    diagonal = scores.reshape(cell.blocks, cell.size, cell.blocks, cell.size)[rows, :, rows]
    return group.join_blocks(rows, assign(diagonal))


def forward_matching(
    spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], fixed: FixedSimilarity | None = None
) -> dict[str, Tensor]:
    """Permutations found in one pass from the inputs: each group on the axes whose other cells are already matched.

    Groups that no such axis reaches are matched on what does not depend on the order of the unknown units: their sorted
    weights.
    """
    element = group.identity(spec)
    fixed = fixed or FixedSimilarity(spec, a, b)
    pending = dict(spec.groups)
    known: set[str] = set()
    while pending:
        ready = [name for name, cells in pending.items() if any(_anchored(spec, cell, known, a) for cell in cells)]
        name = ready[0] if ready else next(iter(pending))
        cells = pending.pop(name)
        scores = {}
        for cell in cells:
            layouts = _anchored(spec, cell, known, a)
            if not layouts:
                scores[cell.name] = _partial_similarity(spec, cell, spec.axes_of_cell[cell.name], a, b, element, ordered=False)
            elif rest := [x for x in layouts if x not in fixed.layouts[cell.name]]:
                scores[cell.name] = fixed.of(cell) + _partial_similarity(spec, cell, rest, a, b, element, ordered=True)
            else:
                scores[cell.name] = fixed.of(cell)
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
    """Inner products of unit i of A and unit j of B on some axes, B moved by `element`; (U, U).

    Squared distances differ from them only by terms of one unit alone, which no permutation changes.
    """
    sample = next(iter(a.values()))
    total = sample.new_zeros(cell.units, cell.units)
    for layout in layouts:
        if layout.tensor not in a:
            continue
        placed = group.permute_tensor(spec, b[layout.tensor], spec.axes_of_tensor[layout.tensor], element)
        x, y = (unit_rows(layout, tensor, cell) for tensor in (a[layout.tensor], placed))
        if not ordered:
            x, y = x.sort(dim=1).values, y.sort(dim=1).values
        total += x @ y.T
    return total
