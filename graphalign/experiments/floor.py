"""The floor: loss barriers of the untrained aligner on Fashion-MNIST, against weight matching.

    python -m graphalign.experiments.floor --data ROOT

trains pairs of independent networks, aligns them by every method and measures the barrier between A and the aligned B on test
images. Networks are kept in the cache folder as they are trained, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphalign import group
from graphalign.connectivity import barrier
from graphalign.evaluation import evaluate
from graphalign.experiments import population
from graphalign.experiments.population import Images, Recipe, read_images, trained
from graphalign.experiments.results import Table, environment, publish
from graphalign.methods.gnn import GNN
from graphalign.methods.naive import Naive
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.weight import Weight
from graphalign.pairwise import prepare_pair

FIRST_SEED = 5000
"""Network k of pair p has seed FIRST_SEED + 2 p + k, whatever its architecture; no other experiment uses these."""
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
    "gnn, untrained": GNN(),
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


def run(recipes: Mapping[str, Recipe], images: Images, pairs: int, cache: Path | None, command: str) -> dict[str, Any]:
    """The results of all architectures."""
    where = environment()  # of the code as it was loaded
    rows = [measure(name, recipe, images, pairs, cache) for name, recipe in recipes.items()]
    return {
        "title": "The untrained aligner against weight matching",
        "command": command,
        "seed": FIRST_SEED,
        "environment": where,
        "data": images.name,
        "test_images": sum(len(y) for _, y in images.test),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.experiments.floor", description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="ROOT", help="folder with fashion_mnist.npz; GRAPHALIGN_DATA if absent")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trained networks are kept, and found by later runs")
    parser.add_argument("--archs", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="networks; all if absent")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of networks per architecture, at least 1 (default 6)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where floor.json and floor.md go (default docs/results)")
    parser.add_argument("--quick", action="store_true", help="one pair on 2,000 images for one epoch; writes only to --out")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error(f"--pairs: found {options.pairs}, expected at least 1")
    images = read_images(options.data)
    recipes = {name: RECIPES[name] for name in options.archs}
    if options.quick:
        recipes = {name: replace(recipe, images=2000, epochs=1) for name, recipe in recipes.items()}
    command = f"python -m graphalign.experiments.floor --archs {' '.join(recipes)} --pairs {options.pairs} --data ROOT"
    results = run(recipes, images, 1 if options.quick else options.pairs, options.cache, command + " --quick" * options.quick)
    for table in tables(results):
        print(table)
    out = options.out or (None if options.quick else Path("docs/results"))
    if out:
        publish(out, "floor", results, tables(results))
        print(f"written: {out / 'floor.json'}, {out / 'floor.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
