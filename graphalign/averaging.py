"""Weighted averages of the tensors of n networks whose units are in one order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.tensors import is_weight, require_same_tensors

SUM_TOLERANCE = 1e-6
"""How far a sum of weights may be from 1: what single precision loses on a thousand of them."""


def averaging_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of `count` networks as floats that add up to 1; equal ones if None.

    Args:
        weights: one finite number per network. They may be negative (extrapolation), and they are not normalised: a sum other
            than 1 scales the network, which is hardly ever meant.
        count: number of networks.

    Raises:
        InvalidInput: not as many weights as networks, a weight that is not finite, or a sum other than 1.
    """
    if weights is None:
        return [1.0 / count] * count
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise InvalidInput(f"weights: found {len(values)} for {count} networks, expected one for each")
    if not all(map(math.isfinite, values)):
        raise InvalidInput(f"weights: found {values}, expected finite numbers")
    if abs(sum(values) - 1.0) > SUM_TOLERANCE:
        raise InvalidInput(f"weights: found {values} with sum {sum(values):.6g}, expected 1; divide them by their sum")
    return values


def average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The average sum_i w_i theta_i of networks theta_i, entry by entry, on the device and in the dtype of the first network.

    Floating-point tensors, running statistics among them, are averaged in double precision where the device has it and are cast
    back; a network of weight 0 does not take part. Integer and boolean tensors (num_batches_tracked, indices, masks) are those
    of the first network. Equal networks give that network to the last bit. Names that share memory in the first network (tied
    weights) share it in the result.

    Args:
        states: tensors by name, equal names and shapes; left as they are.
        weights: as `averaging_weights` returns them.

    Raises:
        SpecMismatch: names, shapes or kinds of tensors differ; lists all differences.
    """
    require_same_tensors({f"network {i}": state for i, state in enumerate(states)})
    parts = [(weight, state) for weight, state in zip(weights, states, strict=True) if weight != 0.0]
    result: dict[str, Tensor] = {}
    made: dict[tuple[object, ...], Tensor] = {}
    for name, tensor in states[0].items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in made:
            result[name] = made[place]
            continue
        result[name] = _combined(tensor, [(w, state[name]) for w, state in parts]) if is_weight(tensor) else tensor.clone()
        made[place] = result[name]
    return result


def _combined(like: Tensor, parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The sum base + sum_i w_i (part_i - base) of weights that add up to 1: exact for equal parts, and for one."""
    wide = torch.promote_types(like.dtype, torch.float32 if like.device.type == "mps" else torch.float64)
    base = parts[0][1].to(like.device, wide)
    total = base.clone()
    for weight, tensor in parts[1:]:
        total += weight * (tensor.to(like.device, wide) - base)
    return total.to(like.dtype)
