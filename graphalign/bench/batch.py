"""The suite "batch": pairs per second of `align_many` and of a loop of `align`, on the same networks in one run.

Weights are random and as PyTorch initialises them: none of the times depends on them. The loop is measured on its first pairs, in turns
with the batches, and extrapolated; every call counts all it does, from modules to permutations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.bench.networks import build
from graphalign.bench.settings import Report, Settings
from graphalign.experiments.footprint import reset_peak, resident
from graphalign.experiments.results import Table, environment
from graphalign.many import align_all, align_many, align_to
from graphalign.pairwise import align

BUDGET = 30.0
"""Seconds of runs after which a measurement is not repeated any more."""
NETWORKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "MLP 784-64-64-64-10": ("mlp", (784, 64, 64, 64, 10)),
    "MLP 64-32-32-32-10": ("mlp", (64, 32, 32, 32, 10)),
    "CNN 8-16-32": ("flatten_cnn", (8, 16, 32)),
}
SIZES = (10, 100, 1000)
LOOPED = 5
"""Pairs on which the loop is measured."""
SMALL = (4, 8)


@dataclass(frozen=True)
class Case:
    """One way to align many pairs.

    Attributes:
        network: name of the architecture.
        way: "pairs" of distinct networks, "one to many" or "all pairs".
        pairs: their number.
    """

    network: str
    way: str
    pairs: int

    def run(self, networks: Sequence[nn.Module], example: Tensor) -> list[Alignment]:
        """The alignments, in the order of `places`."""
        used = self.networks
        if self.way == "pairs":
            return align_many([(networks[i], networks[j]) for i, j in self.places], example_input=example)
        if self.way == "one to many":
            return align_to(networks[0], networks[1:used], example_input=example)
        return list(align_all(networks[:used], example_input=example).values())

    @property
    def networks(self) -> int:
        """How many networks there are."""
        if self.way == "all pairs":
            return next(n for n in range(2, self.pairs + 2) if n * (n - 1) // 2 >= self.pairs)
        return 2 * self.pairs if self.way == "pairs" else self.pairs + 1

    @property
    def places(self) -> list[tuple[int, int]]:
        """The two networks of every pair."""
        if self.way == "pairs":
            return [(2 * k, 2 * k + 1) for k in range(self.pairs)]
        if self.way == "one to many":
            return [(0, k + 1) for k in range(self.pairs)]
        return [(i, j) for i in range(self.networks) for j in range(i + 1, self.networks)]


def cases(network: str, sizes: Sequence[int]) -> list[Case]:
    """What is measured of an architecture: distinct pairs by number, and networks that occur in several pairs."""
    some = sizes[min(1, len(sizes) - 1)]
    shared = next(n * (n - 1) // 2 for n in range(2, some + 2) if n * (n - 1) // 2 >= some)
    return [*(Case(network, "pairs", n) for n in sizes), Case(network, "one to many", some), Case(network, "all pairs", shared)]


def run(settings: Settings) -> Report:
    """Measures everything in one process; a quick run has few pairs of small networks."""
    where = environment()
    kinds = {"MLP 16-8-8-4": ("mlp", (16, 8, 8, 4))} if settings.quick else NETWORKS
    rows: list[dict[str, Any]] = []
    for network, (kind, sizes) in kinds.items():
        rows += measure(network, kind, sizes, SMALL if settings.quick else SIZES, settings)
    results = {
        "title": "Many pairs in one call",
        "command": settings.command("batch"),
        "seed": settings.seed,
        "environment": where,
        "device": "cpu",
        "repetitions": settings.repetitions,
        "budget": BUDGET,
        "looped": LOOPED,
        "rows": rows,
    }
    return Report(results, [table(results)])


def measure(network: str, kind: str, sizes: Sequence[int], numbers: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """The rows of an architecture.

    Args:
        network: its name.
        kind: see `graphalign.bench.networks`.
        sizes: arguments of that kind.
        numbers: of distinct pairs.
        settings: repetitions and seed.
    """
    found = cases(network, numbers)
    count = max(case.networks for case in found)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        built = [build(kind, sizes) for _ in range(count)]
    networks, example = [module for module, _ in built], built[0][1]

    def loop(case: Case) -> list[Alignment]:
        return [align(networks[i], networks[j], example_input=example) for i, j in case.places[:LOOPED]]

    loop(Case(network, "pairs", 2))  # loads libraries
    Case(network, "pairs", 2).run(networks, example)
    rows = []
    for case in found:
        looped: list[Clock] = []
        batched: list[Clock] = []
        spent = time.perf_counter()
        while not batched or (len(batched) < settings.repetitions and time.perf_counter() - spent < BUDGET):
            looped.append(clock(partial(loop, case)))
            batched.append(clock(partial(case.run, networks, example)))
        together, alone = batched[-1].result, looped[-1].result
        rows.append(
            {
                **asdict(case), "networks": case.networks, "repetitions": len(batched), "memory": max(c.memory for c in batched),
                "loop": seconds(looped, len(alone)), "many": seconds(batched, case.pairs),
                "equal": statistics.mean(group.same(x.permutations, y.permutations) for x, y in zip(alone, together, strict=False)),
            }
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Clock:
    """What a call took.

    Attributes:
        wall: seconds on the clock.
        cpu: seconds of all threads.
        memory: bytes of resident memory at most, above what there was before.
        result: what it returned.
    """

    wall: float
    cpu: float
    memory: int
    result: list[Alignment]


def clock(call: Callable[[], list[Alignment]]) -> Clock:
    """Runs a call and measures it."""
    reset_peak()
    before = resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Clock(time.perf_counter() - wall, time.process_time() - cpu, resident("VmHWM") - before, result)


def seconds(clocks: Sequence[Clock], pairs: int) -> dict[str, list[float]]:
    """Seconds per pair of every repetition, by clock."""
    return {"wall": [c.wall / pairs for c in clocks], "cpu": [c.cpu / pairs for c in clocks]}


def table(results: Mapping[str, Any]) -> Table:
    """Pairs per second and ratios."""
    rows = []
    for row in results["rows"]:
        middle = {(which, kind): statistics.median(row[which][kind]) for which in ("loop", "many") for kind in ("wall", "cpu")}
        rows.append(
            [
                row["network"], row["way"], f"{row['pairs']:,}", f"{1 / middle['loop', 'wall']:.2f}", f"{1 / middle['many', 'wall']:.1f}",
                f"{middle['loop', 'wall'] / middle['many', 'wall']:.1f}", f"{middle['loop', 'cpu'] / middle['many', 'cpu']:.1f}",
                f"{row['memory'] / 2**20:,.0f}", f"{row['equal']:.2f}", str(row["repetitions"]),
            ]
        )  # fmt: skip
    return Table(
        f"Pairs per second on the {results['device'].upper()}, {results['environment']['threads']} threads",
        ["network", "networks in", "pairs", "loop of align", "align_many", "ratio", "ratio of processor time", "peak memory, MiB",
         "same as alone", "runs"],
        rows,
        [f"The loop is measured on the first {results['looped']} pairs, of which \"same as alone\" says how many got equal permutations in both. "
         "Memory is what the call needs above the networks."],
    )  # fmt: skip


__all__ = ["run"]
