"""A picture of a network's layers: one box per layer, one colour per cell, skip connections as arcs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphalign.errors import NO_MATPLOTLIB, InvalidInput
from graphalign.files import atomic_write
from graphalign.graph import NeuronGraph
from graphalign.labels import label
from graphalign.layout import Box, Layout, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
BOX_HEIGHT = 0.36
NARROWEST = 1.75
ROW_HEIGHT = 0.56
COLUMN_GAP = 0.45
LANE_WIDTH = 0.17
FIRST_LANE = 0.26
PADDING = 0.10
TITLE_SIZE = 7.5
OPS_SIZE = 6.0
LONGEST_TITLE = 34
KEY = "right: number of units\nsame colour: units that move together\ngrey: units that stay in place"
KEY_HEIGHT = 0.42
INK = "#22252a"
FAINT = "#474d56"
FIXED_FILL = "#eceef0"


def draw_layers(graph: NeuronGraph, path: str | os.PathLike[str]) -> Path:
    """Draws the layer graph and returns the path of the picture.

    From top to bottom; one box per layer, with the normalisation, activation and pooling that alone continue it, the module path
    in bold, the operators below it and the number of units on the right. Boxes whose units move together have the same
    colour, several colours if they carry several cells, grey where nothing may move. Arcs on the left are connections that
    skip layers.

    Args:
        graph: the network.
        path: a .png, .svg or .pdf file; replaced if it exists, and written completely or not at all.

    Raises:
        InvalidInput: another file type, matplotlib is missing, or a folder that does not exist or cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidInput(f"{path}: found the file type '{path.suffix}', expected one of {', '.join('.' + f for f in FORMATS)}")
    try:
        import matplotlib
    except ImportError:
        raise InvalidInput(NO_MATPLOTLIB) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = lay_out(graph)
    widths = _column_widths(layout)
    left = PADDING + (FIRST_LANE + LANE_WIDTH * (1 + max(layout.lanes.values()) if layout.lanes else 0)) * bool(layout.lanes)
    starts = [left + sum(widths[:c]) + COLUMN_GAP * c for c in range(len(widths))]
    size = (starts[-1] + widths[-1] + PADDING, (max(layout.row) + 1) * ROW_HEIGHT + 2 * PADDING + KEY_HEIGHT)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "graphalign", "svg.fonttype": "path"}):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes: Axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(0, size[0])
        axes.set_ylim(0, size[1])
        axes.axis("off")
        colours = cell_colours([cell.name for cell in graph.spec.cells])
        heights = [size[1] - PADDING - (row + 0.5) * ROW_HEIGHT for row in layout.row]
        places = [(starts[c], y, widths[c]) for y, c in zip(heights, layout.column, strict=True)]
        _draw_arrows(axes, layout, places, colours)
        for box, place in zip(layout.boxes, places, strict=True):
            _draw_box(axes, box, place, colours)
        axes.text(starts[0], PADDING + KEY_HEIGHT / 2, KEY, fontsize=OPS_SIZE, color=FAINT, va="center", linespacing=1.35)
        with atomic_write(path, force=True) as draft:
            figure.savefig(draft, format=kind, dpi=200, facecolor="white", metadata={"Date": None} if kind == "svg" else None)
    return path


def cell_colours(names: list[str]) -> dict[str, str]:
    """A light colour per cell: hues in steps of the golden angle, which nearly repeat after 8, so lightness changes there."""
    import colorsys

    colours = {}
    for i, name in enumerate(names):
        lightness, saturation = ((0.82, 0.62), (0.76, 0.42), (0.90, 0.75))[i // 8 % 3]
        red, green, blue = colorsys.hls_to_rgb((0.58 + i * 0.381966) % 1.0, lightness, saturation)
        colours[name] = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    return colours


def _darker(colour: str) -> str:
    return "#" + "".join(f"{round(int(colour[i : i + 2], 16) * 0.62):02x}" for i in (1, 3, 5))


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """Width in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text.replace("$", r"\$"), size=size, prop=font).get_extents().width) / 72 if text.strip() else 0.0


def _title(box: Box) -> str:
    return label(box.title, LONGEST_TITLE)


def _ops(box: Box) -> str:
    return " · ".join(box.ops)


def _column_widths(layout: Layout) -> list[float]:
    widths = [0.0] * (max(layout.column) + 1)
    for box, column in zip(layout.boxes, layout.column, strict=True):
        units = _text_width(str(box.units), TITLE_SIZE)
        needed = max(_text_width(_title(box), TITLE_SIZE, bold=True), _text_width(_ops(box), OPS_SIZE)) + units + 0.42
        widths[column] = max(widths[column], needed, NARROWEST)
    return widths


def _draw_box(axes: Axes, box: Box, place: tuple[float, float, float], colours: dict[str, str]) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    x, y, width = place
    fills = [colours[c] for c in box.cells] or [FIXED_FILL]
    style = "round,pad=0,rounding_size=0.06"
    corner = (x, y - BOX_HEIGHT / 2)
    edge = _darker(fills[0]) if box.cells else "#9aa0a8"
    outline = FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=style, facecolor=fills[0], edgecolor="none", zorder=3)
    axes.add_patch(outline)
    for i, fill in enumerate(fills[1:], start=1):
        share = width / len(fills)
        stripe = Rectangle((x + i * share, corner[1]), share, BOX_HEIGHT, facecolor=fill, edgecolor="none", zorder=3.5)
        axes.add_patch(stripe)
        stripe.set_clip_path(outline)
    frame = FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=style, facecolor="none", edgecolor=edge, linewidth=0.8, zorder=4)
    axes.add_patch(frame)
    common: dict[str, Any] = {"zorder": 5, "va": "center", "parse_math": False}
    title = y + 0.075 if _ops(box) else y
    axes.text(x + 0.09, title, _title(box), fontsize=TITLE_SIZE, fontweight="bold", color=INK, ha="left", **common)
    axes.text(x + 0.09, y - 0.085, _ops(box), fontsize=OPS_SIZE, color=FAINT, ha="left", **common)
    axes.text(x + width - 0.09, y, str(box.units), fontsize=TITLE_SIZE, color=INK, ha="right", **common)


def _draw_arrows(axes: Axes, layout: Layout, places: list[tuple[float, float, float]], colours: dict[str, str]) -> None:
    for target, box in enumerate(layout.boxes):
        for source in box.inputs:
            cells = layout.boxes[source].cells
            colour = _darker(colours[cells[-1]]) if cells else "#8a9099"
            lane = layout.lanes.get((source, target))
            _draw_arrow(axes, places[source], places[target], colour, lane)


def _draw_arrow(
    axes: Axes, source: tuple[float, float, float], target: tuple[float, float, float], colour: str, lane: int | None
) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    half = BOX_HEIGHT / 2
    if lane is not None:
        x, top, bottom = source[0], source[1] - 0.09, target[1] + 0.09
        reach = x - FIRST_LANE - lane * LANE_WIDTH
        bend = min(0.32, (top - bottom) / 2)
        down = [(x, top), (reach, top), (reach, top), (reach, top - bend)]
        back = [(reach, bottom + bend), (reach, bottom), (reach, bottom), (x, bottom)]
        curve = Curve([*down, *back], [1, 4, 4, 4, 2, 4, 4, 4])
    elif source[0] == target[0]:
        middle = source[0] + source[2] / 2
        curve = Curve([(middle, source[1] - half), (middle, target[1] + half)], [1, 2])
    else:
        curve = _sideways(source, target, half)
    head = "-|>,head_length=3.2,head_width=1.7"
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle=head, color=colour, linewidth=0.9, zorder=2, shrinkA=0, shrinkB=0))


def _sideways(source: tuple[float, float, float], target: tuple[float, float, float], half: float) -> Any:
    """From the main column out to a side box from above, or from below a side box back in."""
    from matplotlib.path import Path as Curve

    if target[0] > source[0]:
        begin = (source[0] + source[2], source[1] - 0.05)
        end = (target[0] + target[2] / 2, target[1] + half)
        corner = (end[0], begin[1])
    else:
        begin = (source[0] + source[2] / 2, source[1] - half)
        end = (target[0] + target[2], target[1] + 0.05)
        corner = (begin[0], end[1])
    return Curve([begin, corner, end], [1, 3, 3])
