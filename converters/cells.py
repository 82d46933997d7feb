"""From facts about nodes to cells: classes of nodes that move together, blocks of them, and which of these trade places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .domain import mix
from .facts import Nodes
from .partitions import classes
from .parts import class_colours, parts

Axis = tuple[str, int]


@dataclass
class Draft:
    """A cell in the making: unit classes in order, block after block."""

    units: list[int]
    blocks: int = 1
    group: int = -1
    rigid: bool = False


@dataclass
class Facts:
    """Facts per class of nodes; arrays are indexed by class, those of the class and the part of each node by node."""

    of_node: np.ndarray
    part: np.ndarray
    count: int
    axes: dict[Axis, np.ndarray]
    groups: dict[Axis, int]
    signature: np.ndarray
    colour: np.ndarray
    live: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)


def gather(nodes: Nodes) -> tuple[Facts, np.ndarray]:
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
    facts = Facts(of_node, part, count, axes, groups, signature, colour, live)
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
    block_class = of_node[blocks]
    first = np.full(int(of_node.max()) + 1, np.iinfo(np.int64).max)
    all_blocks = np.flatnonzero(nodes.is_block)
    np.minimum.at(first, of_node[all_blocks], np.searchsorted(system_starts, all_blocks, side="right") - 1)
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


def draft_cells(facts: Facts, members: np.ndarray, nodes: Nodes) -> list[Draft]:
    """Cells of at least two classes that trade places, in the order of their first nodes: alone, or with the blocks that they are in."""
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
    drafts: list[Draft] = []
    exchange: dict[tuple[int, int], list[int]] = {}
    for block, inside in members_of.items():
        if block in stuck:
            continue
        own = mix(np.array([full[block]], np.uint64))[0]
        units = mix(np.array([full[u] for u in inside if movable[u]] or [0], np.uint64))
        with np.errstate(over="ignore"):
            composition = int(np.sum(units, dtype=np.uint64) + own)
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
    drafts += [Draft(sorted(units)) for units in plain.values() if len(units) > 1]
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
) -> list[Draft]:
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
            drafts.append(Draft([u for b in blocks for u in by_kind[b][kind]], len(blocks), group))
        else:
            rigid.setdefault(int(signature[units[0]]), []).append(kind)
    for kinds in rigid.values():
        units = [by_kind[b][kind][0] for b in blocks for kind in kinds]
        drafts.append(Draft(units, len(blocks), group, rigid=len(kinds) > 1))
    return drafts
