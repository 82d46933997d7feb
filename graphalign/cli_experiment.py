"""The command `graphalign experiment`: experiments with a configuration, and those with a command line of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from graphalign.cli_options import Multirun
from graphalign.cli_progress import progress_bar

app = typer.Typer(help="Measure what the documentation reports, and write its tables and figures.", no_args_is_help=True)

OTHERS = {
    "floor": "What alignment reaches without data and training.",
    "planted": "Whether planted permutations are found again.",
    "consensus": "A few label-free steps against matching and Sinkhorn re-basin.",
    "batch_norm": "Statistics of averaged networks: reset and REPAIR.",
    "many_models": "Averages of more than two networks.",
    "different_widths": "Fusion of networks of different widths.",
    "federated_rounds": "Clients with initialisations of their own: averages aligned and as they are.",
    "footprint": "Memory and time against size.",
}
"""Modules of `graphalign.experiments` that read their own arguments."""

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the configuration, such as only.rows=[width].")
]
Config = Annotated[str | None, typer.Option(help="A configuration of graphalign/configs/experiment, or the path of a .yaml file.")]
Quick = Annotated[bool, typer.Option("--quick", help="The embedded data set, few pairs, one aligner: minutes, for a first look.")]
Data = Annotated[Path | None, typer.Option(envvar="GRAPHALIGN_DATA", help="Folder with image data sets; the digits need none.")]
Population = Annotated[Path | None, typer.Option("--zoo", help="Folder of a population; that of the configuration if absent.")]
Out = Annotated[Path | None, typer.Option(help="Folder for results, tables and figures (docs/results, figures in docs/images; with --quick outputs).")]
Work = Annotated[Path | None, typer.Option(help="Folder of single measurements, which later runs find (outputs/NAME_measurements).")]
Report = Annotated[bool, typer.Option("--report", help="Measure nothing: write tables and figures of what has been measured.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@app.command()
def ood(
    overrides: Overrides = None, config: Config = None, quick: Quick = False, data: Data = None, zoo: Population = None, out: Out = None,
    work: Work = None, threads: Threads = 1, report: Report = False, multirun: Multirun = False,
) -> None:  # fmt: skip
    """Aligners against other methods on networks, architectures, families, data sets and recipes that training never saw."""
    _run("ood", config or ("ood_quick" if quick else "ood"), quick, overrides or [], data, zoo, out, work, threads, report, multirun)


@app.command()
def ablations(
    overrides: Overrides = None, config: Config = None, quick: Quick = False, data: Data = None, zoo: Population = None, out: Out = None,
    work: Work = None, threads: Threads = 1, report: Report = False, multirun: Multirun = False,
) -> None:  # fmt: skip
    """Aligners with parts left out, or trained on fewer networks and architectures, against the whole one."""
    _run("ablations", config or ("ablations_quick" if quick else "ablations"), quick, overrides or [], data, zoo, out, work, threads, report, multirun)


def _run(
    name: str, config: str, quick: bool, overrides: list[str], data: Path | None, zoo: Path | None, out: Path | None, work: Path | None,
    threads: int, report: bool, multirun: bool,
) -> None:  # fmt: skip
    from graphalign.multirun import run_jobs

    job = partial(measure, name=name, quick=quick, data=data, zoo=zoo, work=work, threads=threads, report=report)
    run_jobs("experiment", config, overrides, job, multirun=multirun, folder=out, say=typer.echo)


def measure(
    content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool, *, name: str, quick: bool, data: Path | None,
    zoo: Path | None, work: Path | None, threads: int, report: bool,
) -> str:  # fmt: skip
    """Measures what a configuration of the group "experiment" says unless only a report is wanted, see `graphalign.multirun.Job`."""
    import torch

    from graphalign.experiments.generalisation import experiment
    from graphalign.experiments.results import output_folder, publish
    from graphalign.zoo.zoo import Zoo

    where = output_folder(folder or ("outputs" if quick else "docs/results"))
    images = where if folder or quick else Path("docs/images")
    torch.set_num_threads(threads)
    with progress_bar(hidden=quiet) as progress:
        population = _population(content, zoo, data, progress)
        run, only = experiment.read_run(content, Zoo.open(population), work or Path("outputs") / f"{name}_measurements", data)
        command = " ".join(["graphalign experiment", name, *(["--quick"] if quick else []), *overrides])
        if not report:
            run.measure(only, progress)
        found = experiment.results(run, content, command)
    tables = experiment.report_tables(found)
    publish(where, name, found, tables)
    written = [where / f"{name}.json", where / f"{name}.md", *experiment.report_figures(found, name, images)]
    typer.echo(f"written: {', '.join(map(str, written))}; measurements: {run.store.folder}", err=True)
    return "\n".join(f"{table}\n" for table in tables)


def _population(content: dict[str, Any], zoo: Path | None, data: Path | None, progress: Any) -> Path:
    """The folder of the population; its test sections are generated if the configuration says how and there is none."""
    from graphalign.configuration import compose
    from graphalign.zoo.manifest import MANIFEST
    from graphalign.zoo.plan import read_plan
    from graphalign.zoo.population import generate

    folder = zoo or Path(content.get("zoo") or "zoo")
    if content.get("population") and not (folder / MANIFEST).is_file():
        sections = read_plan(compose("zoo", content["population"])).sections
        for section in sections:
            if section.split == "test":
                generate(sections, folder, root=data, only=section.name, progress=progress)
    return folder


def _add(name: str, summary: str) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(name, help=f"{summary} With arguments of its own, see --help.", context_settings=settings, add_help_option=False)
    def other(context: typer.Context) -> None:
        import importlib

        module = importlib.import_module(f"graphalign.experiments.{name}")
        (module.EXPERIMENT.main if hasattr(module, "EXPERIMENT") else module.main)(context.args)


for _name, _summary in OTHERS.items():
    _add(_name, _summary)
