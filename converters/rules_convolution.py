"""Rules of convolutions: plain, transposed, depthwise and grouped, and with constant kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .domain import Act, Const, Weight
from .rules import Context, fix_all, ids_of, opaque, output_shape, register_rule
from .rules_contraction import add_bias
from .weights import axis_ids, bind, fix_scale, set_role


@register_rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def _conv(
    ctx: Context, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    return _convolution(ctx, x, weight, bias, groups, transposed=False, stride=stride, padding=padding, dilation=dilation)


@register_rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def _conv_transpose(
    ctx: Context, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    return _convolution(ctx, x, weight, bias, groups, transposed=True, stride=stride, padding=padding, dilation=dilation)


@register_rule("aten.convolution")
def _aten_convolution(
    ctx: Context,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _out: Any,
    groups: int,
) -> Any:
    return _convolution(ctx, x, weight, bias, groups, transposed=transposed, stride=stride, padding=padding, dilation=dilation)


def _convolution(ctx: Context, x: Any, weight: Any, bias: Any, groups: int, transposed: bool, **geometry: Any) -> Any:
    ids = ids_of(ctx, x)
    ctx.read(x)
    w = weight if isinstance(weight, Weight) else ctx.weight_of(weight)
    if w is None and not isinstance(weight, Const):
        fix_all(ctx, [x, weight], "is a convolution with a computed kernel")
        return opaque(ctx)
    if w is None:
        return _fixed_kernel(ctx, ids, weight, groups, len(weight.shape) - 2)
    channel = ids.dim() - (len(w.shape) - 2) - 1
    labels = ctx.nodes.representative(ids, [channel])
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    shape = output_shape(ctx)
    if groups == 1:
        bind(ctx.nodes, w, [in_dim], labels)
        set_role(ctx.nodes, w, [in_dim], "in")
        units = axis_ids(ctx.nodes, w, [out_dim])
        if units is None:
            fix_all(ctx, [x, w], "is a convolution whose channels have no axis of their own")
            return opaque(ctx)
        set_role(ctx.nodes, w, [out_dim], "out")
    else:
        units = _grouped(ctx, labels, w, groups, transposed)
        if units is None:
            fix_all(ctx, [x, w], "is a grouped convolution with a computed weight")
            return opaque(ctx)
    ctx.message("conv", w, labels, units, (in_dim, out_dim), groups=groups, transposed=transposed, **geometry)
    if units.numel() == 1:
        fix_scale(ctx.nodes, w)
        return opaque(ctx)
    ctx.nodes.produce(units)
    out = Act(units.reshape([-1] + [1] * (len(shape) - channel - 1)).expand(shape))
    return add_bias(ctx, out, bias, channel)


def _fixed_kernel(ctx: Context, ids: Tensor, kernel: Const, groups: int, spatial: int) -> Any:
    """A convolution with a constant kernel: depthwise filters with equal kernels keep the units, others fix them."""
    channel = ids.dim() - spatial - 1
    value = kernel.value
    if groups == ids.shape[channel] == value.shape[0] and bool((value == value[:1]).all()):
        labels = ctx.nodes.representative(ids, [channel])
        return Act(labels.reshape([-1] + [1] * spatial).expand(output_shape(ctx)))
    ctx.nodes.fix(ids, "is convolved with a constant kernel")
    return opaque(ctx)


def _grouped(ctx: Context, labels: Tensor, w: Weight, groups: int, transposed: bool) -> Tensor | None:
    """Units of a grouped convolution: inputs and outputs of a group form a block."""
    nodes = ctx.nodes
    rows = axis_ids(nodes, w, [0])
    if rows is None or not w.name or w.shape != w.base_shape:
        return None
    nodes.fix_scale(labels)
    if not transposed and w.shape[1] == 1 and w.shape[0] == groups:
        bind(nodes, w, [0], labels, scale=False)
        set_role(nodes, w, [0], "out")
        return rows
    fix_scale(nodes, w)
    outputs = nodes.new(groups * w.shape[1], ctx.origin) if transposed else rows
    if bool((labels < 0).any()):
        nodes.fix(labels, "is grouped with inputs")
        nodes.fix(outputs, "is grouped with inputs")
        return outputs
    if transposed:
        bind(nodes, w, [0], labels, scale=False)
        nodes.fix_scale(outputs)
    inside = outputs if transposed else labels
    previous = nodes.grouped_axes.get((w.name, 1))
    if previous is None:
        nodes.grouped_axes[(w.name, 1)] = (inside, groups)
    else:
        nodes.tie(previous[0], inside, scale=False)
    blocks = nodes.new(groups, ctx.origin, block=True)
    for units in (labels, outputs):
        nodes.members.append((units.contiguous().numpy(), blocks.repeat_interleave(len(units) // groups).numpy()))
    return outputs
