"""The suite "scale": seconds and memory of aligning networks from 1e5 to 1e9 parameters, and how both grow.

All weights are random and B is A with its units shuffled, so that what is right is known and nothing has to be trained; neither seconds nor
memory depend on what a network has learned. Every network has a process of its own, so that peaks of memory are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graphalign.bench.large_networks import build, layout
from graphalign.bench.processes import Job, MeasurementFailed, measure
from graphalign.bench.scale_tables import draw, tables
from graphalign.bench.settings import Report, Settings, read_entries, read_sizes
from graphalign.experiments.results import environment


@dataclass(frozen=True)
class Subject:
    """A network that is measured.

    Attributes:
        name: in the tables.
        kind: see `graphalign.bench.large_networks`.
        sizes: arguments of that kind.
        files: aligned from bfloat16 files instead of float32 modules.
        series: "networks", or the family whose growth is fitted.
    """

    name: str
    kind: str
    sizes: tuple[Any, ...]
    files: bool = False
    series: str = "networks"


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        networks: the fields of a `Subject` by key.
        mlps: widths of the series of MLPs, 16 hidden layers each.
        transformers: widths and layers of the series of causal transformers, with heads of 64 features (two at least), on 8 tokens.
        vocabulary: of that series.
        assignments: units of single assignments.
    """

    networks: Mapping[str, Any]
    mlps: tuple[int, ...]
    transformers: tuple[tuple[int, int], ...]
    vocabulary: int
    assignments: tuple[int, ...]

    @property
    def subjects(self) -> list[Subject]:
        """Everything that is aligned.

        Raises:
            InvalidInput: lists what is wrong with the networks.
        """
        entries = {name: entry and {"files": False, "series": "networks", **entry} for name, entry in self.networks.items()}
        own = read_entries(Subject, entries, "bench scale: networks")
        mlps = [Subject(f"MLP, 16 layers of {width}", "mlp", (64, width, 16), series="MLP") for width in self.mlps]
        transformers = [
            Subject(
                f"transformer, {depth} layers of {width}", "gpt", (self.vocabulary, 64, width, depth, max(2, width // 64), 8),
                series="transformer",
            ) for width, depth in self.transformers
        ]  # fmt: skip
        return [*own, *mlps, *transformers]


def run(settings: Settings) -> Report:
    """Measures everything, one process at a time.

    Raises:
        InvalidInput: the configuration is not that of this suite.
        MeasurementFailed: a measurement failed.
    """
    sizes = read_sizes(Sizes, settings.sizes, "bench scale")
    subjects = sizes.subjects
    where = environment()
    fitting = [subject for subject in subjects if _needed(subject) < available()]
    rows = [{**_facts(subject), **_one(_job(subject, settings))} for subject in fitting]
    assignments = [
        {"units": units, "scores": scores, **_one(Job("solve", {"units": units, "scores": scores, "seed": settings.seed}))}
        for units in sizes.assignments for scores in ("random", "noisy")
    ]  # fmt: skip
    results = {
        "title": "Scale",
        "command": settings.command,
        "seed": settings.seed,
        "environment": {**where, "threads": 1},
        "networks": rows,
        "left_out": [subject.name for subject in subjects if subject not in fitting],
        "assignments": assignments,
    }
    return Report(results, tables(results), partial(draw, results))


def available() -> int:
    """Bytes of memory that programs may still take.

    Raises:
        MeasurementFailed: this system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise MeasurementFailed("bench scale: found no /proc/meminfo, from which memory is read; run it on Linux") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _needed(subject: Subject) -> int:
    """Bytes for two networks, a third that the alignment is applied to, and a pass."""
    network, _ = build(subject.kind, subject.sizes)
    size = sum(tensor.numel() for tensor in layout(network).values()) * (2 if subject.files else 4)
    return 3 * size + 2**31


def _facts(subject: Subject) -> dict[str, Any]:
    return {"name": subject.name, "series": subject.series, "files": subject.files}


def _job(subject: Subject, settings: Settings) -> Job:
    return Job("scale", {**_facts(subject), "kind": subject.kind, "sizes": subject.sizes, "seed": settings.seed})


def _one(job: Job) -> dict[str, Any]:
    facts = dict(measure([job])[0].facts)
    if "error" in facts:
        raise MeasurementFailed(f"bench: {job.arguments.get('name', job.task)} failed: {facts['error']}")
    return facts
