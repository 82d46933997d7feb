"""The footprint: seconds to trace and align full-size networks, and the memory that `align` needs.

    python -m graphalign.experiments.footprint

Every figure comes from a fresh process. Memory is resident memory as Linux counts it (/proc/self/status): the peak while `align`
runs, tracing included, minus what was resident when the two networks had been built.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.converters.trace import trace_architecture
from graphalign.errors import GraphAlignError, InvalidInput
from graphalign.experiments.networks import VGG16, images
from graphalign.experiments.results import Table, environment, publish
from graphalign.experiments.training import initialise
from graphalign.pairwise import align
from graphalign.zoo.networks import mlp, resnet, vgg

SEED = 9000
MIB = 2**20
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "tiny MLP": (lambda: mlp((4, 4), (1, 2, 2)), lambda: images(2, 1)),
    "small VGG": (lambda: vgg(((8,), (8,))), lambda: images(8)),
    "VGG-16, 32x32": (lambda: vgg(VGG16), lambda: images(32)),
    "VGG-16 with 4096 head, 224x224": (
        lambda: vgg(VGG16, hidden=(4096, 4096), pool=7, classes=1000),
        lambda: images(224),
    ),
    "ResNet-50, 224x224": (
        lambda: resnet((3, 4, 6, 3), 64, bottleneck=True, imagenet_stem=True, classes=1000),
        lambda: images(224),
    ),
}
CONSTANT = "tiny MLP"
"""What this pair takes is taken to be the constant part: libraries that load on first use, buffers of fixed size."""
TRACED = ("VGG-16, 32x32", "VGG-16 with 4096 head, 224x224", "ResNet-50, 224x224")
ALIGNED = (
    *((CONSTANT, method) for method in ("naive", "weight", "gnn")),
    *(("VGG-16, 32x32", method) for method in ("naive", "weight", "gnn")),
    ("ResNet-50, 224x224", "gnn"),
)


def build(name: str, seed: int) -> nn.Module:
    """A network with He initialisation, in eval mode."""
    torch.manual_seed(seed)
    network = NETWORKS[name][0]().eval()
    initialise(network)
    return network


def resident(field: str) -> int:
    """Bytes of resident memory now ("VmRSS") or at their peak ("VmHWM").

    Raises:
        InvalidInput: this system does not tell.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise InvalidInput("footprint: found no /proc/self/status, from which memory is read; run it on Linux") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def reset_peak() -> None:
    """Makes the peak of resident memory start again from what is resident now.

    Raises:
        InvalidInput: this system does not allow it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        raise InvalidInput("footprint: cannot write /proc/self/clear_refs, which restarts the peak; run it on Linux") from None


def measure_trace(name: str) -> dict[str, Any]:
    """Seconds to trace a network, in this process; its parameters and units."""
    network, example = build(name, SEED), NETWORKS[name][1]()
    start = time.perf_counter()
    spec = trace_architecture(network, example).spec
    seconds = time.perf_counter() - start
    units = sum(cell.units for cell in spec.cells)
    return {"network": name, "seconds": seconds, "parameters": sum(p.numel() for p in network.parameters()), "units": units}


def measure_align(name: str, method: str) -> dict[str, Any]:
    """Seconds and memory of one alignment of two unrelated networks, in this process."""
    a, b = build(name, SEED), build(name, SEED + 1)
    example = NETWORKS[name][1]()
    held = sum(t.numel() * t.element_size() for network in (a, b) for t in group.all_tensors(network).values())
    gc.collect()
    reset_peak()
    before = resident("VmRSS")
    start = time.perf_counter()
    alignment = align(a, b, example_input=example, method=method, seed=SEED)
    seconds = time.perf_counter() - start
    extra = resident("VmHWM") - before
    return {
        "network": name, "method": method, "seconds": alignment.seconds, "seconds_with_tracing": seconds,
        "networks_bytes": held, "before_bytes": before, "extra_bytes": extra,
    }  # fmt: skip


def in_fresh_process(what: Sequence[str], threads: int) -> dict[str, Any]:
    """The result of one measurement, made by a new interpreter with a number of threads.

    Raises:
        GraphAlignError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "graphalign.experiments.footprint", "--threads", str(threads), "--one", *what]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise GraphAlignError(f"footprint: measuring {' '.join(what)} failed: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(traced: Sequence[str], aligned: Sequence[tuple[str, str]], threads: int, command: str) -> dict[str, Any]:
    """The results of all measurements, one after the other."""
    found: dict[str, list[dict[str, Any]]] = {"trace": [], "align": []}
    for what in [("trace", name) for name in traced] + [("align", *case) for case in aligned]:
        row = in_fresh_process(what, threads)
        found[what[0]].append(row)
        print(f"{', '.join(what)}: {row['seconds']:.2f} s", file=sys.stderr, flush=True)
    return {
        "title": "Time and memory",
        "command": command,
        "seed": SEED,
        "environment": {**environment(), "threads": threads},
        **found,
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file."""
    constant = {row["method"]: row["extra_bytes"] for row in results["align"] if row["network"] == CONSTANT}
    traced = [[r["network"], f"{r['parameters'] / 1e6:.1f} M", str(r["units"]), f"{r['seconds']:.2f}"] for r in results["trace"]]
    aligned = []
    for row in results["align"]:
        held, extra, base = row["networks_bytes"], row["extra_bytes"], constant.get(row["method"])
        beyond = "-" if base is None or row["network"] == CONSTANT else f"{(extra - base) / held:.2f}"
        total = "-" if base is None or row["network"] == CONSTANT else f"{(held + extra - base) / held:.2f}"
        times = [f"{row['seconds']:.2f}", f"{row['seconds_with_tracing']:.2f}"]
        aligned.append([row["network"], row["method"], *times, f"{held / MIB:.1f}", f"{extra / MIB:.0f}", beyond, total])
    threads = results["environment"]["threads"]
    columns = ["pair", "method", "s", "s with tracing", "networks MiB", "extra MiB", "extra - constant", "peak - constant"]
    return [
        Table(f"Tracing, {threads} threads", ["network", "parameters", "units", "s"], traced),
        Table(
            f"Aligning, {threads} threads", columns, aligned,
            [
                "Extra: peak of resident memory while `align` runs, tracing included, above what was resident with both networks "
                f"built. The constant is the extra of the {CONSTANT} with the same method (libraries loaded on first use). "
                "The last two columns are in units of the two networks; the last one counts the networks themselves too."
            ],
        ),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.experiments.footprint", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of every measuring process (default 2)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the results go (default docs/results)")
    parser.add_argument("--quick", action="store_true", help="two small networks; writes only to --out")
    parser.add_argument(
        "--one", nargs="+", metavar="WORD", help="measure here, print JSON: trace NETWORK or align NETWORK METHOD"
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads: found {options.threads}, expected at least 1")
    if options.one:
        torch.set_num_threads(options.threads)
        kind, *what = options.one
        print(json.dumps(measure_trace(*what) if kind == "trace" else measure_align(*what)))
        return
    small = [("small VGG", method) for method in ("naive", "weight", "gnn")]
    traced, aligned = (("small VGG",), (*ALIGNED[:3], *small)) if options.quick else (TRACED, ALIGNED)
    command = f"python -m graphalign.experiments.footprint --threads {options.threads}" + " --quick" * options.quick
    results = run(traced, aligned, options.threads, command)
    for table in tables(results):
        print(f"{table}\n")
    out = options.out or (None if options.quick else Path("docs/results"))
    if out:
        publish(out, "footprint", results, tables(results))
        print(f"written: {out / 'footprint.json'}, {out / 'footprint.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
