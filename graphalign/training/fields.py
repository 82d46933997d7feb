"""Dataclasses from plain data: every value is held against the type that its field declares."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from graphalign.errors import InvalidInput

Part = TypeVar("Part")
MOST = 1 << 31
"""Largest number that a setting may be, and the negative of the smallest."""
NAMES = {int: f"a whole number up to {MOST}", float: f"a number up to {MOST}", bool: "true or false", str: "a text", types.NoneType: "null"}


def read_fields(kind: type[Part], content: Any) -> Part:
    """An object of a dataclass from a mapping of its fields; lists become tuples.

    Raises:
        InvalidInput: no mapping, unknown fields, or values of other types, all of them listed; or what the class itself refuses.
    """
    hints = get_type_hints(kind)
    if not isinstance(content, Mapping):
        raise InvalidInput(f"found {content!r:.60}, expected a mapping of {', '.join(hints)}")
    problems = [f"found {key!r:.40}, expected some of {', '.join(hints)}" for key in content if key not in hints]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    problems += misfits(kind, values)
    if problems:
        raise InvalidInput("; ".join(problems))
    return kind(**values)


def misfits(kind: type[Any], values: Mapping[Any, Any]) -> list[str]:
    """Values whose type is not that of the field of a dataclass; those of unknown fields are left out."""
    hints = get_type_hints(kind)
    found = [(key, value, hints[key]) for key, value in values.items() if key in hints]
    return [f"{key}: found {value!r:.60}, expected {_expected(hint)}" for key, value, hint in found if not _fits(value, hint)]


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)  # which one it is, the class says
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(entry, inner[0]) for entry in value)
    if hint is float:
        return type(value) in (int, float) and -MOST <= value <= MOST
    return type(value) is hint and (hint is not int or -MOST <= value <= MOST)


def _expected(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_expected, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    return f"a list of which each entry is {_expected(inner[0])}" if origin is tuple else NAMES[hint]
