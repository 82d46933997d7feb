"""The suite "scale": seconds and memory of aligning networks from 1e5 to 1e9 parameters, and how both grow.

All weights are random and B is A with its units shuffled, so that what is right is known and nothing has to be trained; neither seconds nor
memory depend on what a network has learned. Every network has a process of its own, so that peaks of memory are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graphalign.bench.large_networks import VGG11, build, layout
from graphalign.bench.processes import Job, MeasurementFailed, measure
from graphalign.bench.scale_tables import draw, tables
from graphalign.bench.settings import Report, Settings
from graphalign.experiments.networks import VGG16
from graphalign.experiments.results import environment


@dataclass(frozen=True)
class Subject:
    """A network that is measured.

    Attributes:
        name: in the tables.
        kind: see `graphalign.bench.large_networks`.
        sizes: arguments of that kind.
        series: "networks", or the family whose growth is fitted.
        files: aligned from bfloat16 files instead of float32 modules.
    """

    name: str
    kind: str
    sizes: tuple[Any, ...]
    series: str = "networks"
    files: bool = False


def mlp(width: int) -> Subject:
    """A member of the MLP series: 16 hidden layers."""
    return Subject(f"MLP, 16 layers of {width}", "mlp", (64, width, 16), "MLP")


def transformer(width: int, depth: int, vocabulary: int = 128) -> Subject:
    """A member of the series of transformers: causal, heads of 64 features (two at least), 8 tokens."""
    return Subject(f"transformer, {depth} layers of {width}", "gpt", (vocabulary, 64, width, depth, max(2, width // 64), 8), "transformer")


BILLION = Subject("1 B transformer, files", "gpt", (32000, 1024, 2048, 19, 32, 2), files=True)
NETWORKS = (
    Subject("VGG-11, 32x32", "vgg", (VGG11,)),
    Subject("VGG-16, 32x32", "vgg", (VGG16,)),
    Subject("WideResNet-28-10, 32x32", "wide_resnet", (28, 10)),
    Subject("ResNet-50, 224x224", "resnet50", (224,)),
    Subject("ViT-B/16, 224x224", "vit", (768, 12, 12, 16, 224)),
    Subject("GPT-2 small, 16 tokens", "gpt", (50257, 1024, 768, 12, 12, 16)),
    BILLION,
)
MLPS = tuple(mlp(width) for width in (80, 256, 816, 2580))
TRANSFORMERS = (transformer(64, 2), transformer(128, 5), transformer(320, 8), transformer(768, 14))
QUICK = (
    Subject("VGG, 32x32", "vgg", (((8,), (16,)),)),
    Subject("ViT, 32x32", "vit", (32, 2, 2, 8, 32)),
    Subject("GPT, files", "gpt", (64, 32, 32, 2, 2, 8), files=True),
    *(mlp(width) for width in (8, 32)),
    *(transformer(width, 2, 64) for width in (32, 64)),
)
WIDTHS, QUICK_WIDTHS = (512, 1024, 2048, 4096, 8192), (64, 128)


def run(settings: Settings) -> Report:
    """Measures everything, one process at a time.

    Raises:
        MeasurementFailed: a measurement failed.
    """
    where = environment()
    subjects = QUICK if settings.quick else (*NETWORKS, *MLPS, *TRANSFORMERS)
    fitting = [subject for subject in subjects if _needed(subject) < available()]
    rows = [{**_facts(subject), **_one(_job(subject, settings))} for subject in fitting]
    widths = QUICK_WIDTHS if settings.quick else WIDTHS
    assignments = [
        {"units": units, "scores": scores, **_one(Job("solve", {"units": units, "scores": scores, "seed": settings.seed}))}
        for units in widths for scores in ("random", "noisy")
    ]  # fmt: skip
    results = {
        "title": "Scale",
        "command": settings.command("scale"),
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
