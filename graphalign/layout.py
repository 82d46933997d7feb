"""Where the boxes and arrows of a layer drawing go: rows by depth, one main column, side columns and lanes for skips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from graphalign.graph import NeuronGraph

FOLDED_KINDS = ("norm", "activation", "pool")
TIMES = "\N{MULTIPLICATION SIGN}"
SHORT_NAMES = {
    "scaled_dot_product_attention": "attention",
    "max_pool2d": "max pool",
    "avg_pool2d": "avg pool",
    "adaptive_avg_pool2d": "avg pool",
}


@dataclass(frozen=True)
class Box:
    """A layer and the parameter-free layers that only continue it.

    Attributes:
        steps: the layers, in order.
        title: module path of the first one; its operator, which `ops` then leaves out, where the network itself runs it.
        ops: operators with kernel sizes.
        units: number of nodes of the last one.
        cells: cells whose units it carries, in order.
        inputs: indices of the boxes it reads.
    """

    steps: tuple[str, ...]
    title: str
    ops: tuple[str, ...]
    units: int
    cells: tuple[str, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Rows and columns of boxes, and lanes of the arrows that pass boxes by.

    Attributes:
        boxes: in topological order.
        row: by box, 0 at the top.
        column: by box, 0 for the main column, 1, 2 ... to its right.
        lanes: by arrow (source, target) that skips rows within a column, 0 for the innermost lane on the left.
    """

    boxes: tuple[Box, ...]
    row: tuple[int, ...]
    column: tuple[int, ...]
    lanes: dict[tuple[int, int], int]


def lay_out(graph: NeuronGraph) -> Layout:
    """Rows by longest path from the inputs; the longest path is the main column, what runs beside it stands to its right."""
    boxes = merge_layers(graph)
    depth = [0] * len(boxes)
    for i, box in enumerate(boxes):
        depth[i] = max((depth[j] + 1 for j in box.inputs), default=0)
    readers: list[list[int]] = [[] for _ in boxes]
    for i, box in enumerate(boxes):
        for j in box.inputs:
            readers[j].append(i)
    for i in reversed(range(len(boxes))):  # an input of a later layer stands just above its first reader
        if not boxes[i].inputs and readers[i]:
            depth[i] = min(depth[k] for k in readers[i]) - 1
    main = _main_path(boxes, depth)
    spans = {
        i: (min((depth[j] for j in boxes[i].inputs), default=depth[i]), max((depth[k] for k in readers[i]), default=depth[i]))
        for i in range(len(boxes))
        if i not in main
    }
    side = _lanes(spans, strict=False)
    column = tuple(0 if i in main else 1 + side[i] for i in range(len(boxes)))
    skips = {
        (j, i): (depth[j], depth[i])
        for i, box in enumerate(boxes)
        for j in box.inputs
        if column[i] == column[j] == 0 and depth[i] - depth[j] > 1
    }
    return Layout(tuple(boxes), tuple(depth), column, _lanes(skips, strict=True))


def merge_layers(graph: NeuronGraph) -> list[Box]:
    """Boxes in topological order; a norm, activation or pooling that alone continues a layer joins its box."""
    layers: nx.DiGraph = graph.to_networkx()
    home: dict[str, int] = {}
    groups: list[list[str]] = []
    for step, facts in layers.nodes(data=True):
        sources = list(layers.predecessors(step))
        joins = facts["kind"] in FOLDED_KINDS and len(sources) == 1 and layers.out_degree(sources[0]) == 1
        joins = joins and layers.nodes[sources[0]]["kind"] != "input"
        if joins:
            home[step] = home[sources[0]]
            groups[home[step]].append(step)
        else:
            home[step] = len(groups)
            groups.append([step])
    boxes = []
    for number, steps in enumerate(groups):
        facts = [layers.nodes[s] for s in steps]
        ops = tuple(_op(graph, s, layers.nodes[s]) for s in steps)
        if facts[0]["kind"] in ("input", "output"):
            title = facts[0]["kind"]
        elif facts[0]["module"]:
            title = facts[0]["module"]
        else:
            title, ops = ops[0], ops[1:]
        inputs = tuple(dict.fromkeys(home[p] for s in steps for p in layers.predecessors(s) if home[p] != number))
        cells = tuple(dict.fromkeys(c for f in facts for c in f["cells"]))
        boxes.append(Box(tuple(steps), title, ops, int(facts[-1]["units"]), cells, inputs))
    return boxes


def _op(graph: NeuronGraph, step: str, facts: dict[str, object]) -> str:
    op = SHORT_NAMES.get(str(facts["op"]), str(facts["op"]).strip("_").replace("_", " "))
    block = graph.block_of.get(step)
    if facts["kind"] in ("input", "output"):
        shape: Sequence[int] = facts["shape"]  # type: ignore[assignment]
        return TIMES.join(str(n) for n in shape)
    if block is None or block.op != "conv":
        return op
    kernel = TIMES.join(str(n) for n in graph.spec.shapes[block.tensor][2:])
    groups = int(block.geometry.get("groups", 1))
    return f"{op} {kernel}" + (f", {groups} groups" if groups > 1 else "")


def _main_path(boxes: Sequence[Box], depth: Sequence[int]) -> set[int]:
    """The boxes of a longest path, upwards from the deepest box; of equal inputs the one computed first."""
    here = max(range(len(boxes)), key=lambda i: (depth[i], -i))
    path = {here}
    while boxes[here].inputs:
        here = max(boxes[here].inputs, key=lambda j: (depth[j], -j))
        path.add(here)
    return path


def _lanes(spans: dict[int, tuple[int, int]] | dict[tuple[int, int], tuple[int, int]], strict: bool) -> dict:  # type: ignore[type-arg]
    """Lane of every span such that spans in a lane do not overlap; short ones inside. Ends may touch if `strict`."""
    lanes: dict = {}  # type: ignore[type-arg]
    taken: list[list[tuple[int, int]]] = []
    for key, (start, end) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[1][0])):
        lane = next((n for n, used in enumerate(taken) if not _overlaps((start, end), used, strict)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((start, end))
        lanes[key] = lane
    return lanes


def _overlaps(span: tuple[int, int], used: Iterable[tuple[int, int]], strict: bool) -> bool:
    start, end = span
    return any((start < e and s < end) if strict else (start < e and s < end) or (start, end) == (s, e) for s, e in used)
