"""How far two networks differ in what they compute."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphalign.converters.export import evaluating, flatten_outputs, split_example
from graphalign.double_precision import InDouble
from graphalign.errors import InvalidInput, first_line
from graphalign.example_inputs import mapped

TOLERANCE = 1e-10
"""Largest change of an output, as a share of the largest output (of 1, if that is smaller), that rounding in float64 explains."""
SINGLE_TOLERANCE = 1e-5
"""The same in float32, for networks with operators that have no other type."""
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True)
class FunctionChange:
    """The outputs of two networks for one input.

    Attributes:
        difference: largest |f(x) - g(x)| over all entries; infinite where one of the two is NaN.
        scale: largest |f(x)|.
        tolerance: as a share of `scale`, or of 1 if that is smaller: what rounding explains.
    """

    difference: float
    scale: float
    tolerance: float = TOLERANCE

    @property
    def equal(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= self.tolerance * max(self.scale, 1.0)


def function_change(first: nn.Module, second: nn.Module, inputs: Any) -> FunctionChange:
    """How far two networks differ on an input, in eval mode; they are left as they are.

    They are run in float64 throughout, or as they are if an operator has no float64.

    Args:
        first: a network f.
        second: a network g.
        inputs: tensor, tuple of arguments, dict of keyword arguments, or `Inputs`.

    Raises:
        InvalidInput: a network does not run on the input, or their outputs have other shapes.
    """
    try:
        found, tolerance = [_outputs(network, inputs, double=True) for network in (first, second)], TOLERANCE
    except FAILURES as failure:
        try:
            found, tolerance = [_outputs(network, inputs, double=False) for network in (first, second)], SINGLE_TOLERANCE
        except FAILURES:
            raise InvalidInput(f"{type(first).__name__} does not run on this input: {first_line(failure)}; pass an input that it takes") from None
    if [t.shape for t in found[0]] != [t.shape for t in found[1]]:
        raise InvalidInput("the two networks have outputs of other shapes; pass networks of one architecture")
    parts = [_difference(f, g) for f, g in zip(*found, strict=True) if f.numel()]
    scale = max((float(f.abs().nan_to_num(posinf=0.0).max()) for f in found[0] if f.numel()), default=0.0)
    return FunctionChange(max(parts, default=0.0), scale, tolerance)


def _outputs(network: nn.Module, inputs: Any, double: bool) -> list[Tensor]:
    model = copy.deepcopy(network)
    if double:
        model = model.double()
        inputs = mapped(inputs, lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v)
    args, kwargs = split_example(inputs)
    with torch.no_grad(), evaluating(model), InDouble() if double else nullcontext():
        return [t.detach().double() for t in flatten_outputs(model(*args, **kwargs))]


def _difference(f: Tensor, g: Tensor) -> float:
    same = (f == g) | (f.isnan() & g.isnan())
    return float(torch.where(same, 0.0, (f - g).abs().nan_to_num(nan=torch.inf)).max())
