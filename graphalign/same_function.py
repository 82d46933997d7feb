"""How far two networks differ in what they compute."""

from __future__ import annotations

import copy
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


@dataclass(frozen=True)
class FunctionChange:
    """The outputs of two networks for one input.

    Attributes:
        difference: largest |f(x) - g(x)| over all entries; infinite where one of the two is NaN.
        scale: largest |f(x)|.
    """

    difference: float
    scale: float

    @property
    def equal(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= TOLERANCE * max(self.scale, 1.0)


def function_change(first: nn.Module, second: nn.Module, inputs: Any) -> FunctionChange:
    """How far two networks differ on an input, in eval mode and float64 throughout; they are left as they are.

    Args:
        first: a network f.
        second: a network g.
        inputs: tensor, tuple of arguments, dict of keyword arguments, or `Inputs`.

    Raises:
        InvalidInput: a network does not run on the input, or their outputs have other shapes.
    """
    wide = mapped(inputs, lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v)
    args, kwargs = split_example(wide)
    found = []
    for network in (first, second):
        model = copy.deepcopy(network).double()
        try:
            with torch.no_grad(), evaluating(model), InDouble():
                found.append([t.detach().double() for t in flatten_outputs(model(*args, **kwargs))])
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InvalidInput(f"{type(network).__name__} does not run on this input: {first_line(error)}; pass an input that it takes") from None
    if [t.shape for t in found[0]] != [t.shape for t in found[1]]:
        raise InvalidInput("the two networks have outputs of other shapes; pass networks of one architecture")
    parts = [_difference(f, g) for f, g in zip(*found, strict=True) if f.numel()]
    scale = max((float(f.abs().nan_to_num(posinf=0.0).max()) for f in found[0] if f.numel()), default=0.0)
    return FunctionChange(max(parts, default=0.0), scale)


def _difference(f: Tensor, g: Tensor) -> float:
    same = (f == g) | (f.isnan() & g.isnan())
    return float(torch.where(same, 0.0, (f - g).abs().nan_to_num(nan=torch.inf)).max())
