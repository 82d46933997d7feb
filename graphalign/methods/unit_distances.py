"""Distances between the units of two networks of any widths: of their incoming weights, or of their activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from graphalign.architecture import Architecture
from graphalign.correspondence import Correspondence
from graphalign.encoder import Moments, chunk_size, find_taps, rows_at
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader
from graphalign.example_batches import example_batches
from graphalign.program import Program, activations
from graphalign.spec import AxisLayout, Cell
from graphalign.transport_maps import Maps, split_groups
from graphalign.weight_costs import unit_rows

Ground = Literal["euclidean", "squared", "cosine"]
PART = 2**22
"""Entries converted to float64 at once."""


@dataclass(frozen=True)
class Products:
    """Inner products of vectors that describe units, from which every distance follows; float64 on the CPU.

    Attributes:
        squares_a: squared norms of A's vectors, (U_A, 1).
        squares_b: those of B's, (1, U_B), or (U_A, U_B) where they depend on the unit of A that they are compared with.
        inner: inner products, (U_A, U_B).
    """

    squares_a: Tensor
    squares_b: Tensor
    inner: Tensor

    @classmethod
    def zeros(cls, units_a: int, units_b: int) -> Products:
        """Products of vectors without entries."""
        a, b, inner = (torch.zeros(n, m, dtype=torch.float64) for n, m in ((units_a, 1), (1, units_b), (units_a, units_b)))
        return cls(a, b, inner)

    def __add__(self, other: Products) -> Products:
        """Products of the vectors put end to end."""
        return Products(self.squares_a + other.squares_a, self.squares_b + other.squares_b, self.inner + other.inner)

    def distances(self, ground: Ground, normalise: bool) -> Tensor:
        """Costs (U_A, U_B): |x - y|, its square, or 1 - cos(x, y); with `normalise`, of vectors divided by their norms."""
        norms = (self.squares_a * self.squares_b).sqrt()
        cosine = self.inner / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        if ground == "cosine":
            return (1 - cosine).clamp(min=0)
        squared = 2 - 2 * cosine if normalise else self.squares_a + self.squares_b - 2 * self.inner
        return squared.clamp(min=0).sqrt() if ground == "euclidean" else squared.clamp(min=0)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Norms of the vectors of A (U_A,) and of B (U_B,)."""
        return self.squares_a[:, 0].sqrt(), self.squares_b.mean(0).sqrt()


def products(x: Tensor, y: Tensor) -> Products:
    """Inner products of the rows of x (U_A, D) and y (U_B, D), converted to float64 part by part."""
    total = Products.zeros(len(x), len(y))
    columns = max(1, PART // max(len(x), len(y)))
    for parts in zip(torch.split(x, columns, 1), torch.split(y, columns, 1), strict=True):
        p, q = (part.to("cpu", torch.float64) for part in parts)
        total += Products(p.square().sum(1)[:, None], q.square().sum(1)[None], p @ q.T)
    return total


def weight_products(
    maps: Maps, cell: str, layouts: Iterable[AxisLayout], a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> Products:
    """Inner products of the weights of every unit of a cell, those of B with the units of other axes moved by `maps`.

    Args:
        maps: plans of the cells on the other axes.
        cell: the cell of A.
        layouts: axes of A's tensors that are compared: rows of weights, kernels and all, biases and affine parameters.
        a: weights of A.
        b: weights of B.
    """
    own, partner = maps.between.pair(cell)
    total = Products.zeros(own.units, partner.units)
    for layout in layouts:
        other = next(y for x, y in maps.between.layouts(layout.tensor) if x.axis == layout.axis)
        inputs = _grouped_inputs(maps, layout)
        if inputs is not None:
            total += _grouped_products(maps, (own, layout), (partner, other), a[layout.tensor], b[layout.tensor], inputs)
        else:
            moved = maps.move(layout.tensor, b[layout.tensor], skip=layout.axis)
            total += products(unit_rows(layout, a[layout.tensor], own), unit_rows(other, moved, partner))
    return total


def _grouped_inputs(maps: Maps, layout: AxisLayout) -> int | None:
    """The input axis of the grouped convolution whose outputs a layout describes; None for other tensors and axes."""
    grouped = next((a.axis for a, _ in maps.between.layouts(layout.tensor) if a.groups > 1), None)
    if grouped is None or layout.axis not in (0, grouped):
        return None
    return 0 if layout.axis else grouped


def _grouped_products(
    maps: Maps, own: tuple[Cell, AxisLayout], partner: tuple[Cell, AxisLayout], a: Tensor, b: Tensor, inputs: int
) -> Products:
    """`products` of the outputs of a grouped convolution: units of groups g and h are compared by the map of that pair of groups."""
    axis = max(inputs, own[1].axis)
    inside = maps.inside_groups(own[1].tensor, inputs)  # (G, I, H, J)
    weight_a, weight_b = (split_groups(t.to("cpu", torch.float64), axis, n, inputs) for t, n in ((a, len(inside)), (b, inside.shape[2])))
    moved = torch.einsum("gihj,hpjt->ghpit", inside, weight_b)
    inner = torch.einsum("goit,ghpit->gohp", weight_a, moved).flatten(0, 1).flatten(1)
    squares = moved.square().sum((3, 4)).flatten(1).repeat_interleave(weight_a.shape[1], 0)
    squares_a = weight_a.square().sum((2, 3)).reshape(-1, 1)
    rows = torch.from_numpy(own[1].positions(own[0].name)).T
    columns = torch.from_numpy(partner[1].positions(partner[0].name)).T
    return Products(
        squares_a[rows].sum(0),
        sum_of(squares[r[:, None], c[None]] for r, c in zip(rows, columns, strict=True)),
        sum_of(inner[r[:, None], c[None]] for r, c in zip(rows, columns, strict=True)),
    )


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(0)


def activation_products(
    between: Correspondence, architectures: tuple[Architecture, Architecture], a: Mapping[str, Tensor], b: Mapping[str, Tensor],
    data: Loader,
) -> dict[str, Products]:  # fmt: skip
    """Inner products of the activations of all units on the same inputs, by cell of A: means over samples, sums over places.

    Activations are read where a weight or an attention product reads them, after the nonlinearity; a residual stream at every
    place where the sum is read. Every example, position and token is a sample.

    Raises:
        InvalidInput: inputs that do not fit the example input, activations that are not finite, networks that read their
            activations in different places.
    """
    programs = [Program(architecture) for architecture in architectures]
    states = [_wide(state) for state in (a, b)]
    samples = [next(t for t in state.values() if t.is_floating_point()) for state in states]
    taps = list(zip(*(find_taps(architecture, torch.Generator(), None) for architecture in architectures), strict=False))
    differing = [
        f"'{x.step}' of A and '{y.step}' of B" for x, y in taps
        if between.cells[x.cell] != y.cell or x.positions.shape[1] != y.positions.shape[1]
    ]  # fmt: skip
    if differing or len({len(architecture.reads) for architecture in architectures}) > 1:
        raise InvalidInput(
            f"activations: the networks are read in different places ({', '.join(differing) or 'another number of them'}), "
            "expected the same layers; use cost='weights'"
        )
    moments = [Moments(centred=False) for _ in taps]
    size = min(map(chunk_size, architectures))
    loaders = (example_batches(p, data, sample, size) for p, sample in zip(programs, samples, strict=True))
    for inputs in zip(*loaders, strict=True):
        reads = [activations(*given) for given in zip(programs, states, inputs, strict=True)]
        for (x, y), moment in zip(taps, moments, strict=True):
            moment.add(rows_at(x, reads[0]).to("cpu", torch.float64), rows_at(y, reads[1]).to("cpu", torch.float64))
    found = {name: Products.zeros(*(cell.units for cell in between.pair(name))) for name in between.cells}
    for (x, y), moment in zip(taps, moments, strict=True):
        part = Products.zeros(*(cell.units for cell in between.pair(x.cell)))
        part.squares_a[x.units, 0] = moment.square_a / moment.samples
        part.squares_b[0, y.units] = moment.square_b / moment.samples
        part.inner[x.units[:, None], y.units[None]] = moment.product / moment.samples
        found[x.cell] += part
    bad = [name for name, part in found.items() if not bool(part.squares_a.isfinite().all() and part.squares_b.isfinite().all())]
    if bad:
        raise InvalidInput(f"activations: found NaN or infinity in the units of {bad}; check the weights and the inputs")
    return found


def _wide(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network in float64 if it has such a tensor, else in float32."""
    wide = torch.float64 if any(t.dtype == torch.float64 for t in state.values()) else torch.float32
    return {name: t.detach().to(wide) if t.is_floating_point() else t.detach() for name, t in state.items()}
