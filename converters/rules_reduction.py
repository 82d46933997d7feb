"""Rules of normalisations, reductions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .domain import Act, Const, Weight, collapse, tighten, trim, varies
from .rules import Context, Rule, along_positions, fix_all, ids_of, opaque, output_shape, register_rule
from .weights import axis_ids, bind, computed, fix_scale, set_role


def affine(ctx: Context, x: Tensor, dims: Sequence[int], weight: Any, bias: Any) -> Tensor:
    """Ids after a per-unit affine map along `dims` (new units for rescaling, the same for permuting)."""
    if (weight is None and bias is None) or along_positions(ctx, x, [d % x.dim() for d in dims], weight, bias):
        return x
    labels = ctx.nodes.representative(x, dims)
    out = x
    for i, parameter in enumerate((weight, bias)):
        w = ctx.weight_of(parameter)
        if w is None:
            if isinstance(parameter, Const):
                ctx.nodes.combine(x, ids_of(ctx, parameter))
            continue
        own = list(range(len(w.shape)))
        if not bind(ctx.nodes, w, own, labels, scale=i == 1 and out is not x):
            return x
        ids = axis_ids(ctx.nodes, w, own)
        if i == 0 and ids is not None and bool((labels >= 0).all()):
            set_role(ctx.nodes, w, own, "out")
            shape = [x.shape[d] if d % x.dim() in {e % x.dim() for e in dims} else 1 for d in range(x.dim())]
            out = ids.reshape(shape).expand(x.shape)
            labels = ids
        elif i == 1 and out is not x:
            set_role(ctx.nodes, w, own, "out")
    return out


@register_rule("aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.cudnn_batch_norm", "aten.native_batch_norm")
def _batch_norm(ctx: Context, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *_: Any, **__: Any) -> Any:
    if isinstance(x, Weight):
        fix_all(ctx, [x, weight, bias], "weights are normalised by batch_norm")
        return opaque(ctx)
    ids = ids_of(ctx, x)
    ctx.nodes.fix_scale(ids)
    channel = 1 if ids.dim() > 1 else 0
    tokens = along_positions(ctx, ids, [channel], mean, var)
    labels = ids if tokens else ctx.nodes.representative(ids, [channel])
    for statistic in (mean, var):
        w = ctx.weight_of(statistic)
        if w is not None and not tokens:
            bind(ctx.nodes, w, [0], labels, scale=False)
    out = Act(affine(ctx, ids, [channel], weight, bias))
    return (out, *opaque(ctx)[1:]) if isinstance(ctx.outputs, (tuple, list)) else out


@register_rule("aten.instance_norm")
def _instance_norm(ctx: Context, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *_: Any, **__: Any) -> Any:
    return _batch_norm(ctx, x, weight, bias, mean, var)


def _normalise(ctx: Context, ids: Tensor, dims: Sequence[int]) -> Tensor:
    """Ids after the entries along `dims` have been divided by a symmetric function of all of them: beside units none is constant now."""
    ctx.nodes.fix_scale(ids)
    if not varies(ids, dims):
        return ids
    result = ctx.nodes.block_labels(ids, dims, ctx.origin)
    for d in sorted(d % ids.dim() for d in dims):
        result = result.unsqueeze(d)
    beside = trim(tighten(ids))[0] >= 0
    for d in dims:
        beside = beside.any(d, keepdim=True)
    (own, normed, beside), shape = collapse(ids, ctx.nodes.combine(ids, result, scale=False), beside)
    return torch.where(beside, normed, own).expand(shape)


@register_rule("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def _layer_norm(ctx: Context, x: Any, shape: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Any:
    ids = ids_of(ctx, x)
    dims = list(range(ids.dim() - len(shape), ids.dim()))
    ids = _normalise(ctx, ids, dims)
    bias = bias if isinstance(bias, (Weight, Const)) else None
    out = Act(affine(ctx, ids, dims, weight, bias))
    return (out, *opaque(ctx)[1:]) if isinstance(ctx.outputs, (tuple, list)) else out


@register_rule("aten.group_norm")
def _group_norm(ctx: Context, x: Any, groups: int, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Any:
    ids = ids_of(ctx, x)
    labels = ctx.nodes.representative(ids, [1])
    normed = _normalise(ctx, labels.reshape(groups, -1), [1]).reshape(-1)
    ctx.nodes.fix_scale(ids)
    ids = ctx.nodes.combine(ids, normed.reshape([-1 if d == 1 else 1 for d in range(ids.dim())]), scale=False)
    return Act(affine(ctx, ids, [1], weight, bias))


@register_rule("aten._weight_norm", "aten._weight_norm_interface")
def _weight_norm(ctx: Context, v: Any, g: Any, dim: int = 0) -> Any:
    axes: list[Tensor | None] = [axis_ids(ctx.nodes, v, [d]) if v.shape[d] > 1 else None for d in range(len(v.shape))]
    own = axis_ids(ctx.nodes, g, [dim]) if len(g.shape) == len(v.shape) else None
    normed = axes[dim]
    if own is not None and normed is not None:
        ctx.nodes.tie(own, normed)
    out = computed(axes, v.shape, v, g)
    for w in (v, g, out):
        fix_scale(ctx.nodes, w)
    return (out, *opaque(ctx)[1:]) if isinstance(ctx.outputs, (tuple, list)) else out


RANKED = ("max", "min", "median")
"""Reductions that also return where the chosen entry is."""


def reduction(name: str, linear: bool = False) -> Rule:
    """Rule of a symmetric reduction over dimensions."""

    def rule(ctx: Context, x: Any, dim: Any = None, keepdim: Any = False, *_: Any, **kwargs: Any) -> Any:
        if name == "norm":
            dim, keepdim = (keepdim or None), (_[0] if _ else kwargs.get("keepdim", False))
        if not isinstance(keepdim, bool):
            keepdim = bool(kwargs.get("keepdim", False))
        dim = kwargs.get("dim", dim)
        if isinstance(x, Weight):
            return _reduce_weight(ctx, x)
        ids = ids_of(ctx, x)
        if ids.dim() == 0:
            return Act(ids)
        dims = list(range(ids.dim())) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
        dims = sorted({d % ids.dim() for d in dims})
        if not linear:
            ctx.nodes.fix_scale(ids)
        tight = ctx.nodes.canonical(ids)
        if varies(tight, dims):
            ctx.nodes.fix_scale(ids)
            out = ctx.nodes.block_labels(tight, dims, ctx.origin)
        else:
            out = ctx.nodes.representative(tight, [d for d in range(ids.dim()) if d not in dims])
        shapes = ctx.outputs if isinstance(ctx.outputs, (tuple, list)) else [ctx.outputs]
        if out.dim() != shapes[0].dim():
            for d in dims:
                out = out.unsqueeze(d)
        if not isinstance(ctx.outputs, (tuple, list)):
            return Act(out)
        if name in RANKED and varies(tight, dims):  # the place of a unit among the others
            if ctx.used(1):
                fix_all(ctx, [x], "is ranked")
            return (Act(out), *opaque(ctx)[1:])
        return tuple(Act(out) for _ in ctx.outputs)

    return rule


def _reduce_weight(ctx: Context, w: Weight) -> Weight:
    """A reduced weight keeps the units of the dimensions that are left."""
    fix_scale(ctx.nodes, w)
    shape = output_shape(ctx)
    if len(shape) != len(w.shape):
        fix_all(ctx, [w], "a weight is reduced")
        return computed([None] * len(shape), shape, w)
    axes = [axis_ids(ctx.nodes, w, [d]) if shape[d] > 1 else None for d in range(len(shape))]
    return computed(axes, shape, w)


for _name in ("mean", "sum"):
    register_rule(f"aten.{_name}")(reduction(_name, linear=True))
for _name in [
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "prod",
    "all",
    "any",
    "logsumexp",
    "nansum",
    "norm",
    "linalg_vector_norm",
    "median",
    "count_nonzero",
]:
    register_rule(f"aten.{_name}")(reduction("norm" if _name in ("norm", "linalg_vector_norm") else _name))


@register_rule("aten.max", "aten.min")
def _max(ctx: Context, x: Any, other: Any = None, keepdim: Any = False, *_: Any, **kwargs: Any) -> Any:
    from .rules import RULES

    if isinstance(other, (Act, Const, Weight)):
        return RULES["aten.maximum"](ctx, x, other)
    return reduction("max")(ctx, x, other, keepdim, **kwargs)


@register_rule("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten._safe_softmax")
def _softmax(ctx: Context, x: Any, dim: int, *_: Any, **__: Any) -> Any:
    return Act(_normalise(ctx, ids_of(ctx, x), [dim]))


@register_rule("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.diff")
def _cumulative(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
    dims = [a for a in args if isinstance(a, int)]
    dim = dims[-1] if dims else kwargs.get("dim", -1)
    ids = ctx.nodes.canonical(ids_of(ctx, x))
    ctx.nodes.fix_scale(ids)
    if varies(ids, [dim]):
        ctx.nodes.fix(ids, "is summed cumulatively across units")
        return opaque(ctx)
    keep = [d for d in range(ids.dim()) if d != dim % ids.dim()]
    same = ctx.nodes.representative(ids, keep).unsqueeze(dim % ids.dim())
    shape = output_shape(ctx)
    return Act(same.expand(shape)) if bool((same >= 0).any()) else opaque(ctx)


@register_rule("aten.topk", "aten.argmax", "aten.argmin", "aten.kthvalue", "aten.mode")
def _select(ctx: Context, x: Any, *_: Any, **__: Any) -> Any:
    """Which entry is chosen depends on their order: routers and classifiers keep theirs."""
    fix_all(ctx, [x], "is ranked")
    return opaque(ctx)


def spatial(name: str, dims: int | None, linear: bool = True) -> Rule:
    """Rule of pooling and resizing over the last `dims` dimensions (None: from the length of the size argument)."""

    def rule(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
        ids = ids_of(ctx, x)
        shapes = ctx.outputs if isinstance(ctx.outputs, (tuple, list)) else [ctx.outputs]
        out_shape = tuple(int(n) for n in shapes[0].shape)
        last = dims if dims is not None else ids.dim() - 2
        if not linear:
            ctx.nodes.fix_sign(ids)
        kept = ctx.nodes.representative(ids, list(range(ids.dim() - last)))
        if bool((kept < 0).all()):
            return opaque(ctx)
        out = Act(kept.reshape([*kept.shape, *[1] * last]).expand(out_shape))
        return tuple(out for _ in ctx.outputs) if isinstance(ctx.outputs, (tuple, list)) else out

    return rule


for _dims in (1, 2, 3):
    register_rule(f"aten.avg_pool{_dims}d", f"aten.adaptive_avg_pool{_dims}d")(spatial("average pool", _dims))
    register_rule(f"aten.max_pool{_dims}d", f"aten.adaptive_max_pool{_dims}d")(spatial("max pool", _dims, linear=False))
    if _dims > 1:
        register_rule(f"aten._adaptive_avg_pool{_dims}d")(spatial("average pool", _dims))
        register_rule(f"aten.max_pool{_dims}d_with_indices", f"aten.fractional_max_pool{_dims}d")(
            spatial("max pool", _dims, linear=False)
        )
register_rule("aten.max_pool1d_with_indices")(spatial("max pool", 1, linear=False))
for _name in [
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
]:
    register_rule(f"aten.{_name}")(spatial(_name, None))


@register_rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def _grid_sampler(ctx: Context, x: Any, grid: Any, *_: Any, **__: Any) -> Any:
    fix_all(ctx, [grid], "holds coordinates")
    return spatial("grid_sampler", None)(ctx, x)


@register_rule("aten.col2im")
def _col2im(ctx: Context, x: Any, *_: Any, **__: Any) -> Any:
    fix_all(ctx, [x], "col2im")
    return opaque(ctx)


__all__ = ["affine", "reduction", "spatial"]
