"""`graphalign align`: brings the units of one network into the order of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphalign.commands.options import (
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
    NetworkA,
    NetworkB,
    Quiet,
    Refine,
    Report,
    ResetBatchNorm,
    Seed,
    Settings,
    Spec,
    Verbose,
)  # fmt: skip


def align(
    a: NetworkA, b: NetworkB,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write B with its units in A's order: a .safetensors or .pt file, or a folder.", rich_help_panel=OUTPUT),
    ] = None,
    permutations: Annotated[
        Path | None, typer.Option(help="Write the permutations to this .safetensors file (graphalign.Alignment.load).", rich_help_panel=OUTPUT)
    ] = None,
    method: Method = "gnn", init: Init = None, refine: Refine = None, set: Settings = None,
    arch: Arch = None, input: Input = None, spec: Spec = None, fixed: Fixed = None,
    align_data: AlignData = None, data: Data = None, data_root: DataRoot = None, batch_size: BatchSize = 128, loss: Loss = "cross_entropy", reset_batch_norm: ResetBatchNorm = None,
    report: Report = None, force: Force = False, device: Device = "cpu", seed: Seed = 0,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Bring the units of B into the order of A, and check that B still computes what it did.

    With --align-data the method takes its steps on these inputs; with --data the report measures the line between the networks.
    """
    from graphalign.commands.session import session, settings_of

    options = settings_of(set or [])
    if out is None and permutations is None and report is None and not json:
        raise typer.BadParameter("found no output; pass --out B_ALIGNED.safetensors, --permutations P.safetensors or --report REPORT.html")
    if report is None and (data or reset_batch_norm):
        raise typer.BadParameter("found no --report, for which alone it is; methods see --align-data", param_hint="--data, --reset-batch-norm")
    with session(json, quiet, verbose) as say:
        from graphalign.checkpoints import ENDINGS
        from graphalign.commands.opening import batches, files_of, open_all
        from graphalign.errors import InvalidInput
        from graphalign.folders import REPORTS, check_outputs
        from graphalign.measures import distance
        from graphalign.merged_files import checked_change

        outputs = {name: path for name, path in (("--out", out), ("--permutations", permutations), ("--report", report)) if path is not None}
        seen, training = (batches(name, data_root, batch_size, "train") for name in (align_data, reset_batch_norm))
        held_out = batches(data, data_root, batch_size)
        opened = open_all(say, [a, b], arch, input, spec, held_out if seen is None else seen, device, seed)
        seen, training, held_out = map(opened.fitting, (seen, training, held_out))
        endings = {"--out": ENDINGS, "--permutations": (".safetensors",), "--report": REPORTS}
        check_outputs(outputs, files_of(opened, spec, align_data, data, reset_batch_norm), force=force, endings=endings)
        stays = tuple(fixed or ())
        say.progress(f"aligning by {method}")
        found = opened.align(method=method, init=init, refine=refine or (), data=seen, loss=loss, seed=seed, fixed=stays, **options)
        say.progress("checking")
        change = None if opened.spec is not None else checked_change(opened, 1, found)
        weights = distance(opened.states[0], opened.states[1], found)
        page = None
        if report is not None:
            from graphalign.reports import alignment_report

            if opened.spec is not None:
                raise InvalidInput("--report runs the networks, and a spec does not say what they compute; pass --arch instead of --spec")
            say.progress("measuring for the report")
            page = alignment_report(
                opened.states[0], opened.states[1], found, data=held_out, example_input=None if opened.module is None else opened.inputs(seed),
                loss=loss, reset_batch_norm=training, module=opened.module, names=(a.name, b.name), fixed=stays, seed=seed,
            )  # fmt: skip
        say.progress("writing")
        if out is not None:
            opened.write_aligned(found, out, force=force)
        if permutations is not None:
            found.save(permutations, force=force)
        if page is not None and report is not None:
            page.save(report, force=force)
        content = {
            "method": found.method, "seed": seed, "seconds": found.seconds, "moved": found.moved,
            "cells": {name: {"units": len(p), "moved": int((p != p.sort().values).sum())} for name, p in found.permutations.items()},
            "stages": [{"method": s.method, "seconds": s.seconds, "objective": s.objective} for s in found.history],
            "distance": {"before": weights.before, "after": weights.after},
            "verification": None if change is None else {"largest_change": change.difference, "largest_output": change.scale},
            "outputs": {name.removeprefix("--"): str(path) for name, path in outputs.items()},
            "permutations": {name: p.tolist() for name, p in found.permutations.items()} if not outputs else None,
        }  # fmt: skip
        units = sum(len(p) for p in found.permutations.values())
        checked = "not run, since a spec says not what is computed" if change is None else (
            f"largest change of an output {change.difference:.2g} (largest output {change.scale:.3g})"
        )  # fmt: skip
        say.result(content, "\n".join([
            f"aligned {b} to {a} by {found.method} in {found.seconds:.2f} s",
            f"  units     {units} in {len(found.permutations)} cells, {found.moved:.0%} moved",
            f"  distance  {weights.before:.4g} before, {weights.after:.4g} after",
            f"  function  {checked}",
            *(f"  written   {path}" for path in outputs.values()),
        ]))  # fmt: skip
