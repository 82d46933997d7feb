"""Barriers and seconds of one column on the pairs of one architecture."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphalign.aligner import Aligner
from graphalign.curve import Curve
from graphalign.experiments.generalisation.case import Case
from graphalign.experiments.generalisation.columns import Column

FIGURES = ("barrier", "auc", "midpoint_loss", "accuracy_barrier", "loss_a", "loss_b", "midpoint_accuracy")
"""What is kept of every curve: names of `Curve.summary`; accuracies only where there are classes."""
DIGITS = 6
REPETITIONS = 4


def measure(case: Case, column: Column, aligner: Aligner | None, variant: Mapping[str, Any], pairs: Sequence[int]) -> dict[str, Any]:
    """What one variant of a column finds for some pairs: figures by name, and psi, a value per pair each; seconds per pair.

    The seconds are those of all pairs at once divided by their number, where the methods work on all at once.
    """
    if not pairs:
        return {"figures": {}, "psi": [], "seconds": []}
    solutions, seconds = column.chain(variant, aligner)([case.problems[k] for k in pairs], case.data)
    curves = [case.curve(k, solution.permutations) for k, solution in zip(pairs, solutions, strict=True)]
    summaries = [curve.summary() for curve in curves]
    return {
        "figures": {name: [_rounded(s[name]) for s in summaries] for name in FIGURES if name in summaries[0]},
        "psi": [[_rounded(v) for v in _psi(curve)] for curve in curves],
        "seconds": [_rounded(seconds)] * len(curves),
    }


def tuned(tried: Mapping[str, dict[str, Any]]) -> str:
    """The name of the variant with the lowest mean barrier; one that is not a number never wins."""
    means = {name: statistics.fmean(found["figures"]["barrier"]) for name, found in tried.items()}
    return min(means, key=lambda name: (np.isnan(means[name]), means[name]))


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The measurements of several lists of pairs as one."""
    whole: dict[str, Any] = {"figures": {}, "psi": [], "seconds": []}
    for part in parts:
        for name, values in part["figures"].items():
            whole["figures"].setdefault(name, []).extend(values)
        whole["psi"] += part["psi"]
        whole["seconds"] += part["seconds"]
    return whole


def seconds(case: Case, columns: Iterable[tuple[Column, Aligner | None]], budget: float) -> dict[str, float]:
    """Seconds that every column takes for the first pair alone, by name: the fastest of a few runs, so that it is warm.

    Args:
        case: the architecture.
        columns: in their first variant.
        budget: a column is not run again after as many seconds.
    """
    found: dict[str, float] = {}
    for column, aligner in columns:
        chain = column.chain(column.variants[0], aligner)
        chain([case.problems[0]], case.data) if not found else None  # the process and the device warm up once
        runs: list[float] = []
        begun = time.perf_counter()
        while not runs or (len(runs) < REPETITIONS and time.perf_counter() - begun < budget):
            runs.append(chain([case.problems[0]], case.data)[1])
        found[column.name] = min(runs)
    return found


def _psi(curve: Curve) -> list[float]:
    return [float(v) for v in curve.psi]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
