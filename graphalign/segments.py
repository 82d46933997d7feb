"""Parts of a traced program, each of which is run by itself: what a large network needs in memory is one of them at a time.

Between segments only the activations live that later steps still use. Backward, a segment is run again from those and pulled back
(checkpointing, Chen et al. 2016, arXiv:1604.06174); weights are read when a step needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
        alive: entries of the inputs of one code.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    taps: tuple[str, ...]
    held: int
    alive: int


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
            count = count_of(values)
            (found,) = gather(((self._each(single, part_of(values, start, size)),) for start in range(0, count, size)), count)
        return found

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


def gather(parts: Iterable[tuple[Values, ...]], codes: int) -> tuple[Values, ...]:
    """Activations of all codes from those of some codes after the other, each of which is dropped when it has been copied.

    Args:
        parts: of one or more networks.
        codes: in all parts together.
    """
    whole: tuple[Values, ...] = ()
    start = 0
    for part in parts:
        count = next((len(value) for values in part for value in values.values()), 0)
        if count == codes:
            return part
        whole = whole or tuple({name: value.new_empty(codes, *value.shape[1:]) for name, value in values.items()} for values in part)
        for target, values in zip(whole, part, strict=True):
            for name, value in values.items():
                target[name][start : start + count] = value
        start += count
    return whole
