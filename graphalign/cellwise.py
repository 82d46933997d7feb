"""The comparison of two large networks, cell by cell: what is held at once is one stretch of them and the scores of one cell.

The same states as those of `encoder.encode_pair`, read stretch by stretch from the last to the first. All codes pass a stretch
before the next one, a few at a time, so the places where it is read are done with it. Between stretches, and between the segments of one,
few activations are kept, and the others run again from those (recursive checkpointing, Griewank 1992).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from math import comb
from typing import TypeVar

import torch
from torch import Tensor

from graphalign.allocator import give_back
from graphalign.architecture import Architecture
from graphalign.converted import Converted, sample_of
from graphalign.cutting import Limits, Stretch, cut
from graphalign.encoder import Moments, Tap, code_chunks, code_count, find_taps, rows_at
from graphalign.program import Program
from graphalign.segments import Runner, Segment, Values, count_of, gather, part_of

SEGMENT_VALUES = 2_000_000
"""Entries of activations of one code that a segment may hold."""
PRODUCT_VALUES = 2**23
"""Entries of products of states from which networks are large."""
STRETCH_VALUES = 25_000_000
"""Entries of products of states, and of what is alive at its ends for all codes, that a stretch may hold."""
WEIGHT_VALUES = 2**23
"""Entries of weights that a segment may convert to another type."""
KEPT_VALUES = 2**22
"""Entries of activations that are kept at once to run segments again from."""
FEWEST_SLOTS = 2
"""Places at which activations are kept, however many entries they have."""

Live = tuple[Values, Values]
"""Activations, or cotangents, of A and of B."""
_Place = tuple[str, str]
"""Step and cell of a tap."""
_Pair = tuple[Moments, Moments]
"""Of forward and of backward states."""
_Part = TypeVar("_Part", Segment, Stretch)
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
    values = dict(inputs) if inputs else {name: torch.cat([chunk[0][name] for chunk in chunks]) for name in chunks[0][0]}
    codes: Values = {}
    results = [node.name for node in program.results() if node.meta["val"].is_floating_point()]
    for index, name in enumerate(results):
        drawn = torch.cat([chunk[1][index] for chunk in chunks])
        codes[name] = codes[name] + drawn if name in codes else drawn
    comparison = _Comparison(program, a, b, taps, values, codes, sample)
    del chunks, codes, drawn
    yield from comparison.run(values)


class _Comparison:
    """Two networks, the stretches they are cut into, the cotangents on their way back, and the cells that are not complete yet."""

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
        limits = Limits(STRETCH_VALUES, SEGMENT_VALUES, WEIGHT_VALUES if converts else None)
        self.stretches = cut(program, products, count_of(inputs), limits)
        self.runners = Runner(program, a, sample), Runner(program, b, sample)
        self.waiting = {name: sum(tap.cell == name for tap in taps) for name in self.cells}
        self.sums: dict[str, list[Tensor]] = {}
        self.counts: dict[str, Tensor | int] = {}

    def run(self, values: Values) -> Iterator[CellScores]:
        """All cells."""
        for name, units in self.cells.items():
            if not self.waiting[name]:
                yield (name, self.sample.new_zeros(units, units), self.sample.new_zeros(units, units))
        slots = _slots(count_of(values), [stretch[0] for stretch in self.stretches])
        for stretch, live in _backward(self.stretches, (values, values), slots, self._forward):
            yield from self._pull(stretch, live)

    def _forward(self, stretches: Sequence[Stretch], values: Live) -> Live:
        segments = [segment for stretch in stretches for segment in stretch]
        codes = count_of(values[0])
        size = _codes_of(segments, codes)
        return _gathered((self._through(segments, part) for part in _parts(values, codes, size)), codes)

    def _through(self, segments: Sequence[Segment], values: Live) -> Live:
        a, b = values
        for segment in segments:
            size = _at_once(segment)
            a, b = (runner.forward(segment, v, size) for runner, v in zip(self.runners, (a, b), strict=True))
        return a, b

    def _pull(self, stretch: Stretch, values: Live) -> Iterator[CellScores]:
        """Cells that are complete after a stretch; the cotangents become those of its inputs."""
        steps = [step for segment in stretch for step in segment.taps]
        if not steps and stretch is self.stretches[0]:
            return
        moments: dict[_Place, _Pair] = {(t.step, t.cell): (Moments(centred=True), Moments(centred=False)) for step in steps for t in self.taps[step]}
        codes = count_of(values[0])
        size = _codes_of(stretch, codes)
        give_back()
        parts = zip(_parts(values, codes, size), _parts(self.codes, codes, size), strict=True)
        pulled = (self._pull_codes(stretch, *part, moments) for part in parts)
        if stretch is self.stretches[0]:
            deque(pulled, maxlen=0)  # nothing is before it
        else:
            self.codes = _gathered(pulled, codes)
        for step in reversed(steps):
            for tap in self.taps[step]:
                self._add(tap, *moments.pop((tap.step, tap.cell)))
                if not self.waiting[tap.cell]:
                    yield (tap.cell, *self._complete(tap.cell))

    def _pull_codes(self, stretch: Stretch, values: Live, cotangents: Live, moments: Mapping[_Place, _Pair]) -> Live:
        """Adds what is read in a stretch to the moments; the cotangents of its inputs."""
        codes = count_of(values[0])
        for segment, live in _backward(stretch, values, _slots(codes, stretch), self._through):
            give_back()
            size = _at_once(segment)
            parts = zip(_parts(live, codes, size), _parts(cotangents, codes, size), strict=True)
            cotangents = _gathered((self._pull_at_once(segment, *part, moments) for part in parts), codes)
        return cotangents

    def _pull_at_once(self, segment: Segment, values: Live, cotangents: Live, moments: Mapping[_Place, _Pair]) -> Live:
        (*of_a, back_a), (*of_b, back_b) = (runner.pull(segment, *of) for runner, *of in zip(self.runners, values, cotangents, strict=True))
        for step in segment.taps:
            for tap in self.taps[step]:
                for kind, moment in enumerate(moments[tap.step, tap.cell]):
                    moment.add(rows_at(tap, of_a[kind]), rows_at(tap, of_b[kind]))
        return back_a, back_b

    def _add(self, tap: Tap, *moments: Moments) -> None:
        """Adds the cosines of a tap to the sums of its cell."""
        self.waiting[tap.cell] -= 1
        units = self.cells[tap.cell]
        if len(tap.units) == units:
            own = [moment.into_cosine() for moment in moments]
            sums = self.sums.setdefault(tap.cell, own)
            if sums is not own:
                for total in sums:
                    total += own.pop(0)
            self.counts[tap.cell] = self.counts.get(tap.cell, 0) + 1
            return
        if tap.cell not in self.sums:
            self.sums[tap.cell] = [self.sample.new_zeros(units, units) for _ in moments]
        which = tap.units.to(self.sample.device, non_blocking=True)
        rows, columns = which[:, None], which[None]
        for total, moment in zip(self.sums[tap.cell], moments, strict=True):
            total[rows, columns] += moment.into_cosine()
        count = self.sample.new_zeros(units, units)
        count[rows, columns] = 1
        self.counts[tap.cell] = self.counts.get(tap.cell, 0) + count

    def _complete(self, cell: str) -> tuple[Tensor, Tensor]:
        forward, backward = self.sums.pop(cell)
        count = self.counts.pop(cell)
        count = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        return forward.div_(count), backward.div_(count)


def _backward(
    parts: Sequence[_Part], values: Live, slots: int, forward: Callable[[Sequence[_Part], Live], Live]
) -> Iterator[tuple[_Part, Live]]:
    """Parts from the last to the first, each with its inputs, run again from `values` and from at most `slots` others that are kept.

    Parts are run as few times as `slots` allows, but for the choice of where to keep (Griewank 1992, "Achieving logarithmic growth of
    temporal and spatial complexity in reverse automatic differentiation"): n parts once each and again at most r times, n <= (s + r choose s).
    """
    if len(parts) == 1:
        yield parts[0], values
        return
    if not slots:
        for index in reversed(range(len(parts))):
            yield parts[index], forward(parts[:index], values) if index else values
        return
    repeats = next(r for r in count(1) if comb(slots + r, slots) >= len(parts))
    middle = min(len(parts) - 1, comb(slots + repeats - 1, slots))
    yield from _backward(parts[middle:], forward(parts[:middle], values), slots - 1, forward)
    yield from _backward(parts[:middle], values, slots, forward)


def _slots(codes: int, segments: Sequence[Segment]) -> int:
    """How often what is alive before one of the segments may be kept."""
    return max(FEWEST_SLOTS, KEPT_VALUES // max(1, codes * max(segment.alive for segment in segments)))


def _at_once(segment: Segment) -> int:
    """Codes that pass a segment together."""
    return max(1, SEGMENT_VALUES // max(segment.held, 1))


def _codes_of(segments: Sequence[Segment], codes: int) -> int:
    """Codes, of as many as there are, that pass segments together: all if their inputs take half of what may be kept, or a quarter."""
    most = KEPT_VALUES // max(1, 2 * sum(segment.alive for segment in segments))
    return codes if most >= codes else max(1, min(most, codes // 4))


def _parts(values: Live, codes: int, size: int) -> Iterator[Live]:
    """Some of the codes after the other."""
    for start in range(0, codes, size):
        yield part_of(values[0], start, size), part_of(values[1], start, size)


def _gathered(parts: Iterator[Live], codes: int) -> Live:
    """The codes of all parts, each of which is dropped when it has been copied."""
    a, b = gather(parts, codes)
    return a, b
