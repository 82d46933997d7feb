"""All suites of benchmarks by name. A suite loads what it measures when it runs."""

from __future__ import annotations

from graphalign.bench.settings import Report, Settings, Suite


def methods(settings: Settings) -> Report:
    """Our methods and other implementations of them on the same inputs."""
    from graphalign.bench.methods import run

    return run(settings)


def published(settings: Settings) -> Report:
    """Seconds per pair by DEEP-ALIGN's protocol: one pass, activation matching on 50,000 images, 1,000 Sinkhorn steps."""
    from graphalign.bench.published import run

    return run(settings)


def batch(settings: Settings) -> Report:
    """Pairs per second of align_many and of a loop of align: distinct pairs, one to many, all pairs."""
    from graphalign.bench.batch import run

    return run(settings)


def scale(settings: Settings) -> Report:
    """Time and memory of every stage from 1e5 to 1e9 parameters, and how both grow."""
    from graphalign.bench.scale import run

    return run(settings)


def startup(settings: Settings) -> Report:
    """Time of imports, of the help text, and of the first and second call."""
    from graphalign.bench.startup import run

    return run(settings)


def amortisation(settings: Settings) -> Report:
    """After how many pairs the networks and the training of an aligner have paid for themselves, by family."""
    from graphalign.bench.amortisation import run

    return run(settings)


SUITES: dict[str, Suite] = {
    "methods": methods, "published": published, "batch": batch, "amortisation": amortisation, "scale": scale, "startup": startup,
}  # fmt: skip


def describe(name: str) -> str:
    """One line about a suite: the first line of its docstring."""
    return (SUITES[name].__doc__ or "").strip().splitlines()[0]
