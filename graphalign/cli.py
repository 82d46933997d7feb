"""The command line. Commands import what they need when they run, so that help and errors come at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from graphalign import __version__, cli_experiment
from graphalign.bench.settings import Settings
from graphalign.bench.suites import SUITES, describe
from graphalign.errors import GraphAlignError, InvalidInput

app = typer.Typer(
    name="graphalign",
    help="Aligns the units of two neural networks of one architecture, to average, interpolate and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_experiment.app, name="experiment")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphalign {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]
Out = Annotated[Path, typer.Option(help="Folder for figures, checkpoints and results; created if needed.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Quick = Annotated[bool, typer.Option("--quick", help="Train less and measure coarsely: seconds, for a first look.")]


@app.callback()
def _options(version: Version = False) -> None:
    """Options that come before a command."""


@app.command()
def demo(out: Out = Path("graphalign-demo"), seed: Seed = 0, quick: Quick = False) -> None:
    """Train pairs of an MLP, a CNN, a VGG and a ResNet, and align every pair with the same model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from graphalign.demo import FULL, QUICK, STEPS, run

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=STEPS)
        begun = 0

        def next_step(what: str) -> None:
            nonlocal begun
            bar.update(task, description=what, completed=begun)
            begun += 1

        report = run(out, seed, QUICK if quick else FULL, next_step)
        bar.update(task, description="done", completed=STEPS)
    console = Console()
    console.print(report.table())
    console.print(
        f"{report.seconds:.0f} seconds. In {out}:\n"
        "  interpolation.png            the loss from B to A, by network and method\n"
        "  results.json                 every figure, with versions and seed\n"
        "and in the folder of each network (" + ", ".join(result.name for result in report.results) + "):\n"
        "  layers.png                   its layer graph; layers of one colour are permuted together\n"
        "  a, b.safetensors             the two networks as trained\n"
        "  b_aligned.safetensors        B with its units in the order of A: the same function as B\n"
        "  merged.safetensors           the average of A and aligned B\n"
        "  alignment.safetensors        the permutations (graphalign.Alignment.load)",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _check_suite(name: str) -> str:
    if name not in SUITES:
        raise typer.BadParameter(f"found {name!r}, expected one of {', '.join(SUITES)}")
    return name


@app.command()
def bench(
    suite: Annotated[
        str, typer.Argument(callback=_check_suite, help="; ".join(f"{name}: {describe(name)}" for name in SUITES), show_default=False)
    ],
    peers: Annotated[
        Path | None, typer.Option(envvar="GRAPHALIGN_PEERS", help="Folder with other implementations; without it only ours are measured.")
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Install the other implementations into --peers first, with pip.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (docs/results; with --quick nothing is written without --out).")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Warm runs of every measurement.")] = Settings.repetitions,
    seed: Seed = Settings.seed,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes only, for a first look.")] = False,
) -> None:
    """Measure a suite of benchmarks, print its tables and write them."""
    from graphalign.bench.peers import install_peers
    from graphalign.experiments.results import output_folder, publish

    if install:
        if peers is None:
            raise InvalidInput("bench: found --install without --peers; say with --peers FOLDER where to install")
        install_peers(peers)
    folder = output_folder(out or "docs/results") if out or not quick else None
    report = SUITES[suite](Settings(repetitions, seed, quick, peers))
    for table in report.tables:
        typer.echo(f"{table}\n")
    if folder is not None:
        publish(folder, f"bench_{suite}", report.results, report.tables)
        files = [folder / f"bench_{suite}.json", folder / f"bench_{suite}.md"]
        if report.draw is not None:
            files.append(folder.parent / "images" / f"bench_{suite}.png" if folder.name == "results" else folder / f"bench_{suite}.png")
            report.draw(files[-1])
        typer.echo(f"written: {', '.join(map(str, files))}", err=True)


def _part(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if not slash or not first.isdecimal() or not last.isdecimal():
        raise typer.BadParameter(f"found {text!r}, expected i/n such as 1/2")
    return int(first), int(last)


@app.command()
def zoo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration, such as sections.train_mlp.designs=8.")
    ] = None,
    config: Annotated[str, typer.Option(help="A configuration of graphalign/configs/zoo, or the path of a .yaml file.")] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder for the networks; that of the configuration if absent.")] = None,
    data: Annotated[
        Path | None, typer.Option(envvar="GRAPHALIGN_DATA", help="Folder with image data sets; the digits need none.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Generate this section alone.")] = None,
    part: Annotated[str, typer.Option(help="i/n: generate every n-th group, for n processes that share the folder.")] = "1/1",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA if there is one and this is absent.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; small networks gain more from a second process, see --part.")] = 1,
) -> None:
    """Train a population of networks, or what a stopped run has left of it."""
    chosen = _part(part)
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from graphalign.configuration import compose
    from graphalign.experiments.results import output_folder
    from graphalign.zoo.population import generate
    from graphalign.zoo.sections import read_sections

    content = compose("zoo", config, overrides or ())
    sections = read_sections(content.get("sections") or {})
    folder = output_folder(out or content.get("folder") or "zoo")
    torch.set_num_threads(threads)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")
        groups = generate(
            sections, folder, root=data, only=only, part=chosen, device=device,
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )  # fmt: skip
    networks = sum(len(group.seeds) for group in groups)
    typer.echo(f"{networks} networks in {len(groups)} groups: {folder / 'manifest.json'}")


@app.command()
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
) -> None:
    """Train an aligner on a population of networks, or go on with a run."""
    from importlib.util import find_spec

    if missing := [name for name in ("lightning_fabric", "tensorboard") if find_spec(name) is None]:
        raise InvalidInput(f"train: found no {' and no '.join(missing)}, which training needs; pip install 'graphalign[train]'")
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from graphalign.configuration import compose
    from graphalign.experiments.results import environment, output_folder
    from graphalign.training.report import report
    from graphalign.training.run import train as run_training
    from graphalign.training.settings import read_settings
    from graphalign.zoo.manifest import MANIFEST
    from graphalign.zoo.population import generate
    from graphalign.zoo.sections import read_sections
    from graphalign.zoo.zoo import Zoo

    content = compose("train", config, overrides or ())
    population, name = zoo or Path(content.pop("zoo", None) or "zoo"), content.pop("population", None)
    folder = output_folder(out or content.pop("out", None) or "runs/train")
    cache = Path(content.pop("cache", None) or folder.parent / "cache")
    settings = read_settings({k: v for k, v in content.items() if k not in ("zoo", "out")})
    torch.set_num_threads(threads)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        if name and not (population / MANIFEST).is_file():
            generate(read_sections(compose("zoo", name)["sections"]), population, root=data, progress=progress)
        command = " ".join(["graphalign train --config", config, *(overrides or ())])
        outcome = run_training(
            settings, Zoo.open(population), folder, root=data, cache=cache, environment={"command": command, **environment()},
            progress=progress,
        )  # fmt: skip
    typer.echo(report(outcome, folder))


def main() -> None:
    """Runs the command line; errors of the user go to stderr in one message, with exit code 1."""
    try:
        app()
    except GraphAlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
