"""Which of many inputs a pair of networks has something to say about: those on whose class both are sure.

Two networks trained apart on the same data agree where they have learned something and contradict each other elsewhere. Neither
the predictions nor this choice depend on the order of any units, and both networks count alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphalign.program import Program, predictions


def class_probabilities(program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Logarithms of the softmax over classes of the first output, (C, N, K) with N predictions per code; None if it has no classes.

    Args:
        program: the network.
        tensors: its parameters and buffers.
        inputs: by placeholder name, (C, *shape).
    """
    axis = _class_axis(program)
    if axis is None:
        return None
    values = predictions(program, tensors, inputs)
    first = values.movedim(axis + 1 if axis > 0 else -1, 0).contiguous()  # softmax over few entries side by side is slow on a CPU
    return first.reshape(len(first), len(values), -1).log_softmax(0).movedim(0, -1)


def has_classes(program: Program) -> bool:
    """Whether the first output of a network has two classes or more."""
    return _class_axis(program) is not None


def _class_axis(program: Program) -> int | None:
    outputs = [out for out in program.outputs() if out.is_floating_point()]
    if not outputs or outputs[0].dim() < 2:
        return None
    axis = 1 if outputs[0].dim() >= 4 else -1
    return axis if outputs[0].shape[axis] >= 2 else None


def agreement(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Of every code the mean Bhattacharyya coefficient sum_k sqrt(p_k q_k) of two predictions (Bhattacharyya 1943), and their class.

    Args:
        first: logarithms of probabilities, (C, N, K).
        second: the same.

    Returns:
        (C,) in [0, 1], and (C,) the class of the largest mean of sqrt(p_k q_k).
    """
    joint = (0.5 * (first + second)).exp()
    return joint.sum(-1).mean(1), joint.mean(1).argmax(-1)


def choose(values: Tensor, classes: Tensor, count: int) -> Tensor:
    """Indices (count,), ascending, of the largest values, taken in turns from the classes so that each counts the same.

    Args:
        values: (C,).
        classes: (C,).
        count: at most C.
    """
    order = torch.argsort(values, descending=True, stable=True)
    kinds, grouped = torch.sort(classes[order], stable=True)
    firsts = torch.searchsorted(kinds, kinds)
    ranks = torch.empty_like(order)
    ranks[grouped] = torch.arange(len(order), device=order.device) - firsts
    by_rank = torch.argsort(ranks, stable=True)
    return order[by_rank][:count].sort().values
