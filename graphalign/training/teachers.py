"""Teachers: the permutations that many steps of optimisation on real inputs find for a pair, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from graphalign.aligner import Aligner
from graphalign.assignment import assign_spec
from graphalign.errors import GraphAlignError, InvalidInput
from graphalign.files import load_state, save_state
from graphalign.methods.consensus import Consensus
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.training.cases import Case
from graphalign.training.views import Views


@dataclass(frozen=True)
class Teacher:
    """What is distilled.

    Attributes:
        method: "consensus" (unlabelled images) or "sinkhorn" (labels), from the scores of the untrained aligner on real images.
        steps: of it.
        rate: of its steps.
        images: of a step, drawn anew for each of `batches` steps.
        batches: batches in turn.
    """

    method: Literal["consensus", "sinkhorn"] = "consensus"
    steps: int = 30
    rate: float = 0.2
    images: int = 256
    batches: int = 8

    def __post_init__(self) -> None:
        problems = [] if self.method in ("consensus", "sinkhorn") else [f"method={self.method!r}, expected 'consensus' or 'sinkhorn'"]
        problems += [f"{n}={getattr(self, n)!r}, expected at least 1" for n in ("steps", "images", "batches") if getattr(self, n) < 1]
        if problems:
            raise InvalidInput("found " + "; ".join(problems))


class Teachers:
    """Solutions of a teacher by pair.

    Args:
        teacher: the method.
        views: of the pairs on real images, from which it starts.
        folder: on disk, shared by runs; nothing is written if None.
    """

    def __init__(self, teacher: Teacher, views: Views, folder: Path | None) -> None:
        self.teacher, self.views, self.folder = teacher, views, folder
        self._known: dict[str, dict[str, Tensor]] = {}

    def get(self, case: Case, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """For every pair (a, b) the permutations of the units of network b into the order of a; those of (b, a) are the inverse ones."""
        upper = {pair: (min(pair), max(pair)) for pair in pairs}
        missing = [pair for pair in dict.fromkeys(upper.values()) if self._find(self._key(case, *pair)) is None]
        if missing:
            for pair, solution in zip(missing, self._solve(case, missing), strict=True):
                self._keep(self._key(case, *pair), solution)
        found = [self._known[self._key(case, *upper[pair])] for pair in pairs]
        return [
            solution if a < b else {name: torch.argsort(perm) for name, perm in solution.items()}
            for (a, b), solution in zip(pairs, found, strict=True)
        ]

    def _key(self, case: Case, a: int, b: int) -> str:
        about = repr([case.group.sha256, a, b, asdict(self.teacher), self.views.examples])
        return f"teacher_{hashlib.sha256(about.encode()).hexdigest()[:32]}"

    def _find(self, key: str) -> dict[str, Tensor] | None:
        file = None if self.folder is None else self.folder / f"{key}.safetensors"
        if key not in self._known and file is not None and file.is_file():
            with suppress(GraphAlignError):  # a damaged file is made again
                self._known[key] = load_state(file)
        return self._known.get(key)

    def _keep(self, key: str, solution: dict[str, Tensor]) -> None:
        self._known[key] = solution
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(solution, self.folder / f"{key}.safetensors", force=True)

    def _solve(self, case: Case, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        given = self.teacher
        generator = torch.Generator().manual_seed(int(case.group.sha256[:8], 16))
        data = [case.batch(given.images, generator) for _ in range(given.batches)]
        problems = []
        for a, b in pairs:
            problem = case.problem(a, b)
            with torch.no_grad():
                agreement = self.views.get(case, a, b, real=True).agreement
                scores = Aligner().to(case.images.x.device).combine(problem.spec, problem.a, problem.b, agreement)
            problems.append(replace(problem, data=data, scores=scores, start=assign_spec(problem.spec, scores)))
        if given.method == "sinkhorn":
            solutions = Sinkhorn("midpoint", given.steps, given.rate, examples=1).solve(problems)
        else:
            solutions = Consensus("values" if case.signal else "classes", given.steps, given.rate, examples=1).solve(problems)
        return [{name: perm.cpu() for name, perm in solution.permutations.items()} for solution in solutions]
