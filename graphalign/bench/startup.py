"""The suite "startup": seconds until something happens, each in interpreters of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphalign.bench.processes import MeasurementFailed
from graphalign.bench.settings import Report, Settings, read_sizes
from graphalign.experiments.results import Table, environment

BEGIN = "import json, sys, time; clocks = lambda: (time.perf_counter(), time.process_time()); begun = clocks()\n"
END = "print(json.dumps({'wall': clocks()[0] - begun[0], 'cpu': clocks()[1] - begun[1], 'loaded': sorted(m for m in sys.modules if '.' not in m)}))"
NETWORKS = (
    "import torch; from graphalign import align; make = lambda: torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), "
    "torch.nn.Linear(64, 10)); a, b, x = make(), make(), torch.zeros(1, 20)\n"
)
CALL = "align(a, b, example_input=x)\n"
CASES: dict[str, tuple[str, str]] = {
    "import torch": ("", "import torch\n"),
    "import graphalign": ("", "import graphalign\n"),
    "from graphalign import align": ("", "from graphalign import align\n"),
    "graphalign --help": ("", "import contextlib, io\nfrom graphalign.cli import app\nwith contextlib.redirect_stdout(io.StringIO()): app(['--help'], standalone_mode=False)\n"),
    "first call of align": (NETWORKS, CALL),
    "second call of align": (NETWORKS + CALL, CALL),
}
"""What happens before the clock starts, and what is measured."""
TORCH, HEAVY = "import torch", ("torch", "scipy", "networkx", "torch_geometric", "matplotlib", "hydra", "sklearn")


@dataclass(frozen=True)
class Sizes:
    """There are none: what is measured is always the same."""


def measure_case(before: str, code: str) -> dict[str, Any]:
    """Seconds of the clock and of the processor, and the modules that are loaded at the end.

    Raises:
        MeasurementFailed: the interpreter ended with an error; with the end of what it said.
    """
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", before + BEGIN + code + END], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementFailed(f"bench startup: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(settings: Settings) -> Report:
    """Measures all cases in turns; the first turn, which reads files from disk, does not count.

    Raises:
        InvalidInput: the configuration has sizes.
        MeasurementFailed: an interpreter ended with an error.
    """
    read_sizes(Sizes, settings.sizes, "bench startup")
    where = environment()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    for turn in range(settings.repetitions + 1):
        for name, (before, code) in CASES.items():
            measured = measure_case(before, code)
            if turn:
                found[name].append(measured)
    rows = [
        {
            "name": name,
            **{clock: [run[clock] for run in runs] for clock in ("wall", "cpu")},
            "loaded": [module for module in HEAVY if module in runs[-1]["loaded"]],
        }
        for name, runs in found.items()
    ]
    results = {
        "title": "Startup",
        "command": settings.command,
        "seed": settings.seed,
        "environment": {**where, "threads": 1},
        "rows": rows,
    }
    return Report(results, [table(results)])


def table(results: Mapping[str, Any]) -> Table:
    """Medians, and ratios to torch alone."""
    reference = next(statistics.median(row["cpu"]) for row in results["rows"] if row["name"] == TORCH)
    rows = []
    for row in results["rows"]:
        wall, cpu = (statistics.median(row[clock]) for clock in ("wall", "cpu"))
        spread = f"{min(row['cpu']):.2f}-{max(row['cpu']):.2f}"
        rows.append([row["name"], f"{cpu:.3f}", spread, f"{wall:.3f}", f"{cpu / reference:.2f}", " ".join(row["loaded"]) or "-"])
    return Table(
        "Seconds, 1 thread", ["what", "processor", "range", "clock", "processor / import torch", "loaded at the end"], rows,
        ["Median of fresh interpreters, the start of Python apart. The calls align two MLPs 20-64-10 after everything has been imported."],
    )  # fmt: skip
