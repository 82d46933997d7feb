"""Weights in the tracer: which parameter axis a dimension of a view runs along, and binding units to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .domain import Weight, tighten
from .facts import Nodes


def parameter(name: str, shape: Sequence[int]) -> Weight:
    """A whole parameter or buffer."""
    return Weight(name, torch.empty(tuple(shape), device="meta"), tuple(shape))


def computed(axes: Sequence[Tensor | None], size: Sequence[int], *sources: Weight) -> Weight:
    """A tensor computed from `sources`, known only by the nodes along its dimensions."""
    return Weight("", None, tuple(size), list(axes), tuple(size), sources)


def structural(weight: Weight, op: Callable[[Tensor], Tensor]) -> Weight | None:
    """The weight after a view operator, or None if the result is no view of the parameter."""
    if weight.view is None:
        return None
    out = op(weight.view)
    if not isinstance(out, Tensor) or out.untyped_storage()._cdata != weight.view.untyped_storage()._cdata:
        return None
    return Weight(weight.name, out, weight.base_shape)


def base_axis(weight: Weight, dims: Sequence[int]) -> tuple[int, np.ndarray] | None:
    """The one parameter axis along which the given dimensions run, and the index on it for each entry.

    Returns:
        (axis, indices) with indices of shape (sizes of dims), or None if several parameter axes vary.
    """
    if weight.view is None:
        return None
    view = weight.view
    if not view.numel():
        return None
    linear = np.full([1] * len(dims), view.storage_offset(), dtype=np.int64)
    for i, d in enumerate(dims):
        steps = np.arange(view.shape[d]) * view.stride(d)
        linear = linear + steps.reshape([-1 if j == i else 1 for j in range(len(dims))])
    coordinates = np.unravel_index(linear, weight.base_shape) if weight.base_shape else ()
    varying = [k for k, c in enumerate(coordinates) if c.min() != c.max()]
    if len(varying) > 1:
        return None
    if varying:
        return varying[0], coordinates[varying[0]]
    if len(dims) == 1 and len(weight.base_shape):  # a dimension of size 1: find the axis by its stride
        strides = [int(np.prod(weight.base_shape[k + 1 :])) for k in range(len(weight.base_shape))]
        for k, (stride, size) in enumerate(zip(strides, weight.base_shape, strict=True)):
            if size == 1 and stride == view.stride(dims[0]):
                return k, np.asarray(coordinates[k])
    return None


def axis_ids(nodes: Nodes, weight: Weight, dims: Sequence[int]) -> Tensor | None:
    """Node ids of the entries along `dims`, jointly; shape (sizes of dims). None if they have no single axis."""
    dims = [d % len(weight.shape) for d in dims]
    if weight.view is None:
        varying = [i for i, d in enumerate(dims) if weight.axes[d] is not None]
        if len(varying) != 1:
            return None
        ids = weight.axes[dims[varying[0]]]
        assert ids is not None
        shape = [-1 if i == varying[0] else 1 for i in range(len(dims))]
        return ids.reshape(shape).expand([weight.shape[d] for d in dims])
    found = base_axis(weight, dims)
    if found is None:
        return None
    axis, indices = found
    return nodes.axis(weight.name, axis, weight.base_shape[axis])[torch.from_numpy(indices)]


def set_role(nodes: Nodes, weight: Weight, dims: Sequence[int], role: str) -> None:
    """Records how a rescaling of the units on `dims` acts on the parameter; computed weights forbid it."""
    found = base_axis(weight, [d % len(weight.shape) for d in dims])
    if found is not None and weight.name:
        nodes.role(weight.name, found[0], role)
    else:
        fix_scale(nodes, weight)


def fix_scale(nodes: Nodes, weight: Weight) -> None:
    """No unit on any axis of the weight may be rescaled."""
    for ids in all_axes(nodes, weight):
        nodes.fix_scale(ids)


def all_axes(nodes: Nodes, weight: Weight) -> list[Tensor]:
    """Node ids along every axis of the parameters behind the weight, and along its own dimensions."""
    found = [ids for ids in weight.axes if ids is not None]
    if weight.name:
        found += [nodes.axis(weight.name, k, n) for k, n in enumerate(weight.base_shape) if n > 1]
    for source in weight.sources:
        found += all_axes(nodes, source)
    return found


def bind(nodes: Nodes, weight: Weight, dims: Sequence[int], labels: Tensor, scale: bool = True) -> bool:
    """States that the units `labels` (shape: sizes of dims) sit along `dims` of the weight.

    Returns:
        False if that cannot be expressed; then the units and the weight have been fixed.
    """
    dims = [d % len(weight.shape) for d in dims]
    tight = tighten(labels)
    if len(dims) > 1 and bool((tight < 0).all()):
        return True
    varying = [i for i in range(len(dims)) if tight.stride(i) != 0 and tight.shape[i] > 1]
    varying = varying or [i for i in range(len(dims)) if tight.shape[i] > 1][:1] or [0]
    index = tuple(slice(None) if i in varying else 0 for i in range(len(dims)))
    core = labels[index]
    ids = axis_ids(nodes, weight, [dims[i] for i in varying])
    own = [i for i in range(core.dim()) if ids is None and _tells_apart(core, i)]
    if len(own) == 1:  # rows that are units of other nodes so far (a class token beside patches): one axis
        core = core.movedim(own[0], -1)
        ids = axis_ids(nodes, weight, [dims[varying[own[0]]]])
        ids = None if ids is None else ids.expand(core.shape)
    if ids is None:
        nodes.fix(core, f"'{weight.name or 'a computed weight'}' holds its units along several axes")
        for axis in all_axes(nodes, weight):
            nodes.fix(axis, "shares a weight with units along several axes")
        return False
    real = core >= 0
    if bool((~real).any()):
        nodes.fix(ids[~real], "meets inputs or constants")
    if bool(real.any()):
        own_nodes, labels_there = ids[real].numpy(), core[real].numpy()
        reads_blocks = nodes.is_block[labels_there]
        if reads_blocks.any():  # a weight that reads or scales blocks moves with them, one unit of each
            read = own_nodes[reads_blocks]
            _, first, of_block = np.unique(labels_there[reads_blocks], return_index=True, return_inverse=True)
            nodes.tie(torch.from_numpy(read), torch.from_numpy(read[first][of_block]), scale=False)
            nodes.fix_scale(nodes.produce(torch.from_numpy(read)))
        nodes.meet(own_nodes, labels_there, scale)
    return True


def _tells_apart(labels: Tensor, dim: int) -> bool:
    """Whether no node sits at two indices of a dimension."""
    rows = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)
    index = torch.arange(len(rows))[:, None].expand(rows.shape)
    pairs = torch.stack([rows.flatten(), index.flatten()]).unique(dim=1)
    nodes = pairs[0][pairs[0] >= 0]
    return len(nodes) > 1 and len(nodes) == len(nodes.unique())


def promote(nodes: Nodes, weight: Weight) -> Tensor:
    """The weight as an activation: units along its last dimension of more than one entry."""
    shape = weight.shape
    wide = [d for d in range(len(shape)) if shape[d] > 1]
    if not wide:
        ids = axis_ids(nodes, weight, [len(shape) - 1]) if shape else None
        return nodes.fresh_colours(shape) if ids is None else ids.reshape([1] * len(shape)).expand(shape)
    ids = axis_ids(nodes, weight, [wide[-1]])
    if ids is None:
        for axis in all_axes(nodes, weight):
            nodes.fix(axis, "is read in a way that no rule describes")
        return nodes.fresh_colours(shape)
    set_role(nodes, weight, [wide[-1]], "out")
    return nodes.produce(ids).reshape([-1 if d == wide[-1] else 1 for d in range(len(shape))]).expand(shape)
