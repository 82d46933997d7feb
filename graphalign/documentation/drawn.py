"""Small networks and matrices on matplotlib axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from graphalign.reports.figures import AFTER, BEFORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of units: bluish green, reddish purple, orange and sky blue of Okabe and Ito."""
ORANGE, BLUE = BEFORE["color"], AFTER["color"]
COLOURS = "RdBu"
"""From negative to positive, as the edges."""
PLAIN = "0.85"
RADIUS = 15.0
TILE = 0.11


def draw_network(
    axes: Axes, sizes: Sequence[int], weights: Sequence[Tensor], colours: Sequence[Sequence[str] | None], tiles: Sequence[Tensor] | None = None
) -> None:
    """Draws layers from left to right, units from top to bottom; edges are blue where a weight is positive and orange where it is negative.

    Args:
        axes: on which x is the layer and y goes from 0 to 1.
        sizes: units by layer.
        weights: between one layer and the next, (units after, units before): widths and colours of the edges.
        colours: of the units by layer; grey if None.
        tiles: what each edge carries, (units after, units before, h, w), drawn on it; nothing if None.
    """
    axes.set_axis_off()
    heights = [[0.5 + 0.84 * (0.5 - (i + 0.5) / n) for i in range(n)] for n in sizes]
    for layer, weight in enumerate(weights):
        largest = float(weight.abs().max())
        for target, row in enumerate(weight.tolist()):
            for source, value in enumerate(row):
                ends = (heights[layer][source], heights[layer + 1][target])
                axes.plot([layer, layer + 1], ends, color=BLUE if value > 0 else ORANGE, linewidth=0.4 + 2.2 * abs(value) / largest, zorder=1)
                if tiles is not None:
                    _draw_tile(axes, tiles[layer][target, source], layer + (0.5 if len(row) == 1 else 0.22 + 0.28 * target), ends, layer)
    for layer, ys in enumerate(heights):
        axes.scatter([layer] * len(ys), ys, s=RADIUS**2, color=colours[layer] or PLAIN, edgecolor="0.3", linewidth=0.7, zorder=3)
    axes.set_xlim(-0.25, len(sizes) - 0.75)
    axes.set_ylim(0.05, 0.95)


def _draw_tile(axes: Axes, values: Tensor, x: float, ends: tuple[float, float], layer: int) -> None:
    y = ends[0] + (x - layer) * (ends[1] - ends[0])
    inset = axes.inset_axes((x - TILE, y - TILE / 2, 2 * TILE, TILE), transform=axes.transData, zorder=4)  # imshow keeps it square
    heat_map(inset, values, float(values.abs().max()))
    inset.set_xticks([])
    inset.set_yticks([])
    inset.spines[["top", "right"]].set_visible(True)


def heat_map(axes: Axes, values: Tensor, bound: float, aspect: Literal["equal", "auto"] = "equal") -> None:
    """Draws a matrix, white at 0 and in full colour at -bound and bound."""
    axes.imshow(values.numpy(), cmap=COLOURS, vmin=-bound, vmax=bound, interpolation="nearest", aspect=aspect)


def matrix(
    axes: Axes, values: Tensor, title: str, row_colours: Sequence[str] | None = None, column_colours: Sequence[str] | None = None
) -> None:
    """Draws a matrix with a dot of its unit's colour beside every row or above every column."""
    heat_map(axes, values, float(values.abs().max()))
    axes.set_axis_off()
    axes.set_title(title, fontsize=7.0)
    for i, colour in enumerate(row_colours or ()):
        axes.plot(-0.95, i, "o", color=colour, markersize=5, clip_on=False)
    for i, colour in enumerate(column_colours or ()):
        axes.plot(i, values.shape[0] - 0.1, "o", color=colour, markersize=5, clip_on=False)
