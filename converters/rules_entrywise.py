"""Rules of entrywise operators: activations, sums, products, comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .domain import Act, Const, Weight, broadcast_shape, collapse, varies
from .rules import RULES, Context, Rule, along_positions, elementwise, fix_all, ids_of, opaque, register_rule
from .weights import axis_ids, bind, computed, fix_scale, set_role

HOMOGENEOUS = ("relu", "leaky_relu", "rrelu")
ODD_LINEAR = ("neg",)
ODD = ("tanh", "sin", "asinh", "atan", "erf", "hardshrink", "softshrink", "sign", "sgn", "sinh", "tan", "asin")
PLAIN = """sigmoid gelu silu mish hardswish hardsigmoid hardtanh relu6 elu celu selu softplus log_sigmoid exp expm1 exp2 log log1p log2
log10 sqrt rsqrt reciprocal square cos cosh abs acos ceil floor round trunc clamp clamp_min clamp_max clip nan_to_num logit
threshold isnan isinf isfinite bitwise_not logical_not erfc sinc frac fix erfinv digamma lgamma logical_not_ i0 special_expit special_erf"""

for _name in HOMOGENEOUS:
    register_rule(f"aten.{_name}")(elementwise(_name, homogeneous=True))
for _name in ODD_LINEAR:
    register_rule(f"aten.{_name}")(elementwise("", homogeneous=True, odd=True))
for _name in ODD:
    register_rule(f"aten.{_name}")(elementwise(_name, odd=True))
for _name in PLAIN.split():
    register_rule(f"aten.{_name}")(elementwise(_name))


def combine_weight(ctx: Context, x: Tensor, weight: Weight, additive: bool) -> Tensor:
    """Ids of activation (op) weight: the weight's entries sit at the units they meet."""
    shape = broadcast_shape(x.shape, weight.shape)
    full = x.expand(shape)
    offset = len(shape) - len(weight.shape)
    dims = [d for d in range(len(weight.shape)) if weight.shape[d] > 1]
    if dims and along_positions(ctx, full, [d + offset for d in dims], weight):
        ctx.nodes.fix_scale(full)
        return full
    labels = ctx.nodes.representative(full, [d + offset for d in dims])
    if bool((labels < 0).all()):
        padded = [1] * (len(shape) - x.dim()) + list(x.shape)
        outer = [d for d in dims if padded[d + offset] == 1]
        if len(outer) == 1:  # an outer product with the input: the weight's axis makes new units
            ids = axis_ids(ctx.nodes, weight, outer)
            if ids is not None:
                set_role(ctx.nodes, weight, outer, "out")
                ctx.nodes.produce(ids)
                return ids.reshape([-1 if d == outer[0] + offset else 1 for d in range(len(shape))]).expand(shape)
        fix_all(ctx, [weight], "meets the network's input entry by entry")
        return ctx.nodes.fresh_colours(shape)
    bind(ctx.nodes, weight, dims or [0] if weight.shape else [], labels, scale=additive) if dims else None
    if additive:
        if dims:
            tight = [d for d in dims if varies(full, [d + offset])]
            if len(tight) == 1:
                set_role(ctx.nodes, weight, tight, "out")
            else:
                ctx.nodes.fix_scale(full)
        else:
            ctx.nodes.fix_scale(full)
    return full


def combine_weights(ctx: Context, a: Weight, b: Weight) -> Weight:
    """An entrywise operation on two weights: their axes hold the same units."""
    shape = broadcast_shape(a.shape, b.shape)
    axes: list[Tensor | None] = []
    for d in range(-len(shape), 0):
        wide = [w for w in (a, b) if -d <= len(w.shape) and w.shape[d] > 1]
        present = [ids for w in wide if (ids := axis_ids(ctx.nodes, w, [d])) is not None]
        if len(present) < len(wide):
            fix_all(ctx, [a, b], "is combined with a weight along several axes")
        elif len(present) == 2:
            ctx.nodes.tie(present[0], present[1])
        axes.append(present[0] if present else None)
    for w in (a, b):
        fix_scale(ctx.nodes, w)
    return computed(axes, tuple(shape), a, b)


def binary(kind: str) -> Rule:
    """Rule of an entrywise function of two tensors; kind is "add", "mul" or "other" (how scales travel)."""

    def rule(ctx: Context, a: Any, b: Any, *_: Any, **__: Any) -> Any:
        weights = [v if isinstance(v, Weight) else None for v in (a, b)]
        if any(weights) and not any(isinstance(v, Act) for v in (a, b)):
            other = b if weights[0] is not None else a
            w = weights[0] or weights[1]
            assert w is not None
            second = other if isinstance(other, Weight) else ctx.weight_of(other)
            if second is not None:
                return combine_weights(ctx, w, second)
            if not isinstance(other, Const) or other.value.numel() == 1:
                fix_scale(ctx.nodes, w)
                return w
            for d in range(-len(w.shape), 0):  # a constant that varies along an axis pins its units down
                if -d <= len(other.shape) and other.shape[d] > 1:
                    ids, slices = axis_ids(ctx.nodes, w, [d]), other.value.movedim(d, 0).flatten(1)
                    if ids is not None and not bool((slices == slices[:1]).all()):
                        ctx.nodes.fix(ids, "meets a constant")
            fix_scale(ctx.nodes, w)
            return w
        for x, w in ((a, weights[1]), (b, weights[0])):
            if w is not None:
                if kind == "other":
                    ctx.nodes.fix_scale(ids_of(ctx, x))
                return Act(combine_weight(ctx, ids_of(ctx, x), w, additive=kind == "add"))
        x, y = ids_of(ctx, a), ids_of(ctx, b)
        scalar = (not isinstance(a, Act) and x.numel() == 1) or (not isinstance(b, Act) and y.numel() == 1)
        if (
            (kind == "add" and (bool((collapse(x)[0][0] < 0).any()) or bool((collapse(y)[0][0] < 0).any())))
            or kind == "other"
            or (kind == "mul" and bool((x >= 0).any()) and bool((y >= 0).any()))
        ):
            ctx.nodes.fix_scale(x)
            ctx.nodes.fix_scale(y)
        if scalar and (x.dim() == 0 or y.dim() == 0):
            return Act(x if y.dim() == 0 else y)
        return Act(ctx.nodes.combine(x, y, scale=kind == "add"))

    return rule


for _name in ("add", "sub", "rsub", "subtract"):
    register_rule(f"aten.{_name}")(binary("add"))
for _name in ("mul", "div", "multiply", "divide", "true_divide"):
    register_rule(f"aten.{_name}")(binary("mul"))
for _name in [
    "maximum",
    "minimum",
    "fmod",
    "remainder",
    "pow",
    "float_power",
    "atan2",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "__and__",
    "__or__",
    "__xor__",
    "xlogy",
    "floor_divide",
    "hypot",
    "fmin",
    "fmax",
    "copysign",
    "heaviside",
]:
    register_rule(f"aten.{_name}")(binary("other"))


@register_rule("aten.lerp")
def _lerp(ctx: Context, a: Any, b: Any, weight: Any) -> Any:
    return binary("other")(ctx, binary("other")(ctx, a, b), weight)


@register_rule("aten.addcmul", "aten.addcdiv", "aten.where")
def _ternary(ctx: Context, a: Any, b: Any = None, c: Any = None, **_: Any) -> Any:
    if b is None:
        fix_all(ctx, [a], "selects by value")
        return opaque(ctx)
    return binary("other")(ctx, a, binary("other")(ctx, b, c))


@register_rule("aten.masked_fill")
def _masked_fill(ctx: Context, x: Any, mask: Any, value: Any) -> Any:
    return binary("other")(ctx, x, mask)


@register_rule("aten.tril", "aten.triu")
def _triangle(ctx: Context, x: Any, diagonal: int = 0) -> Any:
    ids = ids_of(ctx, x)
    mask = ctx.target(torch.ones(ids.shape[-2:]), diagonal)
    return binary("other")(ctx, x, Const(mask))


@register_rule("aten.fill", "aten.zero", "aten.masked_scatter")
def _fill(ctx: Context, x: Any, value: Any = 0.0, *_: Any) -> Any:
    return Act(ids_of(ctx, value).reshape(()).expand(x.shape)) if not isinstance(value, Weight) else opaque(ctx)


@register_rule("aten.prelu", "aten._prelu_kernel")
def _prelu(ctx: Context, x: Any, weight: Any) -> Any:
    ids = ids_of(ctx, x)
    ctx.nodes.mark(ids, "prelu")
    ctx.nodes.fix_sign(ids)
    if isinstance(weight, Weight) and weight.shape[-1 if len(weight.shape) == 1 else 0] > 1 and ids.dim() > 1:
        labels = ctx.nodes.representative(ids, [1])
        bind(ctx.nodes, weight, [0] if len(weight.shape) == 1 else [1], labels, scale=False)
    return Act(ids)


@register_rule("aten.glu")
def _glu(ctx: Context, x: Any, dim: int = -1) -> Any:
    a, b = ids_of(ctx, x).chunk(2, dim)
    ctx.nodes.mark(a, "glu")
    return RULES["aten.mul"](ctx, Act(a), Act(b))
