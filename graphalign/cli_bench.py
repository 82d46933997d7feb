"""The command `graphalign bench`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from graphalign.bench.settings import read_settings
from graphalign.bench.suites import SUITES, describe
from graphalign.cli_options import Multirun
from graphalign.errors import InvalidInput


def _check_suite(name: str) -> str:
    if name not in SUITES:
        raise typer.BadParameter(f"found {name!r}, expected one of {', '.join(SUITES)}")
    return name


def bench(
    suite: Annotated[
        str, typer.Argument(callback=_check_suite, help="; ".join(f"{name}: {describe(name)}" for name in SUITES), show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration, such as pairs=[10,100].")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A configuration of graphalign/configs/bench, or the path of a .yaml file; that of the suite if absent.")
    ] = None,
    peers: Annotated[
        Path | None, typer.Option(envvar="GRAPHALIGN_PEERS", help="Folder with other implementations; without it only ours are measured.")
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Install the other implementations into --peers first, with pip.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (docs/results; with --quick nothing is written without --out).")
    ] = None,
    repetitions: Annotated[int | None, typer.Option(min=1, help="Warm runs of every measurement; those of the configuration if absent.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random; that of the configuration if absent.")] = None,
    guard: Annotated[
        Path | None, typer.Option(help="A published results file: fail if a ratio (never seconds) became worse by more than --tolerance; written only with --out.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=1.0, help="How many times worse than published a ratio may be, with --guard.")] = 1.5,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes only (the configuration SUITE_quick), for a first look.")] = False,
    multirun: Multirun = False,
) -> None:
    """Measure a suite of benchmarks, print its tables and write them."""
    from graphalign.bench.peers import install_peers
    from graphalign.multirun import run_jobs

    if install:
        if peers is None:
            raise InvalidInput("bench: found --install without --peers; say with --peers FOLDER where to install")
        install_peers(peers)
    name = config or (f"{suite}_quick" if quick else suite)
    options = [*(["--config", config] if config else []), *(["--quick"] if quick else [])]
    job = partial(
        measure_suite, suite=suite, options=options, repetitions=repetitions, seed=seed, peers=peers, guard=guard, tolerance=tolerance,
        written=not (quick or guard),
    )  # fmt: skip
    run_jobs("bench", name, overrides or [], job, multirun=multirun, folder=out, say=typer.echo)


def measure_suite(
    content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool, *, suite: str, options: Sequence[str],
    repetitions: int | None, seed: int | None, peers: Path | None, guard: Path | None, tolerance: float, written: bool,
) -> str:  # fmt: skip
    """Measures by a configuration of the group "bench", see `graphalign.multirun.Job`; without a folder it writes if `written`."""
    from graphalign.bench.guard import guard as compare
    from graphalign.bench.guard import read_published
    from graphalign.experiments.results import output_folder, publish

    published = None if guard is None else read_published(suite, guard)
    where = output_folder(folder or "docs/results") if folder or written else None
    settings = read_settings(suite, content, repetitions=repetitions, seed=seed, peers=peers, options=[*overrides, *options])
    report = SUITES[suite](settings)
    if where is not None:
        publish(where, f"bench_{suite}", report.results, report.tables)
        files = [where / f"bench_{suite}.json", where / f"bench_{suite}.md"]
        if report.draw is not None:
            files.append(where.parent / "images" / f"bench_{suite}.png" if where.name == "results" else where / f"bench_{suite}.png")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            report.draw(files[-1])
        typer.echo(f"written: {', '.join(map(str, files))}", err=True)
    found = "\n\n".join(map(str, report.tables)) + "\n"
    if published is None:
        return found
    typer.echo(found)  # also if the comparison fails
    return f"{compare(suite, published, report.results, tolerance)}\n"
