"""The neuron graph of a network: its architecture with its parameters, one node per neuron or channel of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx
import torch
from torch import Tensor

from graphalign import features, group
from graphalign.architecture import Architecture, Layer, WeightBlock
from graphalign.errors import InvalidInput
from graphalign.nodes import NodeMap, map_nodes
from graphalign.operands import Operands, input_of_row, kernel_offsets
from graphalign.spec import NetworkSpec

if TYPE_CHECKING:
    from graphalign.pyg import HeteroData


@dataclass(frozen=True)
class FoldedLayer:
    """A linear or convolutional layer together with the batch normalisation that follows it, if one does.

    Attributes:
        weight: (O, I / groups, S), as `NeuronGraph.weight`.
        bias: (O,); None if neither the layer nor a normalisation shifts.
        norm: step of the normalisation folded in, None without one.
    """

    weight: Tensor
    bias: Tensor | None
    norm: str | None


@dataclass(frozen=True)
class FlattenPositions:
    """Which entry of its node each input index of a block reads; a flatten repeats a channel once per position.

    Attributes:
        index: LongTensor (I,), 0 .. P-1 within each node.
        count: P; 1 where nothing is repeated.
        grid: (I, D) coordinates in [-1, 1]; the feature map's dimensions where they are known, otherwise a square if P is
            one, otherwise a line; D = 0 where nothing is repeated.
    """

    index: Tensor
    count: int
    grid: Tensor


class NeuronGraph:
    """An architecture together with the parameters of one network; nothing is copied and nothing is modified.

    Attributes:
        architecture: what the network shares with those it can be aligned with.
        tensors: parameters and buffers by state-dict key, as given.

    Raises:
        SpecMismatch: a tensor is missing or has another shape.
        InvalidInput: a parameter is no floating-point tensor, or holds NaN or Inf; all of them are listed.
    """

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self.architecture = architecture
        self.tensors = dict(tensors)
        for alias, name in architecture.spec.aliases.items():
            if name not in self.tensors and alias in self.tensors:
                self.tensors[name] = self.tensors[alias]
        problems = list(_problems(architecture, self.tensors))
        if problems:
            raise InvalidInput("these tensors make no neuron graph:\n" + "\n".join(f"  - {p}" for p in problems))
        self._operands = Operands(architecture, self.tensors)

    @property
    def spec(self) -> NetworkSpec:
        """What may move."""
        return self.architecture.spec

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers in topological order."""
        return self.architecture.layers

    @property
    def blocks(self) -> tuple[WeightBlock, ...]:
        """Weight blocks in topological order."""
        return self.architecture.blocks

    @cached_property
    def nodes(self) -> NodeMap:
        """The nodes of every layer and the edges that carry no parameter."""
        return map_nodes(self.architecture)

    @cached_property
    def block_of(self) -> dict[str, WeightBlock]:
        """Weight block by step."""
        return {block.step: block for block in self.blocks}

    def weight(self, block: WeightBlock) -> Tensor:
        """The weight as one matrix per kernel position, (O, I / groups, S): entry (o, i, s) sends input i to output o.

        S runs over the kernel in row-major order (`kernel_offsets`), 1 for linear layers and embeddings; I is the vocabulary
        of an embedding. Of a grouped convolution row o reads only its own group's inputs (`inputs`).
        """
        return self._operands.matrices(block)

    def entries(self, block: WeightBlock) -> Tensor:
        """Where each entry of `weight` lies in the flattened tensor `block.tensor`, LongTensor (O, I / groups, S)."""
        shape = self.spec.shapes[block.tensor]
        places = torch.arange(_product(shape)).reshape(shape)
        return Operands(self.architecture, {**self.tensors, block.tensor: places}).matrices(block)

    def inputs(self, block: WeightBlock) -> Tensor:
        """Input index behind entry (o, i) of `weight`, LongTensor (O, I / groups)."""
        return input_of_row(block, len(block.target), self._operands.sources(block))

    def kernel_offsets(self, block: WeightBlock) -> Tensor:
        """Centred offset of each kernel position, (S, spatial dimensions), see `operands.kernel_offsets`."""
        return kernel_offsets(block, self.spec.shapes[block.tensor])

    def bias(self, block: WeightBlock) -> Tensor | None:
        """The bias of each output, (O,), None without one."""
        return self._operands.bias(block.step)

    def folded(self) -> dict[str, FoldedLayer]:
        """By step, every weight block with the eval-mode batch normalisation that directly follows it folded in.

        w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta (Jacob et al. 2018, arXiv:1712.05877,
        section 3.2). For encoding only: permutations are applied to the raw tensors.
        """
        return {block.step: FoldedLayer(*self._operands.folded(block)) for block in self.blocks}

    def flatten_positions(self, block: WeightBlock) -> FlattenPositions:
        """Which position of its node each input index reads (a linear layer after a flatten)."""
        sources = self.nodes.reads.get(block.step)
        if sources is None:
            sources = torch.arange(self._operands.sources(block))
        order = torch.argsort(sources, stable=True)
        ranked = sources[order]
        starts = torch.searchsorted(ranked, ranked)
        index = torch.empty_like(order)
        index[order] = torch.arange(len(order)) - starts
        count = int(index.max()) + 1 if len(index) else 1
        if count == 1 or bool((sources < 0).all()):
            return FlattenPositions(torch.zeros_like(index), 1, torch.zeros(len(index), 0))
        return FlattenPositions(index, count, _grid(self._map_shape(sources, count), count)[index])

    def _map_shape(self, sources: Tensor, count: int) -> tuple[int, ...]:
        step = self.nodes.locate(sources)[0][0]
        shape = next(layer.shape for layer in self.layers if layer.step == step)
        side = round(count**0.5)
        if len(shape) > 2 and _product(shape[2:]) == count:
            return shape[2:]
        return (side, side) if side * side == count else (count,)

    @cached_property
    def units(self) -> dict[str, Tensor]:
        """By step, the unit of each node numbered over all cells (`Architecture.offsets`), LongTensor (N,).

        -1 if the node is no unit of a cell: inputs, outputs and other fixed nodes; attention scores, whose nodes are heads; and
        results of contractions that have no weight block, if their readers do not tell.
        """
        found = {step: torch.full((count,), -1) for step, count in self.nodes.counts.items()}
        identities = [edges for edges in self.nodes.edges if edges.relation == "identity"]
        movable = {layer.step for layer in self.layers if layer.cells}
        for block in self.blocks:
            if block.step in found:
                found[block.step] = block.target.clone()
        for edges in identities:
            if edges.target in movable:
                _fill(found[edges.target], edges.index[1], found[edges.source][edges.index[0]])
        for block in reversed(self.blocks):  # units made by a computed weight are known from those that read them
            for step, chosen in self.nodes.locate(self.nodes.reads.get(block.step, torch.empty(0, dtype=torch.long))):
                if step in movable and block.op != "embedding":
                    _fill(found[step], self.nodes.reads[block.step][chosen] - self.nodes.offsets[step], block.source[chosen])
        for edges in reversed(identities):
            one_to_one = len(edges.index[0]) == len(set(edges.index[0].tolist()))
            if edges.source in movable and one_to_one:
                _fill(found[edges.source], edges.index[0], found[edges.target][edges.index[1]])
        return found

    @cached_property
    def layer_features(self) -> dict[str, Tensor]:
        """By step, the features listed in `features.LAYER_FEATURES`."""
        matrices = {block.step: self.weight(block) for block in self.blocks if block.step in self.nodes.reads}
        read = {step: self.nodes.locate(self.nodes.reads[step]) for step in matrices}
        origins = {step: [(source, self.nodes.counts[source]) for source, _ in found] for step, found in read.items()}
        inward, outward = features.fans(matrices, origins)
        depths = features.depths(self.layers)
        result = {}
        for layer in self.layers:
            block = self.block_of.get(layer.step)
            what = features.kind(layer, None if block is None else block.op)
            fans = inward.get(layer.step, 0.0), outward.get(layer.step, 0.0)
            result[layer.step] = features.layer_vector(layer, what, depths[layer.step], *fans)
        return result

    @cached_property
    def node_features(self) -> dict[str, Tensor]:
        """By step, the features listed in `features.NODE_FEATURES`, (N, 3)."""
        folded = self.folded()
        result = {}
        for step, count in self.nodes.counts.items():
            layer = folded.get(step)
            result[step] = features.node_matrix(count, None if layer is None else (layer.weight, layer.bias), self.units[step])
        return result

    def to_hetero_data(self) -> HeteroData:
        """The graph as `torch_geometric.data.HeteroData`, see `hetero.to_hetero_data`."""
        from graphalign.hetero import to_hetero_data

        return to_hetero_data(self)

    def with_hetero_data(self, data: HeteroData) -> NeuronGraph:
        """A graph with the weights of the edges of `data`, see `hetero.with_hetero_data`."""
        from graphalign.hetero import with_hetero_data

        return with_hetero_data(self, data)

    def to_networkx(self) -> nx.DiGraph[str]:
        """The layer graph: a directed acyclic graph whose nodes are steps in topological order.

        Node attributes: op, module, kind, units (number of nodes), shape, cells. Edge attribute: kind, "weight" or "free".
        """
        graph: nx.DiGraph[str] = nx.DiGraph()
        for layer in self.layers:
            block = self.block_of.get(layer.step)
            graph.add_node(
                layer.step,
                op=layer.op,
                module=layer.module,
                kind=features.kind(layer, None if block is None else block.op),
                units=self.nodes.counts.get(layer.step, 0),
                shape=layer.shape,
                cells=layer.cells,
            )
            for source in layer.inputs:
                graph.add_edge(source, layer.step, kind="weight" if block is not None else "free")
        return graph

    def neurons_to_networkx(self) -> nx.MultiDiGraph[tuple[str, int]]:
        """One node per neuron and one edge per weight, see `neuron_networkx.neurons_to_networkx`."""
        from graphalign.neuron_networkx import neurons_to_networkx

        return neurons_to_networkx(self)

    def with_networkx(self, neurons: nx.MultiDiGraph[tuple[str, int]]) -> NeuronGraph:
        """A graph with the weights of the edges of `neurons`, see `neuron_networkx.with_networkx`."""
        from graphalign.neuron_networkx import with_networkx

        return with_networkx(self, neurons)

    def __repr__(self) -> str:
        nodes = sum(self.nodes.counts.values())
        weights = sum(self.weight(block).numel() for block in self.blocks)
        return f"NeuronGraph({len(self.layers)} layers, {nodes} nodes, {weights} weights, {len(self.spec.cells)} cells)"


def _fill(units: Tensor, places: Tensor, known: Tensor) -> None:
    """Sets units at places where they are known, unless they were known before."""
    new = (known >= 0) & (units[places] < 0)
    units[places[new]] = known[new]


def _product(sizes: tuple[int, ...]) -> int:
    return int(torch.tensor(sizes).prod())


def _grid(shape: tuple[int, ...], count: int) -> Tensor:
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    return torch.stack([g.flatten() for g in torch.meshgrid(*axes, indexing="ij")], dim=1).reshape(count, len(shape))


def _problems(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    spec = architecture.spec
    present = {name: tensor for name, tensor in tensors.items() if name in spec.shapes}
    group.check_state(spec, tensors, "the network")
    for name in spec.shapes:
        tensor = present.get(name)
        if tensor is None:
            if name in architecture.tensors.values():
                yield f"'{name}' is missing, expected shape {spec.shapes[name]}; pass group.all_tensors(model)"
        elif not tensor.is_floating_point():
            if name not in spec.buffers:
                yield f"'{name}' has dtype {tensor.dtype}, expected a floating-point parameter; convert the network with .float()"
        elif not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            yield f"'{name}' holds {bad} NaN or infinite entries of {tensor.numel()}; load weights of a run that did not diverge"
