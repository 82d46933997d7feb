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


SUITES: dict[str, Suite] = {"methods": methods, "published": published}


def describe(name: str) -> str:
    """One line about a suite: the first line of its docstring."""
    return (SUITES[name].__doc__ or "").strip().splitlines()[0]
