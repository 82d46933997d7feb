"""What the demonstration leaves behind: a table, a figure of the interpolations and a results file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

import graphalign
from graphalign.curve import Curve, new_figure, save_figure
from graphalign.files import atomic_write

LABELS = {"naive": "no alignment", "weight": "weight matching", "gnn": "graphalign"}
"""Methods in the order of the table, the one whose networks are written last."""

_STYLES: dict[str, dict[str, Any]] = {
    "naive": {"color": "0.55", "linestyle": ":"},
    "weight": {"color": "#c8702a", "linestyle": "--"},
    "gnn": {"color": "#1f6fb4", "linewidth": 2.2},
}


@dataclass(frozen=True)
class Measurement:
    """What one method achieved on one pair.

    Attributes:
        curve: test loss and accuracy from B (aligned) to A.
        milliseconds: time to align, tracing apart.
    """

    curve: Curve
    milliseconds: float


@dataclass(frozen=True)
class Result:
    """One architecture.

    Attributes:
        name: its folder.
        title: for people.
        parameters: number of trained parameters.
        measurements: by method.
    """

    name: str
    title: str
    parameters: int
    measurements: Mapping[str, Measurement]


@dataclass(frozen=True)
class Report:
    """A run of the demonstration.

    Attributes:
        results: by architecture.
        seed: of the run.
        settings: of the run, by name.
        seconds: it took.
    """

    results: tuple[Result, ...]
    seed: int
    settings: Mapping[str, float]
    seconds: float

    def table(self) -> Table:
        """Barrier, midpoint accuracy and milliseconds by architecture and method."""
        table = Table(title="Two independently trained networks of each kind, aligned and averaged", box=SIMPLE_HEAD)
        for heading in ("network", "accuracy\nof A, B (%)", "method"):
            table.add_column(heading, no_wrap=True)
        for heading in ("barrier", "accuracy of\naverage (%)", "time\n(ms)"):
            table.add_column(heading, justify="right", no_wrap=True)
        for result in self.results:
            for row, (method, measurement) in enumerate(result.measurements.items()):
                figures = measurement.curve.summary()
                ends = f"{100 * figures['accuracy_a']:.1f}, {100 * figures['accuracy_b']:.1f}"
                table.add_row(
                    *((result.title, ends) if row == 0 else ("", "")),
                    LABELS[method],
                    f"{figures['barrier']:.3f}",
                    f"{100 * figures['midpoint_accuracy']:.1f}",
                    f"{measurement.milliseconds:.0f}",
                    style="bold" if method == "gnn" else None,
                    end_section=row == len(result.measurements) - 1,
                )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, with versions, seed and machine, ready for JSON."""
        return {
            "versions": {
                "graphalign": graphalign.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "machine": {"processor": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
            "seed": self.seed,
            "settings": dict(self.settings),
            "seconds": self.seconds,
            "networks": {result.name: _network_dict(result) for result in self.results},
        }


def write(report: Report, folder: Path) -> None:
    """Writes results.json and interpolation.png into an existing folder, each atomically.

    Raises:
        InvalidInput: the folder cannot be written, or matplotlib is missing.
    """
    with atomic_write(folder / "results.json", force=True) as draft:
        draft.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    draw_interpolations(report, folder / "interpolation.png")


def draw_interpolations(report: Report, path: Path) -> None:
    """Draws the loss from B to A: one panel by architecture, one curve by method."""
    figure = new_figure(2.9 * len(report.results), 3.1)
    panels = figure.subplots(1, len(report.results), sharey=True, squeeze=False)[0]
    for axes, result in zip(panels, report.results, strict=True):
        for method, measurement in result.measurements.items():
            measurement.curve.draw(axes, label=LABELS[method], **_STYLES[method])
        axes.set_title(result.title)
        axes.set_xlabel("")
        axes.set_xticks([0.0, 0.5, 1.0], ["B", "average", "A"])
        axes.label_outer()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("test loss")
    panels[0].set_ylim(bottom=0.0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_figure(figure, path)


def _network_dict(result: Result) -> dict[str, Any]:
    return {
        "parameters": result.parameters,
        "methods": {
            method: {
                **measurement.curve.summary(),
                "milliseconds": measurement.milliseconds,
                "lambdas": measurement.curve.lambdas.tolist(),
                "losses": measurement.curve.losses.tolist(),
            }
            for method, measurement in result.measurements.items()
        },
    }
