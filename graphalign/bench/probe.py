"""Seconds and memory of the stages of an alignment, measured where the package calls them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from inspect import isgeneratorfunction
from typing import Any
from unittest.mock import patch

from graphalign.allocator import give_back
from graphalign.experiments.footprint import reset_peak, resident


def settle() -> int:
    """Bytes of resident memory after all that is not used has been given back to the system."""
    gc.collect()
    give_back()
    return resident("VmRSS")


class Probe:
    """Adds up seconds and keeps peaks of memory by stage. Stages may lie inside each other: the time of the inner one is its own.

    Attributes:
        wall: seconds on the clock by stage.
        cpu: seconds of the processor by stage.
        peak: bytes of resident memory by stage, at most, above what there was when the probe was made.
    """

    def __init__(self) -> None:
        self.base = settle()
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self._stages: list[str] = []
        self._since = (time.perf_counter(), time.process_time())
        reset_peak()

    def _close(self) -> None:
        """What happened since the last change of stage counts for the stage that was on."""
        now = time.perf_counter(), time.process_time()
        if self._stages:
            name = self._stages[-1]
            for clock, ended, begun in zip((self.wall, self.cpu), now, self._since, strict=True):
                clock[name] = clock.get(name, 0.0) + ended - begun
            self.peak[name] = max(self.peak.get(name, 0), resident("VmHWM") - self.base)
        reset_peak()
        self._since = time.perf_counter(), time.process_time()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures what happens inside."""
        self._close()
        self._stages.append(name)
        try:
            yield
        finally:
            self._close()
            self._stages.pop()

    @contextmanager
    def watching(self, **functions: str) -> Iterator[None]:
        """Measures every call of functions, given by path, inside: stage = "module.function other.function"."""
        with ExitStack() as stack:
            for name, paths in functions.items():
                for path in paths.split():
                    target = _find(path)
                    wrapped = self._generating(name, target) if isgeneratorfunction(target) else self._calling(name, target)
                    stack.enter_context(patch(path, wrapped))
            yield

    def _calling(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed

    def _generating(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            found = function(*args, **kwargs)
            while True:
                with self.stage(name):
                    item = [next(found, _END)]
                if item[0] is _END:
                    return
                yield item.pop()

        return timed


_END = object()


def _find(path: str) -> Any:
    from pkgutil import resolve_name

    module, _, name = path.rpartition(".")
    return getattr(resolve_name(module), name)
