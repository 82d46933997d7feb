"""Abstract values of the tracer: activations whose entries are unit ids, weights whose axes carry unit ids, constants.

An entry of an activation is an int64. Non-negative: the id of a *node*, a unit as one operator produced it. Negative: a
*colour*, a value that no permutation moves (inputs, positions, constants); equal colours mean equal values. Ids that do
not vary along a dimension are kept as zero-stride expansions, so that images and batches cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class Act:
    """An activation: `ids` has the shape of the real tensor; `routes` as in `converters.routes`, None until they are asked for."""

    ids: Tensor
    routes: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the activation."""
        return tuple(self.ids.shape)


@dataclass
class Const:
    """A tensor that depends neither on inputs nor on parameters; `name` is its state-dict key if it is a buffer."""

    value: Tensor
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return tuple(self.value.shape)


@dataclass
class Weight:
    """A parameter or buffer, a view of one, or a tensor computed from them.

    Attributes:
        name: state-dict key, empty for a computed weight.
        view: tensor on the meta device whose strides and offset say which elements these are; None if computed.
        axes: for a computed weight, node ids along each dimension, or None where nothing varies.
        base_shape: shape of the parameter.
        sources: the weights that a computed weight comes from.
    """

    name: str
    view: Tensor | None
    base_shape: tuple[int, ...]
    axes: list[Tensor | None] = field(default_factory=list)
    size: tuple[int, ...] = ()
    sources: tuple[Weight, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view or of the computed tensor."""
        return tuple(self.view.shape) if self.view is not None else self.size


def broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape."""
    shape = broadcast_shape(*(tuple(t.shape) for t in tensors))
    return tuple(t.expand(shape) for t in tensors)


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all shapes broadcast to."""
    return tuple(np.broadcast_shapes(*(tuple(s) for s in shapes)))


def mix(values: np.ndarray) -> np.ndarray:
    """64-bit hash of each entry (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def as_colour(hashes: np.ndarray) -> np.ndarray:
    """Negative int64 colours from 64-bit hashes."""
    return np.asarray(-((hashes >> np.uint64(1)).astype(np.int64)) - 1)


def colours_of(value: Tensor) -> Tensor:
    """Colour of each entry of a constant; equal values have equal colours. Zero strides are kept."""
    core, shape = trim(value.detach().cpu())
    data = core.to(torch.float64) if core.dtype != torch.float64 else core
    if data.is_complex():
        data = torch.view_as_real(data).sum(-1)
    bits = np.asarray(data.contiguous().numpy() + 0.0).view(np.uint64)
    return torch.from_numpy(as_colour(mix(bits))).reshape(core.shape).expand(shape)


def extent(tensor: Tensor) -> int:
    """Number of entries that may differ."""
    return math.prod(n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s)


def varies(ids: Tensor, dims: Sequence[int]) -> bool:
    """Whether node ids differ along any of `dims`."""
    tight = tighten(ids)
    return bool((tight >= 0).any()) and any(tight.stride(d) != 0 and tight.shape[d] > 1 for d in dims)


def trim(tensor: Tensor) -> tuple[Tensor, torch.Size]:
    """A tensor cut to one entry along dimensions of stride zero, and its full shape."""
    index = tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor[index], tensor.shape


def collapse(*tensors: Tensor) -> tuple[list[Tensor], torch.Size]:
    """Tensors broadcast together, cut to one entry along dimensions in which none of them varies; and the full shape."""
    full = broadcast(*tensors)
    shape = full[0].shape
    index = tuple(slice(0, 1) if n > 1 and all(t.stride(d) == 0 for t in full) else slice(None) for d, n in enumerate(shape))
    return [t[index] for t in full], shape


def tighten(ids: Tensor) -> Tensor:
    """The same ids with a zero stride in every dimension along which they do not vary."""
    core, _ = trim(ids)
    for d in range(core.dim()):
        if core.shape[d] > 1 and bool((core == core.narrow(d, 0, 1)).all()):
            core = core.narrow(d, 0, 1)
    return core.expand(ids.shape)
