"""The suite "methods": our methods and other people's implementations of them, on the same inputs, in one run.

Pairs are planted: B is A with its units shuffled, so that what is right is known. Every implementation has a process of its own
with one thread; the first run of a measurement, which loads libraries, does not count.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphalign.bench.assignments import SCORES
from graphalign.bench.method_tables import OURS, tables
from graphalign.bench.pairs import Pair, make_pair
from graphalign.bench.peers import find_peers
from graphalign.bench.processes import Job, MeasurementFailed, Result, measure
from graphalign.bench.settings import Report, Settings
from graphalign.experiments.results import environment

PARTS = ("weight", "families", "sinkhorn", "transport", "assignments")
BUDGET = 60.0
"""Seconds of runs after which a measurement is not repeated any more."""
RATES = (0.1, 1.0, 10.1)
"""Learning rates tried for sinkhorn-rebasin; the first is that of its example for MLPs, the last that of the one for CNNs."""
LIMIT = 60
"""Steps after which sinkhorn-rebasin is given up."""
DEFAULT, ONE_ASCENT = {"method": "weight"}, {"method": "weight", "start": "identity"}
SINKHORN = {"method": "sinkhorn", "objective": "l2", "rate": 10.0, "every": 1, "patience": 2}
"""Settings for weights that match exactly: large steps, a look at the permutations after each, and an early end."""
FAMILIES: dict[str, tuple[str, tuple[int, ...]]] = {
    "conv-conv-flatten-linear-linear": ("flatten_cnn", (8, 16, 32)),
    "MLP with BatchNorm1d": ("batch_norm_mlp", (20, 32, 32, 5)),
    "residual MLP": ("residual", (16, 32)),
    "ResNet with BatchNorm2d": ("residual_cnn", (8,)),
    "MLP, units differ in biases only": ("bias_only", (8, 32)),
}


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        part: of the results, that its row belongs to.
        facts: what the row says of it besides the results.
        job: what is measured.
        pair: of networks, whose alignment is judged.
    """

    part: str
    facts: dict[str, Any]
    job: Job
    pair: Pair | None = None

    def row(self, result: Result) -> dict[str, Any]:
        """The row of a result; an implementation is judged by the worst of its runs."""
        found = {**self.facts, **result.facts}
        if self.pair is not None and result.states:
            found["recovered"] = min(self.pair.recovered(moved) for moved in result.states.values())
            found["change"] = max(self.pair.change_of_function(moved) for moved in result.states.values())
        return found


def run(settings: Settings) -> Report:
    """Measures everything, one process at a time.

    Raises:
        InvalidInput: the folder of peers lacks some.
        MeasurementFailed: one of our own measurements failed. Where a peer's fails, that is its result.
    """
    where = environment()  # of the code as it was loaded
    versions = find_peers(settings.peers)
    if not versions:
        print("bench: no --peers folder, measuring graphalign alone", file=sys.stderr, flush=True)
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for implementation in (*versions, OURS):
        paths = [settings.peers.resolve() / implementation] if settings.peers and implementation != OURS else []
        collect(parts, cases(settings, implementation), 1, paths)
    cores = os.cpu_count() or 1
    if cores > 1 and not settings.quick:
        collect(parts, assignment_cases(settings, cores), cores)
    results = {
        "title": "Our methods and other implementations",
        "command": settings.command("methods"),
        "seed": settings.seed,
        "environment": {**where, "threads": 1},
        "repetitions": settings.repetitions,
        "budget": BUDGET,
        "limit": LIMIT,
        "rates": RATES,
        "peers": versions,
        **parts,
    }
    return Report(results, tables(results))


def collect(parts: dict[str, list[dict[str, Any]]], found: Sequence[Case], threads: int, paths: Sequence[Path] = ()) -> None:
    """Measures cases in one process and appends their rows to the parts they belong to.

    Raises:
        MeasurementFailed: some of our own failed; lists them all.
    """
    rows = [case.row(result) for case, result in zip(found, measure([c.job for c in found], threads=threads, paths=paths), strict=True)]
    failed = [f"{case.facts}: {row['error']}" for case, row in zip(found, rows, strict=True) if "error" in row and not paths]
    if failed:
        raise MeasurementFailed("bench: some measurements failed:\n" + "\n".join(f"  - {line}" for line in failed))
    for case, row in zip(found, rows, strict=True):
        parts[case.part].append(row)


def cases(settings: Settings, implementation: str) -> list[Case]:
    """What one implementation is measured on, with one thread."""
    ours = implementation == OURS
    found: list[Case] = []
    if ours or implementation == "rebasin":
        ways = [ONE_ASCENT, DEFAULT] if ours else [{}]
        sizes = (24, 16, 16, 5) if settings.quick else (784, 256, 256, 10)
        pair = make_pair("mlp", sizes, 1.0, settings.seed)
        found += [alignment_case(settings, "weight", "MLP", pair, implementation, way) for way in ways]
        for name, (kind, kind_sizes) in FAMILIES.items():
            pair = make_pair(kind, kind_sizes, 0.0, settings.seed)
            found.append(alignment_case(settings, "families", name, pair, implementation, ways[-1]))
    if ours or implementation == "sinkhorn-rebasin":
        tried: list[dict[str, Any]] = [SINKHORN] if ours else [{"rate": rate, "limit": LIMIT} for rate in RATES]
        for width in (16,) if settings.quick else (64, 256, 512):
            pair = make_pair("mlp", (32, width, width, 10), 0.0, settings.seed)
            found += [alignment_case(settings, "sinkhorn", "MLP", pair, implementation, way) for way in tried]
    return [*found, *transport_cases(settings), *assignment_cases(settings, 1)] if ours else found


def alignment_case(
    settings: Settings, part: str, network: str, pair: Pair, implementation: str, options: Mapping[str, Any]
) -> Case:  # fmt: skip
    """One implementation with its options on one pair."""
    facts = {"network": network, "sizes": list(pair.sizes), "implementation": implementation, "options": dict(options)}
    limits = {"repetitions": settings.repetitions, "budget": BUDGET, "seed": settings.seed}
    job = Job("alignment", {**facts, **limits, "kind": pair.kind}, {"a": pair.a, "b": pair.b})
    return Case(part, facts, job, pair)


def transport_cases(settings: Settings) -> list[Case]:
    """Exact transport between equal and different widths; none without POT."""
    if find_spec("ot") is None:
        return []
    widths = ((8, 8), (8, 6)) if settings.quick else ((64, 64), (256, 256), (1024, 1024), (48, 64))
    return [Case("transport", {"widths": pair}, Job("transport", {"widths": pair, "inputs": 32, "seed": settings.seed})) for pair in widths]


def assignment_cases(settings: Settings, threads: int) -> list[Case]:
    """Batches of linear assignments."""
    found = []
    for problems, units in ((4, 8),) if settings.quick else ((64, 64), (8, 256), (2, 1024)):
        for scores in SCORES:
            facts = {"problems": problems, "units": units, "scores": scores}
            more = {"seed": settings.seed, "repetitions": settings.repetitions * (1 if units > 256 else 5)}
            found.append(Case("assignments", {**facts, "threads": threads}, Job("assignments", {**facts, **more})))
    return found


__all__ = ["run"]
