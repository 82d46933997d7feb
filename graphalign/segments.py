"""A traced program cut into segments, each of which is run by itself: what a large network needs in memory is one of them at a time.

Between segments only the activations live that later steps still use. Backward, a segment is run again from those and pulled back
(checkpointing, Chen et al. 2016, arXiv:1604.06174); weights are read when a step needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphalign.program import Place, Program
from graphalign.vectorising import vectorise

Values = dict[str, Tensor]
"""Activations by step, (C, *shape)."""


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of a program.

    Attributes:
        nodes: the steps, together with those on constants and parameters alone that they need.
        inputs: earlier values that they use or pass on.
        outputs: values that later steps use.
        taps: steps whose values are read.
        held: entries of all values of one code.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    taps: tuple[str, ...]
    held: int


def cut(
    program: Program, taps: Mapping[str, int], *, most_values: int, most_products: int, most_weights: int | None
) -> tuple[Segment, ...]:
    """The segments of a program, in order; one if it is small. Cuts are made where the fewest activations are alive.

    Args:
        program: the network.
        taps: steps whose values are read, and the entries of memory that comparing them takes.
        most_values: entries of the activations of a segment.
        most_products: entries that comparing the taps of a segment takes.
        most_weights: entries of the weights of a segment; None where they are used as they are stored.
    """
    graph = _Graph(program, frozenset(taps))
    bounds, start = [0], 0
    totals = [0, 0, 0]
    for index, node in enumerate(graph.steps):
        own = (graph.held(node), taps.get(node.name, 0), graph.weights(node))
        limits = (most_values, most_products, most_weights)
        while index > start and any(n is not None and t + more > n for t, more, n in zip(totals, own, limits, strict=True)):
            bound = graph.narrowest(start, index)
            if bound is None:
                break
            start = bound
            bounds.append(start)
            since = graph.steps[start:index]
            totals = [sum(map(graph.held, since)), sum(taps.get(n.name, 0) for n in since), sum(map(graph.weights, since))]
        totals = [total + more for total, more in zip(totals, own, strict=True)]
    bounds.append(len(graph.steps))
    return tuple(graph.segment(low, high, taps) for low, high in pairwise(bounds))


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

        def width(bound: int) -> float:
            found = [self.values[name] for name in self.alive(bound)]
            return sum(v.numel() for v in found) if all(isinstance(v, Tensor) for v in found) else math.inf

        for low in (start + (high - start + 1) // 2, start + 1):
            widths = {bound: width(bound) for bound in range(high, low - 1, -1)}
            best = min(widths, key=lambda bound: widths[bound])
            if widths[best] < math.inf:
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
        return Segment(tuple(needed), self.alive(low), outputs, read, sum(map(self.held, steps)))

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


class Runner:
    """Runs segments with the tensors of one network, all codes at once where the operators allow it.

    Args:
        program: that was cut.
        tensors: parameters and buffers by state-dict key; floating-point ones of one type, each asked for when it is needed.
        sample: a tensor of the type and device that is computed in.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], sample: Tensor) -> None:
        self.program, self.tensors, self.sample = program, tensors, sample
        self.place = Place(sample.device, sample.dtype)

    def forward(self, segment: Segment, values: Values, size: int) -> Values:
        """The outputs of a segment, without derivatives.

        Args:
            segment: what is run.
            values: its inputs.
            size: codes at once.
        """

        def single(live: Values) -> Values:
            return self._run(segment, live, {})[0]

        with torch.no_grad():
            parts = [self._each(single, part_of(values, start, size)) for start in range(0, count_of(values), size)]
        return {name: torch.cat([part[name] for part in parts]) for name in segment.outputs} if len(parts) > 1 else parts[0]

    def pull(self, segment: Segment, values: Values, cotangents: Values) -> tuple[Values, Values, Values]:
        """What is read in a segment, the cotangents of that, and the cotangents of the inputs.

        Args:
            segment: what is run.
            values: its inputs.
            cotangents: of its outputs; those that are missing are zero.
        """

        def single(live: Values, codes: Values) -> tuple[Values, Values, Values]:
            floating = {n: v for n, v in live.items() if v.is_floating_point()}
            fixed = {n: v for n, v in live.items() if n not in floating}
            nudges = {n: torch.zeros(self._shape(n), dtype=self.sample.dtype, device=self.sample.device) for n in segment.taps}

            def outputs(floating: Values, nudges: Values) -> tuple[Values, Values]:
                found, reads = self._run(segment, {**floating, **fixed}, nudges)
                return {n: found[n] for n in codes}, reads

            if self.program.vectorised:
                _, back, reads = torch.func.vjp(outputs, floating, nudges, has_aux=True)  # type: ignore[misc]
                into, pulled = back(codes)
                return reads, pulled, into
            return _differentiate(outputs, floating, nudges, codes)

        used = {n: c for n, c in cotangents.items() if n in segment.outputs}  # an output may be a parameter
        found: tuple[Values, Values, Values] = self._each(single, values, used)
        return found

    def _shape(self, step: str) -> tuple[int, ...]:
        return tuple(self.program.architecture.reads[step].shape)

    def _each(self, function: Callable[..., Any], *stacked: Values) -> Any:
        if self.program.vectorised:
            try:
                return vectorise(function, *stacked, randomness="different")
            except (RuntimeError, NotImplementedError):  # an operator that torch.func cannot transform
                self.program.vectorised = False
        runs = [function(*({n: v[i] for n, v in part.items()} for part in stacked)) for i in range(count_of(stacked[0]))]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *runs)

    def _run(self, segment: Segment, live: Values, nudges: Mapping[str, Tensor]) -> tuple[Values, Values]:
        values: dict[str, Any] = dict(live)
        kept = set(segment.outputs)
        left: dict[str, int] = {}
        for node in segment.nodes:
            for used in node.all_input_nodes:
                left[used.name] = left.get(used.name, 0) + 1
        reads: Values = {}
        for node in segment.nodes:
            for used in node.all_input_nodes:
                if used.name not in values:
                    values[used.name] = self.program.operand(used, self.tensors, self.place)
            values[node.name] = self.program.call(node, values, self.place)
            if node.name in nudges:
                values[node.name] = values[node.name] + nudges[node.name]
            if node.name in segment.taps:
                reads[node.name] = values[node.name]
            for used in node.all_input_nodes:
                left[used.name] -= 1
                if not left[used.name] and used.name not in kept:
                    values.pop(used.name, None)
        return {name: values[name] for name in segment.outputs}, reads


def _differentiate(
    outputs: Callable[[Values, Values], tuple[Values, Values]], floating: Values, nudges: Values, codes: Values
) -> tuple[Values, Values, Values]:
    """`Runner.pull` for one code by plain automatic differentiation, for operators that cannot be vectorised."""
    with torch.enable_grad():
        floating, nudges = ({n: v.detach().requires_grad_() for n, v in part.items()} for part in (floating, nudges))
        found, reads = outputs(floating, nudges)
        leaves = [*floating.values(), *nudges.values()]
        ends = [(found[n], c) for n, c in codes.items() if found[n].requires_grad]
        pulled = torch.autograd.grad([o for o, _ in ends], leaves, [c for _, c in ends], allow_unused=True)
    whole = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, pulled, strict=True)]
    into, back = whole[: len(floating)], whole[len(floating) :]
    return (
        {n: r.detach() for n, r in reads.items()},
        {n: g.detach() for n, g in zip(nudges, back, strict=True)},
        {n: g.detach() for n, g in zip(floating, into, strict=True)},
    )


def part_of(values: Mapping[str, Tensor], start: int, size: int) -> Values:
    """Some of the codes of activations."""
    return {name: value[start : start + size] for name, value in values.items()}


def count_of(values: Mapping[str, Tensor]) -> int:
    """Number of codes of activations."""
    return len(next(iter(values.values())))
