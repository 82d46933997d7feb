"""The other side of `graphalign.bench.processes`: reads jobs from folders, measures, and writes the results there.

python -m graphalign.bench.worker THREADS FOLDER...
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from graphalign.bench.assignments import measure_assignments, measure_one_assignment
from graphalign.bench.implementations import measure_alignment
from graphalign.bench.processes import ARGUMENTS, RESULT
from graphalign.bench.scaling import measure_scale
from graphalign.bench.transports import measure_transport

Task = Callable[[Mapping[str, Any], Path], dict[str, Any]]
"""From arguments and the job's folder to facts; under "states" they may name state dicts that it has written there."""
TASKS: dict[str, Task] = {
    "alignment": measure_alignment, "assignments": measure_assignments, "transport": measure_transport, "scale": measure_scale,
    "solve": measure_one_assignment,
}  # fmt: skip


def work(folder: Path) -> None:
    """Runs the job of a folder; an error is its result."""
    arguments = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
    torch.manual_seed(arguments.get("seed", 0))  # for implementations that draw from the global generator
    try:
        facts = TASKS[arguments["task"]](arguments, folder)
    except Exception as error:  # noqa: BLE001 (whatever another package raises is what there is to report)
        facts = {"error": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]}
    (folder / RESULT).write_text(json.dumps(facts), encoding="utf-8")


def main(threads: int, folders: list[Path]) -> None:
    """Runs the jobs of all folders."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # of other packages, about each other
    for folder in folders:
        work(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
