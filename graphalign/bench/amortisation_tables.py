"""The tables and the figure of the suite "amortisation", generated from its results alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphalign.curve import new_figure, save_figure
from graphalign.experiments.results import Table


@dataclass(frozen=True)
class Trade:
    """A pass of the aligner in the place of another method, on one family of networks.

    Attributes:
        cost: seconds of the population and the training.
        ours, other: seconds per pair.
        barriers: of ours and of the other; None where it was not measured.
    """

    cost: float
    ours: float
    other: float
    barriers: tuple[float | None, float | None]

    @property
    def saved(self) -> float:
        """Seconds per pair, below 0 if ours is slower."""
        return self.other - self.ours

    @property
    def credited(self) -> bool:
        """Whether the barrier of ours is at most that of the other."""
        ours, other = self.barriers
        return ours is not None and other is not None and ours <= other

    @property
    def pairs(self) -> int | None:
        """After how many pairs the cost is saved; None if it never is, or may not be credited."""
        return math.ceil(self.cost / self.saved) if self.credited and self.saved > 0 else None

    @property
    def verdict(self) -> str:
        """The pairs, or why there are none."""
        if None in self.barriers:
            return "barrier not measured"
        if not self.credited:
            return "not credited: higher barrier"
        return "never: slower" if self.pairs is None else f"{self.pairs:,}"


def trade(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], ours: str, other: str) -> Trade:
    """The trade on some architectures: means of their barriers and of their seconds of the processor."""
    barriers = [[row["barriers"].get(name) for row in rows] for name in (ours, other)]
    seconds = [statistics.fmean(statistics.median(row["seconds"][name]["cpu"]) for row in rows) for name in (ours, other)]
    means = [None if None in values else statistics.fmean(values) for values in barriers]
    return Trade(results["cost"]["population"] + results["cost"]["training"], seconds[0], seconds[1], (means[0], means[1]))


def by_family(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every family."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        found.setdefault(row["family"], []).append(row)
    return found


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file."""
    return [cost_table(results), family_table(results), architecture_table(results)]


def cost_table(results: Mapping[str, Any]) -> Table:
    """What the aligner cost."""
    cost = results["cost"]
    rows = [
        ["training of networks", f"{cost['networks']} networks", f"{cost['population']:,.0f}"],
        ["training of the aligner", f"{cost['steps']} steps", f"{cost['training']:,.0f}"],
        ["together", "", f"{cost['population'] + cost['training']:,.0f}"],
    ]
    return Table(
        "What the aligner cost", ["work", "size", "seconds"], rows,
        ["On the clock, as population and run recorded it: the networks it was trained and validated on, and its own training with its "
         "validation. Where other programs ran meanwhile these are upper bounds."],
    )  # fmt: skip


def family_table(results: Mapping[str, Any]) -> Table:
    """Break-even by family."""
    rows = [
        [family, str(len(members)), *_cells(results, members, ours, other)]
        for family, members in by_family(results).items() for other in results["others"] for ours in results["ours"]
    ]  # fmt: skip
    return Table(
        "Pairs until cost is saved, by family", ["family", "architectures", *COLUMNS], rows,
        [f"Means over architectures that training never drew from. Barriers: up to {results['pairs']} pairs each, on images that no method saw. "
         "Seconds of the processor for one pair alone, all methods in turns in one process, tracing apart; of Sinkhorn re-basin one step and "
         f"{results['timed_steps']} were timed and extrapolated, and the search for its settings is not counted. One aligner serves all families: each line has "
         "all of its cost. Who uses the aligner that comes with the package pays none of it."],
    )  # fmt: skip


def architecture_table(results: Mapping[str, Any]) -> Table:
    """The same by architecture."""
    rows = [
        [row["architecture"].partition("/")[2].partition("_")[0], row["architecture"].partition("/")[0], *_cells(results, [row], ours, other)]
        for row in results["rows"] for other in results["others"] for ours in results["ours"]
    ]  # fmt: skip
    return Table("The same by architecture", ["architecture", "section", *COLUMNS], rows)


COLUMNS = ("aligner", "compared with", "barrier", "its barrier", "s per pair", "its s", "saved s", "pairs")


def _cells(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], ours: str, other: str) -> list[str]:
    found = trade(results, rows, ours, other)
    barriers = ["-" if value is None else f"{value:.3f}" for value in found.barriers]
    return [
        results["ours"][ours], results["others"][other], *barriers, f"{found.ours:.3g}", f"{found.other:.3g}", f"{found.saved:.3g}", found.verdict,
    ]  # fmt: skip


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Seconds against the number of pairs, one panel per family, into a PNG file; methods with a lower barrier than ours are dotted."""
    families = by_family(results)
    figure = new_figure(3.6 * len(families) + 0.4, 3.4)
    for axes, (family, rows) in zip(figure.subplots(1, len(families), squeeze=False).flat, families.items(), strict=True):
        trades = {(ours, other): trade(results, rows, ours, other) for ours in results["ours"] for other in results["others"]}
        last = 10 * max([trade.pairs or 1 for trade in trades.values()] + [1000])
        pairs = [10 ** (k * math.log10(last) / 60) for k in range(61)]
        for k, (other, title) in enumerate(results["others"].items()):
            found = [trades[ours, other] for ours in results["ours"]]
            style = "-" if any(trade.credited for trade in found) else ":"
            axes.plot(pairs, [n * found[0].other for n in pairs], style, color=f"C{k}", label=title)
        for k, (ours, title) in enumerate(results["ours"].items()):
            found = [trades[ours, other] for other in results["others"]]
            axes.plot(pairs, [found[0].cost + n * found[0].ours for n in pairs], color=f"C{k + len(results['others'])}", label=title)
            for trade_ in found:
                if trade_.pairs is not None:
                    axes.plot(trade_.pairs, trade_.pairs * trade_.other, "ko", markersize=4)
                    axes.annotate(
                        f"{trade_.pairs:,}", (trade_.pairs, trade_.pairs * trade_.other), fontsize=7, xytext=(4, -9 - 8 * k), textcoords="offset points"
                    )
        axes.set(xscale="log", yscale="log", title=family, xlabel="pairs of networks", ylabel="seconds, cost included")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    save_figure(figure, path)
