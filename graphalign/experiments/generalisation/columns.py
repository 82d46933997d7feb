"""The columns of a table: what is done to a pair of networks, as a chain of methods, and what each of them sees."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.case import Sees
from graphalign.methods import configure
from graphalign.methods.problem import Problem, Solution

ROLE = "trained"
"""Name of the set of aligners that a row chooses."""


@dataclass(frozen=True)
class Column:
    """A chain of methods, each starting from the result of the one before.

    Attributes:
        name: key in configurations and results.
        title: heading.
        stages: of each method its name, as in `graphalign.methods`, what it sees, and its settings.
        variants: settings of the last method, tried one after the other; the best on the tuning pairs is used.
        aligner: name of the set of aligners that the methods "gnn" use; "trained" is what the row says.
        timed_only: whether its seconds alone are measured.
    """

    name: str
    title: str
    stages: tuple[tuple[str, Sees, Mapping[str, Any]], ...]
    variants: tuple[Mapping[str, Any], ...] = ({},)
    aligner: str | None = None
    timed_only: bool = False

    def chain(self, variant: Mapping[str, Any], aligner: Aligner | None) -> Chain:
        """The methods with their settings.

        Raises:
            InvalidInput: an unknown method or setting.
        """
        links = []
        for i, (method, sees, options) in enumerate(self.stages):
            own = {**options, **(variant if i == len(self.stages) - 1 else {}), **({"aligner": aligner} if method == "gnn" else {})}
            links.append((configure(method, own), sees))
        return Chain(tuple(links))

    def key(self, variant: Mapping[str, Any]) -> list[Any]:
        """What distinguishes it from other columns, as JSON; titles do not count."""
        return [[list(stage) for stage in self.stages], dict(variant)]


@dataclass(frozen=True)
class Chain:
    """Methods in a row; on all pairs at once where they can."""

    links: tuple[tuple[Any, Sees], ...]

    def __call__(self, problems: Sequence[Problem], data: Mapping[Sees, list[Any] | None]) -> tuple[list[Solution], float]:
        """Solutions of problems of one architecture, and seconds per problem."""
        _wait(problems[0])
        begun = time.perf_counter()
        solutions: list[Solution] = []
        for solver, sees in self.links:
            seen = [replace(p, data=data[sees]) for p in problems]
            if solutions:
                seen = [replace(p, start=s.permutations, scores=s.scores) for p, s in zip(seen, solutions, strict=True)]
            solutions = solver.solve(seen) if hasattr(solver, "solve") else [solver(problem) for problem in seen]
        _wait(problems[0])
        return solutions, (time.perf_counter() - begun) / len(problems)


def _wait(problem: Problem) -> None:
    """Lets the device finish, so that a clock counts all of the work and nothing else."""
    device = next(iter(problem.a.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_columns(content: Mapping[str, Any]) -> dict[str, Column]:
    """The columns of a configuration, in its order.

    A column has `stages`, a list of {method, sees, and the method's settings}, and may have `title`, `aligner`, `timed_only` and
    `variants`: lists of values by setting of the last method, combined in every way, or a list of such mappings.

    Raises:
        InvalidInput: lists every problem.
    """
    columns: dict[str, Column] = {}
    problems: list[str] = []
    for name, entry in content.items():
        if entry is None:  # a column that a configuration built on another one leaves out
            continue
        try:
            columns[name] = _column(name, entry)
            for variant in columns[name].variants:
                columns[name].chain(variant, None)
        except InvalidInput as error:
            problems.append(f"{name}: {error}")
    if problems or not columns:
        raise InvalidInput("columns:\n" + "\n".join(f"  - {p}" for p in problems or ["found none, expected at least one"]))
    return columns


def _column(name: str, entry: Any) -> Column:
    known = {"title", "stages", "variants", "aligner", "timed_only"}
    if not isinstance(entry, Mapping) or entry.keys() - known or not entry.get("stages"):
        raise InvalidInput(f"found {entry!r}, expected a mapping of stages and, if needed, {', '.join(sorted(known - {'stages'}))}")
    stages = []
    for stage in entry["stages"]:
        options = dict(stage)
        method, sees = options.pop("method", None), options.pop("sees", "nothing")
        if not isinstance(method, str) or sees not in get_args(Sees):
            raise InvalidInput(f"found the stage {stage!r}, expected a method and sees, one of {', '.join(get_args(Sees))}")
        stages.append((method, sees, options))
    aligner = entry.get("aligner")
    if (aligner is None) == any(method == "gnn" for method, _, _ in stages):
        raise InvalidInput("found an aligner without the method gnn, or gnn without an aligner, expected both or neither")
    variants = entry.get("variants") or {}
    grids = variants if isinstance(variants, list) else [variants]
    product = [dict(zip(grid, values, strict=True)) for grid in grids for values in itertools.product(*map(_listed, grid.values()))]
    return Column(name, str(entry.get("title", name)), tuple(stages), tuple(product), aligner, bool(entry.get("timed_only", False)))


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]
