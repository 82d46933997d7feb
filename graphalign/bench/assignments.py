"""Batches of linear assignments: `graphalign.assignment.assign` beside a loop over `scipy.optimize.linear_sum_assignment`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from graphalign.assignment import assign
from graphalign.bench.probe import Probe
from graphalign.bench.stopwatch import Stopwatch, by_repetition, milliseconds


def random_scores(problems: int, units: int, generator: torch.Generator) -> Tensor:
    """Independent scores, uniform in [0, 1)."""
    return torch.rand(problems, units, units, generator=generator)


def similar_scores(problems: int, units: int, generator: torch.Generator) -> Tensor:
    """Inner products of units with noisy copies of them: the noise is six times the signal."""
    a = torch.randn(problems, units, 4 * units, generator=generator)
    b = a + 6 * torch.randn(a.shape, generator=generator)
    return a @ b.mT


def clear_scores(problems: int, units: int, generator: torch.Generator) -> Tensor:
    """As `similar_scores`, with noise as large as the signal: the best columns of all rows differ."""
    a = torch.randn(problems, units, 4 * units, generator=generator)
    return a @ (a + torch.randn(a.shape, generator=generator)).mT


SCORES: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "random": random_scores, "similar": similar_scores, "clear": clear_scores,
}  # fmt: skip
def noisy_scores(problems: int, units: int, generator: torch.Generator) -> Tensor:
    """Inner products of 256 features with noisy copies of them: the noise is four times the signal."""
    a = torch.randn(problems, units, 256, generator=generator)
    return a @ (a + 4 * torch.randn(a.shape, generator=generator)).mT


ONE: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {"random": random_scores, "noisy": noisy_scores}
"""Scores of single large cells."""
LARGEST_CHECK = 1024
"""Units up to which a single assignment is compared with scipy's."""


def assign_by_loop(scores: Tensor) -> Tensor:
    """What `assign` returns, by one call of scipy per problem."""
    return torch.from_numpy(np.stack([linear_sum_assignment(one, maximize=True)[1] for one in scores.numpy()]))


def measure_assignments(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds of both on the same scores, in turns, and whether their sums are equal."""
    generator = torch.Generator().manual_seed(job["seed"])
    scores = SCORES[job["scores"]](job["problems"], job["units"], generator)
    ways = {"graphalign": assign, "scipy": assign_by_loop}
    found = {name: way(scores) for name, way in ways.items()}  # the first calls load libraries
    watches = []
    for _ in range(job["repetitions"]):
        watches.append(Stopwatch())
        for name, way in ways.items():
            with watches[-1].stage(name):
                way(scores)
    ours, theirs = (scores.double().gather(2, columns[..., None]).sum((1, 2)) for columns in found.values())
    clocks = by_repetition(watches)
    what = f"{job['problems']} assignments of {job['units']}x{job['units']}, {job['scores']} scores"
    times = ", ".join(f"{name} {milliseconds(seconds)} ms" for name, seconds in clocks["wall"].items())
    print(f"{what}, {torch.get_num_threads()} threads: {times}", file=sys.stderr, flush=True)
    return {**clocks, "equal": bool(torch.allclose(ours, theirs, rtol=1e-12, atol=0))}


def measure_one_assignment(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Seconds and memory of one exact assignment, and whether its sum is that of scipy; None where that is not computed."""
    assign(torch.rand(1, 8, 8))  # loads libraries
    scores = ONE[job["scores"]](1, job["units"], torch.Generator().manual_seed(job["seed"]))
    probe = Probe()
    with probe.stage("assign"):
        found = assign(scores)
    optimal = None
    if job["units"] <= LARGEST_CHECK:
        ours, theirs = (scores.double().gather(2, columns[..., None]).sum() for columns in (found, assign_by_loop(scores)))
        optimal = bool(torch.allclose(ours, theirs, rtol=1e-12, atol=0))
    print(f"{job['units']} units, {job['scores']} scores: {probe.cpu['assign']:.3g} s", file=sys.stderr, flush=True)
    return {"wall": probe.wall["assign"], "cpu": probe.cpu["assign"], "peak": probe.peak["assign"], "optimal": optimal}
