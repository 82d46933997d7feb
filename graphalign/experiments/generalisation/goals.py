"""What an aligner is meant to reach, as ratios to other columns, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphalign.experiments.generalisation.findings import Estimate, Findings
from graphalign.experiments.generalisation.rows import FAMILIES
from graphalign.experiments.results import Table

UNSEEN = ("width", "depth", "kernel")
SHIFTED = ("family", "data", "recipe", "activation")
ROWS = ("in_distribution", *UNSEEN, *SHIFTED)

WEIGHT, ACTIVATION, SINKHORN = "weight", "activation", "sinkhorn"
UNTRAINED, TRAINED, INITIALISER = "untrained", "trained", "trained_sinkhorn"
UNTRAINED_INPUTS, TRAINED_INPUTS = "untrained_inputs", "trained_inputs"


@dataclass(frozen=True)
class Goal:
    """A limit to the ratio of the mean barriers of two columns.

    Attributes:
        column: the one that is judged.
        reference: the one it is compared with.
        limits: largest ratio by family.
        rows: over whose architectures it has to hold.
        each: whether it has to hold in each of the rows, and not only over all of them.
    """

    column: str
    reference: str
    limits: Mapping[str, float]
    rows: tuple[str, ...]
    each: bool = False


@dataclass(frozen=True)
class SpeedGoal:
    """How many times faster than the reference a column is to be, in every family."""

    column: str
    reference: str
    least: float


def _all(limit: float) -> dict[str, float]:
    return dict.fromkeys(FAMILIES, limit)


GOALS = (
    Goal(TRAINED, WEIGHT, {"mlp": 0.5, "cnn": 0.7, "vgg": 0.8, "vgg-bn": 0.8, "resnet": 0.8}, UNSEEN),
    Goal(TRAINED, ACTIVATION, {"mlp": 0.75, "cnn": 0.9, "vgg": 1.0, "vgg-bn": 1.0, "resnet": 1.0}, UNSEEN),
    Goal(TRAINED_INPUTS, SINKHORN, {"mlp": 0.9, "cnn": 0.8, "vgg": 0.65, "vgg-bn": 0.65, "resnet": 0.65}, UNSEEN),
    Goal(TRAINED_INPUTS, ACTIVATION, {"mlp": 0.45, "cnn": 0.65, "vgg": 0.65, "vgg-bn": 0.85, "resnet": 0.85}, UNSEEN),
    Goal(TRAINED, ACTIVATION, _all(1.0), SHIFTED, each=True),
    Goal(TRAINED_INPUTS, ACTIVATION, _all(0.75), SHIFTED, each=True),
    Goal(TRAINED, UNTRAINED, _all(0.75), ("in_distribution",)),
    Goal(TRAINED, UNTRAINED, _all(0.85), (*UNSEEN, *SHIFTED)),
    Goal(TRAINED_INPUTS, UNTRAINED_INPUTS, _all(0.75), ("in_distribution",)),
    Goal(TRAINED_INPUTS, UNTRAINED_INPUTS, _all(0.85), (*UNSEEN, *SHIFTED)),
    Goal(INITIALISER, SINKHORN, _all(1.0), ROWS),
    Goal(TRAINED, SINKHORN, _all(1.0), ROWS),
)
SPEED_GOALS = (SpeedGoal(TRAINED_INPUTS, SINKHORN, 20),)
"""Those of the published protocol, on networks for CIFAR-10, are measured by `graphalign bench published`."""


def goal_tables(findings: Findings) -> list[Table]:
    """Every goal that something was measured for, with the ratios found and whether they hold."""
    titles = {name: column["title"] for name, column in findings.results["columns"].items()}
    rows = [r for r in ROWS if any(row == r for _, row in findings.places)]
    lines, speeds = [], []
    for goal in GOALS:
        for family, limit in goal.limits.items():
            found = {row: findings.ratio(row, family, goal.column, goal.reference) for row in goal.rows}
            if any(found.values()):
                together, count = _together(findings, family, goal, found)
                cells = [*(_cell(found.get(row)) for row in rows), f"{together:.2f}", str(count)]
                lines.append([titles[goal.column], titles[goal.reference], family, f"{limit:g}", *cells, _verdict(goal, found, together, limit)])
    for speed in SPEED_GOALS:
        for family in FAMILIES:
            times = findings.speed(family, speed.column, speed.reference)
            if times is not None:
                judged = "holds" if times >= speed.least else "falls short"
                speeds.append([titles[speed.column], titles[speed.reference], family, f"{speed.least:g}x", f"{times:.3g}x", judged])
    note = (
        "Ratio of mean barriers on the same pairs, geometric mean over architectures, with the standard deviation over aligners where "
        "there are several; together: over the architectures of all rows of the goal. A goal holds if that is at most the limit, those on networks "
        "of another family, data set, recipe or activation if every row is."
    )
    head = ["column", "compared with", "family", "limit", *rows, "together", "architectures", "verdict"]
    tables = [Table("Goals: ratios of barriers", head, lines, [note])] if lines else []
    if speeds:
        note = "One pair alone, everything in one process on one machine; tracing apart. Geometric mean over architectures."
        tables.append(Table("Goals: speed", ["column", "compared with", "family", "goal", "found", "verdict"], speeds, [note]))
    return tables


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.2f} ± {found.std:.2f}" if found.count > 1 else f"{found.mean:.2f}"


def _together(findings: Findings, family: str, goal: Goal, found: Mapping[str, Estimate | None]) -> tuple[float, int]:
    """The geometric mean of the ratios of rows, weighted by their architectures, and how many different ones those are."""
    total, count, names = 0.0, 0, set()
    for row, estimate in found.items():
        if estimate is not None:
            own, other = (findings.pairs(row, family, column).keys() for column in (goal.column, goal.reference))
            total += len(own & other) * math.log(estimate.mean)
            count += len(own & other)
            names |= own & other
    return math.exp(total / count), len(names)


def _verdict(goal: Goal, found: Mapping[str, Estimate | None], together: float, limit: float) -> str:
    above = [row for row, estimate in found.items() if estimate is not None and not estimate.mean <= limit]
    if together > limit or (goal.each and above):
        return f"falls short: {', '.join(above)}"
    return f"holds; above it: {', '.join(above)}" if above else "holds"
