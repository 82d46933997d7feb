"""The tables of the suite "methods", generated from its results alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from graphalign.bench.peers import VARIABLE
from graphalign.bench.stopwatch import milliseconds
from graphalign.experiments.results import Table

OURS = "graphalign"


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file."""
    return [weight_table(results), family_table(results), sinkhorn_table(results), *transport_tables(results), assignment_table(results)]


def weight_table(results: Mapping[str, Any]) -> Table:
    """Seconds of weight matching with and without tracing."""
    rows = []
    reference = next((row for row in results["weight"] if row["implementation"] == "rebasin" and "wall" in row), None)
    for row in results["weight"]:
        if "error" in row:
            rows.append([label(results, row), *["-"] * 6, row["error"]])
            continue
        cells = [label(results, row)]
        for stages in (("matching",), ("tracing", "matching")):
            times = total(row, "wall", stages)
            cells += [milliseconds(times), milliseconds(total(row, "cpu", stages)), ratio(reference, times, stages)]
        rows.append([*cells, percent(row["recovered"])])
    sizes = "-".join(map(str, results["weight"][0]["sizes"]))
    columns = ["implementation", "matching ms", "CPU ms", "faster", "with tracing ms", "CPU ms", "faster", "units back %"]
    return Table(
        f"Weight matching, MLP {sizes} and a shuffled copy with noise of one standard deviation of each tensor", columns, rows,
        [
            f"Median (range) of {results['repetitions']} warm runs, 1 thread. Matching: from two networks whose structure is known "
            "to the permuted copy. Tracing: finding the structure of both. 'Faster': the clock time of rebasin over that of the row. "
            "rebasin ascends once from the identity; ours by default from there and from a forward pass, keeping the better one."
            + missing(results, "rebasin")
        ],
    )  # fmt: skip


def family_table(results: Mapping[str, Any]) -> Table:
    """Who keeps the function and finds the units."""
    names = list(dict.fromkeys(row["network"] for row in results["families"]))
    rows = [
        [row["network"], label(results, row), *(["-", row["error"]] if "error" in row else [f"{row['change']:.1e}", percent(row["recovered"])])]
        for row in sorted(results["families"], key=lambda row: names.index(row["network"]))
    ]
    columns = ["network", "implementation", "change of the outputs", "units back %"]
    return Table(
        "Weight matching of shuffled copies without noise", columns, rows,
        [
            "Change of the outputs: largest |f(x) - f_permuted(x)| over 16 Gaussian inputs in float64; a permutation of units leaves "
            "rounding alone. A unit is back if all its weights and biases are. Both of the worst run: rebasin visits layers in random order." + missing(results, "rebasin")
        ],
    )  # fmt: skip


def sinkhorn_table(results: Mapping[str, Any]) -> Table:
    """Seconds until Sinkhorn re-basin has put all units back."""
    rows = []
    for row in sorted(results["sinkhorn"], key=lambda r: r["sizes"]):
        name = [str(row["sizes"][1]), label(results, row)]
        if "error" in row:
            rows.append([*name, *["-"] * 6, row["error"]])
            continue
        peers = [r for r in results["sinkhorn"] if r["sizes"] == row["sizes"] and r["implementation"] != OURS and "error" not in r]
        right = [r for r in peers if r["recovered"] == 1]
        published = next((r for r in peers if r["options"]["rate"] == results["rates"][0]), None)
        best = min(right, key=lambda r: statistics.median(r["wall"]["matching"]), default=None)
        times = row["wall"]["matching"]
        speeds = [ratio(reference, times, ("matching",)) for reference in (published, best)]
        if published is not None and published["recovered"] < 1 and row is not published:
            speeds[0] = f"> {speeds[0]}"
        cells = [str(row["steps"]), percent(row["recovered"]), milliseconds(times), milliseconds(row["cpu"]["matching"]), str(len(times))]
        rows.append([*name, *cells, *speeds])
    first = f"rate {results['rates'][0]:g}"
    return Table(
        "Sinkhorn re-basin by weights (L2), MLP 32-h-h-10 and a shuffled copy without noise",
        ["h", "implementation", "steps", "units back %", "matching ms", "CPU ms", "runs", f"than {first}", "than the best"], rows,
        [
            f"Median (range) of the warm runs, 1 thread, tracing apart; no further runs after {results['budget']:.0f} s. "
            f"sinkhorn-rebasin is stopped at the first step at which everything is back (looking for it is not timed), at most "
            f"{results['limit']} steps; ours stops by itself, which is timed. The last columns are how many times faster, by the "
            f"clock: than sinkhorn-rebasin at {first}, as in its example for MLPs ('>': it had not finished), and at the rate that "
            "was fastest among those that put all units back." + missing(results, "sinkhorn-rebasin")
        ],
    )  # fmt: skip


def transport_tables(results: Mapping[str, Any]) -> list[Table]:
    """How far exact plans are from those of POT and of linear assignment."""
    rows = []
    for row in results["transport"]:
        to, of = row["widths"]
        other = "-" if row["from_assignment"] is None else f"{row['from_assignment']:.1e}"
        rows.append([str(of), str(to), f"{row['from_pot']:.1e}", other])
    notes = [
        "Largest difference between entries of the plans for the hidden layer of two independent MLPs 32-h-10. POT: ot.emd with "
        "uniform masses on Euclidean distances of incoming weights and biases, computed apart. Assignment: the permutation of "
        "least cost, divided by h."
    ]
    columns = ["units of B", "units of A", "from POT", "from assignment"]
    return [Table("Exact optimal transport", columns, rows, notes)] if rows else []


def assignment_table(results: Mapping[str, Any]) -> Table:
    """Seconds of batches of assignments."""
    rows = []
    for row in results["assignments"]:
        cells = [f"{row['problems']} x {row['units']}x{row['units']}", row["scores"], str(row["threads"])]
        for clock in ("wall", "cpu"):
            ours, theirs = (row[clock][name] for name in ("graphalign", "scipy"))
            cells += [milliseconds(ours), milliseconds(theirs), f"{statistics.median(theirs) / statistics.median(ours):.1f}x"]
        rows.append([*cells, "yes" if row["equal"] else "NO"])
    columns = ["problems", "scores", "threads", "assign ms", "scipy ms", "faster", "assign CPU ms", "scipy CPU ms", "faster", "equal sums"]
    return Table(
        "Batches of linear assignments, float32 scores", columns, rows,
        [
            "Median (range) of runs of `assign` and of a loop over scipy's linear_sum_assignment, in turns in one process. Random: "
            "uniform scores. Similar: inner products with noisy copies, noise six times the signal. Clear: noise as large as the "
            "signal. The loop runs on one thread whatever the number; CPU: of all threads together."
        ],
    )  # fmt: skip


def label(results: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """An implementation with its version and what was chosen."""
    name, options = row["implementation"], row["options"]
    if name == OURS:
        return f"graphalign, {options['method']}" + ", one ascent" * ("start" in options)
    rate = f", rate {options['rate']:g}" if "rate" in options else ""
    return f"{name} {results['peers'][name]}{rate}"


def total(row: Mapping[str, Any], clock: str, stages: Sequence[str]) -> list[float]:
    """Seconds of some stages together, by repetition."""
    return [sum(times) for times in zip(*(row[clock][stage] for stage in stages), strict=True)]


def ratio(reference: Mapping[str, Any] | None, seconds: Sequence[float], stages: Sequence[str]) -> str:
    """How many times faster than a reference row, by medians of the clock."""
    if reference is None:
        return "-"
    return f"{statistics.median(total(reference, 'wall', stages)) / statistics.median(seconds):.1f}x"


def percent(share: float) -> str:
    """A share in %, 100 only if nothing is missing."""
    return "100" if share == 1.0 else f"{min(100 * share, 99.9):.1f}"


def missing(results: Mapping[str, Any], peer: str) -> str:
    """A note about a peer that was not measured."""
    if peer in results["peers"]:
        return ""
    return f" {peer} was not measured: pass --peers FOLDER (or set {VARIABLE}), and --install to put it there."


