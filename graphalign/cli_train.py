"""The command `graphalign train`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from graphalign.cli_options import Multirun
from graphalign.cli_progress import progress_bar
from graphalign.errors import InvalidInput


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration, such as exclude.family=[mlp].")
    ] = None,
    config: Annotated[str, typer.Option(help="A configuration of graphalign/configs/train, or the path of a .yaml file.")] = "digits",
    zoo: Annotated[Path | None, typer.Option(help="Folder of a population; that of the configuration if absent.")] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="GRAPHALIGN_DATA", help="Folder with image data sets; the digits need none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, which goes on if it was stopped; that of the configuration if absent.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    multirun: Multirun = False,
) -> None:
    """Train an aligner on a population of networks, or go on with a run."""
    from importlib.util import find_spec

    if missing := [name for name in ("lightning_fabric", "tensorboard") if find_spec(name) is None]:
        raise InvalidInput(f"train: found no {' and no '.join(missing)}, which training needs; pip install 'graphalign[train]'")
    from graphalign.multirun import run_jobs

    job = partial(train_aligner, config=config, zoo=zoo, data=data, threads=threads)
    run_jobs("train", config, overrides or [], job, multirun=multirun, folder=out, say=_say)


def _say(text: str) -> None:
    if text:  # of several processes one reports
        typer.echo(text)


def train_aligner(
    content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool, *, config: str, zoo: Path | None,
    data: Path | None, threads: int,
) -> str:  # fmt: skip
    """Trains by a configuration of the group "train", see `graphalign.multirun.Job`; only the first of several processes reports."""
    import torch
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from graphalign.configuration import compose
    from graphalign.experiments.results import environment, output_folder
    from graphalign.training.report import report
    from graphalign.training.run import train as run_training
    from graphalign.training.settings import read_configuration
    from graphalign.zoo.manifest import MANIFEST
    from graphalign.zoo.plan import read_plan
    from graphalign.zoo.population import generate
    from graphalign.zoo.zoo import Zoo

    folders, settings = read_configuration(content)
    population, where = zoo or Path(folders.zoo or "zoo"), output_folder(folder or folders.out or "runs/train")
    cache = Path(folders.cache or where.parent / "cache")
    torch.set_num_threads(threads)
    later = bool(getattr(rank_zero_only, "rank", 0))
    with progress_bar(hidden=quiet or later) as progress:
        if folders.population and not (population / MANIFEST).is_file():
            generate(read_plan(compose("zoo", folders.population)).sections, population, root=data, progress=progress)
        command = " ".join(["graphalign train --config", config, *overrides])
        outcome = run_training(
            settings, Zoo.open(population), where, root=data, cache=cache, environment={"command": command, **environment()},
            progress=progress,
        )  # fmt: skip
    return "" if later else report(outcome, where)
