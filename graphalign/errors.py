"""Every exception graphalign raises on bad input; messages say where, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NO_MATPLOTLIB = "figures need matplotlib, which is not installed; run: pip install 'graphalign[demo]'"


class GraphAlignError(Exception):
    """Base class of all errors raised by graphalign."""


class InvalidInput(GraphAlignError, ValueError):
    """An argument, tensor or file that cannot be used."""


class SpecMismatch(GraphAlignError, ValueError):
    """Two networks, or a network and a spec, do not describe the same architecture."""


class CorruptFile(GraphAlignError, ValueError):
    """A file that cannot be read safely or completely."""


@dataclass(frozen=True)
class Offence:
    """One operator that the tracer has no rule for.

    Attributes:
        op: name of the ATen operator.
        module: path of the module in which it runs, empty for the network itself.
        source: file, line and code of the call, empty when unknown.
        reason: what is wrong with it.
    """

    op: str
    module: str
    source: str
    reason: str

    def __str__(self) -> str:
        where = f"module '{self.module}'" if self.module else "the network itself"
        source = f", {self.source}" if self.source else ""
        return f"{self.op} in {where}{source}: {self.reason}"


class UnsupportedNetwork(GraphAlignError):
    """A network that has no neuron graph: lists every offending operator at once.

    Attributes:
        offences: the operators that have no rule, in graph order; empty when the network itself is at fault.
    """

    def __init__(self, summary: str, offences: Sequence[Offence] = (), remedy: str = "") -> None:
        self.offences = tuple(offences)
        lines = [summary, *(f"  - {offence}" for offence in self.offences)]
        if remedy:
            lines.append(f"What to do: {remedy}")
        super().__init__("\n".join(lines))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message without its full stop, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
