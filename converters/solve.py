"""From facts about nodes to a spec: classes, signatures, blocks, cells and the axes they move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphalign.spec import AxisLayout, Cell, FixedUnits, NetworkSpec, Rescaling, Segment

from .domain import mix
from .facts import Nodes
from .partitions import classes
from .parts import class_colours, parts

Axis = tuple[str, int]


@dataclass
class _Draft:
    """A cell in the making: unit classes in order, block after block."""

    units: list[int]
    blocks: int = 1
    group: int = -1
    rigid: bool = False


@dataclass
class _Facts:
    """Facts per class of nodes; arrays are indexed by class."""

    of_node: np.ndarray
    part: np.ndarray  # of each node
    count: int
    axes: dict[Axis, np.ndarray]
    groups: dict[Axis, int]
    signature: np.ndarray
    colour: np.ndarray
    live: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)


def solve(
    nodes: Nodes, shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, str], buffers: tuple[str, ...]
) -> tuple[NetworkSpec, dict[int, tuple[str, int]]]:
    """The spec that follows from the facts, and the (cell, unit) of every movable node."""
    facts, members = _gather(nodes)
    drafts = _cells(facts, members, nodes)
    return _spec(nodes, facts, drafts, shapes, aliases, buffers)


def _gather(nodes: Nodes) -> tuple[_Facts, np.ndarray]:
    """Facts per class, and the (unit class, block class, system) memberships after merging equal block systems."""
    ties = list(nodes.ties)
    system_starts = np.array([start for start, _ in nodes.origins] or [0])
    frozen: set[int] = set()
    while True:
        root = classes(nodes.count, ties)
        _, of_node = np.unique(root, return_inverse=True)
        members = _members(nodes, of_node, system_starts)
        extra = _merge_systems(nodes, members, of_node, frozen)
        if not extra:
            break
        ties += extra
    count = int(of_node.max()) + 1 if len(of_node) else 0
    axes: dict[Axis, np.ndarray] = {axis: of_node[ids.numpy()] for axis, ids in nodes.axis_nodes.items()}
    groups = dict.fromkeys(axes, 1)
    for axis, (inside, n) in nodes.grouped_axes.items():
        axes[axis], groups[axis] = of_node[inside.numpy()], n
    part = parts(of_node, system_starts)
    colour = class_colours(nodes, of_node, part, system_starts)
    signature, live = np.zeros(count, np.uint64), np.zeros(count, bool)
    with np.errstate(over="ignore"):
        for i, (_axis, labels) in enumerate(axes.items()):
            present, times = np.unique(labels, return_counts=True)
            signature[present] += mix(mix(np.full(len(present), i, np.uint64)) + times.astype(np.uint64))
    for ids in nodes.live:
        live[of_node[ids]] = True
    facts = _Facts(of_node, part, count, axes, groups, signature, colour, live)
    for ids, reason in nodes.fixed:
        for c in np.unique(of_node[ids]).tolist():
            facts.reasons.setdefault(c, reason)
    if len(members):
        members = np.concatenate([members, np.isin(members[:, 2], list(frozen))[:, None]], axis=1)
    return facts, members


def _members(nodes: Nodes, of_node: np.ndarray, system_starts: np.ndarray) -> np.ndarray:
    """Distinct (unit class, block class, system) rows; the system of a merged block is its first one."""
    if not nodes.members:
        return np.empty((0, 3), dtype=np.int64)
    units = np.concatenate([u for u, _ in nodes.members])
    blocks = np.concatenate([b for _, b in nodes.members])
    system = np.searchsorted(system_starts, blocks, side="right") - 1
    block_class = of_node[blocks]
    first = np.full(int(of_node.max()) + 1, np.iinfo(np.int64).max)
    all_blocks = np.flatnonzero(nodes.is_block)
    np.minimum.at(first, of_node[all_blocks], np.searchsorted(system_starts, all_blocks, side="right") - 1)
    del system
    return np.unique(np.stack([of_node[units], block_class, first[block_class]], axis=1), axis=0)


def _merge_systems(
    nodes: Nodes, members: np.ndarray, of_node: np.ndarray, frozen: set[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ties between blocks of two systems that hold the same units; nested systems are added to `frozen`."""
    by_unit: dict[int, list[tuple[int, int]]] = {}
    for unit, block, system in members.tolist():
        by_unit.setdefault(unit, []).append((block, system))
    meets: dict[tuple[int, int], dict[int, set[int]]] = {}
    for places in by_unit.values():
        for block, system in places:
            for other, other_system in places:
                if system != other_system:
                    meets.setdefault((system, other_system), {}).setdefault(block, set()).add(other)
    some_node = {int(c): int(n) for n, c in reversed(list(enumerate(of_node.tolist())))} if meets else {}
    ties = []
    for (system, other), table in meets.items():
        if system > other:
            continue
        back = meets[(other, system)]
        if all(len(v) == 1 for v in table.values()) and all(len(v) == 1 for v in back.values()):
            pairs = [(some_node[b], some_node[next(iter(v))]) for b, v in table.items()]
            ties.append((np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])))
        else:
            frozen.update((system, other))
    return ties


def _cells(facts: _Facts, members: np.ndarray, nodes: Nodes) -> list[_Draft]:
    on_axis = facts.live & (facts.signature != 0)
    movable = on_axis.copy()
    movable[list(facts.reasons)] = False
    blocks_of: dict[int, set[int]] = {}
    stuck: set[int] = set()
    system_of: dict[int, int] = {}
    members_of: dict[int, set[int]] = {}
    for unit, block, system, is_frozen in members.tolist():
        blocks_of.setdefault(unit, set()).add(block)
        members_of.setdefault(block, set()).add(unit)
        system_of[block] = system
        if is_frozen or block in facts.reasons:
            stuck.add(block)
    for block, inside in members_of.items():
        if any(u in facts.reasons and on_axis[u] for u in inside) or any(len(blocks_of[u]) > 1 for u in inside):
            stuck.add(block)
    full = _add(facts.signature, facts.colour)
    drafts: list[_Draft] = []
    exchange: dict[tuple[int, int], list[int]] = {}
    for block, inside in members_of.items():
        if block in stuck:
            continue
        own = mix(np.array([full[block]], np.uint64))[0]
        parts = mix(np.array([full[u] for u in inside if movable[u]] or [0], np.uint64))
        with np.errstate(over="ignore"):
            composition = int(np.sum(parts, dtype=np.uint64) + own)
        exchange.setdefault((system_of[block], composition), []).append(block)
    grouped: set[int] = set()
    for number, blocks in enumerate(exchange.values()):
        if len(blocks) < 2:
            continue
        found = _block_cells(blocks, members_of, movable, full, facts.signature, number)
        for draft in found:
            grouped.update(draft.units)
        drafts += found
    stated: dict[int, set[tuple[int, int]]] = {}  # part and block, as the rules stated them: merged systems may cross each other elsewhere
    for units, raw in nodes.members:
        for unit, part, block in zip(facts.of_node[units].tolist(), facts.part[units].tolist(), raw.tolist(), strict=True):
            stated.setdefault(unit, set()).add((part, block))
    plain: dict[tuple[int, tuple[tuple[int, int], ...]], list[int]] = {}
    for unit in np.flatnonzero(movable).tolist():
        if unit not in grouped:
            plain.setdefault((int(full[unit]), tuple(sorted(stated.get(unit, ())))), []).append(unit)
    drafts += [_Draft(sorted(units)) for units in plain.values() if len(units) > 1]
    return sorted(drafts, key=lambda d: min(d.units))


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        total: np.ndarray = mix(a) + b
    return total


def _block_cells(
    blocks: list[int],
    members_of: Mapping[int, set[int]],
    movable: np.ndarray,
    full: np.ndarray,
    signature: np.ndarray,
    group: int,
) -> list[_Draft]:
    """Cells of a group of exchangeable blocks; classes are numbered by first node, so sorting follows the axes."""
    inside = {b: sorted(u for u in members_of[b] if movable[u]) for b in blocks}
    blocks = sorted((b for b in blocks if inside[b]), key=lambda b: inside[b][0])
    if len(blocks) < 2:
        return []
    by_kind = {b: {} for b in blocks}  # type: dict[int, dict[int, list[int]]]
    for b in blocks:
        for unit in inside[b]:
            by_kind[b].setdefault(int(full[unit]), []).append(unit)
    drafts = []
    rigid: dict[int, list[int]] = {}
    for kind, units in by_kind[blocks[0]].items():
        if len(units) > 1:
            drafts.append(_Draft([u for b in blocks for u in by_kind[b][kind]], len(blocks), group))
        else:
            rigid.setdefault(int(signature[units[0]]), []).append(kind)
    for kinds in rigid.values():
        units = [by_kind[b][kind][0] for b in blocks for kind in kinds]
        drafts.append(_Draft(units, len(blocks), group, rigid=len(kinds) > 1))
    return drafts


def _spec(
    nodes: Nodes,
    facts: _Facts,
    drafts: list[_Draft],
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
    return spec, {int(n): place[int(c)] for n, c in enumerate(facts.of_node) if int(c) in place}


def _names(nodes: Nodes, facts: _Facts, drafts: list[_Draft]) -> list[str]:
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


def _rescalings(nodes: Nodes, facts: _Facts, drafts: list[_Draft], names: list[str]) -> tuple[list[Rescaling], set[str]]:
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


def _fixed(nodes: Nodes, facts: _Facts, place: Mapping[int, tuple[str, int]]) -> tuple[FixedUnits, ...]:
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
