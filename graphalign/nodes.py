"""Which nodes every layer of an architecture has, and which of them feed which: node numbers run through the program.

A layer with a weight has one node per output index. Any other layer has one node per distinct combination of the nodes it
reads, so an activation keeps its input's nodes, a sum joins two layers node by node and a concatenation lists them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphalign.architecture import Architecture, Layer, WeightBlock
from graphalign.input_nodes import input_nodes
from graphalign.moves import channel_axis, move, op_name, read_axis, result_shapes
from graphalign.numbering import aligned, along, carried, core, distinct_pairs, numbered, tighten, varying

JOINS = ("cat", "concat", "concatenate", "stack")


@dataclass(frozen=True)
class FreeEdges:
    """Edges without a parameter between two layers.

    Attributes:
        source: step they leave.
        target: step they enter.
        relation: "identity" (a node continues as another one) or "mix" (a reduction or product over nodes).
        index: LongTensor (2, E) of node numbers within the two layers.
    """

    source: str
    target: str
    relation: str
    index: Tensor


@dataclass(frozen=True)
class NodeMap:
    """The nodes of every layer.

    Attributes:
        counts: number of nodes N by step, in topological order.
        offsets: first global node number by step.
        reads: for every weight block, the global node at each index of its input axis, LongTensor (I,); -1 for a constant.
        edges: the parameter-free edges.
    """

    counts: Mapping[str, int]
    offsets: Mapping[str, int]
    reads: Mapping[str, Tensor]
    edges: tuple[FreeEdges, ...]

    def locate(self, ids: Tensor) -> list[tuple[str, Tensor]]:
        """Layers in which global node numbers (I,) lie: (step, indices into `ids`), without those that are -1."""
        steps = list(self.offsets)
        starts = torch.tensor(list(self.offsets.values()))
        # a layer without nodes shares its offset with the next one, which comes last and is therefore the one found
        layer = torch.searchsorted(starts, ids.contiguous(), right=True) - 1
        return [(steps[n], torch.nonzero(layer == n)[:, 0]) for n in sorted(set(layer[ids >= 0].tolist()))]


def map_nodes(architecture: Architecture) -> NodeMap:
    """The nodes of every layer and the parameter-free edges between them."""
    return _Interpreter(architecture).run()


class _Interpreter:
    """Runs a program on node numbers."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.layers: dict[str, Layer] = {layer.step: layer for layer in architecture.layers}
        self.blocks: dict[str, WeightBlock] = {block.step: block for block in architecture.blocks}
        self.counts: dict[str, int] = {}
        self.offsets: dict[str, int] = {}
        self.reads: dict[str, Tensor] = {}
        self.pairs: list[tuple[str, str, Tensor]] = []
        self.values: dict[str, Any] = {}
        self.total = 0

    def run(self) -> NodeMap:
        for node in self.architecture.program.graph.nodes:
            if node.op == "output":
                self._output(node)
            elif node.name not in self.layers:
                self.values[node.name] = move(node, self.values) if node.op == "call_function" else None
            elif node.op == "placeholder":
                self.values[node.name] = self._input(node)
            else:
                self.values[node.name] = self._layer(node)
        nodes = NodeMap(self.counts, self.offsets, self.reads, ())
        edges = tuple(edge for step, relation, pairs in self.pairs for edge in _split(nodes, step, relation, pairs))
        return NodeMap(self.counts, self.offsets, self.reads, edges)

    def _new(self, step: str, count: int) -> int:
        self.counts[step], self.offsets[step] = count, self.total
        self.total += count
        return self.offsets[step]

    def _input(self, node: fx.Node) -> Tensor | None:
        """One node per entry of the vocabulary for indices, otherwise as `input_nodes`."""
        rows = [
            self.architecture.spec.shapes[block.tensor][block.in_axis]
            for block in self.blocks.values()
            if block.op == "embedding" and node.name in self.layers[block.step].inputs
        ]
        if rows:
            self._new(node.name, max(rows))
            return None
        ids = input_nodes(self.architecture, node)
        start = self._new(node.name, int(ids.max()) + 1 if ids.numel() else 0)
        return tighten(ids + start)

    def _output(self, node: fx.Node) -> None:
        leaves = [core(v).flatten() for n in node.all_input_nodes if isinstance(v := self.values.get(n.name), Tensor)]
        found = torch.cat(leaves) if leaves else torch.empty(0, dtype=torch.long)
        found = found[found >= 0]
        first, _ = numbered([found])
        start = self._new(node.name, len(first))
        self.pairs.append((node.name, "identity", torch.stack([found[first], start + torch.arange(len(first))])))

    def _layer(self, node: fx.Node) -> Any:
        shapes = result_shapes(node)
        if node.name in self.blocks:
            return self._weights(node, self.blocks[node.name], shapes[0])
        if op_name(node) == "linear" or op_name(node).startswith("conv"):
            return self._computed_weights(node, shapes[0])
        ids = self._combine(node.name, shapes[0], self._parts(node, shapes[0]))
        return (ids, *(None for _ in shapes[1:])) if isinstance(node.meta.get("val"), (tuple, list)) else ids

    def _weights(self, node: fx.Node, block: WeightBlock, shape: Sequence[int]) -> Tensor:
        kernel_rank = len(self.architecture.spec.shapes[block.tensor])
        start, count = self._new(node.name, len(block.target)), len(block.target)
        axis = channel_axis(block, len(shape), kernel_rank)
        if shape[axis] != count:
            axis = max(d for d in range(len(shape)) if shape[d] == count)
        self.reads[node.name] = self._table(block) if block.op == "embedding" else self._read(node, block, kernel_rank)
        view = [-1 if d == axis else 1 for d in range(len(shape))]
        return torch.arange(start, start + count).reshape(view).expand(tuple(shape))

    def _computed_weights(self, node: fx.Node, shape: Sequence[int]) -> Tensor:
        """A layer whose weight is computed from several parameters has no block: every node it reads may feed every output."""
        spatial = len(result_shapes(node.all_input_nodes[1])[0]) - 2
        axis = len(shape) - 1 - spatial
        start = self._new(node.name, shape[axis])
        targets = torch.arange(start, start + shape[axis])
        ids = self.values.get(node.all_input_nodes[0].name)
        if isinstance(ids, Tensor):
            self.pairs.append((node.name, "mix", distinct_pairs(core(tighten(ids)).reshape(-1, 1), targets)))
        return targets.reshape([-1 if d == axis else 1 for d in range(len(shape))]).expand(tuple(shape))

    def _table(self, block: WeightBlock) -> Tensor:
        size = self.architecture.spec.shapes[block.tensor][block.in_axis]
        origin = next((s for s in self.layers[block.step].inputs if self.layers[s].op == "input"), None)
        if origin is None:
            return torch.full((size,), -1)
        return torch.arange(self.offsets[origin], self.offsets[origin] + size)

    def _read(self, node: fx.Node, block: WeightBlock, kernel_rank: int) -> Tensor:
        for argument in node.all_input_nodes:
            ids = self.values.get(argument.name)
            if isinstance(ids, Tensor):
                return along(ids, read_axis(block, ids, kernel_rank), len(block.source))[:, 0].contiguous()
        return torch.full((len(block.source),), -1)

    def _parts(self, node: fx.Node, shape: Sequence[int]) -> list[Tensor]:
        """The nodes behind each entry of a result, one tensor per operand: (*shape or 1, nodes reduced into it)."""
        name = op_name(node)
        if name in JOINS:
            return self._joined(node, name, shape)
        operands = [tighten(v) for n in node.all_input_nodes if isinstance(v := self.values.get(n.name), Tensor)]
        rank = len(shape)
        if name == "scaled_dot_product_attention" and len(operands) >= 3:
            heads = {d: d for d in range(rank - 2)}
            q, k, v = (_repeat_heads(t, shape) for t in operands[:3])
            return [aligned(v, shape, {**heads, rank - 1: rank - 1}), aligned(q, shape, heads), aligned(k, shape, heads)]
        if name in ("matmul", "bmm", "mm") and len(operands) == 2 and min(t.dim() for t in operands) >= 2:
            a, b = operands
            rows = {d: d + rank - a.dim() for d in range(a.dim() - 1)}
            columns = {d: d + rank - b.dim() for d in range(b.dim()) if d != b.dim() - 2}
            return [aligned(a, shape, rows), aligned(b, shape, columns)]
        if name == "einsum" and isinstance(node.args[0], str) and "->" in node.args[0] and "." not in node.args[0]:
            inputs, result = node.args[0].replace(" ", "").split("->")
            named = zip(inputs.split(","), node.all_input_nodes, strict=True)
            labels = [label for label, n in named if isinstance(self.values.get(n.name), Tensor)]
            places = [{d: result.index(c) for d, c in enumerate(label) if c in result} for label in labels]
            return [aligned(t, shape, place) for t, place in zip(operands, places, strict=True)]
        if name == "glu":
            dim = int(node.args[1]) if len(node.args) > 1 else -1  # type: ignore[arg-type]
            return [carried(half, shape) for half in operands[0].chunk(2, dim)]
        return [carried(t, shape) for t in operands]

    def _joined(self, node: fx.Node, name: str, shape: Sequence[int]) -> list[Tensor]:
        inputs: Any = node.args[0]
        chosen: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        dim = int(chosen) % len(shape)
        parts = [self.values.get(n.name) for n in inputs]
        sizes = [result_shapes(n)[0] for n in inputs]
        if name == "stack":
            parts = [None if p is None else p.unsqueeze(dim) for p in parts]
            sizes = [(*s[:dim], 1, *s[dim:]) for s in sizes]
        known = [tighten(p) for p in parts if isinstance(p, Tensor)]
        if name != "stack" and known and all(varying(p) and dim not in varying(p) for p in known):
            # tokens are put side by side: every node goes on under its own index, a class token brings none of its own
            return [aligned(p, shape, {d: d for d in range(p.dim())}) for p in known]
        full = [torch.full([1] * len(shape), -1).expand(s) if p is None else p for p, s in zip(parts, sizes, strict=True)]
        wide = {d for p in known for d in varying(p)} | {dim}
        cut = [p[tuple(slice(None) if d in wide else slice(0, 1) for d in range(len(shape)))] for p in full]
        return [torch.cat(cut, dim)[..., None]]

    def _combine(self, step: str, shape: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            return torch.tensor(self._new(step, 1)).expand(tuple(shape))
        small = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
        first, number = numbered([p[..., 0].expand(small).flatten() for p in parts])
        ids = (self._new(step, len(first)) + number).reshape(small)
        for part in parts:
            self.pairs.append((step, "identity" if part.shape[-1] == 1 else "mix", distinct_pairs(part, ids[..., None])))
        return tighten(ids.expand(tuple(shape)))


def _repeat_heads(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Grouped-query attention reads each key and value head several times."""
    few = ids.dim() > 2 and shape[-3] > ids.shape[-3] > 1
    return tighten(ids.repeat_interleave(shape[-3] // ids.shape[-3], dim=-3)) if few else ids


def _split(nodes: NodeMap, step: str, relation: str, pairs: Tensor) -> list[FreeEdges]:
    edges = []
    for source, chosen in nodes.locate(pairs[0]):
        local = pairs[:, chosen] - torch.tensor([[nodes.offsets[source]], [nodes.offsets[step]]])
        edges.append(FreeEdges(source, step, relation, local))
    return edges
