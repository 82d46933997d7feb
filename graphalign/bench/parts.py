"""Work that takes too long to be measured whole: measured on two parts and extrapolated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphalign.bench.stopwatch import Stopwatch

CLOCKS = ("wall", "cpu")


@dataclass(frozen=True)
class Part:
    """Some of the work.

    Attributes:
        work: what is measured.
        size: how much of it: images or steps.
    """

    work: Callable[[], Any]
    size: int = 1


@dataclass(frozen=True)
class Parts:
    """Work and how it is measured.

    Attributes:
        measured: the whole alone, or a small and a large part.
        whole: size of the whole.
    """

    measured: tuple[Part] | tuple[Part, Part]
    whole: int = 1

    def seconds(self) -> dict[str, float]:
        """Seconds of the whole by clock, "wall" and "cpu"; see `extrapolated`."""
        watch = Stopwatch()
        for part in self.measured:
            with watch.stage(str(part.size)):
                part.work()
        return {clock: extrapolated(getattr(watch, clock), [part.size for part in self.measured], self.whole) for clock in CLOCKS}


def extrapolated(seconds: Mapping[str, float], sizes: Sequence[int], whole: int) -> float:
    """Seconds of the whole on the line through a small and a large part, so that what does not grow with the work counts once.

    Args:
        seconds: by size.
        sizes: of the parts: one, which is the whole, or two.
        whole: size of the whole.
    """
    large = seconds[str(sizes[-1])]
    if len(sizes) == 1:
        return large
    slope = (large - seconds[str(sizes[0])]) / (sizes[1] - sizes[0])
    return large + slope * (whole - sizes[1])
