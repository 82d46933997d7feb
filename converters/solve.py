"""The spec that follows from the facts about nodes: names of the cells, the axes they move, scales that are free, and what is fixed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphalign.spec import AxisLayout, Cell, FixedUnits, NetworkSpec, Rescaling, Segment

from .cells import Axis, Draft, Facts, draft_cells, gather
from .facts import Nodes
from .partitions import classes


def solve(
    nodes: Nodes, shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, str], buffers: tuple[str, ...]
) -> tuple[NetworkSpec, dict[int, tuple[str, int]]]:
    """The spec that follows from the facts, and the (cell, unit) of every movable node, and of every block in which one unit is alone."""
    facts, members = gather(nodes)
    drafts = draft_cells(facts, members, nodes)
    return _spec(nodes, facts, drafts, shapes, aliases, buffers)


def _spec(
    nodes: Nodes,
    facts: Facts,
    drafts: list[Draft],
    shapes: Mapping[str, tuple[int, ...]],
    aliases: Mapping[str, str],
    buffers: tuple[str, ...],
) -> tuple[NetworkSpec, dict[int, tuple[str, int]]]:
    names = _names(nodes, facts, drafts)
    place: dict[int, tuple[str, int]] = {
        unit: (name, i) for name, draft in zip(names, drafts, strict=True) for i, unit in enumerate(draft.units)
    }
    axes = []
    order = {name: i for i, name in enumerate(shapes)}
    for axis in sorted(facts.axes, key=lambda a: (order[a[0]], a[1])):
        segments = _segments([place.get(int(c)) for c in facts.axes[axis]])
        if any(s.cell is not None for s in segments):
            axes.append(AxisLayout(axis[0], axis[1], segments, facts.groups[axis]))
    rescalings, signs = _rescalings(nodes, facts, drafts, names)
    activation: dict[int, set[str]] = {}
    for ids, name in nodes.activations:
        for c in np.unique(facts.of_node[ids]).tolist():
            activation.setdefault(c, set()).add(name)
    first_of_group: dict[int, str] = {}
    for name, draft in zip(names, drafts, strict=True):
        first_of_group.setdefault(draft.group, name)
    cells = tuple(
        Cell(
            name,
            len(draft.units) // draft.blocks,
            draft.blocks,
            name if draft.group < 0 else first_of_group[draft.group],
            draft.rigid,
            tuple(sorted(set().union(*(activation.get(u, set()) for u in draft.units)))),
            any(r.cell == name for r in rescalings),
            name in signs,
        )
        for name, draft in zip(names, drafts, strict=True)
    )
    spec = NetworkSpec(cells, tuple(axes), shapes, _fixed(nodes, facts, place), tuple(rescalings), aliases, buffers)
    where = {int(n): place[int(c)] for n, c in enumerate(facts.of_node) if int(c) in place}
    alone = {unit for draft in drafts if 1 < draft.blocks == len(draft.units) for unit in draft.units}
    for units, blocks in nodes.members:  # a block is the unit that is alone in it, such as the column of a weight that reads its mean
        where |= {b: place[c] for c, b in zip(facts.of_node[units].tolist(), blocks.tolist(), strict=True) if c in alone and b not in where}
    return spec, where


def _names(nodes: Nodes, facts: Facts, drafts: list[Draft]) -> list[str]:
    """Cell names: the module that first produces the units; the axis range is added where a module makes several cells."""
    first: dict[int, tuple[str, int]] = {}
    for (tensor, axis), labels in facts.axes.items():
        if "out" not in nodes.roles.get((tensor, axis), {"out"}):
            continue
        for index, c in enumerate(labels.tolist()):
            first.setdefault(c, (tensor, index))
    for (tensor, _), labels in facts.axes.items():
        for index, c in enumerate(labels.tolist()):
            first.setdefault(c, (tensor, index))
    places = [[first[u] for u in draft.units] for draft in drafts]
    modules = [p[0][0].rsplit(".", 1)[0] if "." in p[0][0] else p[0][0] for p in places]
    names = []
    for module, place in zip(modules, places, strict=True):
        indices = [i for _, i in place]
        names.append(module if modules.count(module) == 1 else f"{module}[{min(indices)}:{max(indices) + 1}]")
    return [n if names.count(n) == 1 else f"{n}#{names[:i].count(n)}" for i, n in enumerate(names)]


def _segments(units: list[tuple[str, int] | None]) -> tuple[Segment, ...]:
    """Run-length code of an axis."""
    segments: list[Segment] = []
    i, n = 0, len(units)
    while i < n:
        here = units[i]
        j = i
        if here is None:
            while j < n and units[j] is None:
                j += 1
            segments.append(Segment(None, 0, j - i))
            i = j
            continue
        while j < n and units[j] == here:
            j += 1
        repeat, count = j - i, 1
        while units[j : j + repeat] == [(here[0], here[1] + count)] * repeat and j + repeat <= n:
            if j + repeat < n and units[j + repeat] == units[j]:
                break
            j, count = j + repeat, count + 1
        segments.append(Segment(here[0], here[1], count, repeat))
        i = j
    return tuple(segments)


def _rescalings(nodes: Nodes, facts: Facts, drafts: list[Draft], names: list[str]) -> tuple[list[Rescaling], set[str]]:
    """Scale freedoms of every cell, and the names of cells whose units may be negated."""
    scale = classes(nodes.count, nodes.scale_ties)
    scale_fixed, sign_fixed = set[int](), set[int]()
    for target, arrays in ((scale_fixed, nodes.scale_fixed), (sign_fixed, nodes.sign_fixed)):
        for ids in arrays:
            target.update(scale[ids].tolist())
    covered: dict[int, dict[Axis, int]] = {}
    total: dict[int, dict[Axis, int]] = {}
    scales_of: dict[int, set[int]] = {}
    for axis, axis_ids in nodes.axis_nodes.items():
        for node in axis_ids.tolist():
            unit, factor = int(facts.of_node[node]), int(scale[node])
            scales_of.setdefault(unit, set()).add(factor)
            if axis in nodes.grouped_axes:
                continue
            for counts in (covered.setdefault(factor, {}), total.setdefault(unit, {})):
                counts[axis] = counts.get(axis, 0) + 1
    rescalings: list[Rescaling] = []
    signs: set[str] = set()
    for name, draft in zip(names, drafts, strict=True):
        for fixed, kind in ((scale_fixed, "scale"), (sign_fixed, "sign")):
            keys: set[frozenset[Axis]] | None = None
            for unit in draft.units:
                found = {
                    frozenset(covered[s]) for s in scales_of.get(unit, ())
                    if s not in fixed and all(total[unit][a] == k for a, k in covered[s].items())
                }  # fmt: skip
                keys = found if keys is None else keys & found
            for key in sorted(keys or (), key=sorted):
                roles = {axis: nodes.roles.get(axis, set()) for axis in key}
                if any(len(r) != 1 for r in roles.values()) or {"in", "out"} != set().union(*roles.values()):
                    continue
                if kind == "sign":
                    signs.add(name)
                    continue
                out = tuple(sorted(a for a in key if "out" in roles[a]))
                rescalings.append(Rescaling(name, out, tuple(sorted(a for a in key if "in" in roles[a]))))
    return rescalings, signs


def _fixed(nodes: Nodes, facts: Facts, place: Mapping[int, tuple[str, int]]) -> tuple[FixedUnits, ...]:
    counted: dict[tuple[str, str], set[int]] = {}
    for (tensor, axis), labels in facts.axes.items():
        if "out" not in nodes.roles.get((tensor, axis), set()):
            continue
        for c in np.unique(labels).tolist():
            if facts.live[c] and c not in place and not any(c in seen for seen in counted.values()):
                reason = facts.reasons.get(c, "no other unit plays the same part")
                module = tensor.rsplit(".", 1)[0] if "." in tensor else tensor
                counted.setdefault((module, reason), set()).add(c)
    return tuple(FixedUnits(module, len(units), reason) for (module, reason), units in counted.items())
