"""Averages of two aligned networks, with and without new statistics: BatchNorm reset and REPAIR.

    python -m graphalign.experiments.batch_norm --data ROOT

trains pairs of independent networks on Fashion-MNIST, aligns them by every method, averages the weights of each pair and measures
the average on test images: as it is, with BatchNorm statistics estimated again, and with the activation statistics of the
parents. Networks are kept in the cache folder as they are trained, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graphalign.batch_norm import reset_statistics
from graphalign.evaluation import Loader, Score, evaluate
from graphalign.experiments import population
from graphalign.experiments.experiment import PairExperiment
from graphalign.experiments.population import Images, Recipe, trained
from graphalign.experiments.results import Table
from graphalign.merging import merge
from graphalign.methods.gnn import UNTRAINED
from graphalign.pairwise import align
from graphalign.repairing import repair

FIRST_SEED = 6000
"""Network k of pair p has seed FIRST_SEED + 2 p + k, whatever its architecture; no other experiment uses these."""
TRAINING_IMAGES = 2000
"""Training images, without their labels, that statistics, activation matching and consensus see; in batches of BATCH."""
BATCH = 200

RECIPES: dict[str, Recipe] = {name: population.RECIPES[name] for name in ("vgg-wide-bn", "resnet-8-bn", "vgg-wide")}

METHODS: dict[str, Mapping[str, Any]] = {
    "naive": {"method": "naive"},
    "weight": {"method": "weight"},
    "gnn, untrained, no data": {"method": UNTRAINED},
    "gnn": {"method": "gnn"},
    "activation": {"method": "activation"},
    "activation, consensus": {"method": "activation", "refine": "consensus"},
}
"""Arguments of `align`."""

Treatment = Callable[[nn.Module, Sequence[nn.Module], Loader], nn.Module]
RESET = "BatchNorm reset"
TREATMENTS: dict[str, Treatment] = {
    "averaged": lambda merged, parents, data: merged,
    RESET: lambda merged, parents, data: reset_statistics(merged, data),
    "REPAIR": repair,
    "REPAIR, closed form": lambda merged, parents, data: repair(merged, parents, data, closed_form=True),
}
"""What is done to the averaged network."""


def measure(name: str, recipe: Recipe, images: Images, pairs: int, cache: Path | None) -> dict[str, Any]:
    """Accuracies and losses of the parents and of all averages of one architecture."""
    data = list(images.x[:TRAINING_IMAGES].split(BATCH))
    parents: list[dict[str, float]] = []
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for pair in range(pairs):
        a, b = (
            trained(name, recipe, images, FIRST_SEED + 2 * pair + k, cache).to(memory_format=recipe.layout)  # type: ignore[call-overload]
            for k in (0, 1)
        )
        parents += [_scores(evaluate(network, images.test)) for network in (a, b)]
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in a.modules())
        for method, how in METHODS.items():
            aligned = align(a, b, example_input=images.x[:1], data=data, seed=pair, **how).apply(b)
            merged = merge([a, aligned], method=None)
            for treatment, treat in TREATMENTS.items():
                if normalised or treatment != RESET:
                    score = _scores(evaluate(treat(merged, (a, aligned), data), images.test))
                    found.setdefault(method, {}).setdefault(treatment, []).append(score)
            figures = ", ".join(f"{treatment} {100 * scores[-1]['accuracy']:.1f} %" for treatment, scores in found[method].items())
            print(f"{name}: pair {pair + 1} of {pairs}: {method}: {figures}", file=sys.stderr, flush=True)
    return {"architecture": name, "images": recipe.images, "epochs": recipe.epochs, "parents": parents, "methods": found}


def _scores(score: Score) -> dict[str, float]:
    return {"accuracy": float(score.accuracy or 0.0), "loss": score.loss}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file: accuracies and losses."""
    notes = [
        f"Average: (A + aligned B) / 2, on {results['test_images']} test images; mean ± standard deviation over pairs of networks, no "
        f"network in two pairs. Parents: the mean of both networks. {TRAINING_IMAGES} training images without their labels give "
        "the new statistics, the activations to match and the inputs of consensus. REPAIR includes the reset of BatchNorms.",
    ]
    notes += [
        f"{row['architecture']}: {row['images']} training images, {row['epochs']} epochs; test accuracy of the parents "
        f"{100 * min(p['accuracy'] for p in row['parents']):.1f} to {100 * max(p['accuracy'] for p in row['parents']):.1f} %."
        for row in results["rows"]
    ]
    titles = {"accuracy": "Test accuracy of averaged networks, in percent", "loss": "Test loss of averaged networks"}
    return [_table(results, measure, title, notes) for measure, title in titles.items()]


def _table(results: Mapping[str, Any], measure: str, title: str, notes: Sequence[str]) -> Table:
    def cell(values: Sequence[Mapping[str, float]]) -> str:
        figures, factor, digits = [v[measure] for v in values], *((100, 1) if measure == "accuracy" else (1, 3))
        if not figures:
            return "-"
        spread = f" ± {factor * statistics.stdev(figures):.{digits}f}" if len(figures) > 1 else ""
        return f"{factor * statistics.fmean(figures):.{digits}f}{spread}"

    rows = []
    for row in results["rows"]:
        pairs = [{measure: statistics.fmean(p[measure] for p in row["parents"][i : i + 2])} for i in range(0, len(row["parents"]), 2)]
        for method, found in row["methods"].items():
            treated = [cell(found.get(treatment, [])) for treatment in TREATMENTS]
            rows.append([row["architecture"], str(len(pairs)), method, cell(pairs), *treated])
    return Table(title, ["network", "pairs", "aligned by", "parents", *TREATMENTS], rows, notes)


EXPERIMENT = PairExperiment(
    "batch_norm", "Statistics of averaged networks", __doc__.splitlines()[0], FIRST_SEED, RECIPES, 3, measure, tables
)  # fmt: skip


if __name__ == "__main__":
    EXPERIMENT.main()
