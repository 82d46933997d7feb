"""Figures of a results file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphalign.curve import new_figure, save_figure
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.findings import Findings
from graphalign.files import AnyPath

STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP"


def heat_map(findings: Findings, reference: str, path: AnyPath) -> None:
    """Draws the ratio of every column's barrier to that of a reference; a colour step is a factor, so that 1/2 and 2 are alike.

    Raises:
        InvalidInput: nothing to draw, matplotlib is missing, or the file cannot be written.
    """
    columns = [c for c in findings.columns if c != reference]
    places = [p for p in findings.places if any(findings.ratio(p[1], p[0], c, reference) for c in columns)]
    if not places:
        raise InvalidInput(f"heat map: found no barriers beside those of {reference!r}, expected some; measure more columns")
    values = np.full((len(places), len(columns)), math.nan)
    for i, (family, row) in enumerate(places):
        for j, column in enumerate(columns):
            if (found := findings.ratio(row, family, column, reference)) is not None:
                values[i, j] = found.mean
    titles = findings.results["columns"]
    names = [titles[c]["title"] for c in columns]
    labels = [f"{family}, {row.replace('_', ' ')}" for family, row in places]
    edges = [i for i in range(1, len(places)) if places[i][0] != places[i - 1][0]]
    upright = len(columns) > 2 * len(places)  # a page is higher than it is wide
    if upright:
        values, names, labels = values.T, labels, names
    figure = new_figure(max(4.4, 2.2 + 0.72 * len(names)), 2.0 + 0.27 * len(labels))
    axes = figure.add_subplot()
    axes.imshow(np.log2(np.clip(values, 1 / 16, 16)), cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if not math.isnan(values[i, j]):
            dark = abs(math.log2(max(float(values[i, j]), 1 / 16))) > 1.7
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for edge in edges:
        (axes.axvline if upright else axes.axhline)(edge - 0.5, color="black", linewidth=0.8)
    figure.suptitle(f"barrier / barrier of {titles[reference]['title']}", fontsize=9)
    save_figure(figure, path)


def curves(findings: Findings, columns: Sequence[str], rows: Sequence[str], path: AnyPath) -> None:
    """Draws the mean excess loss along the line, one panel per family.

    Args:
        findings: what was measured.
        columns: which of them to draw.
        rows: the first of these that a family has is drawn.
        path: of the figure.

    Raises:
        InvalidInput: nothing to draw, matplotlib is missing, or the file cannot be written.
    """
    there = set(findings.places)
    panels = [(f, next(r for r in rows if (f, r) in there)) for f in findings.results["families"] if any((f, r) in there for r in rows)]
    if not panels:
        raise InvalidInput(f"curves: found none of the rows {', '.join(rows)}, expected one of them; measure it")
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(2.6 * across + 0.4, 2.3 * down + 0.9)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (family, row) in zip(grid.flat, panels, strict=False):
        for k, column in enumerate(columns):
            psi = findings.psi(row, family, column)
            if psi is not None:
                label = findings.results["columns"][column]["title"]
                axes.plot(np.linspace(0, 1, len(psi)), psi, label=label, color=f"C{k}", linestyle=STYLES[k % len(STYLES)], linewidth=1.4)
        axes.axhline(0.0, color="0.7", linewidth=0.6)
        axes.set_title(f"{family}, {row.replace('_', ' ')}", fontsize=9)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel(r"$\lambda$", fontsize=8)
        axes.set_ylabel("excess loss", fontsize=8)
        axes.tick_params(labelsize=7)
    lines = {label: line for axes in grid.flat[: len(panels)] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(3, len(lines)), fontsize=8)
    save_figure(figure, path)


def sample_sizes(findings: Findings, series: Mapping[str, Mapping[str, Any]], path: AnyPath) -> None:
    """Draws the mean barrier against a number, such as that of training networks, one panel per series and a line per family.

    Args:
        findings: what was measured.
        series: by title {columns: number by column, reference: the column the barriers are divided by, row: one row}.
        path: of the figure.

    Raises:
        InvalidInput: nothing to draw, matplotlib is missing, or the file cannot be written.
    """
    drawn: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, entry in series.items():
        for family in findings.results["families"]:
            found = {number: findings.ratio(entry["row"], family, column, entry["reference"]) for column, number in entry["columns"].items()}
            points = sorted((float(number), estimate.mean) for number, estimate in found.items() if estimate is not None)
            if points:
                drawn.setdefault(title, {})[family] = points
    if not drawn:
        raise InvalidInput("sample sizes: found none of the columns of the series, expected some; measure them")
    figure = new_figure(3.4 * len(drawn), 2.8)
    for panel, (axes, (title, families)) in enumerate(zip(figure.subplots(1, len(drawn), squeeze=False).flat, drawn.items(), strict=True)):
        for k, (family, points) in enumerate(families.items()):
            axes.plot(*zip(*points, strict=True), label=family, color=f"C{k}", marker=MARKERS[k % len(MARKERS)], markersize=4, linewidth=1.2)
        numbers = sorted({number for points in families.values() for number, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 1.2 * max(value for points in families.values() for _, value in points))
        axes.set_xlabel(title, fontsize=8)
        axes.set_ylabel(f"barrier / {findings.results['columns'][series[title]['reference']]['title']}", fontsize=8)
        axes.tick_params(labelsize=7)
        if panel == 0:
            axes.legend(fontsize=7)
    save_figure(figure, path)
