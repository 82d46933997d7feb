"""The command `graphalign zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from graphalign.cli_options import Multirun
from graphalign.cli_progress import progress_bar

SHARED = {"only", "part"}
"""Keys whose values divide one population: jobs that differ in them alone share its folder."""


def zoo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration, such as sections.train_mlp.designs=8 or part=1/2.")
    ] = None,
    config: Annotated[str, typer.Option(help="A configuration of graphalign/configs/zoo, or the path of a .yaml file.")] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder for the networks; that of the configuration if absent.")] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="GRAPHALIGN_DATA", help="Folder with image data sets; the digits need none.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA if there is one and this is absent.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; small networks gain more from a second process, see part=.")] = 1,
    multirun: Multirun = False,
) -> None:
    """Train a population of networks, or what a stopped run has left of it."""
    from graphalign.multirun import run_jobs, swept

    changes = overrides or []
    keys = swept(changes) if multirun else set()
    shared = bool(keys) and keys <= SHARED
    job = partial(generate_networks, data=data, device=device, threads=threads, shared=shared, out=out if shared else None)
    run_jobs("zoo", config, changes, job, multirun=multirun, folder=None if shared else out, say=typer.echo)


def generate_networks(
    content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool, *, data: Path | None, device: str | None,
    threads: int, shared: bool, out: Path | None,
) -> str:  # fmt: skip
    """Trains the networks of a configuration of the group "zoo", see `graphalign.multirun.Job`."""
    import torch

    from graphalign.experiments.results import output_folder
    from graphalign.zoo.plan import read_plan
    from graphalign.zoo.population import generate

    plan = read_plan(content)
    where = output_folder((out if shared else folder) or plan.folder)
    torch.set_num_threads(threads)
    with progress_bar(hidden=quiet) as progress:
        groups = generate(plan.sections, where, root=data, only=plan.only, part=plan.part, device=device, progress=progress)
    networks = sum(len(group.seeds) for group in groups)
    return f"{networks} networks in {len(groups)} groups: {where / 'manifest.json'}"

