"""`graphalign verify`: whether permuting a network leaves its function as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphalign.commands.options import Arch, Device, Fixed, Input, Json, Network, Quiet, Seed, Spec, Verbose


def verify(
    network: Network,
    aligned: Annotated[
        Path | None, typer.Argument(help="A network that is said to be a permutation of it. Without one, random permutations are tried.")
    ] = None,
    arch: Arch = None, input: Input = None, spec: Spec = None, fixed: Fixed = None, seed: Seed = 0,
    samples: Annotated[int, typer.Option(min=1, help="Random permutations that are tried.")] = 3,
    device: Device = "cpu", json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Run a network before and after its units are permuted, in float64 if it can; exit code 1 if an output changes."""
    from graphalign.commands.session import session

    with session(json, quiet, verbose) as out:
        from graphalign.commands.opening import open_all
        from graphalign.same_function import function_change

        opened = open_all(out, [network, *([] if aligned is None else [aligned])], arch, input, None, device=device, seed=seed)
        first, x = opened.network(0, any_function=True), opened.inputs(seed)
        out.progress("running")
        if aligned is not None:
            change = function_change(first, opened.network(1, any_function=True), x)
            what = f"{aligned} against {network}"
        else:
            import torch

            from graphalign import group
            from graphalign.converters import trace
            from graphalign.spec_format import load_spec

            known = trace(first, x, fixed=tuple(fixed or ())) if spec is None else load_spec(spec)
            generator = torch.Generator().manual_seed(seed)
            moved = (group.apply_to_module(known, group.random_element(known, generator), first) for _ in range(samples))
            change = max((function_change(first, network, x) for network in moved), key=lambda found: found.difference)
            what = f"{network} under {samples} random permutation{'' if samples == 1 else 's'} of {len(known.cells)} cells"
        verdict = "same function" if change.equal else "DIFFERENT function"
        content = {"same": change.equal, "largest_change": change.difference, "largest_output": change.scale}
        out.result(content, f"{verdict}: {what}\nlargest change of an output {change.difference:.3g}, largest output {change.scale:.3g}")
        if not change.equal:
            raise typer.Exit(1)
