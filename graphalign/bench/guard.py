"""A guard against regressions: ratios that were measured side by side in one run, beside those of a published results file.

Seconds depend on the machine and on what else it does; how many times faster one thing is than another in the same process depends on them
far less. No seconds are compared.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphalign.errors import CorruptFile, GraphAlignError, InvalidInput
from graphalign.experiments.results import Table

TOLERANCE = 1.5
"""How many times worse a ratio may be than the published one."""


class Regression(GraphAlignError):
    """A ratio is worse than published by more than the tolerance."""


def published_ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of activation matching and of Sinkhorn re-basin over those of a pass."""
    from graphalign.bench.published import NO_DATA, SLOW, WITH_INPUTS, ratio

    return {
        f"{network['name']}: {slow} / {ours}": ratio(network, slow, ours)
        for network in results["networks"] for slow in SLOW for ours in (NO_DATA, WITH_INPUTS)
    }  # fmt: skip


def batch_ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per pair of the loop over those of `align_many`."""
    from graphalign.bench.batch import ratio

    return {f"{row['network']}, {row['pairs']} pairs, {row['way']}: loop / align_many": ratio(row, "cpu") for row in results["rows"]}


def startup_ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of `import torch` over those of everything else."""
    from graphalign.bench.startup import TORCH

    seconds = {row["name"]: statistics.median(row["cpu"]) for row in results["rows"]}
    return {f"{TORCH} / {name}": seconds[TORCH] / value for name, value in seconds.items() if name != TORCH}


RATIOS: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "published": published_ratios, "batch": batch_ratios, "startup": startup_ratios,
}  # fmt: skip
"""Ratios of a results file by suite; of all of them more is better."""


def read_published(suite: str, file: Path) -> dict[str, Any]:
    """The results file that a run is compared with; call it before time is spent.

    Raises:
        InvalidInput: there is no such file, or the suite has no ratios.
        CorruptFile: it cannot be read.
    """
    if suite not in RATIOS:
        raise InvalidInput(f"bench {suite}: found --guard, expected it with one of {', '.join(RATIOS)}")
    if not file.is_file():
        raise InvalidInput(f"--guard {file}: found no such file, expected a results file such as docs/results/bench_{suite}.json")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        RATIOS[suite](found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"--guard {file}: found no results of the suite {suite} ({type(error).__name__}: {error}); publish it again") from None
    return found


def guard(suite: str, published: Mapping[str, Any], measured: Mapping[str, Any], tolerance: float = TOLERANCE) -> Table:
    """The ratios of both, and whether each holds.

    Args:
        suite: one of `RATIOS`.
        published: results that are right.
        measured: results of the same suite; only what both have is compared.
        tolerance: a ratio holds if it is at least the published one divided by this.

    Raises:
        InvalidInput: they have no ratio in common.
        Regression: lists the ratios that do not hold.
    """
    expected, found = RATIOS[suite](published), RATIOS[suite](measured)
    common = [name for name in expected if name in found]
    if not common:
        raise InvalidInput(f"bench {suite}: found no ratio that the published results have too, expected the same networks and sizes")
    worse = [name for name in common if math.isnan(found[name]) or found[name] * tolerance < expected[name]]
    if worse:
        lines = [f"  - {name}: found {found[name]:.3g}, published {expected[name]:.3g}" for name in worse]
        raise Regression(f"bench {suite}: some ratios are worse than published by more than a factor of {tolerance:g}:\n" + "\n".join(lines))
    rows = [[name, f"{expected[name]:.3g}", f"{found[name]:.3g}", f"{found[name] / expected[name]:.2f}"] for name in common]
    return Table(f"Ratios, all within a factor of {tolerance:g} of those published", ["ratio", "published", "now", "now / published"], rows)
