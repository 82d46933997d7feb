"""`graphalign merge`: aligns networks and averages them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphalign.commands.options import (
    DATA_PANEL,
    OUTPUT,
    AlignData,
    Arch,
    BatchSize,
    Data,
    DataRoot,
    Device,
    Fixed,
    Force,
    Init,
    Input,
    Json,
    Loss,
    Method,
    Points,
    Quiet,
    Refine,
    Report,
    Seed,
    Settings,
    Spec,
    Verbose,
)  # fmt: skip

if TYPE_CHECKING:
    from graphalign.merged_files import MergedFiles
    from graphalign.recipes import Recipe

RECIPES = (".yaml", ".yml")
RECIPE_SAYS = (
    "weight", "base", "dtype", "method", "init", "refine", "set", "arch", "input", "spec", "fixed", "align_data", "repair", "reset_batch_norm",
    "loss", "seed",
)  # fmt: skip
"""Options that a recipe takes the place of."""


def merge(
    context: typer.Context, networks: Annotated[
        list[Path], typer.Argument(metavar="CONFIG OUT | A B [C]...", help="A merge recipe and the folder of the result; or networks, with -o.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the result.", rich_help_panel=OUTPUT)] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Share of a network, repeated in their order; divided by their sum.")] = None,
    base: Annotated[int, typer.Option(min=1, help="Number of the network in whose order the result is.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Type of the result: float32, float64, float16 or bfloat16.")] = None,
    method: Method = "gnn", init: Init = None, refine: Refine = None, set: Settings = None,
    arch: Arch = None, input: Input = None, spec: Spec = None, fixed: Fixed = None,
    align_data: AlignData = None,
    repair: Annotated[
        str | None, typer.Option(help="Training batches for REPAIR; named as --data.", rich_help_panel=DATA_PANEL)
    ] = None,
    reset_batch_norm: Annotated[
        str | None, typer.Option(help="Training batches for BatchNorm statistics of the result; named as --data.", rich_help_panel=DATA_PANEL)
    ] = None,
    data: Data = None, data_root: DataRoot = None, batch_size: BatchSize = 128, loss: Loss = "cross_entropy", points: Points = 11,
    report: Report = None, force: Force = False, device: Device = "cpu", seed: Seed = 0,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Align two or more networks and average them into a folder with the network, the permutations and merge_report.json.

    A recipe has the keys of mergekit (models, parameters.weight, merge_method, base_model, dtype) plus align and repair; see
    docs/mergekit.md. It says everything but --data, --report, --device and what is printed. With --data barriers are measured.
    """
    from graphalign.commands.session import session, settings_of

    settings = settings_of(set or [])
    configured = networks[0].suffix in RECIPES
    if configured and (len(networks) + (out is not None)) != 2:
        raise typer.BadParameter("found a recipe, expected CONFIG OUT")
    if not configured and (len(networks) < 2 or out is None):
        raise typer.BadParameter("expected two networks at least, and -o with the folder of the result")
    target = out if out is not None else networks[1]
    with session(json, quiet, verbose) as say:
        from graphalign.commands.opening import batches
        from graphalign.errors import InvalidInput
        from graphalign.merged_files import merge_files
        from graphalign.recipes import read_recipe, recipe_of

        if configured:
            if unused := [f"--{name.replace('_', '-')}" for name in RECIPE_SAYS if _is_given(context, name)]:
                raise InvalidInput(f"found {', '.join(unused)} beside a recipe; write it into {networks[0]}")
            recipe = read_recipe(networks[0])
        else:
            if weight and len(weight) != len(networks):
                raise InvalidInput(f"--weight: found {len(weight)} for {len(networks)} networks, expected one for each or none")
            if base > len(networks):
                raise InvalidInput(f"--base: found {base}, expected the number of a network, 1 to {len(networks)}")
            align = {"method": method, "settings": settings, "init": init, "refine": refine, "data": align_data, "loss": loss, "arch": arch,
                     "input": input, "spec": None if spec is None else str(spec), "fixed": fixed, "seed": seed}  # fmt: skip
            models = [{"model": str(path), "parameters": {"weight": w}} for path, w in zip(networks, weight or [1.0] * len(networks), strict=True)]
            content = {"models": models, "base_model": str(networks[base - 1]), "dtype": dtype, "align": align,
                       "repair": {"data": repair, "reset_batch_norm": reset_batch_norm}}  # fmt: skip
            recipe = recipe_of(content, Path(), "merge")
        loader = batches(data, data_root, batch_size)
        done = merge_files(recipe, target, data=loader, report=report, device=device, force=force, points=points, progress=say.progress)
        say.result(done.to_dict(), _text(recipe, done, target))
        if report is not None:
            say.note(f"written: {report}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _text(recipe: Recipe, done: MergedFiles, target: Path) -> str:
    from graphalign.checkpoints import MERGE_REPORT
    from graphalign.commands.session import table
    from graphalign.merged_files import permutations_file

    measured = bool(done.scores)
    rows = []
    for i, model in enumerate(recipe.models):
        alignment, change, curve = done.alignments.get(i), done.changes.get(i), done.curves.get(i)
        row = [model, f"{recipe.weights[i]:.3g}", "-" if alignment is None else f"{alignment.moved:.0%}", "-" if change is None else f"{change.difference:.1g}"]
        rows.append([*row, *(_scores(done, model, "-" if curve is None else f"{curve.barrier:.4f}") if measured else [])])
    if measured:
        rows.append(["merged", "", "", "", *_scores(done, "merged", "")])
    made = [permutations_file(i) for i in done.alignments] + [MERGE_REPORT]
    columns = ["network", "weight", "moved", "change", *(["barrier", "loss", "accuracy"] if measured else [])]
    return "\n".join([table(columns, rows), "", *(f"written: {target / name}" for name in (*done.files, *made))])


def _scores(done: MergedFiles, name: str, barrier: str) -> list[str]:
    score = done.scores.get(name)
    if score is None:
        return [barrier, "-", "-"]
    return [barrier, f"{score.loss:.4f}", "-" if score.accuracy is None else f"{score.accuracy:.1%}"]
