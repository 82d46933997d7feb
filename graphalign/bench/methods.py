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
from graphalign.bench.networks import Network
from graphalign.bench.pairs import Pair, make_pair
from graphalign.bench.peers import find_peers
from graphalign.bench.processes import Job, MeasurementFailed, Result, measure
from graphalign.bench.settings import Report, Settings, read_entries, read_sizes
from graphalign.experiments.results import environment

PARTS = ("weight", "families", "sinkhorn", "transport", "assignments")
DEFAULT, ONE_ASCENT = {"method": "weight"}, {"method": "weight", "start": "identity"}
SINKHORN = {"method": "sinkhorn", "objective": "l2", "rate": 10.0, "every": 1, "patience": 2}
"""Settings for weights that match exactly: large steps, a look at the permutations after each, and an early end."""
@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        budget: seconds of runs after which a measurement is not repeated any more.
        weight: sizes of the MLP of weight matching.
        families: the fields of a `Network` by key: networks in which every kind of tie occurs.
        sinkhorn: widths of the MLPs of Sinkhorn re-basin.
        rates: learning rates tried for sinkhorn-rebasin.
        limit: steps after which sinkhorn-rebasin is given up.
        transport: widths of A and B of transport.
        assignments: problems and units of batches of assignments.
        all_cores: whether those are measured with all cores too.
    """

    budget: float
    weight: tuple[int, ...]
    families: Mapping[str, Any]
    sinkhorn: tuple[int, ...]
    rates: tuple[float, ...]
    limit: int
    transport: tuple[tuple[int, int], ...]
    assignments: tuple[tuple[int, int], ...]
    all_cores: bool


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
        InvalidInput: the folder of peers lacks some, or the configuration is not that of this suite.
        MeasurementFailed: one of our own measurements failed. Where a peer's fails, that is its result.
    """
    sizes = read_sizes(Sizes, settings.sizes, "bench methods")
    where = environment()  # of the code as it was loaded
    versions = find_peers(settings.peers)
    if not versions:
        print("bench: no --peers folder, measuring graphalign alone", file=sys.stderr, flush=True)
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for implementation in (*versions, OURS):
        paths = [settings.peers.resolve() / implementation] if settings.peers and implementation != OURS else []
        collect(parts, cases(settings, sizes, implementation), 1, paths)
    cores = os.cpu_count() or 1
    if cores > 1 and sizes.all_cores:
        collect(parts, assignment_cases(settings, sizes, cores), cores)
    results = {
        "title": "Our methods and other implementations",
        "command": settings.command,
        "seed": settings.seed,
        "environment": {**where, "threads": 1},
        "repetitions": settings.repetitions,
        "budget": sizes.budget,
        "limit": sizes.limit,
        "rates": sizes.rates,
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


def cases(settings: Settings, sizes: Sizes, implementation: str) -> list[Case]:
    """What one implementation is measured on, with one thread."""
    ours = implementation == OURS
    found: list[Case] = []
    limits = {"repetitions": settings.repetitions, "budget": sizes.budget, "seed": settings.seed}
    if ours or implementation == "rebasin":
        ways = [ONE_ASCENT, DEFAULT] if ours else [{}]
        pair = make_pair("mlp", sizes.weight, 1.0, settings.seed)
        found += [alignment_case(limits, "weight", "MLP", pair, implementation, way) for way in ways]
        for network in read_entries(Network, sizes.families, "bench methods: families"):
            pair = make_pair(network.kind, network.sizes, 0.0, settings.seed)
            found.append(alignment_case(limits, "families", network.name, pair, implementation, ways[-1]))
    if ours or implementation == "sinkhorn-rebasin":
        tried: list[dict[str, Any]] = [SINKHORN] if ours else [{"rate": rate, "limit": sizes.limit} for rate in sizes.rates]
        for width in sizes.sinkhorn:
            pair = make_pair("mlp", (32, width, width, 10), 0.0, settings.seed)
            found += [alignment_case(limits, "sinkhorn", "MLP", pair, implementation, way) for way in tried]
    return [*found, *transport_cases(settings, sizes), *assignment_cases(settings, sizes, 1)] if ours else found


def alignment_case(
    limits: Mapping[str, Any], part: str, network: str, pair: Pair, implementation: str, options: Mapping[str, Any]
) -> Case:  # fmt: skip
    """One implementation with its options on one pair, repeated within limits."""
    facts = {"network": network, "sizes": list(pair.sizes), "implementation": implementation, "options": dict(options)}
    job = Job("alignment", {**facts, **limits, "kind": pair.kind}, {"a": pair.a, "b": pair.b})
    return Case(part, facts, job, pair)


def transport_cases(settings: Settings, sizes: Sizes) -> list[Case]:
    """Exact transport between equal and different widths; none without POT."""
    if find_spec("ot") is None:
        return []
    return [
        Case("transport", {"widths": pair}, Job("transport", {"widths": pair, "inputs": 32, "seed": settings.seed})) for pair in sizes.transport
    ]  # fmt: skip


def assignment_cases(settings: Settings, sizes: Sizes, threads: int) -> list[Case]:
    """Batches of linear assignments."""
    found = []
    for problems, units in sizes.assignments:
        for scores in SCORES:
            facts = {"problems": problems, "units": units, "scores": scores}
            more = {"seed": settings.seed, "repetitions": settings.repetitions * (1 if units > 256 else 5)}
            found.append(Case("assignments", {**facts, "threads": threads}, Job("assignments", {**facts, **more})))
    return found


__all__ = ["run"]
