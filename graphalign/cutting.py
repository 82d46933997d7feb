"""Where a traced program is cut: into stretches, all codes of which are done before the next one, and these into segments.

A cut costs what is alive there, for all codes and both networks where a stretch ends. Small activations with many units come late in a
network of images and large ones with few units early, so that no stretch needs much of both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from torch import Tensor, fx

from graphalign.program import Program
from graphalign.segments import Segment

Stretch = tuple[Segment, ...]
"""Consecutive segments."""


@dataclass(frozen=True)
class Limits:
    """What may be in memory at once, in entries; a single step may need more.

    Attributes:
        stretch: comparing the taps of a stretch, and what is alive at its two ends for all codes.
        segment: activations of one code in a segment.
        weights: weights of a segment; None where they are used as they are stored.
    """

    stretch: int
    segment: int
    weights: int | None = None


def cut(program: Program, taps: Mapping[str, int], codes: int, limits: Limits) -> tuple[Stretch, ...]:
    """The stretches of a program, in order: as few as keep to the limit, or to the least that can be kept to.

    Args:
        program: the network.
        taps: steps whose values are read, and the entries of memory that comparing them takes.
        codes: that pass the network.
        limits: see `Limits`.
    """
    graph = _Graph(program, frozenset(taps))
    return tuple(
        tuple(graph.segment(first, last, taps) for first, last in pairwise(_segment_bounds(graph, low, high, limits)))
        for low, high in pairwise(_stretch_bounds(graph, taps, codes, limits.stretch))
    )


def _stretch_bounds(graph: _Graph, taps: Mapping[str, int], codes: int, most: int) -> list[int]:
    """The bounds of the stretches. Only those are tried at which no more is alive than at their neighbours."""
    count, widths = len(graph.steps), graph.widths
    tried = [b for b in range(1, count) if widths[b] < math.inf and widths[b] <= min(widths[b - 1], widths[b + 1])]
    bounds = np.array([0, *tried, count])
    alive = 2.0 * codes * np.array([widths[b] for b in bounds])
    products = np.array([0, *accumulate(taps.get(node.name, 0) for node in graph.steps)], dtype=float)[bounds]
    # from bound i to bound j: the products, the values and the cotangents at i, and the cotangents at j
    costs = [2 * alive[:j] + alive[j] + products[j] - products[:j] for j in range(1, len(bounds))]
    least = [0.0]
    for cost in costs:
        least.append(float(np.maximum(cost, least).min()))
    fewest, before = [0.0], [0]
    for cost in costs:
        number = np.where(cost <= max(most, least[-1]), np.array(fewest) + 1, math.inf)
        best = int(np.lexsort((cost, number))[0])
        fewest.append(float(number[best]))
        before.append(best)
    found = [len(bounds) - 1]
    while found[-1]:
        found.append(before[found[-1]])
    return [int(bounds[index]) for index in reversed(found)]


def _segment_bounds(graph: _Graph, low: int, high: int, limits: Limits) -> list[int]:
    """The bounds of the segments of steps low .. high - 1; cuts are made where the fewest entries are alive."""
    bounds, start, totals = [low], low, [0, 0]
    for index in range(low, high):
        own = graph.held(graph.steps[index]), graph.weights(graph.steps[index])
        allowed = limits.segment, limits.weights
        while index > start and any(n is not None and t + more > n for t, more, n in zip(totals, own, allowed, strict=True)):
            bound = graph.narrowest(start, index)
            if bound is None:
                break
            start = bound
            bounds.append(start)
            since = graph.steps[start:index]
            totals = [sum(map(graph.held, since)), sum(map(graph.weights, since))]
        totals = [total + more for total, more in zip(totals, own, strict=True)]
    return [*bounds, high]


class _Graph:
    """The steps of a program that depend on its inputs or are read, and what is alive between them."""

    def __init__(self, program: Program, taps: frozenset[str]) -> None:
        self.program = program
        sizes = {layer.step: math.prod(layer.shape) for layer in program.architecture.layers}
        self.sizes = sizes
        moving = set(program.inputs)
        self.steps: list[fx.Node] = []
        for node in program.graph.graph.nodes:
            if node.op == "call_function" and (node.name in taps or any(n.name in moving for n in node.all_input_nodes)):
                moving.add(node.name)
                self.steps.append(node)
        self.moving = moving
        self.results = tuple(dict.fromkeys(n.name for n in program.results() if n.name in moving))
        last = {name: len(self.steps) for name in self.results}
        for index, node in enumerate(self.steps):
            for used in node.all_input_nodes:
                if used.name in moving:
                    last[used.name] = max(index, last.get(used.name, -1))
        self.last = last
        self.born = {node.name: index for index, node in enumerate(self.steps)}
        self.values = {node.name: node.meta.get("val") for node in program.graph.graph.nodes}
        self.widths = self._widths()

    def _widths(self) -> list[float]:
        """Entries of one code that are alive at every bound; infinity where some of it is no tensor."""
        change = [0.0] * (len(self.steps) + 2)
        lists = [0] * (len(self.steps) + 2)
        for name, last in self.last.items():
            value = self.values[name]
            for bound, sign in ((self.born.get(name, -1) + 1, 1), (last + 1, -1)):
                change[bound] += sign * value.numel() if isinstance(value, Tensor) else 0
                lists[bound] += sign * (not isinstance(value, Tensor))
        return [math.inf if n else total for total, n in zip(accumulate(change[:-1]), accumulate(lists[:-1]), strict=True)]

    def held(self, node: fx.Node) -> int:
        """Entries of what a step computes; attention holds two matrices of positions by positions as well."""
        total = self.sizes.get(node.name, 0)
        if str(node.target).startswith("aten.scaled_dot_product_attention"):
            query, key = (self.values[n.name].shape for n in node.all_input_nodes[:2])
            total += 2 * math.prod(query[:-1]) * int(key[-2])
        return total

    def weights(self, node: fx.Node) -> int:
        """Entries of the parameters and buffers that a step uses."""
        return sum(self.values[n.name].numel() for n in self.static(node) if n.op == "placeholder" and isinstance(self.values[n.name], Tensor))

    def alive(self, bound: int) -> tuple[str, ...]:
        """Values from before a bound that steps from it on use."""
        return tuple(n for n, last in self.last.items() if last >= bound and self.born.get(n, -1) < bound and n in self.moving)

    def narrowest(self, start: int, high: int) -> int | None:
        """The bound up to `high` at which the fewest entries are alive and all of them are tensors, if there is any after `start`.

        It is sought in the upper half, so that segments do not become small, and below only if there is none.
        """
        for low in (start + (high - start + 1) // 2, start + 1):
            best = min(range(high, low - 1, -1), key=self.widths.__getitem__)
            if self.widths[best] < math.inf:
                return best
        return None

    def segment(self, low: int, high: int, taps: Collection[str]) -> Segment:
        """The steps from one bound to the next."""
        steps = self.steps[low:high]
        needed: dict[fx.Node, None] = {}
        for node in steps:
            needed.update(dict.fromkeys(n for n in self.static(node) if n.op == "call_function"))
            needed[node] = None
        outputs = self.results if high == len(self.steps) else self.alive(high)
        read = tuple(node.name for node in steps if node.name in taps)
        alive = int(self.widths[low])
        return Segment(tuple(needed), self.alive(low), outputs, read, sum(map(self.held, steps)), alive)

    def static(self, node: fx.Node) -> list[fx.Node]:
        """What a step uses that does not depend on the inputs, in the order in which it is computed."""
        found: dict[fx.Node, None] = {}

        def visit(node: fx.Node) -> None:
            for used in node.all_input_nodes:
                if used.name not in self.moving and used not in found:
                    visit(used)
                    found[used] = None

        visit(node)
        return list(found)
