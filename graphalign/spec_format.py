"""Specs as text: a readable table, an exact file format, and what differs between two of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import yaml

from graphalign.errors import CorruptFile, InvalidInput, SpecMismatch
from graphalign.files import AnyPath, atomic_write
from graphalign.plain_yaml import load_plain
from graphalign.spec import AxisLayout, Cell, FixedUnits, NetworkSpec, Rescaling, Segment

FORMAT, VERSION = "graphalign-spec", 1
MOVES_SHOWN = 6
LINES_SHOWN = 20
RULE = 100
COLUMNS: tuple[str, ...] = ("cell", "units", "blocks", "activation", "free", "moves")
T = TypeVar("T")


def format_table(spec: NetworkSpec) -> str:
    """A table with one row per cell, then the units that may not move and the tied tensors.

    "8 x 64" under blocks means 8 blocks of 64 units; "rigid" that the order inside a block is fixed. A tensor axis is
    written tensor[axis]. "scale" and "sign" under free: a positive factor, or the sign, of a unit can be undone.
    """
    rows = [COLUMNS, *(_row(spec, cell) for cell in spec.cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [_head(spec), ""] + ["  ".join([*(part.ljust(w) for part, w in zip(row, widths, strict=False)), row[5]]).rstrip() for row in rows]
    lines.insert(3, "-" * min(RULE, max(map(len, lines))))
    joined = {name: cells for name, cells in spec.groups.items() if len(cells) > 1}
    if joined:
        lines += ["", "blocks that move together:"] + ["  " + ", ".join(cell.name for cell in cells) for cells in joined.values()]
    if spec.fixed:
        lines += ["", "fixed:"] + [f"  {f.name}: {_count(f.count, 'unit')}, {f.reason}" for f in spec.fixed]
    if spec.aliases:
        lines += ["", "tied:"] + [f"  {alias} is {name}" for alias, name in spec.aliases.items()]
    return "\n".join(lines)


def format_html(spec: NetworkSpec) -> str:
    """The same table for a notebook; of many cells the first ones."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = ["".join(f"<td>{escape(part)}</td>" for part in _row(spec, cell)) for cell in spec.cells[:LINES_SHOWN]]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    more = [f"and {_count(len(spec.cells) - LINES_SHOWN, 'more cell')}"] if len(spec.cells) > LINES_SHOWN else []
    more += [f"fixed: {f.name}, {_count(f.count, 'unit')}, {f.reason}" for f in spec.fixed[:LINES_SHOWN]]
    more += [f"and {len(spec.fixed) - LINES_SHOWN} more"] if len(spec.fixed) > LINES_SHOWN else []
    notes = "".join(f"<li>{escape(line)}</li>" for line in more)
    return f"<table><caption>{escape(_head(spec))}</caption><tr>{head}</tr>{body}</table>" + (f"<ul>{notes}</ul>" if notes else "")


def _head(spec: NetworkSpec) -> str:
    units = sum(cell.units for cell in spec.cells)
    return f"NetworkSpec: {_count(units, 'movable unit')} in {_count(len(spec.cells), 'cell')}, {_count(len(spec.shapes), 'tensor')}"


def _row(spec: NetworkSpec, cell: Cell) -> tuple[str, ...]:
    axes = [f"{layout.tensor}[{layout.axis}]" for layout in spec.axes_of_cell[cell.name]]
    moves = " ".join(axes[:MOVES_SHOWN]) + (f" and {len(axes) - MOVES_SHOWN} more" if len(axes) > MOVES_SHOWN else "")
    blocks = "" if cell.blocks == 1 else f"{cell.blocks} x {cell.size}" + (" rigid" if cell.rigid else "")
    free = " ".join(name for name, on in (("scale", cell.scale_free), ("sign", cell.sign_free)) if on)
    return cell.name, str(cell.units), blocks or "-", "+".join(cell.activation) or "-", free or "-", moves


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def spec_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """The spec as plain dicts, lists, numbers and text; `spec_from_dict` gives back an equal one."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "cells": [
            {
                "name": c.name, "size": c.size, "blocks": c.blocks, "group": c.group, "rigid": c.rigid,
                "activation": list(c.activation), "scale_free": c.scale_free, "sign_free": c.sign_free,
            }
            for c in spec.cells
        ],
        "axes": [
            {
                "tensor": a.tensor, "axis": a.axis, "groups": a.groups,
                "segments": [{"cell": s.cell, "start": s.start, "count": s.count, "repeat": s.repeat} for s in a.segments],
            }
            for a in spec.axes
        ],
        "shapes": {tensor: list(shape) for tensor, shape in spec.shapes.items()},
        "fixed": [{"name": f.name, "count": f.count, "reason": f.reason} for f in spec.fixed],
        "rescalings": [
            {
                "cell": r.cell,
                "multiplied": [[tensor, axis] for tensor, axis in r.multiplied],
                "divided": [[tensor, axis] for tensor, axis in r.divided],
            }
            for r in spec.rescalings
        ],
        "aliases": dict(spec.aliases),
        "buffers": list(spec.buffers),
    }  # fmt: skip


def spec_from_dict(data: Any) -> NetworkSpec:
    """The spec that `spec_to_dict` wrote.

    Raises:
        InvalidInput: another format or version, or a wrong, missing or unknown entry (the place is named); a spec that
            contradicts itself.
    """
    root = _Entries(data, "the spec")
    if root.take("format", str) != FORMAT:
        raise InvalidInput(f"format: found '{data['format']}', expected '{FORMAT}'; pass a file written by save_spec")
    version = root.take("version", int)
    if version != VERSION:
        raise InvalidInput(f"version: found {version}, expected {VERSION}; trace the network again with this version of graphalign")
    spec = NetworkSpec(
        cells=tuple(root.records("cells", _cell)),
        axes=tuple(root.records("axes", _axis)),
        shapes={
            str(tensor): tuple(_checked(n, int, f"shapes['{tensor}'][{i}]") for i, n in enumerate(_checked(shape, list, f"shapes['{tensor}']")))
            for tensor, shape in root.take("shapes", dict).items()
        },
        fixed=tuple(root.records("fixed", lambda e: FixedUnits(e.take("name", str), e.take("count", int), e.take("reason", str)))),
        rescalings=tuple(
            root.records("rescalings", lambda e: Rescaling(e.take("cell", str), tuple(e.axes("multiplied")), tuple(e.axes("divided"))))
        ),
        aliases={str(k): _checked(v, str, f"aliases['{k}']") for k, v in root.take("aliases", dict).items()},
        buffers=tuple(root.texts("buffers")),
    )
    root.finish()
    if idle := [cell.name for cell in spec.cells if not spec.axes_of_cell[cell.name]]:
        raise InvalidInput(f"cells: found {', '.join(idle)[:200]}, whose units are on no axis; pass a file written by save_spec")
    return spec


def _cell(entry: _Entries) -> Cell:
    return Cell(
        entry.take("name", str), entry.take("size", int), entry.take("blocks", int), entry.take("group", str),
        entry.take("rigid", bool), tuple(entry.texts("activation")), entry.take("scale_free", bool), entry.take("sign_free", bool),
    )  # fmt: skip


def _axis(entry: _Entries) -> AxisLayout:
    return AxisLayout(
        entry.take("tensor", str), entry.take("axis", int), tuple(entry.records("segments", _segment)), entry.take("groups", int)
    )


def _segment(entry: _Entries) -> Segment:
    cell = entry.take("cell", (str, type(None)))
    return Segment(cell, entry.take("start", int), entry.take("count", int), entry.take("repeat", int))


def _checked(value: Any, kind: Any, where: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return value
    expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
    raise InvalidInput(f"{where}: found {value!r:.60}, expected {expected}; pass a file written by save_spec")


class _Entries:
    """The entries of one mapping, each to be taken once; `where` names the place in messages."""

    def __init__(self, data: Any, where: str) -> None:
        self.prefix = "" if where == "the spec" else f"{where}."
        self.left: dict[Any, Any] = dict(_checked(data, dict, where))
        self.where = where

    def take(self, key: str, kind: Any) -> Any:
        if key not in self.left:
            raise InvalidInput(f"{self.where}: '{key}' is missing; pass a file written by save_spec")
        return _checked(self.left.pop(key), kind, f"{self.prefix}{key}")

    def records(self, key: str, build: Callable[[_Entries], T]) -> Iterator[T]:
        for i, item in enumerate(self.take(key, list)):
            entry = _Entries(item, f"{self.prefix}{key}[{i}]")
            yield build(entry)
            entry.finish()

    def texts(self, key: str) -> list[str]:
        return [_checked(v, str, f"{self.prefix}{key}[{i}]") for i, v in enumerate(self.take(key, list))]

    def axes(self, key: str) -> Iterator[tuple[str, int]]:
        for i, pair in enumerate(self.take(key, list)):
            where = f"{self.prefix}{key}[{i}]"
            if len(_checked(pair, list, where)) != 2:
                raise InvalidInput(f"{where}: found {pair!r:.60}, expected [tensor, axis]; pass a file written by save_spec")
            yield _checked(pair[0], str, f"{where}[0]"), _checked(pair[1], int, f"{where}[1]")

    def finish(self) -> None:
        if self.left:
            raise InvalidInput(f"{self.where}: unknown entries {list(self.left)}; pass a file written by save_spec")


def save_spec(spec: NetworkSpec, path: AnyPath, *, force: bool = False) -> None:
    """Writes the spec as YAML or JSON, by the ending of the path; the file appears complete or not at all.

    Raises:
        InvalidInput: another ending, an existing file without `force`, or a folder that cannot be written.
    """
    file = Path(path)
    data = spec_to_dict(spec)
    if _is_json(file):
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    else:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=130)
    with atomic_write(file, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_spec(path: AnyPath) -> NetworkSpec:
    """The spec in a file that `save_spec` wrote.

    Raises:
        InvalidInput: no such file, another ending, or a content that describes no spec (the entry is named).
        CorruptFile: no YAML or JSON (the line is named).
    """
    file = Path(path)
    as_json = _is_json(file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{file} is no UTF-8 text (byte {error.start}); write it again with save_spec") from None
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror or error}; pass the path of a file written by save_spec") from None
    try:
        data = json.loads(text) if as_json else load_plain(text)
    except json.JSONDecodeError as error:
        raise CorruptFile(f"{file}, line {error.lineno}, column {error.colno}: {error.msg}; write it again with save_spec") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CorruptFile(f"{file}{place}: {getattr(error, 'problem', None) or error}; write it again with save_spec") from None
    try:
        return spec_from_dict(data)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from None


def _is_json(file: Path) -> bool:
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise InvalidInput(f"{file}: found ending '{file.suffix}', expected .yaml, .yml or .json; rename it")
    return file.suffix == ".json"


def difference(a: NetworkSpec, b: NetworkSpec, name_a: str = "A", name_b: str = "B") -> str:
    """What differs between two specs, one line each; empty exactly if they are equal."""
    if a == b:
        return ""
    lines = [
        *_compare("cell", a.by_name, b.by_name, _cell_text, name_a, name_b),
        *_compare("tensor", a.shapes, b.shapes, lambda shape: f"shape {tuple(shape)}", name_a, name_b),
        *_compare("", _moves(a), _moves(b), _axis_text, name_a, name_b, absent="does not move"),
        *_compare("fixed units of", _numbered(a.fixed), _numbered(b.fixed), lambda f: f"{f.count}, {f.reason}", name_a, name_b),
        *_compare("alias", a.aliases, b.aliases, lambda name: f"tied to '{name}'", name_a, name_b),
    ]
    for what, one, two in (("buffers", a.buffers, b.buffers), ("exact rescalings", a.rescalings, b.rescalings)):
        if set(one) != set(two):
            lines.append(f"the {what} differ: {len(set(one) - set(two))} only in {name_a}, {len(set(two) - set(one))} only in {name_b}")
    if not lines:
        parts = [p for p in ("cells", "axes", "fixed", "rescalings", "buffers") if getattr(a, p) != getattr(b, p)]
        lines = [f"the same {p} in another order" for p in parts]
    if len(lines) > LINES_SHOWN:
        lines = [*lines[:LINES_SHOWN], f"... and {len(lines) - LINES_SHOWN} more differences"]
    return "\n".join(lines)


def _compare(
    what: str, a: Mapping[str, T], b: Mapping[str, T], text: Callable[[T], str], name_a: str, name_b: str, absent: str = "missing"
) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        found = [text(side[key]) if key in side else absent for side in (a, b)]
        if (key in a) != (key in b) or (key in a and a[key] != b[key]):
            label = f"{what} '{key}'" if what else key
            yield f"{label}: {found[0]} in {name_a}, {found[1]} in {name_b}"


def _moves(spec: NetworkSpec) -> dict[str, AxisLayout]:
    return {f"axis {layout.axis} of '{layout.tensor}'": layout for layout in spec.axes}


def _numbered(fixed: Sequence[FixedUnits]) -> dict[str, FixedUnits]:
    names = [f.name for f in fixed]
    return {f.name + (f" ({names[:i].count(f.name) + 1})" if f.name in names[:i] else ""): f for i, f in enumerate(fixed)}


def _cell_text(cell: Cell) -> str:
    size = f"{cell.units} units" if cell.blocks == 1 else f"{cell.blocks} blocks of {cell.size} units in group '{cell.group}'"
    flags = [name for name, on in (("rigid", cell.rigid), ("scale-free", cell.scale_free), ("sign-free", cell.sign_free)) if on]
    return " ".join([size, f"({', '.join([*cell.activation, *flags]) or 'no activation'})"])


def _axis_text(layout: AxisLayout) -> str:
    runs = [_segment_text(s) for s in layout.segments[:4]] + (["..."] if len(layout.segments) > 4 else [])
    return "moves with " + ", ".join(runs) + (f" in {layout.groups} groups" if layout.groups > 1 else "")


def _segment_text(segment: Segment) -> str:
    if segment.cell is None:
        return f"{segment.length} fixed"
    return f"{segment.cell}[{segment.start}:{segment.start + segment.count}]" + (f" x {segment.repeat}" if segment.repeat > 1 else "")


def require_equal(a: NetworkSpec, b: NetworkSpec, name_a: str = "A", name_b: str = "B") -> None:
    """Returns nothing if the two specs are equal.

    Raises:
        SpecMismatch: lists the differences.
    """
    text = difference(a, b, name_a, name_b)
    if text:
        raise SpecMismatch(
            f"{name_a} and {name_b} are not the same architecture:\n" + _indented(text.splitlines())
            + "\nOnly networks of one architecture can be aligned: pass two networks with the same layers, sizes and tensor names."
        )  # fmt: skip


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  - {line}" for line in lines)
