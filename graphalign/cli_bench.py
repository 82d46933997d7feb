"""The command `graphalign bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphalign.bench.settings import read_settings
from graphalign.bench.suites import SUITES, describe
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
) -> None:
    """Measure a suite of benchmarks, print its tables and write them."""
    from graphalign.bench.guard import guard as compare
    from graphalign.bench.guard import read_published
    from graphalign.bench.peers import install_peers
    from graphalign.configuration import compose
    from graphalign.experiments.results import output_folder, publish

    if install:
        if peers is None:
            raise InvalidInput("bench: found --install without --peers; say with --peers FOLDER where to install")
        install_peers(peers)
    published = None if guard is None else read_published(suite, guard)
    folder = output_folder(out or "docs/results") if out or not (quick or guard) else None
    changes = overrides or []
    content = compose("bench", config or (f"{suite}_quick" if quick else suite), changes)
    options = [*changes, *(["--config", config] if config else []), *(["--quick"] if quick else [])]
    report = SUITES[suite](read_settings(suite, content, repetitions=repetitions, seed=seed, peers=peers, options=options))
    for table in report.tables:
        typer.echo(f"{table}\n")
    if published is not None:
        typer.echo(f"{compare(suite, published, report.results, tolerance)}\n")
    if folder is not None:
        publish(folder, f"bench_{suite}", report.results, report.tables)
        files = [folder / f"bench_{suite}.json", folder / f"bench_{suite}.md"]
        if report.draw is not None:
            files.append(folder.parent / "images" / f"bench_{suite}.png" if folder.name == "results" else folder / f"bench_{suite}.png")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            report.draw(files[-1])
        typer.echo(f"written: {', '.join(map(str, files))}", err=True)
