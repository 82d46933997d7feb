"""The suite "published": seconds per pair by the protocol that DEEP-ALIGN's runtimes were measured by (Navon et al. 2024, arXiv 2310.13397).

Activation matching sees a whole training set, Sinkhorn re-basin takes 1,000 steps. Both are measured in part, on two sizes, and extrapolated along
the line through the two, so that what does not grow with images or steps counts once. Weights and images are random: none of the times depends
on them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphalign.bench.parts import CLOCKS, Part, Parts
from graphalign.bench.settings import Report, Settings, read_entries, read_sizes
from graphalign.bench.stopwatch import Stopwatch
from graphalign.experiments.results import Table, environment
from graphalign.methods.activation import Activation
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.pairwise import Pair, prepare_pair
from graphalign.zoo.networks import vgg

NO_DATA, WITH_INPUTS, ACTIVATION, SINKHORN = "no_data", "with_inputs", "activation", "sinkhorn"
SLOW = (ACTIVATION, SINKHORN)


@dataclass(frozen=True)
class Subject:
    """A network whose pairs are aligned.

    Attributes:
        name: in the tables.
        widths: of the 3x3 convolutions of each stage.
        side: of the features that the one linear layer reads.
        images: that activation matching is measured on.
        steps: that Sinkhorn re-basin is measured on.
        seconds: as published, on an A100: of "activation", "sinkhorn" and "ours", which is DEEP-ALIGN.
    """

    name: str
    widths: tuple[tuple[int, ...], ...]
    side: int
    images: int
    steps: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        images: that activation matching sees.
        steps: of Sinkhorn re-basin.
        batch: images in a batch.
        inputs: of the pass with inputs.
        networks: the fields of a `Subject` by key.
    """

    images: int
    steps: int
    batch: int
    inputs: int
    networks: Mapping[str, Any]


def run(settings: Settings) -> Report:
    """Measures everything in one process, in turns.

    Raises:
        InvalidInput: the configuration is not that of this suite.
    """
    sizes = read_sizes(Sizes, settings.sizes, "bench published")
    subjects = read_entries(Subject, sizes.networks, "bench published: networks")
    where = environment()
    networks = [measure(subject, sizes, settings) for subject in subjects]
    results = {
        "title": "The published protocol of the speed",
        "command": settings.command,
        "seed": settings.seed,
        "environment": where,
        "repetitions": settings.repetitions,
        "images": sizes.images,
        "steps": sizes.steps,
        "inputs": sizes.inputs,
        "networks": networks,
    }
    return Report(results, [table(network, results) for network in networks])


def measure(subject: Subject, sizes: Sizes, settings: Settings) -> dict[str, Any]:
    """Seconds of a pair of networks by method, clock and repetition."""
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        networks = [vgg(subject.widths, pool=subject.side).eval() for _ in range(2)]
    x = torch.randn(max(subject.images, sizes.inputs), 3, 32, 32, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    tracing = Stopwatch()
    with tracing.stage("trace"):
        pair = prepare_pair(networks[0], networks[1], x[:1])
    found = methods(subject, sizes, pair, x, y, settings.seed)
    found[NO_DATA].seconds()  # loads libraries
    seconds: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in CLOCKS} for name in found}
    for _ in range(settings.repetitions):
        for name, parts in found.items():
            for clock, value in parts.seconds().items():
                seconds[name][clock].append(value)
            print(f"{subject.name}, {name}: {seconds[name]['cpu'][-1]:.3g} s", file=sys.stderr, flush=True)
    return {
        "name": subject.name,
        "parameters": sum(p.numel() for p in networks[0].parameters()),
        "tracing": tracing.cpu["trace"],
        "published": dict(subject.seconds),
        "measured": {name: found[name].measured[-1].size for name in SLOW},
        "seconds": seconds,
    }


def methods(subject: Subject, sizes: Sizes, pair: Pair, x: Tensor, y: Tensor, seed: int) -> dict[str, Parts]:
    """What is measured by name: ours whole, the slow ones on one batch or step and on as many as the subject says."""
    batches = [(x[i : i + sizes.batch], y[i : i + sizes.batch]) for i in range(0, subject.images, sizes.batch)]

    def part(solver: Callable[[Problem], Any], data: list[Any] | None, size: int = 1) -> Part:
        return Part(partial(solver, pair.problem(seed=seed, data=data)), size)

    return {
        NO_DATA: Parts((part(GNN(), None),)),
        WITH_INPUTS: Parts((part(GNN(examples=sizes.inputs, steps=10), [x[: sizes.inputs]]),)),
        ACTIVATION: Parts((part(Activation(), batches[:1], len(batches[0][0])), part(Activation(), batches, subject.images)), sizes.images),
        SINKHORN: Parts(
            (part(Sinkhorn(steps=1, patience=None), batches), part(Sinkhorn(steps=subject.steps, patience=None), batches, subject.steps)),
            sizes.steps,
        ),
    }  # fmt: skip


def ratio(network: Mapping[str, Any], slow: str, ours: str, clock: str = "cpu") -> float:
    """How many times longer a slow method takes than ours: medians."""
    return float(statistics.median(network["seconds"][slow][clock]) / statistics.median(network["seconds"][ours][clock]))


def table(network: Mapping[str, Any], results: Mapping[str, Any]) -> Table:
    """Seconds and ratios of a network."""
    titles = {
        NO_DATA: "graphalign, no data", WITH_INPUTS: f"graphalign, {results['inputs']} inputs, 10 steps",
        ACTIVATION: f"activation matching, {results['images']:,} images", SINKHORN: f"Sinkhorn, {results['steps']:,} steps",
    }  # fmt: skip
    rows = []
    for name, clocks in network["seconds"].items():
        cpu, spread = statistics.median(clocks["cpu"]), f"{min(clocks['cpu']):.3g}-{max(clocks['cpu']):.3g}"
        ratios = [f"{ratio(network, slow, name):.1f}" if name not in SLOW else "" for slow in SLOW]
        part = f"{network['measured'][name]:,}" if name in SLOW else "whole"
        rows.append([titles[name], f"{cpu:.3g}", spread, f"{statistics.median(clocks['wall']):.3g}", part, *ratios])
    published = network["published"]
    last = ["DEEP-ALIGN, as published (A100)", "", "", f"{published['ours']:g}", "", *(f"{published[slow] / published['ours']:.1f}" for slow in SLOW)]
    threads = results["environment"]["threads"]
    return Table(
        f"Seconds per pair of {network['name']} ({network['parameters'] / 1e6:.3g} M parameters), {threads} thread{'s' * (threads > 1)}",
        ["method", "processor", "range", "clock", "measured on", "activation matching / it", "Sinkhorn / it"],
        [*rows, last],
        [f"Median and range of {results['repetitions']} repetition{'s' * (results['repetitions'] > 1)}, all methods in turns in one process; ratios are of "
         "the processor's seconds, which other programs on the machine change less than the clock. What is not whole is measured on "
         f"one batch or step and on as many as stated, and extrapolated along that line. Tracing, {network['tracing']:.2f} s, is part of no method."],
    )  # fmt: skip
