"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Multirun = Annotated[
    bool,
    typer.Option(
        "--multirun", "-m",
        help="Run one job for each combination of values such as seed=0,1,2, each in a folder of its own; hydra/launcher=joblib runs them "
        "at once, hydra/launcher=slurm on a cluster.",
    ),
]  # fmt: skip
