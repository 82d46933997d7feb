"""What a suite of benchmarks is told and what it gives back. Loads no torch: the command line reads it for its help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphalign.experiments.results import Table


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        repetitions: warm runs of every measurement, at least 1.
        seed: of networks, shuffles and everything random in the methods.
        quick: small sizes only, for a first look and for tests.
        peers: folder with other implementations, see `graphalign.bench.peers`; None to measure ours alone.
    """

    repetitions: int = 7
    seed: int = 11000
    quick: bool = False
    peers: Path | None = None

    def command(self, suite: str) -> str:
        """The command line that measures the same."""
        options = f" --repetitions {self.repetitions} --seed {self.seed}"
        return f"graphalign bench {suite}" + options + " --peers FOLDER" * (self.peers is not None) + " --quick" * self.quick


@dataclass(frozen=True)
class Report:
    """What a suite measured.

    Attributes:
        results: the contents of the results file, as `graphalign.experiments.results.publish` takes them.
        tables: generated from the results.
        draw: writes a figure of the results to a path; None without one.
    """

    results: Mapping[str, Any]
    tables: Sequence[Table]
    draw: Callable[[Path], None] | None = None


Suite = Callable[[Settings], Report]
