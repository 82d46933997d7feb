"""The families ready for a test: randomised, in eval mode, traced once per session."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import Inputs
from graphalign.architecture import Architecture
from graphalign.converters.export import flatten_outputs
from graphalign.converters.trace import trace_architecture
from graphalign.group import all_tensors
from graphalign.spec import NetworkSpec

from .networks import FAMILIES, randomise


@dataclass(frozen=True)
class Traced:
    """A network of a family with its example input and architecture; treat it as read-only."""

    model: nn.Module
    example: Inputs
    architecture: Architecture

    @property
    def spec(self) -> NetworkSpec:
        return self.architecture.spec

    @property
    def state(self) -> dict[str, Tensor]:
        return all_tensors(self.model)


def build(name: str, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A randomised network of a family in eval mode, and its example input."""
    torch.manual_seed(seed)
    model, args, kwargs = FAMILIES[name]()
    return randomise(model, torch.Generator().manual_seed(seed)).eval(), Inputs(*args, **kwargs)


@cache
def traced(name: str) -> Traced:
    model, example = build(name)
    return Traced(model, example, trace_architecture(model, example))


@cache
def other_state(name: str) -> dict[str, Tensor]:
    """Weights of a second, independent network of the family."""
    return all_tensors(build(name, seed=1)[0])


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Example inputs, state dicts and tensors with their floating-point tensors in another type."""
    if isinstance(value, Inputs):
        return Inputs(*(cast(v, dtype) for v in value.args), **cast(value.kwargs, dtype))
    if isinstance(value, Mapping):
        return {k: cast(v, dtype) for k, v in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class Runner:
    """Runs a network in float64 with other weights and says how far its outputs are from its own."""

    def __init__(self, network: Traced) -> None:
        self.model = copy.deepcopy(network.model).double()
        self.example = cast(network.example, torch.float64)
        self.state = all_tensors(self.model)
        self.expected = self.outputs(self.state)

    def outputs(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            result = torch.func.functional_call(self.model, dict(state), self.example.args, self.example.kwargs)
        return flatten_outputs(result)

    def difference(self, state: Mapping[str, Tensor]) -> float:
        pairs = zip(self.expected, self.outputs(state), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs if a.numel())
