"""Tables of a results file."""

from __future__ import annotations

from collections.abc import Mapping

from graphalign.experiments.generalisation.findings import LEAST, Estimate, Findings
from graphalign.experiments.results import Table

FIGURES = {
    "barrier": "Loss barrier",
    "auc": "Area under the excess loss, unclipped",
    "midpoint_loss": "Loss at the midpoint",
    "accuracy_barrier": "Accuracy barrier, in percent",
    "seconds": "Seconds per pair, pairs of an architecture together",
}
WIDEST = 12
"""Most columns of a table, unless it has as many lines."""


def figure_table(findings: Findings, figure: str) -> Table:
    """A figure by family and row (lines) and column."""
    factor, digits = {"accuracy_barrier": (100.0, 1), "seconds": (1.0, 4)}.get(figure, (1.0, 3))
    lines = []
    for family, row in findings.places:
        found = [findings.mean(row, family, column, figure) for column in findings.columns]
        count = max((e.count for e in found if e is not None), default=0)
        lines.append([family, row, str(count), *(_spread(e, count, factor, digits, figure != "seconds") for e in found)])
    notes = []
    if figure == "barrier":
        protocol = findings.results["protocol"]
        notes = [
            f"Largest excess of the loss over the chord at {protocol['points']} points of the line, on {protocol['test_images']} test images "
            "that no method sees (mean square error on the pixels for sine networks); networks with BatchNorm get new statistics from "
            f"{protocol['statistics_images']} training images at every point. Mean over architectures ± standard deviation over the pairs of an "
            f"architecture, at most {protocol['pairs']} pairs each; columns of several aligners are averaged over them. '-': not measured; (of n): measured on n of the architectures."
        ]
        notes += [_differing(protocol, families) for families in [findings.results.get("protocols")] if families]
    return _oriented(FIGURES[figure], ["family", "row", "architectures"], _titles(findings), lines, notes)


def _differing(protocol: Mapping[str, int], families: Mapping[str, Mapping[str, int]]) -> str:
    own = {
        family: ", ".join(f"{name} {value}" for name, value in found.items() if value != protocol[name]) for family, found in families.items()
    }  # fmt: skip
    return "Measured otherwise: " + "; ".join(f"{family}: {found}" for family, found in own.items()) + "."


def ratio_table(findings: Findings, reference: str) -> Table:
    """The barrier of every column over that of a reference."""
    lines = []
    for family, row in findings.places:
        found = [findings.ratio(row, family, column, reference) for column in findings.columns]
        lines.append([family, row, *("-" if e is None else f"{e.mean:.2f}" + (f" ± {e.std:.2f}" if e.count > 1 else "") for e in found)])
    title = findings.results["columns"][reference]["title"]
    note = (
        "Geometric mean over architectures; ± standard deviation over aligners. Mean barriers below "
        f"{LEAST:.0%} of an architecture's highest count as that."
    )
    return _oriented(f"Barrier, as a ratio to {title}", ["family", "row"], _titles(findings), lines, [note])


def _oriented(title: str, places: list[str], columns: list[str], lines: list[list[str]], notes: list[str]) -> Table:
    """A table with the columns as its lines, if they are many more than the places."""
    if len(columns) <= max(WIDEST, len(lines)):
        return Table(title, [*places, *columns], lines, notes)
    heads = [", ".join([*line[:2], *(f"{value} {name}" for name, value in zip(places[2:], line[2:], strict=False))]) for line in lines]
    return Table(title, ["", *heads], [[c, *(line[len(places) + k] for line in lines)] for k, c in enumerate(columns)], notes)


def architecture_table(findings: Findings) -> Table:
    """What was measured: architectures, their accuracies and the variant of each column with several that was best."""
    lines = []
    varied = [name for name in findings.columns if any(r["column"] == name and r["tuning"] for r in findings.results["records"])]
    for name, group in findings.results["groups"].items():
        own = [r for r in findings.results["records"] if r["architecture"] == name]
        if own:
            best = [next((r["variant"] for r in own if r["column"] == column), "-") for column in varied]
            rows = ", ".join(dict.fromkeys(r["row"] for r in own))
            lines.append([group["design"], group["recipe"], rows, str(own[0]["pairs"]), group["quality"], *best])
    heads = ["architecture", "recipe", "rows", "pairs", "quality", *(f"best setting: {findings.results['columns'][c]['title']}" for c in varied)]
    note = (
        "Quality: test accuracy in percent, or PSNR in dB of sine networks, from the worst to the best network. Measured at revision "
        f"{', '.join(findings.results['revisions'])} on {', '.join(findings.results['devices'])}."
    )
    return Table("Networks", heads, lines, [note])


def timing_table(findings: Findings) -> Table:
    """Seconds for one pair alone."""
    names = [c for c in findings.results["columns"] if any(c in t["seconds"] for t in findings.results["timings"])]
    lines = []
    for timing in findings.results["timings"]:
        design = findings.results["groups"][timing["architecture"]]["design"]
        cells = [f"{timing['seconds'][c]:.3g}" if c in timing["seconds"] else "-" for c in names]
        lines.append([timing["family"], timing["row"], design, f"{timing['trace_seconds']:.2f}", *cells])
    heads = ["family", "row", "architecture", "tracing", *(findings.results["columns"][c]["title"] for c in names)]
    note = "All columns in one process, one after the other, warm; the fastest of a few runs. Tracing is in no other column."
    return Table("Seconds for one pair alone", heads, lines, [note])


def quality(accuracies: tuple[float, ...], psnr: tuple[float, ...]) -> str:
    """Range of the qualities of a group's networks."""
    values = [100 * a for a in accuracies] or list(psnr)
    return f"{min(values):.1f}-{max(values):.1f}" if values else "-"


def _titles(findings: Findings) -> list[str]:
    return [findings.results["columns"][name]["title"] for name in findings.columns]


def _spread(found: Estimate | None, count: int, factor: float, digits: int, spread: bool) -> str:
    if found is None:
        return "-"
    fewer = f" (of {found.count})" if found.count < count else ""
    return f"{factor * found.mean:.{digits}f}" + (f" ± {factor * found.std:.{digits}f}" if spread else "") + fewer
