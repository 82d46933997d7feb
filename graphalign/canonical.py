"""One representative of every class of networks that differ by positive factors on their units.

A ReLU unit whose incoming weights and bias are multiplied by s > 0 and whose outgoing weights are divided by s computes the same
function. The representative is the balanced one: for every unit of every rescaling the norm of all entries that the factor
multiplies equals the norm of all entries that it divides. It minimises the sum of squared weights over all factors (Neyshabur,
Salakhutdinov and Srebro 2015, arXiv:1506.02617, section 4; conserved by gradient flow: Du, Hu and Lee 2018, arXiv:1806.00900),
which is convex in the logarithms of the factors, so it is unique up to units that are dead on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.group import check_state
from graphalign.spec import NetworkSpec, Rescaling

TOLERANCE = 1e-14
"""Largest |log s| of a sweep at which the factors count as found."""
MAX_SWEEPS = 2000


def canonicalise(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """The balanced network and the factors that lead to it; the function stays the same and nothing given is modified.

    Fixed point of s_i <- s_i * sqrt(||out_i|| / ||in_i||) for every unit i of every rescaling, where `in` are the entries that s
    multiplies (incoming weights, biases, affine parameters of a normalisation) and `out` those that it divides. A unit
    whose `in` or `out` is zero is dead and keeps s = 1. Sweeps are over-relaxed as soon as their rate is known (Young 1954).

    Args:
        spec: with the rescalings that are exact for the architecture.
        tensors: parameters and buffers by state-dict key, of any floating-point type; factors are found in float64.

    Returns:
        New tensors (those without a factor are the given ones), and for every entry of `spec.rescalings` the factors s, a
        float64 tensor (U,) in the order of the cell's units. Permuting the units first permutes both results.

    Raises:
        SpecMismatch: a tensor is missing or has another shape.
        InvalidInput: a rescaled tensor holds NaN or infinite entries.
    """
    check_state(spec, tensors)
    names = sorted({name for r in spec.rescalings for name, _ in (*r.multiplied, *r.divided)})
    broken = [name for name in names if not bool(torch.isfinite(tensors[name]).all())]
    if broken:
        raise InvalidInput(f"{broken} hold NaN or infinite entries, which have no balanced form; load weights of a finite run")
    logs = _Balance(spec, tensors).solve()
    scales = tuple(log.exp() for log in logs)
    return rescale(spec, tensors, scales), scales


def rescale(spec: NetworkSpec, tensors: Mapping[str, Tensor], scales: Sequence[Tensor]) -> dict[str, Tensor]:
    """New tensors after multiplying and dividing by one positive factor per unit of every rescaling; same function.

    Args:
        spec: whose `rescalings` the factors belong to.
        tensors: parameters and buffers by state-dict key.
        scales: one tensor (U,) per rescaling, all positive.

    Raises:
        InvalidInput: the number or size of the factors does not fit the spec, or one of them is not positive and finite.
    """
    problems = []
    if len(scales) != len(spec.rescalings):
        problems.append(f"{len(scales)} tensors of factors, expected one for each of the {len(spec.rescalings)} rescalings")
    for number, (rescaling, factor) in enumerate(zip(spec.rescalings, scales, strict=False)):
        units, where = spec.by_name[rescaling.cell].units, f"rescaling {number} of cell '{rescaling.cell}'"
        if tuple(factor.shape) != (units,):
            problems.append(f"{where}: factors of shape {tuple(factor.shape)}, expected ({units},)")
        elif not bool((factor > 0).all() and torch.isfinite(factor).all()):
            problems.append(f"{where}: factors that are not positive and finite; pass exp of finite logarithms")
    if problems:
        raise InvalidInput("these factors do not fit the spec:\n" + "\n".join(f"  - {p}" for p in problems))
    changed: dict[str, Tensor] = {}
    for place, factors in _axis_factors(spec, [s.double().log() for s in scales]).items():
        name, axis = place
        tensor = changed[name] if name in changed else tensors[name].detach().double()
        view = [-1 if d == axis else 1 for d in range(tensor.dim())]
        changed[name] = tensor * factors.exp().to(tensor.device).reshape(view)
    result = dict(tensors)
    for name, tensor in changed.items():
        result[name] = tensor.to(tensors[name].dtype)
    for alias, name in spec.aliases.items():
        if alias in result and name in changed:
            result[alias] = result[name]
    return result


def _axis_factors(spec: NetworkSpec, logs: Sequence[Tensor]) -> dict[tuple[str, int], Tensor]:
    """Logarithm of the factor at every index of every rescaled axis."""
    total: dict[tuple[str, int], Tensor] = {}
    for rescaling, log in zip(spec.rescalings, logs, strict=True):
        for side in _sides(spec, rescaling):
            length = spec.shapes[side.tensor][side.axis]
            vector = total.setdefault((side.tensor, side.axis), torch.zeros(length, dtype=torch.float64))
            vector[side.index] += side.sign * log.cpu()[side.unit]
    return total


@dataclass(frozen=True)
class _Side:
    """One axis that a rescaling acts on: sign +1 where it multiplies, index and unit of the entries it reaches."""

    tensor: str
    axis: int
    sign: int
    index: Tensor
    unit: Tensor


def _sides(spec: NetworkSpec, rescaling: Rescaling) -> list[_Side]:
    found = []
    for places, sign in ((rescaling.multiplied, 1), (rescaling.divided, -1)):
        for tensor, axis in places:
            layout = next(a for a in spec.axes_of_tensor[tensor] if a.axis == axis)
            unit = torch.from_numpy(layout.units_of(rescaling.cell))
            index = torch.nonzero(unit >= 0)[:, 0]
            found.append(_Side(tensor, axis, sign, index, unit[index]))
    return found


class _Balance:
    """Squared weights summed over everything but the rescaled axes, and the logarithms of the factors found so far."""

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> None:
        self.sides = [_sides(spec, r) for r in spec.rescalings]
        self.logs = [torch.zeros(spec.by_name[r.cell].units, dtype=torch.float64) for r in spec.rescalings]
        self.axis_logs = _axis_factors(spec, self.logs)
        self.axes: dict[str, list[int]] = {}
        for name, axis in sorted(self.axis_logs):
            self.axes.setdefault(name, []).append(axis)
        self.squares: dict[str, Tensor] = {}
        for name, axes in self.axes.items():
            square = tensors[name].detach().cpu().double().square()
            rest = [d for d in range(square.dim()) if d not in axes]
            self.squares[name] = square.sum(rest) if rest else square

    def solve(self) -> list[Tensor]:
        relaxation, previous, best = 1.0, float("inf"), float("inf")
        for sweep in range(MAX_SWEEPS):
            step = max((self._update(r, relaxation) for r in range(len(self.logs))), default=0.0)
            if step <= TOLERANCE:
                break
            if sweep == 20 and step < previous:
                relaxation = 2 / (1 + (1 - min(step / previous, 0.9999)) ** 0.5)
            elif step > 10 * best:
                relaxation = 1.0
            previous, best = step, min(step, best)
        return self.logs

    def _update(self, number: int, relaxation: float) -> float:
        """Balances the units of one rescaling given all others; the largest change of a logarithm."""
        norms = {sign: torch.zeros_like(self.logs[number]) for sign in (1, -1)}
        for side in self.sides[number]:
            norms[side.sign].index_add_(0, side.unit, self._along(side.tensor, side.axis)[side.index])
        alive = (norms[1] > 0) & (norms[-1] > 0)
        change = torch.where(alive, (norms[-1] / norms[1].clamp(min=torch.finfo(torch.float64).tiny)).log() / 4, 0.0)
        # a weight from a cell to itself answers to a factor with both of its axes; half a step keeps that from oscillating
        tensors = [side.tensor for side in self.sides[number]]
        change = change * (0.5 if len(set(tensors)) < len(tensors) else relaxation)
        change = torch.where(alive, change, 0.0)
        self.logs[number] = self.logs[number] + change
        for side in self.sides[number]:
            self.axis_logs[(side.tensor, side.axis)][side.index] += side.sign * change[side.unit]
        return float(change.abs().max()) if len(change) else 0.0

    def _along(self, name: str, axis: int) -> Tensor:
        """Sum of squares of the scaled tensor at every index of an axis."""
        weighted = self.squares[name].movedim(self.axes[name].index(axis), 0)
        others = [a for a in self.axes[name] if a != axis]
        for other in reversed(others):
            weighted = weighted @ (2 * self.axis_logs[(name, other)]).exp()
        return weighted * (2 * self.axis_logs[(name, axis)]).exp()
