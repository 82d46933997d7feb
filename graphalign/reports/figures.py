"""The figures of a report: for print, seven inches wide, told apart without colour vision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from graphalign.curve import Curve, new_figure
from graphalign.labels import label, labels
from graphalign.reports.pair import CellReport, PairReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0
DRAWN_CELLS = 12
"""Cells whose heat maps are drawn; of more, evenly spaced ones, the first and the last among them."""
DRAWN_ROWS = 40
"""Rows of a chart by cell or tensor; of more, evenly spaced ones."""
LONGEST_ROW = 40
"""Characters of the name of a row."""
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8.0, "axes.titlesize": 8.0, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.6, "pdf.fonttype": 42, "svg.hashsalt": "graphalign",
}  # fmt: skip
BEFORE: dict[str, Any] = {"color": "#d55e00", "linestyle": "--"}
AFTER: dict[str, Any] = {"color": "#0072b2"}
"""Vermilion and blue of Okabe and Ito, dashed and solid."""
COLOURS = "RdBu_r"
MAP, BLOCK, LEFT = 0.88, (2.05, 1.53), 0.25
"""Inches: side of a heat map, width and height of the two of a cell with what is written around them, and what is left of them."""


def in_style() -> AbstractContextManager[None]:
    """Settings of matplotlib in which figures are made and written.

    Raises:
        InvalidInput: matplotlib is missing.
    """
    new_figure(1.0, 1.0)
    import matplotlib

    return matplotlib.rc_context(STYLE)


def report_figures(pairs: Sequence[PairReport]) -> dict[str, Figure]:
    """The figures of all pairs by name; names carry the number of the pair where there are several."""
    found: dict[str, Figure] = {}
    with in_style():
        for i, pair in enumerate(pairs):
            ending = f"_{i + 1}" if len(pairs) > 1 else ""
            found |= {f"{name}{ending}": figure for name, figure in _of_pair(pair).items()}
    return found


def _of_pair(pair: PairReport) -> dict[str, Figure]:
    found = {}
    if pair.curves is not None:
        found["interpolation"] = _interpolation(*pair.curves)
    if pair.cells:
        found["cells"] = _cells(pair)
        found["similarity"] = _similarity(pair)
    if pair.distance.parts:
        found["distance"] = _distance(pair)
    return found


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count - 1, evenly spaced, both ends included."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


def _interpolation(before: Curve, after: Curve) -> Figure:
    with_accuracy = before.accuracies is not None and after.accuracies is not None
    figure: Figure = new_figure(WIDTH if with_accuracy else WIDTH / 2, 2.5)
    panels = figure.subplots(1, 1 + with_accuracy, squeeze=False)[0]
    for curve, name, style in ((before, "B as it is", BEFORE), (after, "B aligned", AFTER)):
        panels[0].plot(curve.lambdas, curve.losses, label=name, **style)
        if with_accuracy and curve.accuracies is not None:
            panels[1].plot(curve.lambdas, 100 * curve.accuracies, label=name, **style)
    panels[0].set_ylabel("loss")
    panels[0].set_title(f"loss barrier {before.barrier:.3g} before, {after.barrier:.3g} after", loc="left")
    if with_accuracy:
        panels[1].set_ylabel("accuracy (%)")
        middle = [f"{100 * (curve.midpoint_accuracy or 0.0):.1f} %" for curve in (before, after)]
        panels[1].set_title(f"accuracy of the average {middle[0]} before, {middle[1]} after", loc="left")
    for axes in panels:
        axes.set_xlim(0.0, 1.0)
        axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0\nB", "0.25", "0.5\naverage", "0.75", "1\nA"])
        axes.set_xlabel(r"share of A, $\lambda$")
        axes.margins(y=0.08)
    panels[0].legend()
    return figure


def _cells(pair: PairReport) -> Figure:
    """Left: mean similarity of matched units; right: shares of units, cell by cell."""
    rows = evenly(len(pair.cells), DRAWN_ROWS)
    cells = [pair.cells[i] for i in rows]
    shares = {"unit stays in place": [pair.agreements["identity"].cells[c.name] for c in cells], "most similar unit": [c.nearest for c in cells]}
    shares |= {f"same as {name}": [found.cells[c.name] for c in cells] for name, found in pair.agreements.items() if name != "identity"}
    figure: Figure = new_figure(WIDTH, 1.5 + 0.19 * len(cells))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 0.5 + 0.55 * len(shares)))
    _change(left, [c.name for c in cells], [(float(c.before.mean()), float(c.after.mean())) for c in cells])
    left.set_xlabel("mean correlation of units in one slot")
    left.locator_params(axis="x", nbins=6)
    left.axvline(0.0, color="0.6", linewidth=0.6)
    matrix = np.array(list(shares.values())).T
    right.imshow(matrix, vmin=0.0, vmax=1.0, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(matrix):
        right.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5, color="white" if value < 0.6 else "black")
    right.set_xticks(range(len(shares)), [label(name) for name in shares], rotation=30, ha="right", parse_math=False)
    right.set_title("share of units (%)", loc="left")
    right.tick_params(left=False, labelleft=False)
    left.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def _similarity(pair: PairReport) -> Figure:
    """Correlations of units of A (rows) with units of B and of aligned B (columns), two heat maps per cell."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    chosen = [pair.cells[i] for i in evenly(len(pair.cells), DRAWN_CELLS)]
    titles = labels([cell.name for cell in chosen])
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = LEFT + columns * BLOCK[0] + 0.65, rows * BLOCK[1]
    figure: Figure = new_figure(width, height)
    figure.set_layout_engine("none")
    for i, cell in enumerate(chosen):
        left, bottom = LEFT + i % columns * BLOCK[0], height - (1 + i // columns) * BLOCK[1] + 0.22
        figure.text(left / width, (bottom + MAP + 0.24) / height, titles[i], fontweight="bold", parse_math=False)
        maps = (("before", "units of B", cell.similarity_before), ("after", "aligned B", cell.similarity_after))
        for k, (title, below, matrix) in enumerate(maps):
            axes = figure.add_axes(((left + k * (MAP + 0.1)) / width, bottom / height, MAP / width, MAP / height))
            axes.imshow(matrix, vmin=-1.0, vmax=1.0, cmap=COLOURS, interpolation="nearest", aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[["top", "right"]].set_visible(True)
            axes.set_title(title, fontsize=7.0, pad=3.0)
            axes.set_xlabel(below, fontsize=7.0)
            if k == 0 and i % columns == 0:
                axes.set_ylabel("units of A", fontsize=7.0)
    key = figure.add_axes(((width - 0.6) / width, (height - BLOCK[1] + 0.22) / height, 0.08 / width, MAP / height))
    scale = figure.colorbar(ScalarMappable(Normalize(-1.0, 1.0), COLOURS), cax=key, ticks=[-1.0, 0.0, 1.0])
    scale.set_label("correlation", fontsize=7.0)
    key.tick_params(labelsize=7.0)
    return figure


def units_note(cells: Sequence[CellReport]) -> str:
    """What the heat maps leave out, as a sentence; empty if nothing."""
    chosen = [cells[i] for i in evenly(len(cells), DRAWN_CELLS)]
    parts = [f"{len(chosen)} of {len(cells)} layers are drawn, evenly spaced"] if len(chosen) < len(cells) else []
    if any(len(c.slots) < c.units for c in chosen):
        most = max(len(c.slots) for c in chosen)
        parts.append(f"of layers with more than {most} units {most} are drawn, from the best matched one to the worst in even steps")
    return "; ".join(parts).capitalize() + "." if parts else ""


def _distance(pair: PairReport) -> Figure:
    """Distance by tensor, relative to that of unrelated tensors of the same norms."""
    names = [name for name in pair.distance.parts if pair.scales[name] > 0]
    names = [names[i] for i in evenly(len(names), DRAWN_ROWS)]
    figure: Figure = new_figure(WIDTH, 1.0 + 0.19 * max(len(names), 1))
    axes = figure.add_subplot()
    changes = [pair.distance.parts[name] for name in names]
    _change(axes, names, [(c.before / pair.scales[n], c.after / pair.scales[n]) for n, c in zip(names, changes, strict=True)])
    axes.set_xlim(left=0.0)
    axes.set_xlabel(r"$\|A - B\|\ /\ (\|A\|^2 + \|B\|^2)^{1/2}$   (0: equal, 1: orthogonal)")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def _change(axes: Axes, names: Sequence[str], values: Sequence[tuple[float, float]]) -> None:
    """A row per name, from an open circle (before) to a filled one (after)."""
    rows = range(len(names))
    before, after = [b for b, _ in values], [a for _, a in values]
    axes.hlines(rows, before, after, color="0.7", linewidth=1.0, zorder=1)
    axes.scatter(before, rows, s=16, facecolor="white", edgecolor=BEFORE["color"], label="before", zorder=2)
    axes.scatter(after, rows, s=16, color=AFTER["color"], label="after", zorder=3)
    axes.set_yticks(rows, labels(names, LONGEST_ROW), parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
