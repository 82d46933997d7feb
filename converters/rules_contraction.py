"""Rules of operators that contract an axis: linear, convolution, matrix products, einsum, attention, embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .domain import Act, Weight, varies
from .rules import Context, along_positions, fix_all, ids_of, opaque, output_shape, register_rule
from .weights import axis_ids, bind, fix_scale, promote, set_role

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def contract(ctx: Context, equation: str, a: Any, b: Any) -> Any:
    """The abstract value of a two-operand einsum."""
    inputs, out = equation.replace(" ", "").split("->")
    left, right = inputs.split(",")
    if isinstance(a, Weight) and isinstance(b, Weight):
        a = Act(promote(ctx.nodes, a))
    if isinstance(a, Weight):
        return contract(ctx, f"{right},{left}->{out}", b, a)
    if isinstance(b, Weight):
        return _with_weight(ctx, left, right, out, a, b)
    return _between(ctx, left, right, out, ids_of(ctx, a), ids_of(ctx, b))


def _fixed_result(ctx: Context, left: str, right: str, out: str, a: Any, b: Any) -> Act:
    """A contraction's result of which nothing may move."""
    sizes: dict[str, int] = {}
    for labels, value in ((left, a), (right, b)):
        for c, n in zip(labels, value.shape, strict=True):
            sizes[c] = max(sizes.get(c, 1), n)
    return Act(ctx.nodes.fresh_colours([sizes[c] for c in out]))


def _with_weight(ctx: Context, left: str, right: str, out: str, x: Any, w: Weight) -> Any:
    ids = ids_of(ctx, x)
    ctx.read(x)
    batch = [c for c in right if c in left and c in out and w.shape[right.index(c)] > 1]
    summed = [c for c in right if c in left and c not in out]
    new = [c for c in right if c not in left and c in out]
    lost = [c for c in right if c not in left and c not in out and w.shape[right.index(c)] > 1]
    if batch or lost:
        fix_all(ctx, [x, w], "is contracted with a batched weight")
        return _fixed_result(ctx, left, right, out, x, w)
    if summed and along_positions(ctx, ids, [left.index(c) for c in summed], w):
        kept = [c for c in left if c not in summed]
        ctx.nodes.fix_scale(ids)
        fix_scale(ctx.nodes, w)
        same = ctx.nodes.representative(ctx.nodes.canonical(ids), [left.index(c) for c in kept])
        sizes = [w.shape[right.index(c)] if c in new else ids.shape[left.index(c)] for c in out]
        return Act(_align(same, "".join(kept), out).expand(sizes))
    labels = ctx.nodes.representative(ids, [left.index(c) for c in summed])
    in_dims, out_dims = [right.index(c) for c in summed], [right.index(c) for c in new]
    if in_dims and not bind(ctx.nodes, w, in_dims, labels):
        return _fixed_result(ctx, left, right, out, x, w)
    if in_dims:
        set_role(ctx.nodes, w, in_dims, "in")
    if not out_dims:
        return _fixed_result(ctx, left, right, out, x, w)
    units = axis_ids(ctx.nodes, w, out_dims)
    if units is None:  # units along several axes of one weight stay where they are; those that it reads may move
        fix_scale(ctx.nodes, w)
        return _fixed_result(ctx, left, right, out, x, w)
    if len(in_dims) == len(out_dims) == 1:
        ctx.message("linear", w, labels.flatten(), units.flatten(), (in_dims[0], out_dims[0]))
    if units.numel() == 1:  # a single unit has nothing to trade places with, and broadcasts over units that have
        fix_scale(ctx.nodes, w)
        return _fixed_result(ctx, left, right, out, x, w)
    set_role(ctx.nodes, w, out_dims, "out")
    ctx.nodes.produce(units)
    view = units.permute([new.index(c) for c in out if c in new])
    shape = [w.shape[right.index(c)] if c in new else 1 for c in out]
    sizes = [w.shape[right.index(c)] if c in right else ids.shape[left.index(c)] for c in out]
    for i, c in enumerate(out):
        if c in left and c in right:
            sizes[i] = max(ids.shape[left.index(c)], w.shape[right.index(c)])
    return Act(view.reshape(shape).expand(sizes))


def _align(ids: Tensor, labels: str, out: str) -> Tensor:
    """Ids with dimensions in the order of `out`, size 1 where missing."""
    present = [c for c in out if c in labels]
    moved = ids.permute([labels.index(c) for c in present])
    for i, c in enumerate(out):
        if c not in labels:
            moved = moved.unsqueeze(i)
    return moved


def _between(ctx: Context, left: str, right: str, out: str, a: Tensor, b: Tensor) -> Any:
    nodes = ctx.nodes
    a, b = nodes.canonical(a), nodes.canonical(b)
    for own, other, value in ((left, right, a), (right, left, b)):
        if any(c not in out and c not in other and value.shape[own.index(c)] > 1 for c in own):
            nodes.fix(value, "is summed out of a product")
    summed = [c for c in left if c in right and c not in out]
    ctx.nodes.fix_scale(a)
    ctx.nodes.fix_scale(b)
    in_a = [c for c in summed if varies(a, [left.index(c)])]
    in_b = [c for c in summed if varies(b, [right.index(c)])]
    if not in_a and not in_b:
        x = _sum_positions(ctx, a, left, [c for c in left if c not in summed])
        y = _sum_positions(ctx, b, right, [c for c in right if c not in summed])
        kept_a, kept_b = [c for c in left if c not in summed], [c for c in right if c not in summed]
        return Act(nodes.combine(_align(x, "".join(kept_a), out), _align(y, "".join(kept_b), out), scale=False))
    if in_a and in_b:
        batch = [c for c in left if c in right and c in out]
        keep = batch + summed
        x = nodes.representative(a, [left.index(c) for c in keep])
        y = nodes.representative(b, [right.index(c) for c in keep])
        x = _in_order(x, [c for c in left if c in keep], keep)
        y = _in_order(y, [c for c in right if c in keep], keep)
        tied = nodes.combine(x, y, scale=False)
        result = nodes.block_labels(tied, list(range(len(batch), len(keep))), ctx.origin)
        rest = _align(result, "".join(batch), out)
        sizes = {**dict(zip(right, b.shape, strict=True)), **dict(zip(left, a.shape, strict=True))}
        shape = [max(sizes[c], rest.shape[i]) for i, c in enumerate(out)]
        if bool((result < 0).all()):
            return Act(nodes.fresh_colours(shape))
        return Act(rest.expand(shape))
    first, second, others = (a, b, right) if in_a else (b, a, left)
    nodes.fix(first, "is mixed by a matrix that depends on the input")
    kept = [c for c in others if c not in summed]
    y = _align(_sum_positions(ctx, second, others, kept), "".join(kept), out)
    return Act(nodes.combine(y, _fixed_result(ctx, left, right, out, a, b).ids, scale=False))


def _in_order(ids: Tensor, current: list[str], wanted: list[str]) -> Tensor:
    return ids.permute([current.index(c) for c in wanted])


def _sum_positions(ctx: Context, ids: Tensor, labels: str, keep: list[str]) -> Tensor:
    """Ids of a sum over positions, along which no unit varies."""
    return ctx.nodes.representative(ids, [labels.index(c) for c in labels if c in keep])


@register_rule("aten.linear")
def _linear(ctx: Context, x: Any, weight: Any, bias: Any = None) -> Any:
    w = weight if isinstance(weight, Weight) else ctx.weight_of(weight)
    lead = LETTERS[: len(x.shape) - 1]
    if isinstance(x, Weight):
        x = Act(promote(ctx.nodes, x))
    out = contract(ctx, f"{lead}y,zy->{lead}z", x, weight if w is None else w)
    return add_bias(ctx, out, bias, -1)


def add_bias(ctx: Context, out: Any, bias: Any, dim: int) -> Any:
    """The result of a layer after its bias, whose entries sit at the units along `dim`."""
    if isinstance(bias, Weight) and isinstance(out, Act):
        dim %= out.ids.dim()
        if along_positions(ctx, out.ids, [dim], bias):
            return out
        labels = ctx.nodes.representative(out.ids, [dim])
        if bind(ctx.nodes, bias, [-1], labels):
            set_role(ctx.nodes, bias, [-1], "out")
    elif bias is not None:
        from .rules import RULES

        return RULES["aten.add"](ctx, out, bias)
    return out


def _matmul_equation(x: Any, y: Any) -> str:
    n, m = len(x.shape), len(y.shape)
    a = LETTERS[: n - 2] + "xy" if n > 1 else "y"
    lead = max(n, m) - 2
    a = LETTERS[max(lead, 0) - max(n - 2, 0) : max(lead, 0)] + ("xy" if n > 1 else "y")
    b = LETTERS[max(lead, 0) - max(m - 2, 0) : max(lead, 0)] + ("yz" if m > 1 else "y")
    out = LETTERS[: max(lead, 0)] + ("x" if n > 1 else "") + ("z" if m > 1 else "")
    return f"{a},{b}->{out}"


@register_rule("aten.matmul", "aten.bmm", "aten.mm", "aten.mv", "aten.dot")
def _matmul(ctx: Context, x: Any, y: Any, **_: Any) -> Any:
    ctx.read(x)
    ctx.read(y)
    return _squeeze_broadcast(ctx, _matmul_equation(x, y), x, y)


def _squeeze_broadcast(ctx: Context, equation: str, x: Any, y: Any) -> Any:
    """Contraction in which batch dimensions of size 1 broadcast."""
    if isinstance(x, Act) and isinstance(y, Act):
        (left, right), _ = equation.split("->")[0].split(","), None
        sizes: dict[str, int] = {}
        for labels, value in ((left, x), (right, y)):
            for c, n in zip(labels, value.shape, strict=True):
                sizes[c] = max(sizes.get(c, 1), n)
        x = Act(x.ids.expand([sizes[c] for c in left]))
        y = Act(y.ids.expand([sizes[c] for c in right]))
    return contract(ctx, equation, x, y)


@register_rule("aten.addmm", "aten.addmv", "aten.baddbmm", "aten.addbmm")
def _addmm(ctx: Context, bias: Any, x: Any, y: Any, **_: Any) -> Any:
    out = _matmul(ctx, x, y)
    if isinstance(bias, Weight) and len(bias.shape) == 1:
        return add_bias(ctx, out, bias, -1)
    from .rules import RULES

    return RULES["aten.add"](ctx, out, bias)


@register_rule("aten.einsum")
def _einsum(ctx: Context, equation: str, operands: Any, **_: Any) -> Any:
    for operand in operands:
        ctx.read(operand)
    equation = equation.replace(" ", "")
    if "->" not in equation:
        letters = [c for c in equation if c.isalpha()]
        equation += "->" + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    inputs, out = equation.split("->")
    parts = inputs.split(",")
    if "..." in equation:
        ellipsis = [len(v.shape) - len(p.replace("...", "")) for p, v in zip(parts, operands, strict=True)]
        spare = [c for c in LETTERS + LETTERS.upper() if c not in equation][: max(ellipsis)]
        parts = [p.replace("...", "".join(spare[len(spare) - n :] if n else "")) for p, n in zip(parts, ellipsis, strict=True)]
        out = out.replace("...", "".join(spare))
    if len(operands) == 1:
        fix_all(ctx, operands, "einsum with one operand")
        return opaque(ctx)
    if any(len(set(p)) < len(p) for p in parts):
        fix_all(ctx, operands, "einsum with a diagonal")
        return opaque(ctx)
    (left, value), *rest = zip(parts, operands, strict=True)
    for i, (right, other) in enumerate(rest):  # two at a time, from the left
        needed = set(out).union(*(p for p, _ in rest[i + 1 :]))
        kept = out if i + 1 == len(rest) else "".join(dict.fromkeys(c for c in left + right if c in needed))
        left, value = kept, _squeeze_broadcast(ctx, f"{left},{right}->{kept}", value, other)
    return value


@register_rule("aten.scaled_dot_product_attention")
def _attention(
    ctx: Context, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False, **options: Any
) -> Any:
    from .rules import RULES

    for operand in (q, k, v):
        ctx.read(operand)
    q, k, v = (Act(ids_of(ctx, t)) for t in (q, k, v))
    if options.get("enable_gqa"):
        times = q.shape[-3] // k.shape[-3]
        k, v = (Act(t.ids.repeat_interleave(times, dim=-3)) for t in (k, v))
    lead = LETTERS[: len(q.shape) - 2]
    scores = _squeeze_broadcast(ctx, f"{lead}td,{lead}sd->{lead}ts", q, k)
    if mask is not None:
        scores = RULES["aten.add"](ctx, scores, mask)
    return _squeeze_broadcast(ctx, f"{lead}ts,{lead}sv->{lead}tv", scores, v)


@register_rule("aten._grouped_mm", "transformers.grouped_mm_fallback")
def _grouped_mm(ctx: Context, x: Any, weight: Any, *_: Any, **__: Any) -> Any:
    """Mixture of experts: rows of x (S, d) go to experts of the weight (E, d, o); unit j of all experts is one unit."""
    ctx.read(x)
    if not isinstance(weight, Weight) or len(weight.shape) != 3 or len(x.shape) != 2:
        fix_all(ctx, [x, weight], "is a grouped product of another form")
        return opaque(ctx)
    labels = ctx.nodes.representative(ids_of(ctx, x), [1])
    units = axis_ids(ctx.nodes, weight, [2])
    if units is None or not bind(ctx.nodes, weight, [1], labels):
        fix_all(ctx, [x, weight], "is a grouped product with a computed weight")
        return opaque(ctx)
    set_role(ctx.nodes, weight, [1], "in")
    set_role(ctx.nodes, weight, [2], "out")
    return Act(ctx.nodes.produce(units).expand(output_shape(ctx)))


@register_rule("aten.embedding")
def _embedding(ctx: Context, weight: Any, index: Any, *_: Any, **__: Any) -> Any:
    fix_all(ctx, [index], "picks rows by their numbers")
    if not isinstance(weight, Weight):
        fix_all(ctx, [weight], "is looked up by row")
        return opaque(ctx)
    units = axis_ids(ctx.nodes, weight, [-1])
    if units is None:
        fix_all(ctx, [weight], "is an embedding over several axes")
        return opaque(ctx)
    if weight.shape[-1] > 1 or weight.view is not None:
        set_role(ctx.nodes, weight, [-1], "out")
    ctx.message("embedding", weight, torch.empty(0, dtype=torch.long), units, (0, 1))
    return Act(ctx.nodes.produce(units).expand(output_shape(ctx)))
