"""The rows of a table: which groups of a population are measured, and with which aligners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.case import family_of
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo

FAMILIES = ("mlp", "cnn", "vgg", "vgg-bn", "resnet", "siren")
KEYS = ("row", "sections", "families", "trained", "architectures")


@dataclass(frozen=True)
class Row:
    """A part of a row of the table.

    Attributes:
        key: of the configuration.
        name: of the row; several parts may share one, such as the families that were left out one at a time.
        sections: patterns (*, ?) of names of sections of the population.
        families: which are measured, of FAMILIES.
        trained: name of the set of aligners that the column "trained" and those built on it use.
        architectures: most groups per family; all of them if None.
    """

    key: str
    name: str
    sections: tuple[str, ...]
    families: tuple[str, ...] = FAMILIES
    trained: str = "trained"
    architectures: int | None = None

    def groups(self, zoo: Zoo) -> list[Group]:
        """The groups of the split "test" that belong to it, of every family the first ones."""
        found = []
        for family in self.families:
            own = [
                g for g in zoo.select(split="test")
                if family_of(g) == family and any(fnmatchcase(g.section, pattern) for pattern in self.sections)
            ]  # fmt: skip
            found += own[: self.architectures]
        return found


def read_rows(content: Mapping[str, Any]) -> list[Row]:
    """The rows of a configuration, in its order.

    Args:
        content: by key {sections, row, families, trained, architectures}; all but `sections` may be absent.

    Raises:
        InvalidInput: lists every problem.
    """
    rows, problems = [], []
    for key, entry in content.items():
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or entry.keys() - set(KEYS) or not entry.get("sections"):
            problems.append(f"{key}: found {entry!r}, expected a mapping of sections and, if needed, {', '.join(KEYS)}")
            continue
        row = Row(
            key, str(entry.get("row", key)), _names(entry["sections"]), _names(entry.get("families") or FAMILIES),
            str(entry.get("trained", "trained")), entry.get("architectures"),
        )  # fmt: skip
        wrong = [f for f in row.families if f not in FAMILIES]
        problems += [f"{key}: families: found {wrong}, expected some of {', '.join(FAMILIES)}"] if wrong else []
        rows.append(row)
    if problems or not rows:
        raise InvalidInput("rows:\n" + "\n".join(f"  - {p}" for p in problems or ["found none, expected at least one"]))
    return rows


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
