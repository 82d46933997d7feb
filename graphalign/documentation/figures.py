"""The figures of the measurements, drawn again from the results files: nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphalign.bench import amortisation_tables, batch, scale_tables
from graphalign.errors import CorruptFile
from graphalign.experiments import federated_rounds
from graphalign.experiments.generalisation.experiment import report_figures
from graphalign.experiments.results import output_folder

Draw = Callable[[Mapping[str, Any], Path], None]
FIGURES: dict[str, Draw] = {
    "federated": federated_rounds.draw, "bench_batch": batch.draw, "bench_amortisation": amortisation_tables.draw, "bench_scale": scale_tables.draw,
}  # fmt: skip
"""Results files with one figure, of their name."""
REPORTS = ("ood", "ablations")
"""Results files that say themselves which figures they have."""


def draw_figures(docs: Path) -> list[Path]:
    """Draws the figures of all results in docs/results into docs/images, and returns their paths; results that are missing are left out.

    Raises:
        CorruptFile: a results file that is no JSON.
        InvalidInput: the folder cannot be written, or matplotlib is missing.
    """
    folder = output_folder(docs / "images")
    drawn: list[Path] = []
    for name in (*FIGURES, *REPORTS):
        file = docs / "results" / f"{name}.json"
        if not file.is_file():
            continue
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorruptFile(f"{file}: found no JSON ({error}), expected what the measurement wrote; measure again") from None
        if name in REPORTS:
            drawn += report_figures(results, name, folder)
        else:
            FIGURES[name](results, folder / f"{name}.png")
            drawn.append(folder / f"{name}.png")
    return drawn
