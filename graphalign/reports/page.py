"""The page of a report: one HTML file with its pictures inside. Text from files is escaped by the template engine."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from graphalign.evaluation import Score
from graphalign.labels import visible
from graphalign.reports.figures import DRAWN_ROWS, in_style, units_note
from graphalign.reports.pair import PairReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "page.html.jinja"
LISTED = 200
"""Rows of a table; what follows is counted."""
LONGEST = 120
"""Characters of a name in a table."""
DOTS_PER_INCH = 200


def page(
    title: str, pairs: Sequence[PairReport], scores: Mapping[str, Score], weights: Mapping[str, float], versions: Mapping[str, str],
    figures: Mapping[str, Figure],
) -> str:  # fmt: skip
    """The HTML of a report."""
    pictures = {name: _embedded(figure) for name, figure in figures.items()}
    parts = []
    for i, pair in enumerate(pairs):
        ending = f"_{i + 1}" if len(pairs) > 1 else ""
        own = {name: pictures.get(f"{name}{ending}") for name in ("interpolation", "cells", "similarity", "distance")}
        parts.append({"pair": pair, "pictures": own, "notes": _notes(pair), "gains": _gains(pair)})
    return _template().render(title=title, parts=parts, scores=scores, weights=weights, versions=versions, listed=LISTED)


def _notes(pair: PairReport) -> dict[str, str]:
    """What figures leave out."""
    cells, tensors = len(pair.cells), sum(scale > 0 for scale in pair.scales.values())
    return {
        "cells": f"{DRAWN_ROWS} of {cells} layers are drawn, evenly spaced." if cells > DRAWN_ROWS else "",
        "similarity": units_note(pair.cells) if pair.cells else "",
        "distance": f"{DRAWN_ROWS} of {tensors} tensors are drawn, evenly spaced." if tensors > DRAWN_ROWS else "",
    }


def _gains(pair: PairReport) -> list[tuple[str, str, str]]:
    """The figures that come first: what, before, after."""
    before, after = pair.correlation
    rows = [
        ("L2 distance of the parameters", f"{pair.distance.before:.4g}", f"{pair.distance.after:.4g}"),
        ("mean correlation of units in one slot", f"{before:.3f}", f"{after:.3f}"),
    ]
    if pair.curves is not None:
        summaries = [curve.summary() for curve in pair.curves]
        rows.append(("loss barrier", *(f"{s['barrier']:.4g}" for s in summaries)))  # type: ignore[arg-type]
        rows.append(("loss of the average", *(f"{s['midpoint_loss']:.4g}" for s in summaries)))  # type: ignore[arg-type]
        if all("midpoint_accuracy" in s for s in summaries):
            rows.append(("accuracy of the average", *(f"{100 * s['midpoint_accuracy']:.2f} %" for s in summaries)))  # type: ignore[arg-type]
    return rows


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = lambda value: visible(str(value), LONGEST)
    environment.filters["number"] = _number
    return environment.from_string(files("graphalign.reports").joinpath(TEMPLATE).read_text(encoding="utf-8"))


def _number(value: Any, pattern: str = ".4g") -> str:
    return format(value, pattern)


def _embedded(figure: Figure) -> str:
    file = io.BytesIO()
    with in_style():
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode("ascii")
