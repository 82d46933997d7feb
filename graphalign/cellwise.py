"""The comparison of two large networks, cell by cell: what is held at once is one segment of them and the scores of one cell.

The same states as those of `encoder.encode_pair`, read segment by segment from the last to the first. All codes pass a segment
before the next one, so the places where it is read are done with it; between segments few activations are kept, and run again
from those (recursive checkpointing, Griewank 1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from graphalign.architecture import Architecture
from graphalign.converted import Converted, sample_of
from graphalign.encoder import Agreement, Moments, Tap, code_chunks, code_count, find_taps, rows_at
from graphalign.program import Program
from graphalign.segments import Runner, Segment, Values, count_of, cut, part_of

SEGMENT_VALUES = 2_000_000
"""Entries of activations of one code that a segment may hold."""
PRODUCT_VALUES = 2**23
"""Entries of products of states that a segment may hold."""
WEIGHT_VALUES = 2**23
"""Entries of weights that a segment may convert to another type."""
KEPT_VALUES = 2**22
"""Entries of activations that are kept at once to run segments again from."""

CellScores = tuple[str, Tensor, Tensor]
"""A cell, and the mean correlations of its forward and the mean cosines of its backward states, (U, U) each."""


def is_large(architecture: Architecture) -> bool:
    """Whether two networks are better compared by `compare_cells` than all at once."""
    held = sum(torch.Size(layer.shape).numel() for layer in architecture.layers)
    products = sum(2 * len(tap.units) ** 2 for tap in find_taps(architecture, torch.Generator()))
    return held > SEGMENT_VALUES or products > PRODUCT_VALUES


def compare_cells(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None, *,
    seed: int = 0,
) -> Iterator[CellScores]:  # fmt: skip
    """How alike the units of two networks are, cell by cell, each as soon as it is known; arguments as for `encode_pair`."""
    generator = torch.Generator().manual_seed(seed)
    program, sample = Program(architecture), sample_of(a)
    taps = find_taps(architecture, generator)
    chunks = list(code_chunks(program, code_count(architecture), sample, generator, inputs))
    values = {name: torch.cat([chunk[0][name] for chunk in chunks]) for name in chunks[0][0]}
    codes: Values = {}
    results = [node.name for node in program.results() if node.meta["val"].is_floating_point()]
    for index, name in enumerate(results):
        drawn = torch.cat([chunk[1][index] for chunk in chunks])
        codes[name] = codes[name] + drawn if name in codes else drawn
    comparison = _Comparison(program, a, b, taps, values, codes, sample)
    del chunks, codes, drawn
    yield from comparison.run(values)


def encode_large_pair(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None, *,
    seed: int = 0,
) -> Agreement:  # fmt: skip
    """`encode_pair` by `compare_cells`: the same up to rounding, with less memory and more time."""
    found = list(compare_cells(architecture, a, b, inputs, seed=seed))
    return Agreement({name: forward for name, forward, _ in found}, {name: backward for name, _, backward in found})


class _Comparison:
    """Two networks, the segments they are cut into, the cotangents on their way back, and the cells that are not complete yet."""

    def __init__(
        self, program: Program, a: Mapping[str, Tensor], b: Mapping[str, Tensor], taps: tuple[Tap, ...], inputs: Values, codes: Values,
        sample: Tensor,
    ) -> None:  # fmt: skip
        self.codes = codes, codes
        self.cells = {cell.name: cell.units for cell in program.architecture.spec.cells}
        self.sample = sample
        self.taps: dict[str, list[Tap]] = {}
        for tap in taps:
            self.taps.setdefault(tap.step, []).append(tap)
        products = {step: sum(2 * len(tap.units) ** 2 for tap in found) for step, found in self.taps.items()}
        converts = any(isinstance(tensors, Converted) and tensors.copies for tensors in (a, b))
        self.segments = cut(
            program, products, most_values=SEGMENT_VALUES, most_products=PRODUCT_VALUES, most_weights=WEIGHT_VALUES if converts else None
        )
        self.runners = Runner(program, a, sample), Runner(program, b, sample)
        widest = max((self._alive(program, segment) for segment in self.segments), default=1)
        self.branches = max(2, KEPT_VALUES // max(widest * count_of(inputs), 1))
        self.waiting = {name: sum(tap.cell == name for tap in taps) for name in self.cells}
        self.sums: dict[str, list[Tensor]] = {}
        self.counts: dict[str, Tensor | int] = {}

    @staticmethod
    def _alive(program: Program, segment: Segment) -> int:
        shapes = {node.name: node.meta.get("val") for node in program.graph.graph.nodes if node.name in segment.inputs}
        return sum(v.numel() for v in shapes.values() if isinstance(v, Tensor))

    def run(self, values: Values) -> Iterator[CellScores]:
        """All cells."""
        for name, units in self.cells.items():
            if not self.waiting[name]:
                yield (name, self.sample.new_zeros(units, units), self.sample.new_zeros(units, units))
        yield from self._pull(0, len(self.segments), (values, values))

    def _pull(self, low: int, high: int, values: tuple[Values, Values]) -> Iterator[CellScores]:
        """Cells that are complete after segments low .. high - 1; the cotangents become those of their inputs."""
        if high - low == 1:
            yield from self._pull_one(self.segments[low], values)
            return
        parts = min(self.branches, high - low)
        bounds = [low + (high - low) * i // parts for i in range(parts + 1)]
        kept = [values]
        for first, last in pairwise(bounds[:-1]):
            kept.append(self._forward(first, last, kept[-1]))
        for first, last in reversed(list(pairwise(bounds))):
            yield from self._pull(first, last, kept.pop())

    def _forward(self, low: int, high: int, values: tuple[Values, Values]) -> tuple[Values, Values]:
        a, b = values
        for segment in self.segments[low:high]:
            size = max(1, SEGMENT_VALUES // max(segment.held, 1))
            a, b = (runner.forward(segment, v, size) for runner, v in zip(self.runners, (a, b), strict=True))
        return a, b

    def _pull_one(self, segment: Segment, values: tuple[Values, Values]) -> Iterator[CellScores]:
        taps = [tap for step in segment.taps for tap in self.taps[step]]
        if not taps and segment is self.segments[0]:
            return
        moments = [(Moments(centred=True), Moments(centred=False)) for _ in taps]
        size = max(1, SEGMENT_VALUES // max(segment.held, 1))
        into: tuple[list[Values], list[Values]] = ([], [])
        for start in range(0, count_of(values[0]), size):
            states: list[tuple[Values, Values]] = []
            for runner, live, out, back in zip(self.runners, values, self.codes, into, strict=True):
                reads, pulled, cotangents = runner.pull(segment, part_of(live, start, size), part_of(out, start, size))
                states.append((reads, pulled))
                back.append(cotangents)
            for tap, pair in zip(taps, moments, strict=True):
                for kind, moment in enumerate(pair):
                    moment.add(rows_at(tap, states[0][kind]), rows_at(tap, states[1][kind]))
            del states, reads, pulled, cotangents, live, out
        self.codes = _joined(into[0]), _joined(into[1])
        for tap in taps:
            forward, backward = moments.pop(0)
            self._add(tap, forward, backward)
            del forward, backward
            if not self.waiting[tap.cell]:
                yield (tap.cell, *self._complete(tap.cell))

    def _add(self, tap: Tap, *moments: Moments) -> None:
        """Adds the cosines of a tap to the sums of its cell."""
        self.waiting[tap.cell] -= 1
        units = self.cells[tap.cell]
        whole = len(tap.units) == units
        if whole and tap.cell not in self.sums:
            self.sums[tap.cell], self.counts[tap.cell] = [moment.into_cosine() for moment in moments], 1
            return
        zeros = self.sample.new_zeros(units, units)
        sums = self.sums.setdefault(tap.cell, [zeros.clone() for _ in moments])
        counts = self.counts.setdefault(tap.cell, 0)
        if whole:
            for total, moment in zip(sums, moments, strict=True):
                total += moment.into_cosine()
            self.counts[tap.cell] = counts + 1
            return
        which = tap.units.to(zeros.device, non_blocking=True)
        rows, columns = which[:, None], which[None]
        for total, moment in zip(sums, moments, strict=True):
            total[rows, columns] += moment.into_cosine()
        zeros[rows, columns] = 1
        self.counts[tap.cell] = counts + zeros

    def _complete(self, cell: str) -> tuple[Tensor, Tensor]:
        forward, backward = self.sums.pop(cell)
        count = self.counts.pop(cell)
        count = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        return forward.div_(count), backward.div_(count)


def _joined(parts: list[Values]) -> Values:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]
