"""Implementations of alignment methods behind one signature. Runs in measuring processes, see `graphalign.bench.worker`.

Two of them are other people's packages, which share the import name "rebasin": a process has one of them on its path at most.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from graphalign import group
from graphalign.bench.networks import build
from graphalign.bench.processes import save_state_dict
from graphalign.bench.stopwatch import Stopwatch, by_repetition, milliseconds
from graphalign.methods import configure
from graphalign.pairwise import prepare_pair

State = Mapping[str, Tensor]
Implementation = Callable[[nn.Module, nn.Module, Tensor, Mapping[str, Any], Stopwatch], tuple[State, dict[str, Any]]]
"""From A, a copy of B, an example input, options and a stopwatch to the state dict of the moved B and what else is known."""


def run_graphalign(
    a: nn.Module, b: nn.Module, example: Tensor, options: Mapping[str, Any], watch: Stopwatch
) -> tuple[State, dict[str, Any]]:
    """The steps of `graphalign.align`, timed apart. Options: the "method" and its settings; "start": "identity" to start only there."""
    solver = configure(options["method"], {key: value for key, value in options.items() if key not in ("method", "start")})
    with watch.stage("tracing"):
        pair = prepare_pair(a, b, example)
    start = group.identity(pair.spec) if options.get("start") == "identity" else None
    with watch.stage("matching"):
        solution = solver(pair.problem(start=start))
        moved = group.apply_to_state(pair.spec, solution.permutations, b.state_dict())
    return moved, {"steps": len(solution.losses)}


def run_rebasin(
    a: nn.Module, b: nn.Module, example: Tensor, options: Mapping[str, Any], watch: Stopwatch
) -> tuple[State, dict[str, Any]]:
    """`rebasin.PermutationCoordinateDescent` as its README shows it; the constructor traces both networks."""
    descent = import_module("rebasin").PermutationCoordinateDescent
    with watch.stage("tracing"):
        matching = descent(a, b, example)
    with watch.stage("matching"):
        matching.rebasin()
    return b.state_dict(), {}


def run_sinkhorn_rebasin(
    a: nn.Module, b: nn.Module, example: Tensor, options: Mapping[str, Any], watch: Stopwatch
) -> tuple[State, dict[str, Any]]:
    """`rebasin.RebasinNet` from the identity with the L2 loss and AdamW, as in its example main_alignment_mlp.py.

    As there it is stopped at the first step at which B, moved by the hard permutations, equals A; looking for that step is not
    timed. Options: "rate" of AdamW, "limit" of the steps.
    """
    with watch.stage("tracing"):
        network = import_module("rebasin").RebasinNet(b, input_shape=tuple(example.shape))
        network.identity_init()
        loss = import_module("rebasin.loss").DistL2Loss(copy.deepcopy(a))
        optimiser = torch.optim.AdamW(network.p.parameters(), lr=options["rate"])
    target = a.state_dict()
    for step in range(1, options["limit"] + 1):
        with watch.stage("matching"):
            network.train()
            optimiser.zero_grad()
            loss(network()).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            moved = {name: tensor.detach().clone() for name, tensor in network().state_dict().items()}
        if all(torch.equal(moved[name], tensor) for name, tensor in target.items()):
            return moved, {"steps": step}
    return moved, {"steps": options["limit"]}


IMPLEMENTATIONS: dict[str, Implementation] = {
    "graphalign": run_graphalign, "rebasin": run_rebasin, "sinkhorn-rebasin": run_sinkhorn_rebasin,
}  # fmt: skip


def measure_alignment(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The seconds of an implementation by stage, over warm repetitions, and every different B that it returned.

    The first run loads libraries and is reported apart. Where it alone takes longer than the job's "budget" it is the
    measurement; further runs stop at that many seconds.
    """
    network, example = build(job["kind"], job["sizes"])
    a, b = (_with_weights(network, load_file(folder / f"{name}.safetensors")) for name in "ab")
    run = IMPLEMENTATIONS[job["implementation"]]
    watches: list[Stopwatch] = []
    moved: list[State] = []
    begun = time.perf_counter()
    while len(watches) <= job["repetitions"] and (not watches or time.perf_counter() - begun < job["budget"]):
        watches.append(Stopwatch())
        found, facts = run(a, copy.deepcopy(b), example, job["options"], watches[-1])
        if not any(_equal(found, other) for other in moved):
            moved.append({name: tensor.clone() for name, tensor in found.items()})
    for index, state in enumerate(moved):
        save_state_dict(state, folder / f"moved{index}.safetensors")
    clocks = by_repetition(watches[1:] or watches)
    what = f"{job['implementation']} {dict(job['options'])}, {job['kind']} {job['sizes']}"
    print(f"{what}: {milliseconds(clocks['wall']['matching'])} ms", file=sys.stderr, flush=True)
    return {**facts, **clocks, "first": watches[0].wall, "states": [f"moved{index}" for index in range(len(moved))]}


def _equal(one: State, other: State) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _with_weights(network: nn.Module, state: State) -> nn.Module:
    copied = copy.deepcopy(network)
    copied.load_state_dict(dict(state))
    return copied
