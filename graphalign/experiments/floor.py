"""The floor: loss barriers of the untrained aligner on Fashion-MNIST, against weight matching.

    python -m graphalign.experiments.floor --data ROOT

trains pairs of independent networks, aligns them by every method and measures the barrier between A and the aligned B on test
images. Networks are kept in the cache folder as they are trained, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphalign import group
from graphalign.connectivity import barrier
from graphalign.evaluation import evaluate
from graphalign.experiments import population
from graphalign.experiments.experiment import PairExperiment
from graphalign.experiments.population import Images, Recipe, trained
from graphalign.experiments.results import Table
from graphalign.methods.gnn import UNTRAINED
from graphalign.methods.naive import Naive
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.weight import Weight
from graphalign.pairwise import prepare_pair

FIRST_SEED = 5000
"""Network k of pair p has seed FIRST_SEED + 2 p + k, whatever its architecture; none is used in development."""
PUBLISHED = "weight matching, published"
POINTS = 25

RECIPES: dict[str, Recipe] = {name: population.RECIPES[name] for name in ("mlp-64-64-64", "mlp-48x5", "cnn-16-32-24")}


def published(problem: Problem) -> Solution:
    """Weight matching as published (Ainsworth et al. 2023, arXiv 2209.04836, Alg. 1): one ascent from the identity."""
    return Weight()(replace(problem, start=group.identity(problem.spec)))


METHODS: dict[str, Callable[[Problem], Solution]] = {
    "naive": Naive(),
    PUBLISHED: published,
    "weight": Weight(),
    "gnn, untrained": UNTRAINED,
}


def measure(name: str, recipe: Recipe, images: Images, pairs: int, cache: Path | None) -> dict[str, Any]:
    """Accuracies, barriers and milliseconds of all methods on the pairs of one architecture."""
    example = images.x[:1]
    accuracies: list[float] = []
    tracing: list[float] = []
    barriers: dict[str, list[float]] = {method: [] for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for pair in range(pairs):
        a, b = (trained(name, recipe, images, FIRST_SEED + 2 * pair + k, cache) for k in (0, 1))
        accuracies += [float(evaluate(network, images.test).accuracy or 0.0) for network in (a, b)]
        start = time.perf_counter()
        ready = prepare_pair(a, b, example)
        tracing.append(time.perf_counter() - start)
        problem = ready.problem(seed=pair)
        for method, run in METHODS.items():
            if not pair:
                run(problem)  # the first call loads libraries
            start = time.perf_counter()
            element = run(problem).permutations
            seconds[method].append(time.perf_counter() - start)
            aligned = group.apply_to_module(ready.spec, element, b)
            barriers[method].append(float(barrier(a, aligned, images.test, points=POINTS).barrier))
        found = ", ".join(f"{method} {barriers[method][-1]:.3f}" for method in METHODS)
        print(f"{name}: pair {pair + 1} of {pairs}: {found}", file=sys.stderr, flush=True)
    return {
        "architecture": name,
        "images": recipe.images,
        "epochs": recipe.epochs,
        "accuracies": accuracies,
        "trace_seconds": tracing,
        "methods": {method: {"barriers": barriers[method], "seconds": seconds[method]} for method in METHODS},
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The table of a results file."""
    rows = []
    notes = [
        f"Barrier: largest excess of the loss over the chord at {POINTS} points of the line, {results['test_images']} test "
        "images; mean ± standard deviation over pairs of networks, no network in two pairs. Milliseconds without tracing."
    ]
    for row in results["rows"]:
        means = {method: statistics.fmean(found["barriers"]) for method, found in row["methods"].items()}
        for method, found in row["methods"].items():
            count = len(found["barriers"])
            spread = f" ± {statistics.stdev(found['barriers']):.3f}" if count > 1 else ""
            ratios = [f"{means[method] / means[other]:.2f}" if means[other] else "-" for other in (PUBLISHED, "weight")]
            duration = f"{1000 * statistics.fmean(found['seconds']):.0f}"
            rows.append([row["architecture"], str(count), method, f"{means[method]:.3f}{spread}", *ratios, duration])
        low, high = min(row["accuracies"]), max(row["accuracies"])
        notes.append(
            f"{row['architecture']}: {row['images']} training images, {row['epochs']} epochs; test accuracy "
            f"{100 * statistics.fmean(row['accuracies']):.1f} % ({100 * low:.1f} to {100 * high:.1f}); tracing both networks "
            f"{1000 * statistics.fmean(row['trace_seconds']):.0f} ms."
        )
    columns = ["network", "pairs", "method", "barrier", "/ published", "/ weight", "ms"]
    return [Table("Loss barriers between independently trained networks", columns, rows, notes)]


EXPERIMENT = PairExperiment(
    "floor", "The untrained aligner against weight matching", __doc__.splitlines()[0], FIRST_SEED, RECIPES, 6, measure, tables
)  # fmt: skip


if __name__ == "__main__":
    EXPERIMENT.main()
