"""Which way each entry of an activation has come: its version (the step that computed it) and its position there.

Units trade places by the order of their entries, on the axes of weights as in activations. That is a symmetry only if the first
entry of one unit and the first entry of the other have come the same way, and the second ones, and so on. Ids do not tell:
tanh(x) and x, or x at two tokens, have the same ones. So colours for version and position accompany the ids through all
operators that only move entries, and every other operator states which ones each unit has there, in order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .domain import Act, as_colour, mix, tighten, trim
from .facts import Nodes
from .partitions import places


def routes(nodes: Nodes, value: Act) -> tuple[Tensor, Tensor]:
    """Colours for version and position of every entry, both of the activation's shape; those of a new value if it has none yet."""
    if value.routes is None:
        value.routes = _own(value.ids, int(nodes.fresh_colours([1])[0]))
    return value.routes


def _own(ids: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Routes of values that a step has just computed.

    Positions count the entries along dimensions in which units do not vary, versions those of one node along the others.
    """
    core, shape = trim(ids)
    flat = core.flatten().numpy()
    with np.errstate(over="ignore"):
        version = as_colour(mix(mix(places(flat)) + np.uint64(step % 2**64)))
    version = np.where(flat < 0, flat, version)
    along = [n if s == 0 else 1 for n, s in zip(ids.shape, ids.stride(), strict=True)]
    position = torch.from_numpy(as_colour(mix(np.arange(math.prod(along), dtype=np.uint64)))).reshape(along)
    return tighten(torch.from_numpy(version).reshape(core.shape).expand(shape)), position.expand(shape)


def state_routes(nodes: Nodes, value: Act) -> None:
    """States the routes of the entries of each unit, in order, where an operator computes on them."""
    for colours in routes(nodes, value):
        if not nodes.only_broadcast(value.ids, colours):
            nodes.colour(value.ids, colours)
