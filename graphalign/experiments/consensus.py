"""Consensus refinement: a few label-free steps against activation matching, weight matching and Sinkhorn re-basin with labels.

    python -m graphalign.experiments.consensus --data ROOT

trains pairs of independent networks, aligns them and measures the barrier between A and the aligned B on test images. Networks are
kept in the cache folder as they are trained; with `--archs` the rows of some architectures are measured, and those of the others
stay in the results file, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.connectivity import barrier
from graphalign.evaluation import evaluate
from graphalign.experiments.population import RECIPES, Images, read_images, trained
from graphalign.experiments.results import Table, environment, publish
from graphalign.methods.activation import Activation
from graphalign.methods.consensus import Consensus
from graphalign.methods.gnn import UNTRAINED
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.sinkhorn import Goal, Sinkhorn
from graphalign.methods.weight import Weight
from graphalign.pairwise import prepare_pair

FIRST_SEED = 5000
"""Network k of pair p has seed FIRST_SEED + 2 p + k: the networks of `floor` and more of them, none used in development."""
UNLABELLED = 512
POINTS = 11
ACTIVATION, WEIGHT = "activation matching", "weight matching"
FEW, MANY = "consensus, 5 steps, from activation matching", "consensus, 10 steps, from activation matching"
MORE = "consensus, 20 steps, from activation matching"
GNN_REFINED = "consensus, 10 steps, from the untrained gnn"
UNREFINED, BLIND = "untrained gnn, no data", "consensus, 10 steps, from the untrained gnn, no data"
SETTINGS: tuple[tuple[Goal, float], ...] = (
    ("random", 0.02), ("random", 0.05), ("random", 0.1), ("random", 0.3), ("midpoint", 0.05), ("midpoint", 0.1),
)  # fmt: skip
SINKHORN: dict[str, Sinkhorn] = {
    f"Sinkhorn, {objective}, rate {rate}": Sinkhorn(objective, steps=300, rate=rate, patience=None) for objective, rate in SETTINGS
}
"""From the identity, with the labels of the whole training set, 256 examples to a step."""


@dataclass(frozen=True)
class Case:
    """What is measured of an architecture.

    Attributes:
        pairs: pairs of networks.
        test_images: held-out images that barriers are measured on.
        goal: largest ratio of consensus, 10 steps, to activation matching that was aimed at.
        labels: whether Sinkhorn re-basin with labels is measured too.
        reset_images: training images from which BatchNorm statistics are estimated again for every network of the line; 0 without
            BatchNorm.
    """

    pairs: int
    test_images: int
    goal: float
    labels: bool = False
    reset_images: int = 0


CASES: dict[str, Case] = {
    "mlp-64-64-64": Case(8, 4000, 0.55, labels=True),
    "mlp-48x5": Case(8, 4000, 0.55, labels=True),
    "cnn-16-32-24": Case(8, 4000, 0.75),
    "vgg-narrow": Case(4, 2000, 0.75),
    "vgg-narrow-bn": Case(4, 2000, 0.85, reset_images=2000),
}


@dataclass
class Found:
    """The solutions of a method for all pairs, and what it took.

    Attributes:
        solutions: one per pair.
        seconds: processor seconds for all pairs, of all methods that it builds on.
    """

    solutions: list[Solution]
    seconds: float


def solve(problems: Sequence[Problem], images: Images, labels: bool) -> dict[str, Found]:
    """Every method's solutions for pairs of one architecture; those that can work on all pairs at once do so."""
    found = {WEIGHT: _each(Weight(), problems), ACTIVATION: _each(Activation(), problems)}
    gnn = _each(UNTRAINED, problems)
    for name, start, steps in ((FEW, found[ACTIVATION], 5), (MANY, found[ACTIVATION], 10), (MORE, found[ACTIVATION], 20), (GNN_REFINED, gnn, 10)):
        pairs = zip(problems, start.solutions, strict=True)
        started = [replace(p, start=s.permutations, scores=s.scores) for p, s in pairs]
        found[name] = _together(Consensus(steps=steps), started, start.seconds)
    found[UNREFINED] = gnn
    if not any(isinstance(module, nn.BatchNorm2d) for module in problems[0].module.modules()):  # type: ignore[union-attr]
        blind = [replace(p, data=None, start=s.permutations, scores=s.scores) for p, s in zip(problems, gnn.solutions, strict=True)]
        found[BLIND] = _together(Consensus(), blind, gnn.seconds)
    if labels:
        order = torch.randperm(len(images.x), generator=torch.Generator().manual_seed(FIRST_SEED))
        data = [(images.x[index], images.y[index]) for index in torch.split(order, 256)]
        labelled = [replace(problem, data=data) for problem in problems]
        found.update({name: _together(solver, labelled, 0.0) for name, solver in SINKHORN.items()})
    return found


def _each(solver: Any, problems: Sequence[Problem]) -> Found:
    begun = time.process_time()
    solutions = [solver(problem) for problem in problems]
    return Found(solutions, time.process_time() - begun)


def _together(solver: Any, problems: Sequence[Problem], before: float) -> Found:
    begun = time.process_time()
    solutions = solver.solve(problems)
    return Found(solutions, before + time.process_time() - begun)


def measure(name: str, case: Case, images: Images, cache: Path | None, quick: bool = False) -> dict[str, Any]:
    """Accuracies, barriers and seconds of all methods on the pairs of one architecture."""
    where = environment()  # of the code as it was loaded
    recipe = replace(RECIPES[name], images=2000, epochs=1) if quick else RECIPES[name]
    pairs = 1 if quick else case.pairs
    networks = [[trained(name, recipe, images, FIRST_SEED + 2 * p + k, cache) for k in (0, 1)] for p in range(pairs)]
    unlabelled = list(torch.split(images.x[:UNLABELLED], 128))
    problems = [prepare_pair(a, b, images.x[:1]).problem(seed=p, data=unlabelled) for p, (a, b) in enumerate(networks)]
    found = solve(problems, images, case.labels and not quick)
    test = _first(images.test, case.test_images)
    accuracies = [float(evaluate(network, test).accuracy or 0.0) for pair in networks for network in pair]
    naive = [Solution(group.identity(problem.spec)) for problem in problems]
    methods = {}
    for method, result in {"naive": Found(naive, 0.0), **found}.items():
        values = []
        for (a, b), problem, solution in zip(networks, problems, result.solutions, strict=True):
            aligned = group.apply_to_module(problem.spec, solution.permutations, b)
            values.append(_barrier(a, aligned, test, images.x[: case.reset_images]))
        methods[method] = {"barriers": values, "seconds": result.seconds / pairs}
        print(f"{name}: {method}: {statistics.fmean(values):.3f}", file=sys.stderr, flush=True)
    return {
        "architecture": name, "data": images.name, "images": recipe.images, "epochs": recipe.epochs, "accuracies": accuracies,
        "test_images": sum(len(y) for _, y in test), "reset_images": case.reset_images, "goal": case.goal, "methods": methods,
        "environment": where,
    }  # fmt: skip


def _first(batches: Sequence[tuple[Tensor, ...]], images: int) -> list[tuple[Tensor, ...]]:
    x, y = (torch.cat(part)[:images] for part in zip(*batches, strict=True))
    return list(zip(torch.split(x, 500), torch.split(y, 500), strict=True))


def _barrier(a: nn.Module, b: nn.Module, test: list[tuple[Tensor, ...]], statistics_from: Tensor) -> float:
    reset = list(torch.split(statistics_from, 500)) if len(statistics_from) else None
    return float(barrier(a, b, test, points=POINTS, reset_batch_norm=reset).barrier)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The table of a results file."""
    rows, notes = [], [
        f"Barrier: largest excess of the loss over the chord at {POINTS} points of the line, on test images; mean ± standard deviation "
        f"over pairs of networks, no network in two pairs. Activation matching and consensus see the same first {UNLABELLED} training "
        "images without labels; Sinkhorn re-basin starts at the identity and sees the labels of the whole training set, 300 steps of 256. "
        "Seconds are those of the processor per pair, methods that start from another's result include it; tracing apart. "
        "Consensus and Sinkhorn treat all pairs of an architecture at once."
    ]  # fmt: skip
    for row in results["rows"]:
        means = {method: statistics.fmean(found["barriers"]) for method, found in row["methods"].items()}
        best = min((m for m in means if m.startswith("Sinkhorn")), key=means.__getitem__, default=None)
        for method, found in row["methods"].items():
            spread = f" ± {statistics.stdev(found['barriers']):.3f}" if len(found["barriers"]) > 1 else ""
            rows.append([
                row["architecture"], str(len(found["barriers"])), method + " (best)" * (method == best), f"{means[method]:.3f}{spread}",
                f"{means[method] / means[ACTIVATION]:.2f}", f"{means[method] / means[best]:.2f}" if best else "-", f"{found['seconds']:.2f}",
            ])  # fmt: skip
        ratio = f"{row['architecture']}: consensus / activation matching {means[MANY] / means[ACTIVATION]:.2f}, aimed at {row['goal']}"
        if best:
            times = row["methods"][MANY]["seconds"] / row["methods"][best]["seconds"]
            ratio += f"; consensus / best Sinkhorn {means[MANY] / means[best]:.2f}, aimed at 1.1, in {times:.3f} of its time"
        reset = f" BatchNorm statistics from {row['reset_images']} training images." if row["reset_images"] else ""
        notes.append(
            f"{ratio}. {row['data']}, {row['images']} training images, {row['epochs']} epochs, {row['test_images']} test images, test accuracy "
            f"{100 * statistics.fmean(row['accuracies']):.1f} %.{reset}"
        )
    columns = ["network", "pairs", "method", "barrier", "/ activation", "/ best Sinkhorn", "s"]
    return [Table("Loss barriers between independently trained networks", columns, rows, notes)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    program = "python -m graphalign.experiments.consensus"
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="ROOT", help="folder with the image files; GRAPHALIGN_DATA if absent")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trained networks are kept, and found by later runs")
    parser.add_argument("--archs", nargs="+", choices=tuple(CASES), default=list(CASES), help="networks to measure; all if absent")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where consensus.json and .md go (default docs/results)")
    parser.add_argument("--quick", action="store_true", help="one pair on 2,000 images for one epoch; writes only to --out")
    options = parser.parse_args(arguments)
    out = options.out or (None if options.quick else Path("docs/results"))
    earlier = out / "consensus.json" if out else None
    rows = {r["architecture"]: r for r in json.loads(earlier.read_text())["rows"]} if earlier and earlier.is_file() else {}
    results: dict[str, Any] = {}
    for name in options.archs:
        rows[name] = measure(name, CASES[name], read_images(options.data, RECIPES[name].data), options.cache, options.quick)
        results = {
            "title": "Consensus refinement without labels",
            "command": f"{program} --data ROOT" + " --quick" * options.quick,
            "seed": FIRST_SEED,
            "environment": rows[name]["environment"],
            "rows": [rows[n] for n in CASES if n in rows],
        }
        if out:
            publish(out, "consensus", results, tables(results))
    for table in tables(results):
        print(table)


if __name__ == "__main__":
    main()
