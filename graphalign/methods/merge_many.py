"""MergeMany: coordinate ascent over n networks at once (Ainsworth et al. 2023, arXiv 2209.04836, Alg. 3).

One network after the other is matched to the sum of all others, in the slots where these currently sit; because the objective
sum_{p<q} <U_p, U_q> over the networks' weights U in universe slots is linear in the sum of the others, that is weight matching.
A network is visited again only after another one has moved, so the ascent ends by itself, and no visit lowers the objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphalign.methods.joint_objective import joint_objective, place, total
from graphalign.methods.weight import ascend
from graphalign.spec import NetworkSpec

MAX_SWEEPS = 100

Weights = Mapping[str, Tensor]
Element = dict[str, Tensor]


def merge_many(
    spec: NetworkSpec, weights: Sequence[Weights], start: Sequence[Weights], generator: torch.Generator
) -> tuple[list[Element], list[float]]:
    """Sweeps over the networks in random order until none of them improves.

    Args:
        spec: what may move.
        weights: tensors to match of each network, in its own order, all of one dtype on one device.
        start: an element per network: `start[k][cell][i]` is the unit of network k that goes to universe slot i.
        generator: order of the networks in each sweep, and of the cells of each network.

    Returns:
        An element per network, and the objective of the start and after every sweep, which never decreases.
    """
    elements = [{name: perm.clone() for name, perm in element.items()} for element in start]
    placed = [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]
    objectives = [joint_objective(placed)]
    pending = set(range(len(weights)))  # networks that have seen another one move since they were last matched
    for _ in range(MAX_SWEEPS if len(weights) > 1 else 0):
        for k in torch.randperm(len(weights), generator=generator).tolist():
            if k not in pending:
                continue
            pending.discard(k)
            others = total(own for j, own in enumerate(placed) if j != k)
            found, _ = ascend(spec, others, weights[k], elements[k], generator)
            if any(not torch.equal(perm, elements[k][name]) for name, perm in found.items()):
                elements[k], placed[k] = found, place(spec, found, weights[k])
                pending.update(j for j in range(len(weights)) if j != k)
        objectives.append(joint_objective(placed))
        if not pending:
            break
    return elements, objectives
