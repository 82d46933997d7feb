"""A measure of two networks before and after they are aligned, part by part and in total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple


class Change(NamedTuple):
    """A value before and after the alignment."""

    before: float
    after: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """A measure of two networks before and after the second one is brought into the order of the first.

    Attributes:
        name: what is measured.
        before: of the whole network, units as they are.
        after: of the whole network, units aligned.
        parts: by tensor or cell.
    """

    name: str
    before: float
    after: float
    parts: Mapping[str, Change]

    def __str__(self) -> str:
        rows = [("", "before", "after"), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{part:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}" for part, old, new in rows]
        return "\n".join([self.name, "", lines[0], "-" * len(lines[0]), *lines[1:]])

    def __repr__(self) -> str:
        return f"Comparison({self.name!r}, before={self.before:.4g}, after={self.after:.4g}, {len(self.parts)} parts)"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(part)}</th><td>{old}</td><td>{new}</td></tr>" for part, old, new in self._rows())
        return f"<table><caption>{escape(self.name)}</caption><tr><th></th><th>before</th><th>after</th></tr>{rows}</table>"

    def _rows(self) -> list[tuple[str, str, str]]:
        parts = {**self.parts, "total": Change(self.before, self.after)}
        return [(name, f"{change.before:.4g}", f"{change.after:.4g}") for name, change in parts.items()]
