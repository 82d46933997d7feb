"""Tensors of node numbers shaped like activations: which dimensions vary, how results follow operands, which rows differ.

Numbers are non-negative; -1 stands for a constant. Dimensions along which nothing varies have a zero stride and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def core(ids: Tensor) -> Tensor:
    """One entry along every dimension of zero stride."""
    return ids[tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for n, s in zip(ids.shape, ids.stride(), strict=True))]


def tighten(ids: Tensor) -> Tensor:
    """The same numbers with a zero stride along every dimension in which they do not vary."""
    kept = core(ids)
    for d in range(kept.dim()):
        if kept.shape[d] > 1 and bool((kept == kept.narrow(d, 0, 1)).all()):
            kept = kept.narrow(d, 0, 1)
    return kept.expand(ids.shape)


def varying(ids: Tensor) -> list[int]:
    """Dimensions of a tightened tensor along which numbers differ."""
    return [d for d in range(ids.dim()) if ids.stride(d) != 0 and ids.shape[d] > 1]


def aligned(ids: Tensor, shape: Sequence[int], places: Mapping[int, int]) -> Tensor:
    """The numbers behind each entry of a result: dimension d at `places[d]`, the dimensions without a place last and flat.

    Returns:
        (one size or 1 per dimension of `shape`, numbers per entry).
    """
    small = core(ids)
    kept = sorted((d for d in range(ids.dim()) if d in places), key=lambda d: places[d])
    rest = [d for d in range(ids.dim()) if d not in places]
    moved = small.permute([*kept, *rest]).reshape([small.shape[d] for d in kept] + [-1])
    view = [1] * len(shape) + [moved.shape[-1]]
    for d in kept:
        view[places[d]] = small.shape[d]
    return moved.reshape(view)


def carried(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """`aligned` for a result whose dimensions keep the operand's order; those that change their size are reduced."""
    ids = tighten(ids)
    lead = len(shape) - ids.dim()
    if lead >= 0 and all(n in (1, shape[d + lead]) for d, n in enumerate(ids.shape)):
        return aligned(ids, shape, {d: d + lead for d in range(ids.dim())})
    if lead == 0:
        return aligned(ids, shape, {d: d for d in range(ids.dim()) if ids.shape[d] == shape[d]})
    places: dict[int, int] = {}
    after = 0
    for d in varying(ids):
        found = next((e for e in range(after, len(shape)) if shape[e] == ids.shape[d]), None)
        if found is not None:
            places[d], after = found, found + 1
    return aligned(ids, shape, places)


def along(ids: Tensor, axis: int, length: int) -> Tensor:
    """All numbers at each index of an axis, the smallest one that is no constant first; (length, numbers)."""
    small = core(tighten(ids).movedim(axis, 0))
    flat = small.reshape(small.shape[0], -1).sort(dim=1, stable=True).values
    first = (flat < 0).sum(1, keepdim=True).clamp(max=flat.shape[1] - 1)
    return torch.cat([flat.gather(1, first), flat], dim=1).expand(length, -1)


def numbered(columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct rows in order of first appearance: index of the first of each (n,), and the number of every row (rows,)."""
    rows = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        _, inverse = np.unique(column.numpy(), return_inverse=True)
        _, rows = np.unique(rows * (int(inverse.max(initial=0)) + 1) + inverse, return_inverse=True)
    _, first = np.unique(rows, return_index=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(first[order]), torch.from_numpy(rank[rows])


def distinct_pairs(source: Tensor, target: Tensor) -> Tensor:
    """Distinct (source, target) pairs of two tensors that broadcast together, without constants; LongTensor (2, E)."""
    shape = np.broadcast_shapes(source.shape, target.shape)
    pairs = torch.stack([source.expand(shape).flatten(), target.expand(shape).flatten()])
    first, _ = numbered([pairs[1], pairs[0]])
    pairs = pairs[:, first]
    return pairs[:, pairs[0] >= 0]
