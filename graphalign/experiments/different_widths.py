"""Fusing networks of different widths by optimal transport: MLPs of 400-200-100 hidden units into 200-100-50 on MNIST.

    python -m graphalign.experiments.different_widths --data ROOT

trains pairs of a small and a large network, brings the large one to the widths of the small one, and measures it alone, averaged
with the small one, and averaged and repaired, on test images. Networks are kept in the cache folder as they are trained, so
that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphalign.connectivity import interpolate
from graphalign.converters.trace import trace_architecture
from graphalign.evaluation import Loader, evaluate
from graphalign.experiments.population import Images, Recipe, read_images, trained
from graphalign.experiments.results import Table, environment, publish
from graphalign.experiments.training import keep_initialisation
from graphalign.group import all_tensors
from graphalign.methods.transport import Transport
from graphalign.repairing import repair
from graphalign.zoo.networks import mlp

FIRST_SEED = 11000
"""The small network of pair p has seed FIRST_SEED + 2 p, the large one the next; no other experiment uses these."""
DATA_IMAGES = 1000
"""Training images for activations and for REPAIR, without labels."""
ENTROPY = 0.005
SMALL, LARGE = "small", "large"
COLUMNS = ("transported", "fused", "repaired")


@dataclass(frozen=True)
class Pair:
    """Recipes of a small and of a large network, trained alike."""

    small: Recipe
    large: Recipe

    def shortened(self, images: int, epochs: int) -> Pair:
        """The same networks with less training."""
        return Pair(*(replace(recipe, images=images, epochs=epochs) for recipe in (self.small, self.large)))


def mlps(small: Sequence[int], large: Sequence[int], images: int, epochs: int, **settings: Any) -> Pair:
    """Recipes of two MLPs on MNIST that differ in their hidden widths."""
    recipes = [Recipe(partial(mlp, widths), images, epochs, "mnist", **settings) for widths in (small, large)]
    return Pair(recipes[0], recipes[1])


WIDTHS = ((200, 100, 50), (400, 200, 100), 10_000, 10)
PAIRS: dict[str, Pair] = {
    "mlp-200-100-50": mlps(*WIDTHS, initialise=keep_initialisation),
    "mlp-200-100-50-he": mlps(*WIDTHS),
}
WAYS: dict[str, Transport] = {
    f"{cost}, {'exact' if regularisation is None else f'entropic {regularisation:g}'}, {'mass-preserving' if kept else 'published'}":
    Transport(cost=cost, regularisation=regularisation, mass_preserving=kept)
    for cost in ("weights", "activations")
    for regularisation in (None, ENTROPY)
    for kept in (True, False)
}  # fmt: skip


def measure(name: str, pair: Pair, images: Images, pairs: int, cache: Path | None) -> dict[str, Any]:
    """Test accuracy and cross-entropy of the parents, and of all ways to transport and fuse them."""
    parents: dict[str, list[dict[str, float]]] = {SMALL: [], LARGE: []}
    ways: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    data = [(x,) for x in torch.split(images.x[:DATA_IMAGES], 500)]
    for index in range(pairs):
        small = trained(name, pair.small, images, FIRST_SEED + 2 * index, cache)
        large = trained(f"{name}-{LARGE}", pair.large, images, FIRST_SEED + 2 * index + 1, cache)
        parents[SMALL].append(score(small, images.test))
        parents[LARGE].append(score(large, images.test))
        architectures = (trace_architecture(small, images.x[:1]), trace_architecture(large, images.x[:1]))
        states = all_tensors(small), all_tensors(large)
        for way, settings in WAYS.items():
            if not index:
                settings.plan(architectures, *states, data=data)  # the first call loads libraries
            start = time.perf_counter()
            plan = settings.plan(architectures, *states, data=data, template=small)
            seconds = time.perf_counter() - start
            transported = plan.apply(large)
            fused = interpolate(small, transported, 0.5)
            networks = (transported, fused, repair(fused, [small, transported], data))
            scores = {column: score(network, images.test) for column, network in zip(COLUMNS, networks, strict=True)}
            ways[way].append({**scores, "seconds": seconds})
        done = ", ".join(f"{way}: {found[-1]['transported']['loss']:.3f}" for way, found in ways.items())
        print(f"{name}: pair {index + 1} of {pairs}: {done}", file=sys.stderr, flush=True)
    return {
        "networks": name, "images": pair.small.images, "epochs": pair.small.epochs, "pairs": pairs, "parents": parents, "ways": ways,
    }  # fmt: skip


def score(network: nn.Module, test: Loader) -> dict[str, float]:
    """Test accuracy and cross-entropy."""
    found = evaluate(network, test)
    return {"accuracy": float(found.accuracy or 0.0), "loss": found.loss}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file, one per initialisation."""
    found = []
    for entry in results["rows"]:
        empty = ["-"] * (2 * (len(COLUMNS) - 1))
        rows = [[f"{parent} network alone", *_cells(scores), *empty, "-"] for parent, scores in entry["parents"].items()]
        for way, measured in entry["ways"].items():
            cells = [cell for column in COLUMNS for cell in _cells([m[column] for m in measured])]
            rows.append([way, *cells, f"{1000 * statistics.fmean(m['seconds'] for m in measured):.0f}"])
        he = "He initialisation" if entry["networks"].endswith("-he") else "PyTorch's initialisation"
        notes = [
            f"MNIST, the first {entry['images']} training images, {entry['epochs']} epochs of Adam, {he}; {results['test_images']} test "
            f"images. Mean ± standard deviation over {entry['pairs']} {'pair' if entry['pairs'] == 1 else 'pairs'} of networks; accuracy in per "
            "cent, CE is cross-entropy in nats.",
            "Transported: the large network in the widths of the small one, alone. Fused: the average of the weights of both. "
            f"REPAIR and activations: on {results['data_images']} training images without labels. Milliseconds for the plan, without tracing.",
        ]
        columns = ["network", "transported", "CE", "fused", "CE", "+ REPAIR", "CE", "ms"]
        found.append(Table(f"400-200-100 hidden units into 200-100-50, {he}", columns, rows, notes))
    return found


def _cells(scores: Sequence[Mapping[str, float]]) -> list[str]:
    def spread(values: Sequence[float], pattern: str) -> str:
        return f"{statistics.fmean(values):{pattern}}" + (f" ± {statistics.stdev(values):{pattern}}" if len(values) > 1 else "")

    return [spread([100 * s["accuracy"] for s in scores], ".1f"), spread([s["loss"] for s in scores], ".3f")]


def run(pairs: Mapping[str, Pair], images: Images, count: int, cache: Path | None, command: str) -> dict[str, Any]:
    """The results of all pairs of recipes."""
    where = environment()  # of the code as it was loaded
    rows = [measure(name, pair, images, count, cache) for name, pair in pairs.items()]
    return {
        "title": "Fusing networks of different widths",
        "command": command,
        "seed": FIRST_SEED,
        "environment": where,
        "data": images.name,
        "test_images": sum(len(y) for _, y in images.test),
        "data_images": min(DATA_IMAGES, len(images.x)),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.experiments.different_widths", description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="ROOT", help="folder with mnist.npz; GRAPHALIGN_DATA if absent")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trained networks are kept, and found by later runs")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of networks per initialisation, at least 1 (default 5)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where different_widths.json and .md go (default docs/results)")
    parser.add_argument("--quick", action="store_true", help="one pair on 2,000 images for two epochs; writes only to --out")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error(f"--pairs: found {options.pairs}, expected at least 1")
    images = read_images(options.data, "mnist")
    pairs, count = PAIRS, options.pairs
    command = f"python -m graphalign.experiments.different_widths --pairs {count} --data ROOT"
    if options.quick:
        pairs, count, command = {name: pair.shortened(2000, 2) for name, pair in PAIRS.items()}, 1, command + " --quick"
    results = run(pairs, images, count, options.cache, command)
    for table in tables(results):
        print(table)
    out = options.out or (None if options.quick else Path("docs/results"))
    if out:
        publish(out, "different_widths", results, tables(results))
        print(f"written: {out / 'different_widths.json'}, {out / 'different_widths.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
