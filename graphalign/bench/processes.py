"""Runs measurements in a process of their own, with a number of threads and, if wanted, another implementation on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from graphalign.errors import GraphAlignError

ARGUMENTS, RESULT = "arguments.json", "result.json"
LONGEST = 3600.0
"""Seconds after which a process is given up."""


class MeasurementFailed(GraphAlignError):
    """A measuring process ended without results, or one of our own measurements raised an error."""


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        task: one of `graphalign.bench.worker.TASKS`.
        arguments: anything JSON can hold.
        states: state dicts by name, for the task to read.
    """

    task: str
    arguments: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a job measured.

    Attributes:
        facts: what the task returned; only "error", one line, where it raised one.
        states: the state dicts that it left.
    """

    facts: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Tensor]]


def measure(jobs: Sequence[Job], *, threads: int = 1, paths: Sequence[Path] = ()) -> list[Result]:
    """Results of jobs that one new interpreter runs one after the other; it reports on stderr as it goes.

    Jobs and states travel through files in a temporary folder (JSON and safetensors), so that the two processes share no objects
    and can have different packages of one name.

    Args:
        jobs: the measurements.
        threads: of torch, BLAS and OpenMP in that process.
        paths: folders that come first on its path.

    Raises:
        MeasurementFailed: the process ended early or took longer than `LONGEST` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="graphalign-bench-") as name:
        folders = [Path(name) / f"{index:04}" for index in range(len(jobs))]
        for job, folder in zip(jobs, folders, strict=True):
            folder.mkdir()
            for key, state in job.states.items():
                save_state_dict(state, folder / f"{key}.safetensors")
            (folder / ARGUMENTS).write_text(json.dumps({"task": job.task, **job.arguments}), encoding="utf-8")
        path = os.pathsep.join([*map(str, paths), *(p for p in sys.path if p)])
        count = str(threads)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        command = [sys.executable, "-m", "graphalign.bench.worker", count, *map(str, folders)]
        try:
            status = subprocess.run(command, env=environment, timeout=LONGEST, check=False).returncode
        except subprocess.TimeoutExpired:
            raise MeasurementFailed(f"bench: a measuring process took more than {LONGEST:.0f} seconds and was stopped") from None
        if status:
            raise MeasurementFailed(f"bench: a measuring process ended with status {status}; what it said is above") from None
        return [_read(folder) for folder in folders]


def save_state_dict(state: Mapping[str, Tensor], file: Path) -> None:
    """Writes tensors to a file, each with memory of its own."""
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, file)


def _read(folder: Path) -> Result:
    facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return Result(facts, {key: load_file(folder / f"{key}.safetensors") for key in facts.pop("states", ())})
