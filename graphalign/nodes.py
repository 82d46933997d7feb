"""Which nodes every layer of an architecture has, and which of them feed which: node numbers run through the program.

A layer with a weight has one node per output index. Any other layer has one node per distinct combination of the nodes it
reads, so an activation keeps its input's nodes, a sum joins two layers node by node and a concatenation lists them all.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphalign.architecture import Architecture, Layer, WeightBlock

UNCHANGED = frozenset(
    "contiguous clone detach detach_ alias to _to_copy type_as lift_fresh_copy lift_fresh dropout dropout_ feature_dropout "
    "alpha_dropout feature_alpha_dropout positive float double half bfloat16 cpu".split()
)
RESHAPES = ("view", "_unsafe_view", "reshape", "view_copy")


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
        starts = torch.tensor(list(self.offsets.values()))
        layer = torch.searchsorted(starts, ids, right=True) - 1
        steps = list(self.offsets)
        return [(steps[n], torch.nonzero(layer == n)[:, 0]) for n in layer[ids >= 0].unique().tolist()]


def map_nodes(architecture: Architecture) -> NodeMap:
    """The nodes of every layer and the parameter-free edges between them."""
    return _Interpreter(architecture).run()


def channel_axis(block: WeightBlock, rank: int, kernel_rank: int) -> int:
    """Dimension of an activation of the given rank that carries the channels of a convolution, or the last one."""
    return rank - (kernel_rank - 2) - 1 if block.op == "conv" else rank - 1


def op_name(node: fx.Node) -> str:
    """Operator of a graph node without namespace, overload and in-place underscore."""
    parts = str(node.target).split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def tighten(ids: Tensor) -> Tensor:
    """The same numbers with a zero stride along every dimension in which they do not vary."""
    core = _core(ids)
    for d in range(core.dim()):
        if core.shape[d] > 1 and bool((core == core.narrow(d, 0, 1)).all()):
            core = core.narrow(d, 0, 1)
    return core.expand(ids.shape)


def _core(ids: Tensor) -> Tensor:
    return ids[tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for n, s in zip(ids.shape, ids.stride(), strict=True))]


def _varying(ids: Tensor) -> list[int]:
    return [d for d in range(ids.dim()) if ids.stride(d) != 0 and ids.shape[d] > 1]


def _aligned(ids: Tensor, shape: Sequence[int], places: Mapping[int, int]) -> Tensor:
    """Numbers with dimension d moved to `places[d]` of a result of the given shape, the other varying ones last and flat."""
    core = _core(ids)
    kept = sorted((d for d in range(ids.dim()) if d in places), key=lambda d: places[d])
    rest = [d for d in range(ids.dim()) if d not in places]
    moved = core.permute([*kept, *rest]).reshape([core.shape[d] for d in kept] + [-1])
    view = [1] * len(shape) + [moved.shape[-1]]
    for d in kept:
        view[places[d]] = core.shape[d]
    return moved.reshape(view)


def _carried(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Alignment with a result in which dimensions keep their order; those of another size are reduced."""
    ids = tighten(ids)
    lead = len(shape) - ids.dim()
    if lead >= 0 and all(n in (1, shape[d + lead]) for d, n in enumerate(ids.shape)):
        return _aligned(ids, shape, {d: d + lead for d in range(ids.dim())})
    if lead == 0:
        return _aligned(ids, shape, {d: d for d in range(ids.dim()) if ids.shape[d] == shape[d]})
    places: dict[int, int] = {}
    after = 0
    for d in _varying(ids):
        found = next((e for e in range(after, len(shape)) if shape[e] == ids.shape[d]), None)
        if found is not None:
            places[d], after = found, found + 1
    return _aligned(ids, shape, places)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else ()


class _Interpreter:
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
        graph = self.architecture.program.graph
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node.name] = self._input(node) if node.name in self.layers else None
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                known = node.name in self.layers
                self.values[node.name] = self._layer(node) if known else self._move(node, self.values)
            else:
                self.values[node.name] = None
        shell = NodeMap(self.counts, self.offsets, self.reads, ())
        return NodeMap(self.counts, self.offsets, self.reads, tuple(e for p in self.pairs for e in _split(shell, *p)))

    def _new(self, step: str, count: int) -> int:
        self.counts[step], self.offsets[step] = count, self.total
        self.total += count
        return self.offsets[step]

    def _input(self, node: fx.Node) -> Tensor | None:
        tables = [self.blocks[u.name] for u in _users_through_moves(node, self.layers) if u.name in self.blocks]
        tables = [b for b in tables if b.op == "embedding"]
        shape = self.layers[node.name].shape
        if tables:
            self._new(node.name, max(self.architecture.spec.shapes[b.tensor][b.in_axis] for b in tables))
            return None
        ids = _input_nodes(self, node, shape)
        start = self._new(node.name, int(ids.max()) + 1 if ids.numel() else 0)
        return ids + start if not _varying(ids) else tighten(ids + start)

    def _output(self, node: fx.Node) -> None:
        steps = self.layers["output"] if "output" in self.layers else self.layers[node.name]
        leaves = [self.values.get(n.name) for n in node.all_input_nodes]
        flat = [_core(v).flatten() for v in leaves if isinstance(v, Tensor)]
        found = torch.cat(flat) if flat else torch.empty(0, dtype=torch.long)
        distinct, _ = _numbered([found[found >= 0]])
        start = self._new(steps.step, len(distinct))
        index = torch.stack([found[found >= 0][distinct], start + torch.arange(len(distinct))])
        self.pairs.append((steps.step, "identity", index))

    def _layer(self, node: fx.Node) -> Any:
        step, value = node.name, node.meta.get("val")
        if step in self.blocks:
            return self._weights(node, self.blocks[step])
        outputs = value if isinstance(value, (tuple, list)) else (value,)
        shape = _shape(outputs[0])
        parts = self._parts(node, shape)
        ids = self._combine(step, shape, parts)
        return (ids, *(None for _ in outputs[1:])) if isinstance(value, (tuple, list)) else ids

    def _weights(self, node: fx.Node, block: WeightBlock) -> Tensor:
        shape = _shape(node.meta["val"])
        rank = len(self.architecture.spec.shapes[block.tensor])
        start = self._new(node.name, len(block.target))
        axis = channel_axis(block, len(shape), rank)
        if shape[axis] != len(block.target):
            axis = max(d for d in range(len(shape)) if shape[d] == len(block.target))
        if block.op == "embedding":
            self.reads[node.name] = self._table(node, block)
        else:
            self.reads[node.name] = self._read(node, block, rank)
        view = [-1 if d == axis else 1 for d in range(len(shape))]
        return torch.arange(start, start + len(block.target)).reshape(view).expand(shape)

    def _table(self, node: fx.Node, block: WeightBlock) -> Tensor:
        size = self.architecture.spec.shapes[block.tensor][block.in_axis]
        origin = next((s for s in self.layers[node.name].inputs if self.layers[s].op == "input"), None)
        if origin is None:
            return torch.full((size,), -1)
        return torch.arange(self.offsets[origin], self.offsets[origin] + size)

    def _read(self, node: fx.Node, block: WeightBlock, rank: int) -> Tensor:
        length = len(block.source)
        for argument in node.all_input_nodes:
            ids = self.values.get(argument.name)
            if isinstance(ids, Tensor):
                return _along(ids, _read_axis(block, ids, rank), length)[:, :1].flatten()
        return torch.full((length,), -1)

    def _parts(self, node: fx.Node, shape: Sequence[int]) -> list[Tensor]:
        """The nodes behind each entry of a result, one tensor per operand: (*shape or 1, reduced nodes)."""
        name = op_name(node)
        operands = [v for n in node.all_input_nodes if isinstance(v := self.values.get(n.name), Tensor)]
        if name in ("cat", "concat", "concatenate", "stack"):
            return self._joined(node, name, shape)
        if name == "scaled_dot_product_attention" and len(operands) >= 3:
            lead = len(shape) - 2
            heads = {d: d for d in range(lead)}
            q, k, v = (self._heads(t, shape) for t in operands[:3])
            return [_aligned(v, shape, {**heads, lead + 1: lead + 1}), _aligned(q, shape, heads), _aligned(k, shape, heads)]
        if name in ("matmul", "bmm", "mm") and len(operands) == 2 and min(t.dim() for t in operands) >= 2:
            a, b = (tighten(t) for t in operands)
            rank = len(shape)
            rows = {d: d + rank - a.dim() for d in range(a.dim() - 1)}
            columns = {d: d + rank - b.dim() for d in range(b.dim()) if d != b.dim() - 2}
            return [_aligned(a, shape, rows), _aligned(b, shape, columns)]
        return [_carried(t, shape) for t in operands]

    @staticmethod
    def _heads(ids: Tensor, shape: Sequence[int]) -> Tensor:
        """Grouped-query attention repeats each key and value head."""
        times = shape[-3] // ids.shape[-3] if ids.dim() > 2 and shape[-3] > ids.shape[-3] > 1 else 1
        return tighten(ids.repeat_interleave(times, dim=-3) if times > 1 else ids)

    def _joined(self, node: fx.Node, name: str, shape: Sequence[int]) -> list[Tensor]:
        inputs: Any = node.args[0]
        dim = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(shape)  # type: ignore[arg-type]
        parts = [self.values.get(n.name) for n in inputs]
        sizes = [_shape(n.meta["val"]) for n in inputs]
        if name == "stack":
            parts = [None if p is None else p.unsqueeze(dim) for p in parts]
            sizes = [(*s[:dim], 1, *s[dim:]) for s in sizes]
        known = [tighten(p) for p in parts if isinstance(p, Tensor)]
        if all(dim not in _varying(p) for p in known) and name != "stack" and len({p.shape[-1] for p in known}) == 1 and dim != 1:
            return [_aligned(p, shape, {d: d for d in range(len(shape))}) for p in known]
        full = [torch.full([1] * len(shape), -1).expand(s) if p is None else p for p, s in zip(parts, sizes, strict=True)]
        wide = {d for p in known for d in _varying(p)} | {dim}
        cut = [p[tuple(slice(None) if d in wide else slice(0, 1) for d in range(len(shape)))] for p in full]
        return [torch.cat(cut, dim)[..., None]]

    def _combine(self, step: str, shape: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
        if not parts:
            return torch.tensor(self._new(step, 1)).expand(tuple(shape))
        firsts = torch.broadcast_tensors(*(p[..., 0] for p in parts))
        distinct, inverse = _numbered([f.flatten() for f in firsts])
        start = self._new(step, len(distinct))
        ids = (start + inverse).reshape(firsts[0].shape)
        for part in parts:
            source, target = torch.broadcast_tensors(part, ids[..., None])
            pairs = torch.unique(torch.stack([source.flatten(), target.flatten()]), dim=1)
            self.pairs.append((step, "identity" if part.shape[-1] == 1 else "mix", pairs[:, pairs[0] >= 0]))
        return tighten(ids.expand(tuple(shape)))

    @staticmethod
    def _move(node: fx.Node, values: Mapping[str, Any]) -> Any:
        """The numbers after an operator that only moves entries."""
        if node.target is operator.getitem:
            source = values.get(node.args[0].name)  # type: ignore[union-attr]
            return source[node.args[1]] if isinstance(source, (tuple, list)) else None
        known = [v for n in node.all_input_nodes if isinstance(v := values.get(n.name), Tensor)]
        if not known:
            return None
        if op_name(node) in UNCHANGED:
            return known[0]
        with contextlib.suppress(Exception):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
            if op_name(node) in RESHAPES:
                return tighten(known[0].reshape(args[1]))
            result = node.target(*args, **kwargs)  # type: ignore[operator]
            return tuple(tighten(r) for r in result) if isinstance(result, (tuple, list)) else tighten(result)
        value = node.meta.get("val")
        outputs = [_carried(known[0], _shape(v))[..., 0].expand(_shape(v)) for v in (value if isinstance(value, (tuple, list)) else [value])]
        return tuple(outputs) if isinstance(value, (tuple, list)) else outputs[0]


def _read_axis(block: WeightBlock, ids: Tensor, kernel_rank: int) -> int:
    axis, length = channel_axis(block, ids.dim(), kernel_rank), len(block.source)
    if ids.shape[axis] == length:
        return axis
    return max((d for d in range(ids.dim()) if ids.shape[d] == length), default=axis)


def _along(ids: Tensor, axis: int, length: int) -> Tensor:
    """The numbers at each index of an axis, those that are no constant first; (length, entries)."""
    core = _core(tighten(ids).movedim(axis, 0))
    flat = core.reshape(core.shape[0], -1).sort(dim=1, stable=True).values
    first = (flat < 0).sum(1, keepdim=True).clamp(max=flat.shape[1] - 1)
    flat = torch.cat([flat.gather(1, first), flat], dim=1)
    return flat.expand(length, -1)


def _numbered(columns: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct rows of the columns in order of first appearance: index of each first row (n,), number of each row (rows,)."""
    rows = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        _, inverse = np.unique(column.numpy(), return_inverse=True)
        _, rows = np.unique(rows * (int(inverse.max(initial=0)) + 1) + inverse, return_inverse=True)
    _, first = np.unique(rows, return_index=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(first[order]), torch.from_numpy(rank[rows])


def _split(nodes: NodeMap, step: str, relation: str, pairs: Tensor) -> list[FreeEdges]:
    edges = []
    for source, chosen in nodes.locate(pairs[0]):
        local = pairs[:, chosen] - torch.tensor([[nodes.offsets[source]], [nodes.offsets[step]]])
        edges.append(FreeEdges(source, step, relation, local))
    return edges


def _users_through_moves(node: fx.Node, layers: Mapping[str, Layer]) -> list[fx.Node]:
    found: list[fx.Node] = []
    for user in node.users:
        found += [user] if user.name in layers else _users_through_moves(user, layers)
    return found


def _input_nodes(interpreter: _Interpreter, node: fx.Node, shape: Sequence[int]) -> Tensor:
    """Node of each entry of an input: entries that some weight reads at the same index are one node; numbered from 0."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = int(np.prod(shape)) if len(shape) else 1
    values: dict[str, Any] = {node.name: torch.arange(count).reshape(tuple(shape))}
    joined: list[Tensor] = []
    graph = interpreter.architecture.program.graph
    for later in graph.nodes:
        known = [n for n in later.all_input_nodes if isinstance(values.get(n.name), (Tensor, tuple))]
        if not known or later.op != "call_function":
            continue
        ids = values[known[0].name]
        block = interpreter.blocks.get(later.name)
        if block is not None and isinstance(ids, Tensor):
            rank = len(interpreter.architecture.spec.shapes[block.tensor])
            joined.append(_along(ids, _read_axis(block, ids, rank), len(block.source)))
        elif later.name not in interpreter.layers:
            values[later.name] = interpreter._move(later, {**dict.fromkeys((n.name for n in later.all_input_nodes), None), **values})
        elif isinstance(ids, Tensor):
            result = _carried(ids, _shape(later.meta["val"]))
            joined.append(result.reshape(-1, result.shape[-1]))
            values[later.name] = result[..., 0].expand(_shape(later.meta["val"]))
    if not joined:
        joined = [values[node.name].reshape(-1, shape[-1] if shape else 1).T]
    pairs = torch.cat([torch.stack([j[:, :1].expand_as(j).flatten(), j.flatten()]) for j in joined], dim=1).numpy()
    links = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
    _, label = connected_components(links, directed=False)
    _, numbered = _numbered([torch.from_numpy(label.astype(np.int64))])
    return tighten(numbered.reshape(tuple(shape)))
