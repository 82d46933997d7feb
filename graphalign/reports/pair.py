"""Everything that a report says about one pair of networks, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphalign import group
from graphalign.activations import correlations
from graphalign.alignment import Alignment
from graphalign.comparison import Comparison
from graphalign.connectivity import barrier
from graphalign.converters.chain import chain_network
from graphalign.curve import Curve
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss
from graphalign.measures import RowAgreement, agreement, distance
from graphalign.pairwise import Network, Pair, prepare_pair
from graphalign.skeleton import with_tensors
from graphalign.spec_format import require_equal
from graphalign.verification import largest_change

DRAWN_UNITS = 64
"""Units of a cell that a heat map shows; of larger cells, from the best matched one to the worst in even steps."""

ROUNDING = 1e-5
"""Difference of two correlations that says nothing."""

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CellReport:
    """How alike the units of one cell are; similarity is the Pearson correlation of activations.

    Attributes:
        name: of the cell.
        units: number of units U.
        before: similarity of the unit of A in each slot with the unit of B that has the same number, shape (U,).
        after: with the unit of B that the alignment brings there, shape (U,).
        nearest: share of slots to which the alignment brings the unit of B that is most similar of all; a one-to-one
            assignment cannot reach 1 where several units of A are most similar to one unit of B.
        silent: units of A and of B that never react to the inputs, so that nothing tells where they belong.
        slots: slots that heat maps show, the one with the most similar units first, shape (S,).
        similarity_before: of units of A (rows) and of B (columns) in these slots, shape (S, S).
        similarity_after: of units of A and of aligned B, shape (S, S).
    """

    name: str
    units: int
    before: Values
    after: Values
    nearest: float
    silent: tuple[int, int]
    slots: NDArray[np.int64]
    similarity_before: Values
    similarity_after: Values

    @property
    def any_silent(self) -> bool:
        """Whether a unit of A or of B never reacts."""
        return any(self.silent)


@dataclass(frozen=True, eq=False)
class PairReport:
    """An alignment of B to A and what it achieves.

    Attributes:
        names: of A and of B.
        alignment: what is reported on.
        parameters: number of parameters of a network, tied ones once.
        dtypes: their floating-point types.
        verification: largest change of an output of B when its units are brought into the order of A, in float64; rounding alone makes it differ from 0.
        distance: L2 distances by tensor.
        scales: by tensor, (|A|^2 + |B|^2)^(1/2): the distance of two unrelated tensors of these norms.
        cells: similarity of units, cell by cell.
        inputs: on which inputs units were compared.
        curves: before and after, on the line from B to A; None without labelled data.
        remarks: sentences on what was left out or has to be read with care.
        agreements: by name of another alignment, the rows shared with it; "identity" is the share of units that stay.
    """

    names: tuple[str, str]
    alignment: Alignment
    parameters: int
    dtypes: tuple[str, ...]
    verification: float
    distance: Comparison
    scales: Mapping[str, float]
    cells: tuple[CellReport, ...]
    inputs: str
    curves: tuple[Curve, Curve] | None
    remarks: tuple[str, ...]
    agreements: Mapping[str, RowAgreement]

    @property
    def correlation(self) -> tuple[float, float]:
        """Mean similarity of the units in one slot before and after, over all units of all cells."""
        if not self.cells:
            return 0.0, 0.0
        before, after = (np.concatenate([getattr(c, which) for c in self.cells]) for which in ("before", "after"))
        return float(before.mean(dtype=np.float64)), float(after.mean(dtype=np.float64))

    def summary(self) -> dict[str, float]:
        """The figures of the pair by name, ready for JSON."""
        before, after = self.correlation
        figures = {
            "verification": self.verification,
            "moved": self.alignment.moved,
            "distance_before": self.distance.before,
            "distance_after": self.distance.after,
            "correlation_before": before,
            "correlation_after": after,
        }
        if self.curves is not None:
            for which, curve in zip(("before", "after"), self.curves, strict=True):
                figures |= {f"{name}_{which}": value for name, value in curve.summary().items()}
        return figures


def measure_pair(
    a: Network, b: Network, alignment: Alignment, *, names: tuple[str, str], data: Loader | None, loss: Loss, points: int,
    reset_batch_norm: Loader | None, example_input: Any, module: nn.Module | None, fixed: tuple[str, ...],
    compared: Mapping[str, Alignment], seed: int,
) -> PairReport:  # fmt: skip
    """Measures one pair; arguments as in `graphalign.reports.alignment_report`."""
    if not isinstance(alignment, Alignment):
        raise InvalidInput(
            f"report: found {type(alignment).__name__}, expected an Alignment; plans between different widths have no report"
        )
    pair = prepare_pair(a, b, example_input, fixed, module)
    spec = pair.spec
    require_equal(spec, alignment.spec, "the networks", "the alignment")
    model_a, model_b = (with_tensors(pair.module, state, f"network {n}") for state, n in ((pair.a, "A"), (pair.b, "B")))
    if example_input is None:
        example_input = chain_network(pair.a)[1]
    remarks = []
    curves = None
    if data is not None and has_targets(data, loss):
        before, after = (barrier(model_a, model, data, loss, points, reset_batch_norm) for model in (model_b, alignment.apply(model_b)))
        curves = before, after
        if reset_batch_norm is None and any(name.endswith("running_var") for name in spec.buffers):
            remarks.append(
                "Running statistics of normalisation layers were interpolated like weights, which makes every curve worse than the "
                "networks are; statistics estimated again on training data (reset_batch_norm) give the curves that count."
            )
    else:
        remarks.append("No curves: they take data with labels, and there were none.")
    weights = [name for name in spec.shapes if name not in spec.buffers and name in pair.a]
    others = {"identity": replace(alignment, permutations=group.identity(spec), history=()), **compared}
    return PairReport(
        names=names,
        alignment=alignment,
        parameters=sum(pair.a[name].numel() for name in weights),
        dtypes=tuple(sorted({str(s[name].dtype).removeprefix("torch.") for s in (pair.a, pair.b) for name in weights})),
        verification=largest_change(model_b, example_input, spec, [alignment.permutations]),
        distance=distance(pair.a, pair.b, alignment),
        scales={name: _norm(pair.a[name], pair.b[name]) for name in weights},
        cells=tuple(_cells(pair, alignment, data, seed)),
        inputs="the data given" if data is not None else f"random inputs (seed {seed}); no data was given",
        curves=curves,
        remarks=tuple(remarks),
        agreements={name: agreement(alignment, other) for name, other in others.items()} if spec.cells else {},
    )


def has_targets(data: Loader | None, loss: Loss) -> bool:
    """Whether there are data from which a loss can be computed; a callable is trusted to need none or to find them."""
    if data is None or not isinstance(loss, str):
        return data is not None
    first = next(iter(data), None)
    return isinstance(first, (tuple, list)) and len(first) > 1 and isinstance(first[1], Tensor)


def _norm(*tensors: Tensor) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(t.abs().double())) for t in tensors))


def _cells(pair: Pair, alignment: Alignment, data: Loader | None, seed: int) -> list[CellReport]:
    if not pair.spec.cells:
        return []
    found = correlations(pair.architecture, pair.a, pair.b, data, seed=seed)
    reports = []
    for cell in pair.spec.cells:
        similarity, perm = found[cell.name].float().cpu(), alignment.permutations[cell.name]
        after = similarity.gather(1, perm[:, None])[:, 0]
        ranks = torch.linspace(0, cell.units - 1, min(cell.units, DRAWN_UNITS)).round().long()
        slots = after.argsort(descending=True, stable=True)[ranks]
        silent_a, silent_b = (similarity == 0).all(1), (similarity == 0).all(0)
        nearest = (after >= similarity.max(1).values - ROUNDING) & ~silent_a
        reports.append(
            CellReport(
                name=cell.name,
                units=cell.units,
                before=similarity.diagonal().numpy().copy(),
                after=after.numpy(),
                nearest=float(nearest.double().mean()),
                silent=(int(silent_a.sum()), int(silent_b.sum())),
                slots=slots.numpy(),
                similarity_before=similarity[slots][:, slots].numpy(),
                similarity_after=similarity[slots][:, perm[slots]].numpy(),
            )
        )
    return reports
