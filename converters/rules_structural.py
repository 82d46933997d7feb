"""Rules of operators that only move entries: they are executed on the unit ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .domain import Act, Const, Weight, broadcast, colours_of, tighten
from .rules import Context, Rule, canonical_name, fix_all, ids_of, opaque, output_shape, register_rule
from .weights import axis_ids, computed, structural

VIEWS = """view reshape _unsafe_view flatten unflatten permute transpose t numpy_T swapaxes swapdims movedim moveaxis squeeze
unsqueeze select slice narrow expand expand_copy broadcast_to diagonal unfold view_copy mT adjoint atleast_1d atleast_2d
squeeze_copy unsqueeze_copy select_copy slice_copy permute_copy transpose_copy t_copy"""
MULTI_VIEWS = "chunk split split_with_sizes tensor_split unbind unsafe_chunk unsafe_split unsafe_split_with_sizes hsplit vsplit"
COPIES = "repeat tile flip roll rot90 pixel_shuffle pixel_unshuffle channel_shuffle repeat_interleave"
SAME = """contiguous clone detach alias to _to_copy type_as lift_fresh_copy lift_fresh dropout native_dropout
feature_dropout alpha_dropout feature_alpha_dropout positive"""
MOVES = frozenset(
    f"aten.{name}"
    for name in f"""{VIEWS} {MULTI_VIEWS} {COPIES} {SAME} cat concat concatenate stack view_as reshape_as expand_as
    broadcast_tensors index index_select gather im2col copy slice_scatter select_scatter pad constant_pad_nd""".split()
)
"""Operators that move entries without computing on them."""
PICKS = frozenset(f"aten.{name}" for name in ("index", "index_select", "gather"))
"""Those of them that compute on more than their first operand if others are activations."""


def _view_rule(op: Any) -> Rule:
    def rule(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
        overload = ctx.target
        if isinstance(x, Weight):
            out = structural(x, lambda t: overload(t, *args, **kwargs))
            if out is not None:
                return out
            renamed = _rename_dims(ctx, x, lambda t: overload(t, *args, **kwargs))
            if renamed is not None:
                return renamed
        ids = ids_of(ctx, x)
        if op in ("view", "_unsafe_view", "reshape", "view_copy") and args and isinstance(args[0], (list, tuple)):
            return Act(tighten(ids.reshape(args[0])))
        return Act(overload(ids, *args, **kwargs))

    return rule


def _rename_dims(ctx: Context, x: Weight, op: Any) -> Weight | None:
    """A computed weight after an operator that only reorders dimensions or adds and drops those of size 1."""
    shape = x.shape
    marks = torch.zeros([1] * len(shape))
    out_shape = tuple(op(torch.empty(shape, device="meta")).shape)
    wide = [d for d in range(len(shape)) if shape[d] > 1]
    if len([n for n in out_shape if n > 1]) != len(wide):
        return None
    axes: list[Tensor | None] = [None] * len(out_shape)
    for d in wide:
        probe = torch.arange(shape[d]).reshape([-1 if e == d else 1 for e in range(len(shape))]).expand(shape)
        moved = tighten(op(probe + marks.long()))
        where = [e for e in range(len(out_shape)) if moved.stride(e) != 0 and moved.shape[e] > 1]
        if len(where) != 1 or moved.shape[where[0]] != shape[d]:
            return None
        axes[where[0]] = axis_ids(ctx.nodes, x, [d])
    return computed(axes, out_shape, x)


def _multi_rule(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
    overload = ctx.target
    if isinstance(x, Weight) and x.view is not None:
        parts = overload(x.view, *args, **kwargs)
        return tuple(Weight(x.name, part, x.base_shape) for part in parts)
    return tuple(Act(part) for part in overload(ids_of(ctx, x), *args, **kwargs))


def _copy_rule(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(x, Weight) and x.view is None:
        fix_all(ctx, [x], "a computed weight is rearranged")
        return opaque(ctx)
    return Act(tighten(ctx.target(ids_of(ctx, x), *args, **kwargs)))


def _same_rule(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(ctx.outputs, (tuple, list)):
        return (x, *opaque(ctx)[1:])
    return x


for _name in VIEWS.split():
    register_rule(f"aten.{_name}")(_view_rule(_name))
for _name in MULTI_VIEWS.split():
    register_rule(f"aten.{_name}")(_multi_rule)
for _name in COPIES.split():
    register_rule(f"aten.{_name}")(_copy_rule)
for _name in SAME.split():
    register_rule(f"aten.{_name}")(_same_rule)


@register_rule("aten.view_as", "aten.reshape_as")
def _view_as(ctx: Context, x: Any, other: Any) -> Any:
    if isinstance(x, Weight):
        out = structural(x, lambda t: t.reshape(other.shape))
        if out is not None:
            return out
    return Act(ids_of(ctx, x).reshape(other.shape))


@register_rule("aten.expand_as", "aten.broadcast_to")
def _expand_as(ctx: Context, x: Any, other: Any, *_: Any, **__: Any) -> Any:
    return Act(ids_of(ctx, x).expand(output_shape(ctx)))


@register_rule("aten.broadcast_tensors")
def _broadcast_tensors(ctx: Context, xs: Any) -> Any:
    return tuple(Act(t) for t in broadcast(*[ids_of(ctx, x) for x in xs]))


@register_rule("aten.cat", "aten.concat", "aten.concatenate")
def _cat(ctx: Context, xs: Any, dim: int = 0) -> Any:
    parts = [x for x in xs if 0 not in x.shape]
    weights = [x if isinstance(x, Weight) else ctx.weight_of(x) for x in parts]
    if any(isinstance(x, Weight) for x in parts) and not any(isinstance(x, Act) for x in parts):
        rank = len(parts[0].shape)
        dim %= rank
        axes: list[Tensor | None] = []
        for d in range(rank):
            found = [
                axis_ids(ctx.nodes, w, [d]) if w is not None else ctx.nodes.new(p.shape[d], ctx.origin)
                for w, p in zip(weights, parts, strict=True)
            ]
            ids = [f for f in found if f is not None]
            if len(ids) < len(found):
                for known in ids:
                    ctx.nodes.fix(known, "is concatenated with a weight along several axes")
                axes.append(None)
            elif d == dim:
                axes.append(torch.cat(ids))
            else:
                for other in ids[1:]:
                    ctx.nodes.tie(ids[0], other)
                axes.append(ids[0])
        out = computed(axes, output_shape(ctx), *(w for w in weights if w is not None))
        from .weights import fix_scale

        fix_scale(ctx.nodes, out)
        return out
    return Act(tighten(torch.cat([ids_of(ctx, x) for x in parts], dim)))


@register_rule("aten.stack")
def _stack(ctx: Context, xs: Any, dim: int = 0) -> Any:
    return Act(tighten(torch.stack([ids_of(ctx, x) for x in xs], dim)))


@register_rule("aten.pad", "aten.constant_pad_nd", "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.replication_pad1d",
               "aten.replication_pad2d", "aten.reflection_pad3d", "aten.replication_pad3d")  # fmt: skip
def _pad(ctx: Context, x: Any, pad: Any, mode: Any = "constant", value: Any = None) -> Any:
    ids = ids_of(ctx, x)
    padded_dims = range(ids.dim() - len(pad) // 2, ids.dim())
    tight = tighten(ids)
    if all(tight.stride(d) == 0 or tight.shape[d] == 1 or pad[2 * (ids.dim() - 1 - d)] == pad[2 * (ids.dim() - 1 - d) + 1] == 0
           for d in padded_dims) and bool((tight >= 0).any()):  # fmt: skip
        core = tight[tuple(slice(0, 1) if d in padded_dims and tight.stride(d) == 0 else slice(None) for d in range(ids.dim()))]
        return Act(core.expand(output_shape(ctx)))
    name = canonical_name(ctx.target)
    if name == "aten.constant_pad_nd":
        mode, value = "constant", mode if isinstance(mode, (int, float)) else value
    elif name != "aten.pad":
        mode = "reflect" if "reflection" in name else "replicate"
    if mode != "constant":
        return Act(_carried(ids, lambda where: torch.nn.functional.pad(where, list(pad), mode)))
    constant = int(colours_of(torch.tensor(float(value or 0.0))))
    return Act(torch.nn.functional.pad(ids, list(pad), value=constant))


def _carried(ids: Tensor, move: Any) -> Tensor:
    """Ids moved by a function that takes floating-point entries only; entries that it fills with zeros are constants."""
    moved = move(torch.arange(1, ids.numel() + 1, dtype=torch.float64).reshape(ids.shape)).long()
    return torch.cat([colours_of(torch.zeros(1)), ids.flatten()])[moved]


@register_rule("aten.index")
def _index(ctx: Context, x: Any, indices: Any) -> Any:
    ids = ids_of(ctx, x)
    if all(i is None or isinstance(i, Const) for i in indices):
        return Act(tighten(ids[tuple(slice(None) if i is None else i.value for i in indices)]))
    fix_all(ctx, indices, "picks entries by their numbers")
    dims = [d for d, i in enumerate(indices) if i is not None]
    ids = _same_along(ctx, ids, dims)
    zeros = tuple(slice(None) if i is None else torch.zeros(i.shape, dtype=torch.long) for i in indices)
    out = ids[zeros]
    return Act(out if bool((out >= 0).any()) else ctx.nodes.fresh_colours(output_shape(ctx)))


def _same_along(ctx: Context, ids: Tensor, dims: list[int]) -> Tensor:
    """Ids after tying everything along `dims` (data decide which entry is read)."""
    keep = [d for d in range(ids.dim()) if d not in dims]
    kept = ctx.nodes.representative(ids, keep)
    for d in sorted(dims):
        kept = kept.unsqueeze(d)
    return kept.expand(ids.shape)


@register_rule("aten.index_select")
def _index_select(ctx: Context, x: Any, dim: int, index: Any) -> Any:
    ids = ids_of(ctx, x)
    if isinstance(index, Const):
        return Act(tighten(ids.index_select(dim, index.value)))
    fix_all(ctx, [index], "picks entries by their numbers")
    return Act(_same_along(ctx, ids, [dim % ids.dim()]).narrow(dim, 0, 1).expand(output_shape(ctx)))


@register_rule("aten.gather", "aten.take_along_dim")
def _gather(ctx: Context, x: Any, dim: int, index: Any, **_: Any) -> Any:
    ids = ids_of(ctx, x)
    if isinstance(index, Const):
        return Act(tighten(ids.gather(dim, index.value)))
    same = _same_along(ctx, ids, [dim % ids.dim()]).narrow(dim, 0, 1)
    shape = output_shape(ctx)
    picked = same[tuple(slice(0, n) if same.shape[d] != 1 else slice(None) for d, n in enumerate(shape))].expand(shape)
    return Act(ctx.nodes.combine(picked, ids_of(ctx, index), scale=False))


@register_rule("aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter")
def _scatter(ctx: Context, x: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
    ids, new = ids_of(ctx, x).contiguous(), ids_of(ctx, source)
    return Act(tighten(ctx.target(ids, new.contiguous(), *args, **kwargs)))


@register_rule("aten.copy")
def _copy(ctx: Context, x: Any, source: Any, *_: Any, **__: Any) -> Any:
    return Act(ids_of(ctx, source).expand(x.shape))


@register_rule("aten.im2col")
def _im2col(ctx: Context, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    ids = ids_of(ctx, x)
    return Act(_carried(ids, lambda where: torch.nn.functional.unfold(where, kernel, dilation, padding, stride)))


@register_rule("aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like", "aten.rand_like", "aten.randn_like",
               "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty")  # fmt: skip
def _like(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
    name = str(ctx.target)
    fill = 1 if "ones" in name else args[-1] if "full" in name else 0
    out = ctx.outputs
    return Const(torch.full(tuple(out.shape), fill, dtype=out.dtype))


@register_rule("aten.sym_size", "aten._assert_tensor_metadata", "aten._assert_scalar", "aten._assert_async")
def _ignored(ctx: Context, *_: Any, **__: Any) -> Any:
    return None
