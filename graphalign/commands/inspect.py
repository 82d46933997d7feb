"""`graphalign inspect`: what is in a checkpoint, and what in it may be permuted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphalign.commands.options import OUTPUT, Arch, Fixed, Force, Input, Json, Network, Quiet, Spec, Verbose

if TYPE_CHECKING:
    from graphalign.checkpoints import Checkpoint


def inspect(
    network: Network,
    arch: Arch = None, input: Input = None, spec: Spec = None, fixed: Fixed = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors, and do not ask what may move.", rich_help_panel=OUTPUT)] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the layer graph to this .svg, .png or .pdf file.", rich_help_panel=OUTPUT)
    ] = None,
    save_spec: Annotated[Path | None, typer.Option(help="Write the spec to this .yaml or .json file.", rich_help_panel=OUTPUT)] = None,
    force: Force = False, json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Show what a network holds and what in it may be permuted."""
    from graphalign.commands.session import session

    if tensors and (plot or save_spec):
        raise typer.BadParameter("found --plot or --save-spec beside it, which show what may move; leave one out", param_hint="--tensors")
    with session(json, quiet, verbose) as out:
        from graphalign.checkpoints import read_checkpoint
        from graphalign.commands.opening import files_of, open_all

        if tensors:
            checkpoint = read_checkpoint(network)
            out.result(_content(checkpoint, listed=True), _text(checkpoint, listed=True))
            return
        from graphalign.curve import PICTURES
        from graphalign.folders import check_outputs
        from graphalign.group import check_state
        from graphalign.spec_format import save_spec as write_spec
        from graphalign.spec_format import spec_to_dict

        opened = open_all(out, [network], arch, input, spec)
        outputs = {name: path for name, path in (("--plot", plot), ("--save-spec", save_spec)) if path is not None}
        check_outputs(outputs, files_of(opened, spec), force=force, endings={"--plot": PICTURES, "--save-spec": (".yaml", ".yml", ".json")})
        out.progress("tracing")
        found = opened.graph(tuple(fixed or ())) if opened.spec is None or plot is not None else None
        if found is not None:
            what = found.spec
        elif opened.spec is not None:
            what = opened.spec
            check_state(what, opened.states[0], str(network))
        if plot is not None and found is not None:
            from graphalign.drawing import draw_layers

            draw_layers(found, plot)
        if save_spec is not None:
            write_spec(what, save_spec, force=force)
        checkpoint = opened.checkpoints[0]
        out.result(_content(checkpoint) | {"spec": spec_to_dict(what)}, f"{_text(checkpoint)}\n\n{what}")
        for path in outputs.values():
            out.note(f"written: {path}")


def _content(checkpoint: Checkpoint, listed: bool = False) -> dict[str, Any]:
    state = checkpoint.state
    found: dict[str, Any] = {
        "files": [str(file) for file in checkpoint.files], "tensors": len(state), "entries": sum(t.numel() for t in state.values()),
        "bytes": checkpoint.bytes, "dtypes": _types(checkpoint), "metadata": checkpoint.metadata,
    }  # fmt: skip
    if listed:
        found["shapes"] = {key: {"dtype": _type(t.dtype), "shape": list(t.shape)} for key, t in state.items()}
    return found


def _text(checkpoint: Checkpoint, listed: bool = False) -> str:
    from graphalign.commands.session import table

    state = checkpoint.state
    types = ", ".join(f"{count} {name}" for name, count in _types(checkpoint).items())
    entries = sum(t.numel() for t in state.values())
    head = f"{checkpoint.path}: {len(state)} tensors ({types}), {entries:,} entries, {checkpoint.bytes / 1e6:.2f} MB"
    notes = [f"  {key}: {value[:200]}" for key, value in checkpoint.metadata.items()]
    rows = [(key, _type(t.dtype), "x".join(map(str, t.shape)) or "scalar") for key, t in state.items()]
    return "\n".join([head, *notes, *(["", table(("tensor", "dtype", "shape"), rows)] if listed else [])])


def _types(checkpoint: Checkpoint) -> dict[str, int]:
    return dict(Counter(_type(t.dtype) for t in checkpoint.state.values()))


def _type(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
