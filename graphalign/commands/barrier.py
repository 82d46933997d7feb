"""`graphalign barrier`: the loss on the line between two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphalign.commands.options import (
    OUTPUT,
    AlignData,
    Arch,
    BatchSize,
    DataRoot,
    Device,
    Fixed,
    Force,
    Input,
    Json,
    Loss,
    NetworkA,
    NetworkB,
    Points,
    Quiet,
    ResetBatchNorm,
    Seed,
    Verbose,
)  # fmt: skip
from graphalign.commands.options import Data as OptionalData

Data = Annotated[str, *OptionalData.__metadata__]


def barrier(
    a: NetworkA, b: NetworkB, data: Data,
    arch: Arch = None, input: Input = None, fixed: Fixed = None,
    permutations: Annotated[Path | None, typer.Option(help="Permutations that graphalign align wrote: B is measured with and without them.")] = None,
    method: Annotated[str | None, typer.Option(help="Align B by this method first: B is measured before and after.")] = None,
    align_data: AlignData = None, data_root: DataRoot = None, batch_size: BatchSize = 128, loss: Loss = "cross_entropy", reset_batch_norm: ResetBatchNorm = None, points: Points = 25,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve to this .png, .svg or .pdf file.", rich_help_panel=OUTPUT)] = None,
    force: Force = False, device: Device = "cpu", seed: Seed = 0, json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Measure loss and accuracy on the line between two networks, as they are or before and after an alignment."""
    from graphalign.commands.session import session, table

    if permutations is not None and method is not None:
        raise typer.BadParameter("found both, expected one of them", param_hint="--permutations, --method")
    if align_data and method is None:
        raise typer.BadParameter("found no --method, which alone sees it", param_hint="--align-data")
    with session(json, quiet, verbose) as out:
        from graphalign.alignment import Alignment
        from graphalign.commands.opening import batches, files_of, open_all
        from graphalign.connectivity import barrier as measure
        from graphalign.curve import PICTURES, plot_curves
        from graphalign.folders import check_outputs

        seen, training = (batches(name, data_root, batch_size, "train") for name in (align_data, reset_batch_norm))
        loader = batches(data, data_root, batch_size)
        opened = open_all(out, [a, b], arch, input, None, loader, device, seed)
        loader, training, seen = map(opened.fitting, (loader, training, seen))
        assert loader is not None
        inputs = files_of(opened, data, align_data, reset_batch_norm, permutations)
        check_outputs({} if plot is None else {"--plot": plot}, inputs, force=force, endings={"--plot": PICTURES})
        first, second = opened.network(0), opened.network(1)
        networks = {"as they are": second}
        if permutations is not None:
            networks["aligned"] = Alignment.load(permutations).apply(second)
        elif method is not None:
            out.progress(f"aligning by {method}")
            networks[f"aligned by {method}"] = opened.align(method=method, data=seen, loss=loss, seed=seed, fixed=tuple(fixed or ())).apply(second)
        curves = {}
        for name, network in networks.items():
            out.progress(f"measuring {points} points, {name}")
            curves[name] = measure(first, network, loader, loss, points, training)
        if plot is not None:
            plot_curves(curves, plot)
        content = {
            name: curve.summary() | {"lambdas": curve.lambdas.tolist(), "losses": curve.losses.tolist(),
                                     "accuracies": None if curve.accuracies is None else curve.accuracies.tolist()}
            for name, curve in curves.items()
        }  # fmt: skip
        summaries = {name: curve.summary() for name, curve in curves.items()}
        rows = [(key, *(f"{summary[key]:.4f}" for summary in summaries.values())) for key in next(iter(summaries.values()))]
        out.result(content, f"from {b} (lambda 0) to {a} (lambda 1)\n\n" + table(("", *curves), rows))
        if plot is not None:
            out.note(f"written: {plot}")
