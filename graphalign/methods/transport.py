"""Optimal-transport fusion (Singh and Jaggi 2020, arXiv 1910.05653), also for networks of different widths.

Cells are walked in the order of the network. The cost of a cell compares the weights that produce its units, every one of them:
rows of linear layers, kernels tap by tap, positions of a flatten, biases and affine parameters of norms, and for a residual
stream all weights that write to it. The weights of B are first moved by the plans found before, on the side of their inputs.
Running statistics are moved and not compared; inputs and outputs of the network never move.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from graphalign.architecture import Architecture
from graphalign.assignment import assign_spec
from graphalign.correspondence import correspond
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader
from graphalign.methods.coupling import couple, require_pot
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.unit_distances import Ground, Products, activation_products, weight_products
from graphalign.spec import AxisLayout, Cell
from graphalign.transport_maps import Maps
from graphalign.transport_plan import TransportPlan

Cost = Literal["weights", "activations"]
Importance = Literal["uniform", "norm"]
SWEEPS = 2
"""Walks through a network in which the plan of some cell depends on that of a later one (residual streams, shared weights)."""
LEAST_MASS = 1e-3
"""Mass of a unit without any weight, in units of the mean mass: a unit of no mass would have no place in a plan."""


@dataclass(frozen=True)
class Transport:
    """How units of B are distributed over units of A.

    Attributes:
        cost: compare incoming "weights", or "activations" on data.
        ground: "euclidean" distance, its square ("squared"), or "cosine" distance.
        regularisation: None for exact transport; a positive number for entropic transport, relative to the largest cost of a cell.
        mass_preserving: distribute the weights that read a unit, so that their sum is kept; otherwise average them, as published,
            which shrinks every layer's input by the ratio of the widths.
        normalise: divide the vectors that describe units by their norms.
        importance: masses of units: "uniform", or "norm", the norms of the vectors that describe them.
    """

    cost: Cost = "weights"
    ground: Ground = "euclidean"
    regularisation: float | None = None
    mass_preserving: bool = True
    normalise: bool = False
    importance: Importance = "uniform"

    def __post_init__(self) -> None:
        choices = {"cost": get_args(Cost), "ground": get_args(Ground), "importance": get_args(Importance)}
        problems = [
            f"{name}={getattr(self, name)!r}, expected one of {', '.join(valid)}"
            for name, valid in choices.items()
            if getattr(self, name) not in valid
        ]
        if self.regularisation is not None and not 0 < self.regularisation < float("inf"):
            problems.append(f"regularisation={self.regularisation!r}, expected a positive number, or None for exact transport")
        if problems:
            raise InvalidInput("method 'transport': found " + "; and ".join(problems))

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem of equal widths; the scores are the plans.

        Exact transport with uniform masses finds permutations; other plans are rounded to the permutations of most mass.

        Raises:
            InvalidInput: no architecture, no data for activations, or POT is missing.
        """
        problem.require("transport", "architecture")
        architecture = problem.architecture
        assert architecture is not None
        plan = self.plan((architecture, architecture), problem.a, problem.b, problem.data, problem.seed)
        scores = dict(plan.plans)
        return Solution(plan.permutations if plan.is_permutation else assign_spec(problem.spec, scores), scores)

    def plan(
        self, architectures: tuple[Architecture, Architecture], a: Mapping[str, Tensor], b: Mapping[str, Tensor],
        data: Loader | None = None, seed: int = 0, template: nn.Module | None = None,
    ) -> TransportPlan:  # fmt: skip
        """The plan that brings B to the widths and units of A.

        Args:
            architectures: of A and of B.
            a: parameters and buffers of A.
            b: parameters and buffers of B.
            data: batches of inputs, for cost "activations".
            seed: kept in the result; nothing here is random.
            template: a module of A's architecture, for `TransportPlan.apply`.

        Raises:
            SpecMismatch: the networks do not correspond layer by layer, or units cannot change their number.
            InvalidInput: no data for activations, POT is missing, or entropic transport does not converge.
        """
        require_pot()
        if self.cost == "activations" and data is None:
            raise InvalidInput(
                "method 'transport' with cost='activations': found no data, which it needs; pass data=, a loader of inputs or of "
                "(inputs, labels), or cost='weights'"
            )
        begun = time.perf_counter()
        plans = _Walk(self, architectures, a, b, data).plans()
        seconds = time.perf_counter() - begun
        specs = architectures[0].spec, architectures[1].spec
        contracted, produced = weight_axes(architectures[0])
        return TransportPlan(
            *specs, plans, tuple(sorted(contracted)), tuple(sorted(produced)), self.mass_preserving, "transport", seed, seconds, template
        )  # fmt: skip


def weight_axes(architecture: Architecture) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[str, int]]]:
    """(tensor, axis) pairs that a weight sums over, and those that it produces; tied weights are in both."""
    blocks = architecture.blocks
    return (
        frozenset((block.tensor, block.in_axis) for block in blocks if block.op != "embedding"),
        frozenset((block.tensor, block.out_axis) for block in blocks),
    )


class _Walk:
    """One run over the cells of two networks."""

    def __init__(
        self, settings: Transport, architectures: tuple[Architecture, Architecture], a: Mapping[str, Tensor], b: Mapping[str, Tensor],
        data: Loader | None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.between = correspond(architectures[0].spec, architectures[1].spec)
        self.spec = architectures[0].spec
        self.a, self.b = (
            {n: t.detach().to(torch.promote_types(t.dtype, torch.float32)) for n, t in state.items() if n in self.spec.axes_of_tensor
             and n not in self.spec.buffers} for state in (a, b)
        )  # fmt: skip
        self.contracted, produced = weight_axes(architectures[0])
        self.read_only = self.contracted - produced
        self.activations: dict[str, Products] | None = None
        if data is not None and settings.cost == "activations":
            self.activations = activation_products(self.between, architectures, a, b, data)
        sizes = {name: tuple(cell.units for cell in self.between.pair(name)) for name in self.between.cells}
        self.found = {name: torch.full(size, 1 / (size[0] * size[1]), dtype=torch.float64) for name, size in sizes.items()}
        self.known: set[str] = set()
        self.incomplete = False

    def plans(self) -> dict[str, Tensor]:
        """Plans by cell of A."""
        for _ in range(SWEEPS):
            self.incomplete = False
            pending = dict(self.spec.groups)
            while pending:
                ready = (name for name, cells in pending.items() if any(self._producers(cell, ()) for cell in cells))
                cells = pending.pop(next(ready, next(iter(pending))))
                self.found.update(self._solve(cells))
                self.known.update(cell.name for cell in cells)
            if not self.incomplete:
                break
        return self.found

    def _all_producers(self, cell: Cell) -> list[AxisLayout]:
        """Axes of the weights that produce a cell, and of whatever else belongs to its units."""
        return [
            layout for layout in self.spec.axes_of_cell[cell.name]
            if layout.tensor in self.a and (layout.tensor, layout.axis) not in self.read_only
        ]  # fmt: skip

    def _producers(self, cell: Cell, siblings: tuple[str, ...]) -> list[AxisLayout]:
        """Those whose other axes carry cells that have a plan, or siblings in the same group of blocks."""
        known = self.known | set(siblings)
        return [
            layout for layout in self._all_producers(cell)
            if all(set(other.cells) <= known for other in self.spec.axes_of_tensor[layout.tensor] if other.axis != layout.axis)
        ]  # fmt: skip

    def _products(self, cell: Cell, siblings: Mapping[str, Tensor]) -> Products:
        if self.activations is not None:
            return self.activations[cell.name]
        layouts, every = self._producers(cell, tuple(siblings)), self._all_producers(cell)
        self.incomplete |= len(layouts) < len(every)
        maps = Maps(self.between, {**self.found, **siblings}, self.contracted, self.settings.mass_preserving)
        return weight_products(maps, cell.name, layouts or every, self.a, self.b)

    def _solve(self, cells: tuple[Cell, ...]) -> dict[str, Tensor]:
        """Plans of a group of cells, whose blocks are transported together.

        Units are transported inside every pair of blocks first; what that costs, summed over the cells, is the cost of the pair.
        A cell of one block is one such pair.
        """
        partners = [self.between.pair(cell.name)[1] for cell in cells]
        blocks = cells[0].blocks, partners[0].blocks
        inside: dict[str, Tensor] = {}  # (blocks of A, units, blocks of B, units): a plan of mass 1 for every pair of blocks
        total = torch.zeros(blocks, dtype=torch.float64)
        masses = [torch.zeros(n, dtype=torch.float64) for n in blocks]
        for cell, partner in zip(cells, partners, strict=True):
            siblings = {name: plans.flatten(2).flatten(0, 1) for name, plans in inside.items()}
            described = self._products(cell, siblings)
            cost = described.distances(self.settings.ground, self.settings.normalise)
            cost = _scaled(cost).reshape(blocks[0], cell.size, blocks[1], partner.size)
            mass_a, mass_b = (
                self._masses(norms).reshape(n, -1) for norms, n in zip(described.norms(), blocks, strict=True)
            )
            plans = torch.zeros_like(cost)
            for g in range(blocks[0]):
                for h in range(blocks[1]):
                    plans[g, :, h] = self._couple(cost[g, :, h], mass_a[g], mass_b[h], cell)
            inside[cell.name] = plans
            total += (plans * cost).sum((1, 3))
            masses = [m + n.sum(1) / len(cells) for m, n in zip(masses, (mass_a, mass_b), strict=True)]
        where = f"the blocks of cell '{cells[0].name}'"
        outer = couple(_scaled(total), masses[0], masses[1], self.settings.regularisation, where) if max(blocks) > 1 else torch.ones(1, 1)
        return {name: (outer[:, None, :, None] * plans).flatten(2).flatten(0, 1) for name, plans in inside.items()}

    def _couple(self, cost: Tensor, mass_a: Tensor, mass_b: Tensor, cell: Cell) -> Tensor:
        if cell.rigid:
            return torch.eye(len(cost), dtype=torch.float64) / len(cost)
        if 1 in cost.shape:
            return mass_a[:, None] * mass_b[None] / (mass_a.sum() * mass_b.sum())
        return couple(cost, mass_a / mass_a.sum(), mass_b / mass_b.sum(), self.settings.regularisation, f"cell '{cell.name}'")

    def _masses(self, norms: Tensor) -> Tensor:
        if self.settings.importance == "uniform":
            return torch.full_like(norms, 1 / len(norms))
        masses = norms + LEAST_MASS * norms.mean() + torch.finfo(norms.dtype).tiny
        return masses / masses.sum()


def _scaled(cost: Tensor) -> Tensor:
    """Costs divided by the largest one: regularisation then means the same at every scale, and nothing underflows."""
    return cost / cost.max().clamp(min=torch.finfo(cost.dtype).tiny)

