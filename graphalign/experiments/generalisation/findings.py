"""Figures of a results file: means over pairs, and ratios of mean barriers over architectures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST = 0.01
"""Mean barriers below this share of an architecture's highest one count as that share: a line may have no barrier at all."""


@dataclass(frozen=True)
class Estimate:
    """A mean and a standard deviation (of a sample; 0 for a single value)."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one value or more."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


@dataclass(frozen=True)
class Findings:
    """The records of a results file.

    Attributes:
        results: its content.
    """

    results: Mapping[str, Any]

    @property
    def places(self) -> list[tuple[str, str]]:
        """Families and rows of which there is something, in the order of the results' own lists."""
        there = {(r["family"], r["row"]) for r in self.results["records"]}
        return [(f, r) for f in self.results["families"] for r in self.results["rows"] if (f, r) in there]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of which there is something."""
        there = {r["column"] for r in self.results["records"]}
        return [name for name in self.results["columns"] if name in there]

    def by_aligner(self, row: str, family: str, column: str, figure: str = "barrier") -> dict[str | None, dict[str, list[float]]]:
        """Values per pair by architecture, by aligner (None if the column has none)."""
        found: dict[str | None, dict[str, list[float]]] = {}
        for record in self.results["records"]:
            if (record["row"], record["family"], record["column"]) == (row, family, column):
                values = record["seconds"] if figure == "seconds" else record["figures"].get(figure)
                if values is not None:
                    found.setdefault(record["aligner"], {})[record["architecture"]] = values
        return found

    def pairs(self, row: str, family: str, column: str, figure: str = "barrier") -> dict[str, list[float]]:
        """Values per pair by architecture, averaged over the aligners."""
        per = self.by_aligner(row, family, column, figure)
        names = {name for own in per.values() for name in own}
        return {
            name: [statistics.fmean(v) for v in zip(*(own[name] for own in per.values() if name in own), strict=True)] for name in sorted(names)
        }  # fmt: skip

    def mean(self, row: str, family: str, column: str, figure: str = "barrier") -> Estimate | None:
        """Mean over the architectures of the mean over their pairs, and the spread over pairs of one architecture, pooled."""
        found = self.pairs(row, family, column, figure)
        if not found:
            return None
        variances = [statistics.variance(values) if len(values) > 1 else 0.0 for values in found.values()]
        mean = statistics.fmean(statistics.fmean(values) for values in found.values())
        return Estimate(mean, math.sqrt(statistics.fmean(variances)), len(found))

    def ratio(self, row: str, family: str, column: str, reference: str) -> Estimate | None:
        """Geometric mean over architectures of the ratio of mean barriers on the same pairs; mean and spread over the aligners.

        Architectures that only one of the two columns has do not count. The reference is averaged over its aligners. Barriers near
        0 are raised to LEAST.
        """
        below = self.pairs(row, family, reference)
        ratios = []
        for own in self.by_aligner(row, family, column).values():
            least = {name: LEAST * self._highest(name) or 1.0 for name in own}
            logs = [
                math.log(max(statistics.fmean(v), least[name]) / max(statistics.fmean(below[name]), least[name]))
                for name, v in own.items() if name in below
            ]  # fmt: skip
            if logs:
                ratios.append(math.exp(statistics.fmean(logs)))
        return Estimate.of(ratios) if ratios else None

    def _highest(self, architecture: str) -> float:
        """The highest mean barrier of an architecture."""
        return max(statistics.fmean(r["figures"]["barrier"]) for r in self.results["records"] if r["architecture"] == architecture)

    def speed(self, family: str, column: str, reference: str) -> float | None:
        """How many times faster than the reference, on single pairs in one process: geometric mean over architectures."""
        logs = [
            math.log(t["seconds"][reference] / t["seconds"][column])
            for t in self.results["timings"] if t["family"] == family and {column, reference} <= t["seconds"].keys()
        ]  # fmt: skip
        return math.exp(statistics.fmean(logs)) if logs else None

    def psi(self, row: str, family: str, column: str) -> list[float] | None:
        """Mean excess loss along the line, over pairs, architectures and aligners."""
        found = [r["psi"] for r in self.results["records"] if (r["row"], r["family"], r["column"]) == (row, family, column)]
        return [statistics.fmean(values) for values in zip(*found, strict=True)] if found else None
