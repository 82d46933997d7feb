"""What the configuration of a population says: its sections, and where and which part of it is generated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphalign.errors import InvalidInput
from graphalign.zoo.sections import Section, read_sections

KEYS = ("folder", "only", "part", "sections")
PART = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Plan:
    """A population to be generated.

    Attributes:
        sections: all of it.
        folder: where it is kept, unless the user says otherwise.
        only: name of the section that is generated; None for all.
        part: (i, n): every n-th group, from the i-th on.
    """

    sections: tuple[Section, ...]
    folder: str = "zoo"
    only: str | None = None
    part: tuple[int, int] = (1, 1)


def read_plan(content: Mapping[str, Any]) -> Plan:
    """The plan of a configuration: `sections` (see `read_sections`), and `folder`, `only` and `part` ("i/n") where they differ from a `Plan`'s.

    Raises:
        InvalidInput: lists unknown keys, values that are none of these, and everything that is wrong with the sections.
    """
    problems = [f"found the key {key!r:.40}, expected some of {', '.join(KEYS)}" for key in content if key not in KEYS]
    folder, only, part = (content.get(key) for key in ("folder", "only", "part"))
    for key, value in (("folder", folder), ("only", only)):
        if not (value is None or (isinstance(value, str) and value)):
            problems.append(f"{key}: found {value!r:.40}, expected a name, or null")
    found = PART.fullmatch(str("1/1" if part is None else part))
    if found is None:
        problems.append(f"part: found {part!r:.40}, expected i/n such as 1/2")
    sections: list[Section] = []
    try:
        sections = read_sections(content.get("sections") or {})
    except InvalidInput as error:
        problems.append(str(error))
    if problems or found is None:
        raise InvalidInput("\n".join(problems))
    return Plan(tuple(sections), folder or Plan.folder, only, (int(found[1]), int(found[2])))
