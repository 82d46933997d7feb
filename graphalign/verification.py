"""Whether the permutations of a spec leave a network's function as it is: the check to run before trusting any of this."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphalign import group
from graphalign.converters.export import evaluating, flatten_outputs, split_example
from graphalign.converters.trace import trace
from graphalign.double_precision import InDouble
from graphalign.spec import NetworkSpec


def verify(
    model: nn.Module, example_input: Any, *, spec: NetworkSpec | None = None, samples: int = 1, seed: int = 0,
    dtype: torch.dtype | None = torch.float64,
) -> float:  # fmt: skip
    """The largest |f(x) - f_permuted(x)| under random permutations of everything the spec says may move.

    Args:
        model: the network; copied, never modified, compared in eval mode.
        example_input: tensor, tuple of arguments or dict of keyword arguments.
        spec: what may move; traced if not given.
        samples: number of random group elements.
        seed: of the random elements.
        dtype: floating-point type of the comparison; None keeps the model's own. With float64 networks that compute in a narrower type
            inside compute in float64 there too.

    Returns:
        Maximum absolute difference over all output entries and samples; about 1e-15 times the output's size in float64
        for a correct spec. NaN equals NaN, and differs by infinity from everything else.

    Raises:
        UnsupportedNetwork, InvalidInput: as `trace`.
    """
    spec = trace(model, example_input) if spec is None else spec
    generator = torch.Generator().manual_seed(seed)
    return largest_change(model, example_input, spec, (group.random_element(spec, generator) for _ in range(samples)), dtype)


def largest_change(
    model: nn.Module, example_input: Any, spec: NetworkSpec, elements: Iterable[group.Permutations], dtype: torch.dtype | None = torch.float64
) -> float:  # fmt: skip
    """The largest |f(x) - f_permuted(x)| under given permutations; as `verify`, which draws them.

    Raises:
        SpecMismatch: the network does not have the tensors of the spec.
    """
    args, kwargs = split_example(example_input)
    original = copy.deepcopy(model)
    if dtype is not None:
        original = original.to(dtype)
        args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
    worst = 0.0
    with torch.no_grad(), evaluating(original), InDouble() if dtype == torch.float64 else nullcontext():
        expected = _outputs(original, args, kwargs)
        for element in elements:
            found = _outputs(group.apply_to_module(spec, element, original), args, kwargs)
            for a, b in zip(expected, found, strict=True):
                if a.numel():
                    worst = max(worst, _difference(a, b))
    return worst


def _outputs(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    """The outputs for inputs that the network may write over."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))
    return flatten_outputs(model(*args, **kwargs))


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(a), (a - b).abs())
    return float(difference.nan_to_num(nan=torch.inf).max())  # NaN in one of the two only; no maximum would keep it


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(v, dtype) for v in value)
    if isinstance(value, list):
        return [_cast(v, dtype) for v in value]
    if isinstance(value, dict):
        return {k: _cast(v, dtype) for k, v in value.items()}
    return value
