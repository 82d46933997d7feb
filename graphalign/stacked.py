"""The encoder for many pairs of one architecture at once: `encoder.encode_pair`, vectorised over pairs as well as over codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphalign.architecture import Architecture
from graphalign.converted import sample_of
from graphalign.encoder import Agreement, Tap, code_chunks, compare, find_taps, rows_at
from graphalign.program import Program, sweep
from graphalign.vectorising import vectorise


def encode_pairs(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], inputs: Mapping[str, Tensor], *, seed: int = 0,
    shared: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = ({}, {}),
) -> Agreement:  # fmt: skip
    """`encode_pair` for P pairs at once, the same up to rounding.

    Args:
        architecture: shared by all networks.
        a: floating-point tensors of the networks A by state-dict key, (P, ...).
        b: those of the networks B.
        inputs: codes of every pair by placeholder name, (P, C, *shape).
        seed: of cotangents and sampled positions, the same for all pairs.
        shared: tensors that all networks A, and that all networks B, have in common (counters and indices).
    """
    generator = torch.Generator().manual_seed(seed)
    program, sample = Program(architecture), sample_of(a)
    taps = find_taps(architecture, generator)
    chunks = code_chunks(program, 0, sample, generator, {name: values.transpose(0, 1) for name, values in inputs.items()})
    common = {id(a): shared[0], id(b): shared[1]}

    def sweep_all(
        program: Program, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], cotangents: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def single(own: dict[str, Tensor], codes: dict[str, Tensor]) -> Any:
            return sweep(program, {**common[id(tensors)], **own}, codes, cotangents)

        stacked = dict(tensors), {name: v.transpose(0, 1) for name, v in values.items()}
        if program.vectorised:
            try:
                result: tuple[dict[str, Tensor], dict[str, Tensor]] = vectorise(single, *stacked, randomness="different")
            except (RuntimeError, NotImplementedError, ValueError):  # an operator that cannot be vectorised twice
                program.vectorised = True  # perhaps once: the next sweep finds out
            else:
                return result
        each = [single(*pytree.tree_map(lambda t, i=i: t[i], stacked)) for i in range(len(next(iter(tensors.values()))))]
        joined: tuple[dict[str, Tensor], dict[str, Tensor]] = pytree.tree_map(lambda *parts: torch.stack(parts), *each)
        return joined

    def rows(tap: Tap, states: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = vectorise(lambda own: rows_at(tap, {tap.step: own}), states[tap.step])
        return found

    return compare(program, taps, a, b, chunks, sample, sweep_all, rows)
