"""The suite "batch": pairs per second of `align_many` and of a loop of `align`, on the same networks in one run.

Weights are random and as PyTorch initialises them: none of the times depends on them. The loop is measured on its first pairs, in turns
with the batches, and extrapolated; every call counts all it does, from modules to permutations.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.bench.networks import Network, build
from graphalign.bench.settings import Report, Settings, read_entries, read_sizes
from graphalign.curve import new_figure, save_figure
from graphalign.experiments.footprint import reset_peak, resident
from graphalign.experiments.results import Table, environment
from graphalign.many import align_all, align_many, align_to
from graphalign.pairwise import align


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        budget: seconds of runs after which a measurement is not repeated any more.
        networks: the fields of a `Network` by key.
        pairs: numbers of pairs of distinct networks; networks that occur in several pairs are measured with the second number.
        looped: pairs on which the loop is measured.
    """

    budget: float
    networks: Mapping[str, Any]
    pairs: tuple[int, ...]
    looped: int


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
    """Measures everything in one process.

    Raises:
        InvalidInput: the configuration is not that of this suite.
    """
    sizes = read_sizes(Sizes, settings.sizes, "bench batch")
    where = environment()
    networks = read_entries(Network, sizes.networks, "bench batch: networks")
    results = {
        "title": "Many pairs in one call",
        "command": settings.command,
        "seed": settings.seed,
        "environment": where,
        "device": "cpu",
        "repetitions": settings.repetitions,
        "budget": sizes.budget,
        "looped": sizes.looped,
        "rows": [row for network in networks for row in measure(network, sizes, settings)],
    }
    return Report(results, [table(results)], partial(draw, results))


def measure(network: Network, sizes: Sizes, settings: Settings) -> list[dict[str, Any]]:
    """The rows of an architecture."""
    found = cases(network.name, sizes.pairs)
    count = max(case.networks for case in found)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        built = [build(network.kind, network.sizes) for _ in range(count)]
    networks, example = [module for module, _ in built], built[0][1]

    def loop(case: Case) -> list[Alignment]:
        return [align(networks[i], networks[j], example_input=example) for i, j in case.places[: sizes.looped]]

    loop(Case(network.name, "pairs", 2))  # loads libraries
    Case(network.name, "pairs", 2).run(networks, example)
    rows = []
    for case in found:
        looped: list[Clock] = []
        batched: list[Clock] = []
        spent = time.perf_counter()
        while not batched or (len(batched) < settings.repetitions and time.perf_counter() - spent < sizes.budget):
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
        row = rows[-1]
        print(f"{network.name}, {case.pairs} pairs, {case.way}: {ratio(row, 'cpu'):.1f} times the loop", file=sys.stderr, flush=True)
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


def ratio(row: Mapping[str, Any], kind: str) -> float:
    """Seconds per pair of the loop over those of `align_many`, by a clock: medians."""
    return float(statistics.median(row["loop"][kind]) / statistics.median(row["many"][kind]))


def table(results: Mapping[str, Any]) -> Table:
    """Pairs per second and ratios."""
    rows = []
    for row in results["rows"]:
        loop, many = (statistics.median(row[which]["cpu"]) for which in ("loop", "many"))
        rows.append(
            [
                row["network"], row["way"], f"{row['pairs']:,}", f"{1 / loop:.2f}", f"{1 / many:.1f}", f"{ratio(row, 'cpu'):.1f}",
                f"{ratio(row, 'wall'):.1f}", f"{row['memory'] / 2**20:,.0f}", f"{row['equal']:.2f}", str(row["repetitions"]),
            ]
        )  # fmt: skip
    return Table(
        f"Pairs per second of processor time, {results['device'].upper()}, {results['environment']['threads']} thread(s)",
        ["network", "networks in", "pairs", "loop of align", "align_many", "ratio", "ratio by the clock", "peak memory, MiB",
         "same as alone", "runs"],
        rows,
        [f"The loop is measured on the first {results['looped']} pairs, in turns with the batches, of which \"same as alone\" says how many got "
         "equal permutations in both. Memory is what the call needs above the networks."],
    )  # fmt: skip


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Pairs per second against the number of pairs, logarithmic, into a PNG file."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for index, network in enumerate(dict.fromkeys(row["network"] for row in results["rows"])):
        rows = [row for row in results["rows"] if row["network"] == network and row["way"] == "pairs"]
        pairs, colour = [row["pairs"] for row in rows], f"C{index}"
        axes.plot(pairs, [1 / statistics.median(row["many"]["cpu"]) for row in rows], "o-", color=colour, label=f"{network}: align_many")
        axes.plot(pairs, [1 / statistics.median(row["loop"]["cpu"]) for row in rows], "s:", color=colour, label=f"{network}: loop of align")
    axes.set(xscale="log", yscale="log", xlabel="pairs of distinct networks in the call", ylabel="pairs per second of processor time")
    axes.grid(alpha=0.3)
    axes.set_ylim(top=6 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=7, loc="upper left", ncols=2)
    save_figure(figure, path)


__all__ = ["run"]
