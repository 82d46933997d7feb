"""The suite "published": seconds per pair by the protocol that DEEP-ALIGN's runtimes were measured by (Navon et al. 2024, arXiv 2310.13397).

The network is their CIFAR-10 CNN: seven 3x3 convolutions of 16, 32, 32, 64, 64, 128 and 128 channels, pooling after the third, fifth and
seventh, and one linear layer. Activation matching sees the whole training set of 50,000 images, Sinkhorn re-basin takes 1,000 steps on batches of
128. Both are measured in part and multiplied. Weights and images are random: none of the times depends on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from graphalign.bench.settings import Report, Settings
from graphalign.experiments.results import Table, environment
from graphalign.methods.activation import Activation
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.pairwise import prepare_pair
from graphalign.zoo.networks import vgg

STAGES = ((16, 32, 32), (64, 64), (128, 128))
IMAGES, STEPS, BATCH, INPUTS = 50_000, 1000, 128, 256
PUBLISHED = {"activation": (7.52, 0.44), "sinkhorn": (79.81, 0.44)}
"""Seconds on an A100 of the method and of DEEP-ALIGN."""
NO_DATA, WITH_INPUTS = "graphalign, no data", f"graphalign, {INPUTS} inputs, 10 steps"


def run(settings: Settings) -> Report:
    """Measures everything in one process, in turns, and takes medians; a quick run has an eighth of the widths."""
    where = environment()
    images, steps = (256, 2) if settings.quick else (4096, 10)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        stages = [[width // 8 for width in widths] for widths in STAGES] if settings.quick else STAGES
        networks = [vgg(stages, pool=4).eval() for _ in range(2)]
    x = torch.randn(images, 3, 32, 32, generator=generator)
    y = torch.randint(10, (images,), generator=generator)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, images, BATCH)]
    begun = time.perf_counter()
    pair = prepare_pair(networks[0], networks[1], x[:1])
    tracing = time.perf_counter() - begun
    parts: dict[str, tuple[Callable[[Problem], Any], list[Any] | None, float]] = {
        NO_DATA: (GNN(), None, 1.0),
        WITH_INPUTS: (GNN(examples=INPUTS, steps=10), [x[:INPUTS]], 1.0),
        "activation": (Activation(), batches, IMAGES / images),
        "sinkhorn": (Sinkhorn(steps=steps, patience=None), batches, STEPS / steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for repetition in range(settings.repetitions + 1):
        for name, (method, data, factor) in parts.items():
            begun = time.perf_counter()
            method(pair.problem(seed=settings.seed, data=data))
            if repetition:  # the first run loads libraries
                seconds[name].append(factor * (time.perf_counter() - begun))
    rows = [
        {"name": name, "seconds": statistics.median(values), "spread": max(values) - min(values), "factor": parts[name][2]}
        for name, values in seconds.items()
    ]
    results = {
        "title": "The published protocol of the speed",
        "command": settings.command("published"),
        "seed": settings.seed,
        "environment": where,
        "repetitions": settings.repetitions,
        "tracing": tracing,
        "rows": rows,
    }
    return Report(results, [table(results)])


def table(results: dict[str, Any]) -> Table:
    """Seconds and ratios."""
    median = {row["name"]: row["seconds"] for row in results["rows"]}
    slow = {name: median[name] for name in PUBLISHED}
    rows = []
    for row in results["rows"]:
        ours = row["name"] in (NO_DATA, WITH_INPUTS)
        ratios = [f"{seconds / row['seconds']:.1f}" if ours else "" for seconds in slow.values()]
        measured = "whole" if row["factor"] == 1 else f"1 / {row['factor']:.4g}"
        rows.append([row["name"], f"{row['seconds']:.3f}", f"{row['spread']:.3f}", measured, *ratios])
    published = ["DEEP-ALIGN, as published", "0.44", "", "", *(f"{slow_s / fast:.1f}" for slow_s, fast in PUBLISHED.values())]
    return Table(
        f"Seconds per pair of CIFAR-10 CNNs, tracing ({results['tracing']:.2f} s) apart, {results['environment']['threads']} threads",
        ["method", "median", "spread", "part measured", f"activation matching, {IMAGES:,} images / it", f"Sinkhorn, {STEPS:,} steps / it"],
        [*rows, published],
    )
