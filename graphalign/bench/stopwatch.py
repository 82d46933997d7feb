"""Seconds of the stages of a run, on the clock and of the processor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of each stage; a stage may be entered many times.

    Attributes:
        wall: seconds on the clock by stage.
        cpu: seconds of all threads of this process by stage; what other processes do to the clock does not count.
    """

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


def by_repetition(watches: Sequence[Stopwatch]) -> dict[str, dict[str, list[float]]]:
    """Seconds of every repetition by clock ("wall", "cpu") and stage."""
    clocks = {"wall": [watch.wall for watch in watches], "cpu": [watch.cpu for watch in watches]}
    return {clock: {stage: [seconds[stage] for seconds in found] for stage in found[0]} for clock, found in clocks.items()}


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and range of repeated measurements, such as "12.3 (11.9-14.0)"; two numbers if there is one measurement only."""
    low, middle, high = (1000 * s for s in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{_short(middle)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"
