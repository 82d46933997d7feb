"""The suite "amortisation": after how many pairs the networks and the training of an aligner have paid for themselves.

Barriers are those of `graphalign.experiments.generalisation` on networks that training never saw; seconds are of one pair alone, all methods
in turns in one process. What an aligner saves per pair counts only where its mean barrier is at most that of the method it replaces.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graphalign.aligner import Aligner
from graphalign.bench.amortisation_tables import draw, tables
from graphalign.bench.parts import CLOCKS, Part, Parts
from graphalign.bench.settings import Report, Settings, read_sizes
from graphalign.experiments.generalisation.case import Case, family_of, open_case
from graphalign.experiments.generalisation.columns import ROLE, Column
from graphalign.experiments.generalisation.experiment import read_run
from graphalign.experiments.generalisation.runs import Run
from graphalign.experiments.results import environment
from graphalign.training.cost import cost
from graphalign.training.run import STATE, train
from graphalign.training.settings import read_settings
from graphalign.zoo.manifest import MANIFEST, Group
from graphalign.zoo.population import generate
from graphalign.zoo.sections import read_sections
from graphalign.zoo.zoo import Zoo

PLACES = ("zoo", "population", "out", "cache")
"""Keys of a configuration of a training that are no settings of it."""


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        networks: folder of the population, which is generated if there is none.
        run: folder of the training run, which is trained if there is none.
        data: of data sets that are not embedded.
        work: folder of single measurements of barriers, which later runs find.
        ours: columns of the experiment that are passes of the aligner.
        others: columns that they are compared with.
        steps: of Sinkhorn re-basin that are timed, besides a single one.
        population: configuration of the population, see `graphalign.zoo.sections`.
        training: configuration of the run, see `graphalign.training.settings`.
        experiment: configuration of the barriers, see `graphalign.experiments.generalisation.experiment`.
    """

    networks: str
    run: str
    data: Path | None
    work: str
    ours: tuple[str, ...]
    others: tuple[str, ...]
    steps: int
    population: Mapping[str, Any]
    training: Mapping[str, Any]
    experiment: Mapping[str, Any]


def run(settings: Settings) -> Report:
    """Measures what is missing, and puts cost and savings together.

    Raises:
        InvalidInput: the configuration is not that of this suite, or data or networks are missing.
        CorruptFile: files that cannot be read.
    """
    sizes = read_sizes(Sizes, settings.sizes, "bench amortisation")
    where = environment()
    zoo = population(sizes)
    folder = trained(sizes, zoo)
    experiment = opened(sizes, settings, zoo, folder)
    titles = {name: column.title for name, column in experiment.columns.items()}
    measured = barriers(experiment)
    rows = []
    for group in {g.name: g for row in experiment.rows for g in row.groups(zoo)}.values():
        seconds = times(experiment, group, (*sizes.ours, *sizes.others), sizes, settings.repetitions)
        found = {name: measured.get((group.name, name)) for name in (*sizes.ours, *sizes.others)}
        rows.append({"family": family_of(group), "architecture": group.name, "barriers": found, "seconds": seconds})
    spent = cost(zoo, folder)
    results = {
        "title": "What an aligner costs and saves",
        "command": settings.command,
        "seed": settings.seed,
        "environment": where,
        "repetitions": settings.repetitions,
        "pairs": experiment.protocol.pairs,
        "timed_steps": sizes.steps,
        "cost": asdict(spent),
        "ours": {name: titles[name] for name in sizes.ours},
        "others": {name: titles[name] for name in sizes.others},
        "rows": rows,
    }
    return Report(results, tables(results), partial(draw, results))


def population(sizes: Sizes) -> Zoo:
    """The population, generated if its folder has none."""
    if not (Path(sizes.networks) / MANIFEST).is_file():
        sections = {name: section for name, section in sizes.population["sections"].items() if section is not None}
        generate(read_sections(sections), sizes.networks, root=sizes.data, progress=_say)
    return Zoo.open(sizes.networks)


def trained(sizes: Sizes, zoo: Zoo) -> Path:
    """The folder of the run, trained if there is none; its cache is its own, so that all it computes is counted."""
    folder = Path(sizes.run)
    if not (folder / STATE).is_file():
        content = {key: value for key, value in sizes.training.items() if key not in PLACES}
        train(read_settings(content), zoo, folder, root=sizes.data, cache=folder / "cache", environment=environment(), progress=_say)
    return folder


def opened(sizes: Sizes, settings: Settings, zoo: Zoo, folder: Path) -> Run:
    """The experiment whose barriers are used, with the aligner of the run."""
    content = dict(sizes.experiment)
    content |= {
        "aligners": {ROLE: [str(folder)]}, "timing": None, "protocol": {**(content.get("protocol") or {}), "seed": settings.seed},
        "only": {"columns": [*sizes.ours, *sizes.others]},
    }  # fmt: skip
    run, selected = read_run(content, zoo, Path(sizes.work), sizes.data)
    run.measure(selected, _say)
    return run


def barriers(run: Run) -> dict[tuple[str, str], float]:
    """Mean barriers over pairs by architecture and column."""
    return {(r["architecture"], r["column"]): statistics.fmean(r["figures"]["barrier"]) for r in run.records()}


def times(run: Run, group: Group, names: tuple[str, ...], sizes: Sizes, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Seconds for the first pair of a group by column, clock and repetition, in turns; the first turn does not count."""
    case = open_case(run.zoo, group, run.protocols.get(family_of(group), run.protocol), root=run.root, device=run.device)
    aligner = run.sets[ROLE][0].load().to(run.device)
    parts = {name: column_parts(case, run.columns[name], aligner, sizes.steps) for name in names}
    found: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in CLOCKS} for name in names}
    for name in sizes.ours:
        parts[name].seconds()  # loads libraries
    for _ in range(repetitions):
        for name, work in parts.items():
            for clock, value in work.seconds().items():
                found[name][clock].append(value)
            print(f"{group.name}, {name}: {found[name]['cpu'][-1]:.3g} s", file=sys.stderr, flush=True)
    return found


def column_parts(case: Case, column: Column, aligner: Aligner, steps: int) -> Parts:
    """How a column is timed: whole, or by single steps where its last method is Sinkhorn re-basin with more steps than `steps`."""
    method, _, options = column.stages[-1]
    variant = column.variants[0]
    whole = int({**options, **variant}.get("steps", 0)) if method == "sinkhorn" else 0
    used = aligner if column.aligner is not None else None

    def part(changes: Mapping[str, Any], size: int) -> Part:
        return Part(partial(column.chain({**variant, **changes}, used), [case.problems[0]], case.data), size)

    return Parts((part({}, 1),)) if whole <= steps else Parts((part({"steps": 1}, 1), part({"steps": steps}, steps)), whole)


def _say(done: int, total: int, what: str) -> None:
    print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)
