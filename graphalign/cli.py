"""The command line. Commands import what they need when they run, so that help and errors come at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from graphalign import __version__, cli_bench, cli_experiment, cli_train, cli_zoo
from graphalign.commands import COMMANDS
from graphalign.errors import GraphAlignError

app = typer.Typer(
    name="graphalign",
    help="Aligns the units of two neural networks of one architecture, to average, interpolate and compare them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(cli_experiment.app, name="experiment")
app.command()(cli_bench.bench)
app.command()(cli_zoo.zoo)
app.command()(cli_train.train)


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


def main() -> None:
    """Runs the command line; errors of the user go to stderr in one message, with exit code 1."""
    try:
        app()
    except GraphAlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
