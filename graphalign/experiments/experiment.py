"""An experiment on pairs of trained networks: its command line, its loop over architectures, its results file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphalign.experiments.population import Images, Recipe, read_images
from graphalign.experiments.results import Table, environment, publish


@dataclass(frozen=True)
class PairExperiment:
    """What an experiment measures on pairs of networks of several architectures.

    Attributes:
        name: of its module in `graphalign.experiments` and of its results files.
        title: of its results.
        summary: one line, for --help.
        seed: of the first network; network k of pair p has seed `seed + 2 p + k`, whatever its architecture.
        recipes: the architectures.
        pairs: pairs of networks per architecture, unless the command line says otherwise.
        measure: results of one architecture, from its name, its recipe, the images, the number of pairs and the cache of networks.
        tables: the tables of a results file.
    """

    name: str
    title: str
    summary: str
    seed: int
    recipes: Mapping[str, Recipe]
    pairs: int
    measure: Callable[[str, Recipe, Images, int, Path | None], dict[str, Any]]
    tables: Callable[[Mapping[str, Any]], list[Table]]

    def run(self, recipes: Mapping[str, Recipe], images: Images, pairs: int, cache: Path | None, command: str) -> dict[str, Any]:
        """The results of the architectures given."""
        where = environment()  # of the code as it was loaded
        rows = [self.measure(name, recipe, images, pairs, cache) for name, recipe in recipes.items()]
        return {
            "title": self.title,
            "command": command,
            "seed": self.seed,
            "environment": where,
            "data": images.name,
            "test_images": sum(len(y) for _, y in images.test),
            "rows": rows,
        }

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line."""
        program = f"python -m graphalign.experiments.{self.name}"
        parser = argparse.ArgumentParser(prog=program, description=self.summary)
        parser.add_argument("--data", metavar="ROOT", help="folder with fashion_mnist.npz; GRAPHALIGN_DATA if absent")
        parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trained networks are kept, and found by later runs")
        parser.add_argument("--archs", nargs="+", choices=tuple(self.recipes), default=list(self.recipes), help="networks; all if absent")
        parser.add_argument("--pairs", type=int, default=self.pairs, help=f"pairs per architecture, at least 1 (default {self.pairs})")
        parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where {self.name}.json and .md go (default docs/results)")
        parser.add_argument("--quick", action="store_true", help="one pair on 2,000 images for one epoch; writes only to --out")
        options = parser.parse_args(arguments)
        if options.pairs < 1:
            parser.error(f"--pairs: found {options.pairs}, expected at least 1")
        images = read_images(options.data)
        recipes = {name: self.recipes[name] for name in options.archs}
        if options.quick:
            recipes = {name: replace(recipe, images=2000, epochs=1) for name, recipe in recipes.items()}
        pairs = 1 if options.quick else options.pairs
        command = f"{program} --archs {' '.join(recipes)} --pairs {options.pairs} --data ROOT" + " --quick" * options.quick
        results = self.run(recipes, images, pairs, options.cache, command)
        for table in self.tables(results):
            print(table)
        out = options.out or (None if options.quick else Path("docs/results"))
        if out:
            publish(out, self.name, results, self.tables(results))
            print(f"written: {out / self.name}.json, {out / self.name}.md", file=sys.stderr)
