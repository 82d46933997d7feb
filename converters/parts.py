"""What tells classes of nodes apart besides the axes they lie on: every fact about the part that a node plays in its class.

A class moves as a whole, and exchanging two classes exchanges the nodes at the same place: those that lie on the same axis as the
first one of their class, as the second one, and so on. That is a symmetry only if these nodes meet the same colours and blocks, are
tied to nodes at the same places, and stand in the same order wherever an operator reads them.
"""

from __future__ import annotations

import numpy as np

from .domain import mix
from .facts import Nodes
from .partitions import places


def class_colours(nodes: Nodes, of_node: np.ndarray, part: np.ndarray, origin_starts: np.ndarray) -> np.ndarray:
    """Hash of all that is known about the nodes of each class, by part; uint64, shape (classes,).

    Args:
        nodes: the facts.
        of_node: class of each node, 0 to classes - 1; shape (nodes,).
        part: of each node, see `parts`.
        origin_starts: first node of each axis or block system; increasing.
    """
    colour = np.zeros(int(of_node.max()) + 1 if len(of_node) else 0, np.uint64)
    with np.errstate(over="ignore"):
        for ids, hashes in nodes.colours:
            np.add.at(colour, of_node[ids], mix(hashes + part[ids]))
        for ids, blocks in nodes.members:
            system = np.searchsorted(origin_starts, blocks, side="right").astype(np.uint64)
            np.add.at(colour, of_node[ids], mix(mix(part[ids]) + system))
        if nodes.ties:
            a, b = (np.concatenate([pair[i] for pair in nodes.ties]) for i in (0, 1))
            a, b = np.divmod(np.unique(np.minimum(a, b) * nodes.count + np.maximum(a, b)), nodes.count)
            np.add.at(colour, of_node[a], mix(mix(part[a]) + mix(part[b])))
        for step, ids in enumerate(nodes.orders):
            np.add.at(colour, of_node[ids], mix(part[ids] ^ mix(places(of_node[ids]) + np.uint64(step << 20))))
    return colour


def parts(of_node: np.ndarray, origin_starts: np.ndarray) -> np.ndarray:
    """The part of each node, uint64: hash of the axis it lies on and its place among the nodes of its class there."""
    origin = np.searchsorted(origin_starts, np.arange(len(of_node)), side="right")
    with np.errstate(over="ignore"):
        part: np.ndarray = mix(mix(origin) + places(of_node * (len(origin_starts) + 1) + origin))
    return part
