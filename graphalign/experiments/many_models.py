"""Merging five networks at once: references against a universe, with and without REPAIR.

    python -m graphalign.experiments.many_models --data ROOT

trains groups of independent networks, brings each group into one order by every method, averages their weights and measures
the average on test images. Networks are kept in the cache folder as they are trained, so that a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.architecture import Architecture
from graphalign.averaging import average
from graphalign.converters.trace import trace_architecture
from graphalign.evaluation import Loader, Score, evaluate
from graphalign.experiments import population
from graphalign.experiments.population import Images, Recipe, read_images, trained
from graphalign.experiments.results import Table, environment, publish
from graphalign.experiments.training import keep_initialisation
from graphalign.methods.activation import Activation
from graphalign.methods.gnn import UNTRAINED
from graphalign.methods.joint_objective import joint_objective, place
from graphalign.methods.problem import Problem
from graphalign.methods.registry import Solver
from graphalign.methods.universe import universe
from graphalign.methods.weight import Weight
from graphalign.repairing import repair
from graphalign.tensors import copy_into
from graphalign.weight_costs import matched_tensors
from graphalign.zoo.networks import mlp

FIRST_SEED = 5000
"""Network k of group g has seed FIRST_SEED + NETWORKS g + k, whatever its architecture: the networks of `floor`, five by five."""
NETWORKS = 5
TRAINING_IMAGES = 4000
"""Training images that activation matching and REPAIR see."""
MLP = (lambda image: mlp((128, 128), image), 8000, 12, "mnist")

RECIPES: dict[str, Recipe] = {
    "mnist-mlp-128-128": Recipe(*MLP, initialise=keep_initialisation),
    "mnist-mlp-128-128-he": Recipe(*MLP),
    "mlp-64-64-64": population.RECIPES["mlp-64-64-64"],
}

Elements = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Group:
    """Networks to be merged.

    Attributes:
        architecture: what they share.
        states: parameters and buffers of each.
        data: batches of training images, for methods that look at activations.
        reference: the network that methods start from.
        seed: of everything random.
    """

    architecture: Architecture
    states: Sequence[Mapping[str, Tensor]]
    data: Loader
    reference: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A way to bring networks into one order.

    Attributes:
        align: an element of the group of permutations per network.
        every_reference: measured once for every network as the reference, since the result is in the order of one of them.
    """

    align: Callable[[Group], Elements]
    every_reference: bool = False


def to_reference(solver: Solver) -> Callable[[Group], list[Mapping[str, Tensor]]]:
    """Each network aligned to the reference by a pairwise method."""

    def align(networks: Group) -> list[Mapping[str, Tensor]]:
        spec, a = networks.architecture.spec, networks.states[networks.reference]
        return [
            group.identity(spec) if k == networks.reference
            else solver(Problem(spec, a, b, networks.seed, networks.architecture, data=networks.data)).permutations
            for k, b in enumerate(networks.states)
        ]  # fmt: skip

    return align


def jointly(**options: Any) -> Callable[[Group], Elements]:
    """All networks aligned at once by `universe`."""

    def align(networks: Group) -> Elements:
        spec = networks.architecture.spec
        return universe(spec, networks.states, reference=networks.reference, seed=networks.seed, **options).elements

    return align


NAIVE = "naive"
ROWS: dict[str, Row] = {
    NAIVE: Row(lambda networks: [group.identity(networks.architecture.spec) for _ in networks.states]),
    "weight matching to a reference": Row(to_reference(Weight()), every_reference=True),
    "activation matching to a reference": Row(to_reference(Activation()), every_reference=True),
    "gnn, untrained, to a reference": Row(to_reference(UNTRAINED), every_reference=True),
    "MergeMany from the identity": Row(jointly(start="identity")),
    "MergeMany from weight matching": Row(jointly()),
    "MergeMany from weight matching, best of 5": Row(jointly(restarts=4)),
    "MergeMany from the untrained gnn": Row(lambda networks: jointly(start=to_reference(UNTRAINED)(networks))(networks)),
    "Frank-Wolfe from the identity": Row(jointly(algorithm="frank_wolfe", start="identity")),
    "Frank-Wolfe from perturbed uniform": Row(jointly(algorithm="frank_wolfe", start="random", softness=0.9)),
    "Frank-Wolfe from weight matching": Row(jointly(algorithm="frank_wolfe")),
}
SINGLE, ENSEMBLE = "one network", "ensemble"


class Ensemble(nn.Module):
    """The logarithm of the mean of the networks' class probabilities."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logarithms of probabilities (N, classes)."""
        return torch.stack([network(x).softmax(-1) for network in self.networks]).mean(0).log()


def merge(network: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> nn.Module:
    """The average of aligned networks, as a copy of `network` with other weights."""
    merged = copy.deepcopy(network)
    copy_into(merged, average(states, [1 / len(states)] * len(states)))
    return merged


def measure(name: str, recipe: Recipe, images: Images, groups: int, count: int, cache: Path | None) -> dict[str, Any]:
    """Accuracies, losses, objectives and seconds of all rows on groups of `count` networks of one architecture."""
    batches = list(torch.split(images.x[: min(TRAINING_IMAGES, recipe.images)], 1000))
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in (SINGLE, ENSEMBLE, *ROWS)}
    for index in range(groups):
        networks = [trained(name, recipe, images, FIRST_SEED + NETWORKS * index + k, cache) for k in range(count)]
        architecture = trace_architecture(networks[0], images.x[:1])
        found[SINGLE] += [_scores(evaluate(network, images.test)) for network in networks]
        found[ENSEMBLE].append(_scores(evaluate(Ensemble(networks), images.test)))
        states = [group.all_tensors(network) for network in networks]
        for row, way in ROWS.items():
            if not index:
                way.align(Group(architecture, states, batches))  # the first call loads libraries
            for reference in range(count if way.every_reference else 1):
                task = Group(architecture, states, batches, reference, index)
                found[row].append(_measure(way, task, networks[0], images.test))
        done = ", ".join(f"{row} {found[row][-1]['accuracy']:.3f}" for row in ROWS)
        print(f"{name}: group {index + 1} of {groups}: {done}", file=sys.stderr, flush=True)
    return {
        "architecture": name, "data": recipe.data, "images": recipe.images, "epochs": recipe.epochs, "groups": groups,
        "networks": count, "rows": found,
    }  # fmt: skip


def _measure(way: Row, networks: Group, like: nn.Module, test: Loader) -> dict[str, Any]:
    spec = networks.architecture.spec
    start = time.process_time()  # of this process alone: what else the machine does does not count
    elements = way.align(networks)
    seconds = time.process_time() - start
    aligned = [group.apply_to_state(spec, element, own) for element, own in zip(elements, networks.states, strict=True)]
    names = matched_tensors(spec)
    placed = [place(spec, e, {n: own[n] for n in names}) for e, own in zip(elements, networks.states, strict=True)]
    merged = merge(like, aligned)
    repaired = _scores(evaluate(repair(merged, aligned, networks.data), test))
    return {
        **_scores(evaluate(merged, test)), "repaired_accuracy": repaired["accuracy"], "repaired_loss": repaired["loss"],
        "objective": joint_objective(placed), "seconds": seconds,
    }  # fmt: skip


def _scores(score: Score) -> dict[str, float]:
    return {"accuracy": float(score.accuracy or 0.0), "loss": score.loss}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file, one per architecture."""
    found = []
    for entry in results["rows"]:
        notes = [
            f"{entry['data']}, {entry['images']} training images, {entry['epochs']} epochs; {entry['groups']} groups of "
            f"{entry['networks']} networks, no network in two groups; {results['test_images']} test images. Means, and the range "
            "over groups and, where there is one, over all choices of the reference; accuracy in per cent, CE is cross-entropy. "
            "Objective: sum over pairs of the inner products of aligned weights. Activation matching and REPAIR see "
            f"{min(TRAINING_IMAGES, entry['images'])} training images without labels, the others none. "
            "s: seconds of processor time of the alignment."
        ]
        columns = ["merged by", "accuracy", "CE", "+ REPAIR", "CE", "objective", "s"]
        rows = [[row, *_cells(measured)] for row, measured in entry["rows"].items()]
        found.append(Table(f"{entry['architecture']}: {entry['networks']} networks", columns, rows, notes))
    return found


def _cells(measured: Sequence[Mapping[str, float]]) -> list[str]:
    def cell(key: str, pattern: str, factor: float = 1.0, spread: bool = True) -> str:
        values = [factor * m[key] for m in measured if key in m]
        if not values:
            return "-"
        ends = f" ({min(values):{pattern}} to {max(values):{pattern}})" if spread and len(values) > 1 else ""
        return f"{statistics.fmean(values):{pattern}}{ends}"

    return [
        cell("accuracy", ".1f", 100), cell("loss", ".3f"), cell("repaired_accuracy", ".1f", 100), cell("repaired_loss", ".3f"),
        cell("objective", ".1f", spread=False), cell("seconds", ".2f", spread=False),
    ]  # fmt: skip


def run(
    recipes: Mapping[str, Recipe], root: str | None, groups: int, count: int, cache: Path | None, command: str
) -> dict[str, Any]:
    """The results of all architectures."""
    where = environment()  # of the code as it was loaded
    data = {name: read_images(root, name) for name in dict.fromkeys(recipe.data for recipe in recipes.values())}
    rows = [measure(name, recipe, data[recipe.data], groups, count, cache) for name, recipe in recipes.items()]
    return {
        "title": "Merging five networks at once",
        "command": command,
        "seed": FIRST_SEED,
        "environment": where,
        "test_images": sum(len(y) for _, y in next(iter(data.values())).test),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.experiments.many_models", description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="ROOT", help="folder with mnist.npz and fashion_mnist.npz; GRAPHALIGN_DATA if absent")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trained networks are kept, and found by later runs")
    parser.add_argument("--archs", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="networks; all if absent")
    parser.add_argument("--groups", type=int, default=3, help="groups of five networks per architecture, at least 1 (default 3)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where many_models.json and .md go (default docs/results)")
    parser.add_argument("--quick", action="store_true", help="one group of 3 on 2,000 images for one epoch; writes only to --out")
    options = parser.parse_args(arguments)
    if options.groups < 1:
        parser.error(f"--groups: found {options.groups}, expected at least 1")
    recipes = {name: RECIPES[name] for name in options.archs}
    groups, count = options.groups, NETWORKS
    command = f"python -m graphalign.experiments.many_models --archs {' '.join(recipes)} --groups {groups} --data ROOT"
    if options.quick:
        recipes = {name: replace(recipe, images=2000, epochs=1) for name, recipe in recipes.items()}
        groups, count, command = 1, 3, command + " --quick"
    results = run(recipes, options.data, groups, count, options.cache, command)
    for table in tables(results):
        print(table)
    out = options.out or (None if options.quick else Path("docs/results"))
    if out:
        publish(out, "many_models", results, tables(results))
        print(f"written: {out / 'many_models.json'}, {out / 'many_models.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
