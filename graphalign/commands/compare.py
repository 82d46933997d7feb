"""`graphalign compare`: all methods on one pair of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graphalign.commands.options import (
    AlignData,
    Arch,
    BatchSize,
    Data,
    DataRoot,
    Device,
    Fixed,
    Input,
    Json,
    Loss,
    NetworkA,
    NetworkB,
    Points,
    Quiet,
    ResetBatchNorm,
    Seed,
    Spec,
    Verbose,
)  # fmt: skip

if TYPE_CHECKING:
    from graphalign.method_comparison import MethodResult


def compare(
    a: NetworkA, b: NetworkB,
    method: Annotated[list[str] | None, typer.Option(help="A method; may be repeated. All methods if absent.")] = None,
    arch: Arch = None, input: Input = None, spec: Spec = None, fixed: Fixed = None,
    align_data: AlignData = None, data: Data = None, data_root: DataRoot = None, batch_size: BatchSize = 128, loss: Loss = "cross_entropy", reset_batch_norm: ResetBatchNorm = None,
    points: Points = 11, device: Device = "cpu", seed: Seed = 0, json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Align one pair by every method, and print one table; with barriers if --data is given.

    Methods that need data, labelled or not, see --align-data and never what is measured.
    """
    from graphalign.commands.session import session, table

    with session(json, quiet, verbose) as out:
        from graphalign.commands.opening import batches, open_all
        from graphalign.method_comparison import compare_methods

        seen, training = (batches(name, data_root, batch_size, "train") for name in (align_data, reset_batch_norm))
        loader = batches(data, data_root, batch_size)
        opened = open_all(out, [a, b], arch, input, spec, loader if seen is None else seen, device, seed)
        loader, training, seen = map(opened.fitting, (loader, training, seen))
        found = compare_methods(
            opened, method or (), align_data=seen, data=loader, loss=loss, points=points, reset_batch_norm=training, seed=seed, fixed=tuple(fixed or ()),
            progress=out.steps,
        )  # fmt: skip
        ran = [result for result in found if not result.problem]
        columns = ("method", "seconds", "moved", "distance", *(("barrier", "area", "midpoint loss", "midpoint accuracy") if loader is not None else ()))
        rows = [_row(result) for result in ran]
        skipped = [f"{result.method}: {result.problem}" for result in found if result.problem]
        out.result({"methods": [result.to_dict() for result in found]}, "\n".join([table(columns, rows), *([""] if skipped else []), *skipped]))
        if not ran:
            raise typer.Exit(1)


def _row(result: MethodResult) -> tuple[str, ...]:
    assert result.alignment is not None
    assert result.distance is not None
    cells = (result.method, f"{result.alignment.seconds:.2f}", f"{result.alignment.moved:.0%}", f"{result.distance.after:.4g}")
    if result.curve is None:
        return cells
    accuracy = result.curve.midpoint_accuracy
    return (
        *cells, f"{result.curve.barrier:.4f}", f"{result.curve.auc:.4f}", f"{result.curve.midpoint_loss:.4f}",
        "-" if accuracy is None else f"{accuracy:.1%}",
    )  # fmt: skip
