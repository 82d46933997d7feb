"""The tables and the figure of the suite "scale", generated from its results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphalign.curve import new_figure, save_figure
from graphalign.experiments.results import Table

MIB = 2**20
PASS = ("codes", "encode", "score", "assign")
FLOOR = 200 * MIB
"""What a pass may take beyond the two networks, if the largest layer takes no more."""
SERIES = ("MLP", "transformer")


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file."""
    return [time_table(results), memory_table(results), growth_table(results), assignment_table(results)]


def time_table(results: Mapping[str, Any]) -> Table:
    """Seconds by stage."""
    rows = []
    for row in results["networks"]:
        seconds = row["cpu"]
        cells = [_seconds(seconds.get(stage)) for stage in ("trace", "codes", "encode", "score", "assign", "steps", "apply")]
        rows.append([row["name"], _count(row["parameters"]), str(row["codes"]), *cells, _percent(row["recovered"]), "yes" if row["equal"] else "no"])
    columns = ["network", "parameters", "codes", "trace", "codes drawn", "encode", "score", "assign", "steps", "apply", "units back %", "B moved = A"]
    return Table(
        "Seconds of the processor, 1 thread", columns, rows,
        [
            "Random weights; B is A with its units shuffled, heads included. Seconds of the processor, which other programs on the machine "
            "change less than the clock. '-': the stage does not happen: no scores of weights where the scores of all cells together "
            "have more than 2^24 entries, no steps where a network is too large for them or reads tokens. 'B moved = A': every entry of "
            "every tensor." + (f" Left out on this machine: {'; '.join(results['left_out'])}." if results["left_out"] else "")
        ],
    )  # fmt: skip


def memory_table(results: Mapping[str, Any]) -> Table:
    """Peaks of memory by stage."""
    rows = []
    for row in results["networks"]:
        peak = beyond(row)
        allowed = max(row["working_set"], FLOOR)
        cells = [_mib(row["peak"].get(stage)) for stage in ("trace", *PASS, "steps", "apply")]
        rows.append([row["name"], _mib(row["networks"]), *cells, _mib(row["working_set"]), f"{peak / allowed:.2f}"])
    columns = ["network", "A and B", "trace", "codes", "encode", "score", "assign", "steps", "apply", "largest layer", "pass / allowed"]
    return Table(
        "Peak memory beyond the two networks, MiB", columns, rows,
        [
            "Resident memory as Linux counts it, above what was resident with the two networks before the stage (codes to steps: before the "
            "pass), libraries loaded. 'Largest layer': what aligning it by itself takes, 2 W + 4 c H + 3 U^2 entries of float32: its weight "
            "in both networks, its forward and backward states in both on c codes, its scores. Allowed is the larger of that and 200 MiB; the "
            "pass is without steps. Apply to a module or state dict returns a network, which counts. From files: memory beyond the size of "
            "both files."
        ],
    )  # fmt: skip


def growth_table(results: Mapping[str, Any]) -> Table:
    """Fitted exponents."""
    rows = []
    for series in SERIES:
        found = members(results, series)
        if len(found) < 2:
            continue
        count = [row["parameters"] for row in found]
        last = found[-2:]
        rows.append([
            series, str(len(found)), f"{_count(count[0])} to {_count(count[-1])}",
            _exponent(count, [seconds(row) for row in found]), _exponent(count[-2:], [seconds(row) for row in last]),
            _exponent(count, [row["cpu"]["trace"] for row in found]),
            _exponent([row["widest"] for row in found], [beyond(row) for row in found]),
            _exponent([row["widest"] for row in last], [beyond(row) for row in last]),
        ])  # fmt: skip
    columns = ["family", "networks", "parameters", "pass", "pass, last two", "trace", "memory by width", "memory by width, last two"]
    return Table(
        "Growth: exponents of least-squares lines through logarithms", columns, rows,
        ["Pass: seconds of codes, encode and score, the assignment and steps apart, against parameters. Memory: peak of the pass "
         "beyond the networks against the units of the widest cell."],
    )  # fmt: skip


def assignment_table(results: Mapping[str, Any]) -> Table:
    """Exact assignments of single large cells."""
    rows = [
        [str(row["units"]), row["scores"], f"{row['cpu']:.3g}", _mib(row["peak"]), {True: "yes", False: "no", None: "-"}[row["optimal"]]]
        for row in results["assignments"]
    ]
    return Table(
        "One exact assignment, float32, 1 thread", ["units", "scores", "s", "extra MiB", "optimal"], rows,
        ["'random': independent uniform scores. 'noisy': inner products of units with copies of them whose noise hides some. Extra: "
         "beyond the scores. Optimal: the sum is that of scipy, which is asked up to 1,024 units."],
    )  # fmt: skip


def members(results: Mapping[str, Any], series: str) -> list[Mapping[str, Any]]:
    """Rows of a family, by size."""
    return sorted((row for row in results["networks"] if row["series"] == series), key=lambda row: row["parameters"])


def seconds(row: Mapping[str, Any]) -> float:
    """Of the pass, the assignment and steps apart."""
    return float(sum(row["cpu"].get(stage, 0.0) for stage in ("codes", "encode", "score")))


def beyond(row: Mapping[str, Any]) -> float:
    """Peak of the pass beyond the two networks, in bytes."""
    return float(max(row["peak"].get(stage, 0) for stage in PASS))


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Seconds and memory against parameters, logarithmic, into a PNG file."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for series, marker in (("MLP", "o"), ("transformer", "s")):
        found = members(results, series)
        count = [row["parameters"] for row in found]
        left.plot(count, [seconds(row) for row in found], marker=marker, label=f"{series}: pass without assignment")
        left.plot(count, [row["cpu"]["trace"] for row in found], marker=marker, linestyle=":", alpha=0.6, label=f"{series}: trace")
        right.plot(count, [beyond(row) / MIB for row in found], marker=marker, label=series)
    rows = members(results, "networks")
    _mark(left, {row["name"].split(",")[0]: (row["parameters"], seconds(row)) for row in rows})
    _mark(right, {row["name"].split(",")[0]: (row["parameters"], beyond(row) / MIB) for row in rows})
    for axes, what in ((left, "seconds of the processor, 1 thread"), (right, "peak memory beyond the networks, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    save_figure(figure, path)


def _mark(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Points with their names, on the side that faces away from the one of most similar height."""
    for name, (x, y) in points.items():
        others = [point for other, point in points.items() if other != name]
        facing = min(others, key=lambda point: abs(math.log(point[1] / y)), default=(0.0, y))[0]
        before = x < facing or all(x > point[0] for point in others)
        axes.plot(x, y, "k.")
        where = {"xytext": (-4 if before else 4, 2), "ha": "right" if before else "left"}
        ground = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5}
        axes.annotate(name, (x, y), fontsize=7, textcoords="offset points", bbox=ground, **where)


def _exponent(x: Sequence[float], y: Sequence[float]) -> str:
    return f"{np.polyfit(np.log(x), np.log(np.maximum(y, 1e-9)), 1)[0]:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value / MIB:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".")


def _count(parameters: float) -> str:
    return f"{parameters / 1e6:.4g} M"
