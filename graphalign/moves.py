"""Steps of a program that compute nothing and only move entries: they are executed on node numbers."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from graphalign.architecture import WeightBlock
from graphalign.numbering import carried, tighten

UNCHANGED = frozenset(
    (
        "contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy", "lift_fresh", "positive",
        "float", "double", "half", "bfloat16", "cpu", "dropout", "native_dropout", "feature_dropout", "alpha_dropout",
        "feature_alpha_dropout",
    )
)  # fmt: skip
"""Operators whose result is their first operand."""
RESHAPES = ("view", "_unsafe_view", "reshape", "view_copy")


def op_name(node: fx.Node) -> str:
    """Operator of a graph node without namespace, overload and in-place underscore."""
    parts = str(node.target).split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def result_shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """Shapes of the results of a step; () for what is no tensor."""
    value = node.meta.get("val")
    return [_shape(v) for v in value] if isinstance(value, (tuple, list)) else [_shape(value)]


def move(node: fx.Node, values: Mapping[str, Any]) -> Any:
    """Node numbers after a step that only moves entries: a tensor, a tuple of them, or None for a constant.

    What cannot be executed on integers (reflection padding, indexing with computed indices) keeps the dimensions that keep
    their size.
    """
    if node.target is operator.getitem:
        origin, place = node.args
        source = values.get(origin.name) if isinstance(origin, fx.Node) else None
        return source[place] if isinstance(source, (tuple, list)) and isinstance(place, int) else None
    known = [v for n in node.all_input_nodes if isinstance(v := values.get(n.name), Tensor)]
    if not known:
        return None
    several = isinstance(node.meta.get("val"), (tuple, list))
    if op_name(node) in UNCHANGED:
        return (known[0], None) if several else known[0]
    with contextlib.suppress(Exception):
        args: Any = map_arg(node.args, lambda n: values[n.name])
        kwargs: Any = map_arg(node.kwargs, lambda n: values[n.name])
        target: Any = node.target
        if op_name(node) in RESHAPES:
            return tighten(known[0].reshape(args[1]))
        result = target(*args, **kwargs)
        return tuple(tighten(r) for r in result) if several else tighten(result)
    outputs = tuple(carried(known[0], shape)[..., 0].expand(shape) for shape in result_shapes(node))
    return outputs if several else outputs[0]


def read_axis(block: WeightBlock, ids: Tensor, kernel_rank: int) -> int:
    """Dimension of an activation along which a weight block reads its inputs."""
    axis = channel_axis(block, ids.dim(), kernel_rank)
    if ids.shape[axis] == len(block.source):
        return axis
    return max((d for d in range(ids.dim()) if ids.shape[d] == len(block.source)), default=axis)


def channel_axis(block: WeightBlock, rank: int, kernel_rank: int) -> int:
    """Dimension of an activation of the given rank that carries the channels of a convolution; the last one otherwise."""
    return rank - (kernel_rank - 2) - 1 if block.op == "conv" else rank - 1


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else ()
