"""The codes of many pairs that share networks: candidates drawn once, and every network asked for its opinion of them once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphalign.aligner import Aligner, common_type, select
from graphalign.architecture import Architecture
from graphalign.converted import sample_of
from graphalign.encoder import chunk_sizes
from graphalign.methods.descent import stack
from graphalign.methods.problem import Problem
from graphalign.program import Program
from graphalign.selection import has_classes
from graphalign.vectorising import vectorise

HELD = 1 << 28
"""Bytes of opinions that are kept; those used longest ago are asked for again."""
TOGETHER = 8
"""Networks that are asked at once, if they are small: more gain nothing, and their activations leave the cache."""


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
            each = []
            for start in range(0, len(problems), TOGETHER // 2):
                part = problems[start : start + TOGETHER // 2]
                said = self._said(aligner, first.architecture, {id(s): s for p in part for s in (p.a, p.b)}, pool)
                each += [select(pool, count, said[id(p.a)], said[id(p.b)]) for p in part]
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

    def _said(
        self, aligner: Aligner, architecture: Architecture, states: Mapping[int, Mapping[str, Tensor]], pool: Mapping[str, Tensor]
    ) -> dict[int, Tensor | None]:
        """The opinions of networks by the id of their state, which is held with the opinion, so that no other state gets the same."""
        said = {}
        for key in states.keys() & self._held.keys():
            self._held.move_to_end(key)
            said[key] = self._held[key][1]
        missing = [key for key in states if key not in said]
        for key, opinion in zip(missing, _ask(aligner, architecture, [states[key] for key in missing], pool), strict=True):
            said[key] = opinion
            self._held[key] = (states[key], opinion)
            self._bytes += _size(opinion)
        while self._bytes > HELD and len(self._held) > 2:
            self._bytes -= _size(self._held.popitem(last=False)[1][1])
        return said


def _ask(
    aligner: Aligner, architecture: Architecture, states: Sequence[Mapping[str, Tensor]], pool: Mapping[str, Tensor]
) -> Sequence[Tensor | None]:
    """The opinion of each network; all at once if the activations of one on all inputs are few."""
    if not has_classes(Program(architecture)):
        return [None] * len(states)
    if len(states) > 1 and len(chunk_sizes(architecture, len(next(iter(pool.values()))))) == 1:
        like = sample_of(common_type(states[0], states[0])[0])
        shared = {name: tensor for name, tensor in states[0].items() if not tensor.is_floating_point()}

        def single(own: dict[str, Tensor]) -> Tensor:
            opinion = aligner.opinions(architecture, {**shared, **own}, pool)
            assert opinion is not None
            return opinion

        try:
            return list(vectorise(single, stack(states, architecture.spec, like), randomness="different"))
        except (RuntimeError, NotImplementedError, ValueError):  # an operator that cannot be vectorised twice
            pass
    return [aligner.opinions(architecture, common_type(state, state)[0], pool) for state in states]


def _size(opinion: Tensor | None) -> int:
    return 0 if opinion is None else opinion.numel() * opinion.element_size()
