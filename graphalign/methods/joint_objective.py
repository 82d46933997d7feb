"""The objective of aligning n networks at once: the sum over all pairs of the inner products of their placed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphalign import group
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import OBJECTIVE_PART


def place(spec: NetworkSpec, element: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors given with their units moved by an element of the group."""
    return {n: group.permute_tensor(spec, t, spec.axes_of_tensor[n], element) for n, t in weights.items()}


def total(networks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of networks, tensor by tensor."""
    result: dict[str, Tensor] = {}
    for network in networks:
        for name, tensor in network.items():
            result[name] = result[name] + tensor if name in result else tensor
    return result


def joint_objective(placed: Sequence[Mapping[str, Tensor]]) -> float:
    """sum_{p<q} <U_p, U_q> of n networks U, in float64 and time O(n); 0 for one network."""
    return float(joint_products([placed])[0, 0])


def joint_products(points: Sequence[Sequence[Mapping[str, Tensor]]]) -> NDArray[np.float64]:
    """The bilinear form of `joint_objective` between all pairs of several placements of the same n networks.

    Entry (x, y) is (<sum_p X_p, sum_p Y_p> - sum_p <X_p, Y_p>) / 2. The norms that are taken off are constants for permuted
    networks, but not for softly permuted ones.

    Args:
        points: placements, each with n networks of the same tensors.

    Returns:
        (placements, placements).
    """
    result = np.zeros((len(points), len(points)))
    for name in points[0][0]:
        parts = zip(*(torch.split(own[name].reshape(-1), OBJECTIVE_PART) for point in points for own in point), strict=True)
        for part in parts:
            x = torch.stack(part).double().reshape(len(points), len(points[0]), -1)
            summed, x = x.sum(1), x.flatten(1)
            result += ((summed @ summed.T - x @ x.T) / 2).cpu().numpy()
    return result
