"""Partitions of numbered things: the classes that pairs generate, and the places inside classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def classes(count: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Smallest node of the connected component of each node; int64, shape (count,)."""
    if not ties:
        return np.arange(count)
    a = np.concatenate([t[0] for t in ties])
    b = np.concatenate([t[1] for t in ties])
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    first = np.full(component.max() + 1, count)
    np.minimum.at(first, component, np.arange(count))
    smallest: np.ndarray = first[component]
    return smallest


def places(labels: np.ndarray) -> np.ndarray:
    """How many entries before each one have the same label; uint64, shape of labels (one dimension)."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0][: len(labels)])
    found = np.empty(len(labels), dtype=np.uint64)
    found[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    return found
