"""The codes of many pairs that share networks: candidates drawn once, and every network asked for its opinion of them once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphalign.aligner import Aligner, common_type, select
from graphalign.architecture import Architecture
from graphalign.converted import sample_of
from graphalign.methods.problem import Problem

HELD = 1 << 28
"""Bytes of opinions that are kept; those used longest ago are asked for again."""


class Opinions:
    """What networks say of the candidates of an aligner, kept as long as there is room."""

    def __init__(self) -> None:
        self._drawn: tuple[object, dict[str, Tensor], int | None] | None = None
        self._held: OrderedDict[int, tuple[Mapping[str, Tensor], Tensor | None]] = OrderedDict()
        self._bytes = 0

    def codes(self, aligner: Aligner, problems: Sequence[Problem]) -> dict[str, Tensor]:
        """The codes of every pair, (P, C, *shape) by placeholder name: those of `Aligner.codes`.

        Args:
            aligner: draws the candidates.
            problems: of one architecture, with one seed, on one device and in one type.
        """
        first = problems[0]
        assert first.architecture is not None
        with torch.no_grad():
            pool, count = self._pool(aligner, first)
            if count is None:
                return {name: values.expand(len(problems), *values.shape) for name, values in pool.items()}
            each = [select(pool, count, *(self._of(aligner, first.architecture, s, pool) for s in (p.a, p.b))) for p in problems]
            return {name: torch.stack([codes[name] for codes in each]) for name in pool}

    def _pool(self, aligner: Aligner, problem: Problem) -> tuple[dict[str, Tensor], int | None]:
        assert problem.architecture is not None
        sample = sample_of(common_type(problem.a, problem.b)[0])
        key = (aligner, problem.architecture.spec, problem.seed, sample.device, sample.dtype)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, *aligner.pool(problem.architecture, sample, seed=problem.seed))
            self._held.clear()
            self._bytes = 0
        return self._drawn[1], self._drawn[2]

    def _of(self, aligner: Aligner, architecture: Architecture, state: Mapping[str, Tensor], pool: Mapping[str, Tensor]) -> Tensor | None:
        key = id(state)  # held with the opinion, so that no other state gets the same
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][1]
        opinion = aligner.opinions(architecture, common_type(state, state)[0], pool)
        self._held[key] = (state, opinion)
        self._bytes += _size(opinion)
        while self._bytes > HELD and len(self._held) > 2:
            self._bytes -= _size(self._held.popitem(last=False)[1][1])
        return opinion


def _size(opinion: Tensor | None) -> int:
    return 0 if opinion is None else opinion.numel() * opinion.element_size()
