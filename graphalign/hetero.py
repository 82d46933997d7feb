"""The neuron graph as a PyTorch Geometric object: one node type per layer, one edge type per weight block."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from graphalign.architecture import WeightBlock
from graphalign.errors import InvalidInput
from graphalign.graph import NeuronGraph
from graphalign.pyg import HeteroData


def node_type(step: str) -> str:
    """Name of a layer's node type: its step, without the double underscores of in-place operators, which PyG reserves."""
    return re.sub("_{2,}", "_inplace_", step)


def to_hetero_data(graph: NeuronGraph) -> HeteroData:
    """The graph with every weight as an edge; for VGG-sized networks use the dense path, edges take O * I * S rows.

    Node type = `node_type` of a layer's step: `x` (N, 3) as `features.NODE_FEATURES`, `unit` (N,) unit over all cells or -1,
    `layer` (1, F) as `features.LAYER_FEATURES`. Edge types:

    - (source, "weight", target) per weight block and layer it reads: `edge_index` (2, E), `edge_attr` (E, 1) raw weight,
      `folded` (E, 1) weight after folding a batch normalisation, `kernel` (E,) kernel position, `offset` (E, spatial
      dimensions) its centred offset, `position` (E,) flatten position, `grid` (E, D) its coordinates and `entry` (E,) where the
      weight lies in its flattened tensor. Edges run over (o, i, s) in order.
    - (source, "identity", target): a node continues as another one (activation, norm, sum, concatenation).
    - (source, "mix", target): a node enters a reduction or a product over nodes (attention scores).
    """
    data = HeteroData()
    for step, count in graph.nodes.counts.items():
        nodes = data[node_type(step)]
        nodes.x = graph.node_features[step]
        nodes.num_nodes = count
        nodes.unit = graph.units[step]
        nodes.layer = graph.layer_features[step][None]
    folded = graph.folded()
    for block in graph.blocks:
        if block.step in graph.nodes.reads:
            _add_weights(data, graph, block, folded[block.step].weight)
    free: dict[tuple[str, str, str], list[Tensor]] = {}
    for edges in graph.nodes.edges:
        free.setdefault((node_type(edges.source), edges.relation, node_type(edges.target)), []).append(edges.index)
    for kind, found in free.items():
        data[kind].edge_index = torch.unique(torch.cat(found, dim=1), dim=1)
    return data


def with_hetero_data(graph: NeuronGraph, data: HeteroData) -> NeuronGraph:
    """The way back: a graph of the same architecture whose weights are those of the edges.

    Biases, normalisations and weights without a block stay those of `graph`; features of nodes and layers are not read. Neither is modified.

    Args:
        graph: of the architecture that `data` came from.
        data: what `to_hetero_data` returned, with other values in `edge_attr`; edges may be in another order, and some may be
            missing: their weights become 0.

    Raises:
        InvalidInput: edges that are not those of the architecture, or two that say different things about one tied weight; all are listed.
    """
    targets = {node_type(block.step): block for block in graph.blocks if block.step in graph.nodes.reads}
    weights = {block.tensor: graph.tensors[block.tensor].detach().flatten().clone() for block in targets.values()}
    for block in targets.values():
        heard = graph.nodes.reads[block.step][graph.inputs(block)] >= 0  # a constant has no node, and its weight no edge
        weights[block.tensor][graph.entries(block)[heard].flatten()] = 0.0
    known = {tensor: torch.zeros(len(values), dtype=torch.bool) for tensor, values in weights.items()}
    problems = []
    for source, relation, target in data.edge_types:
        if relation != "weight":
            continue
        edge, heard_by = data[source, relation, target], targets.get(target)
        place = f"edges from '{source}' to '{target}'"
        entry, values = edge.get("entry"), edge.get("edge_attr")
        if heard_by is None or entry is None or values is None or values.shape != (len(entry), 1):
            problems.append(f"{place}: expected edge_attr (E, 1) and entry (E,) of a layer with weights of this architecture")
            continue
        flat, seen = weights[heard_by.tensor], known[heard_by.tensor]
        if len(entry) and (int(entry.min()) < 0 or int(entry.max()) >= len(flat)):
            problems.append(f"{place}: entries {int(entry.min())} to {int(entry.max())}, '{heard_by.tensor}' has 0 to {len(flat) - 1}")
            continue
        new = values[:, 0].to(flat.dtype)
        if bool((seen[entry] & (flat[entry] != new)).any()):
            problems.append(f"{place}: other weights than another layer has that shares '{heard_by.tensor}'")
        flat[entry], seen[entry] = new, True
    if problems:
        raise InvalidInput("these edges are no weights of the network:\n" + "\n".join(f"  - {p}" for p in problems))
    shaped = {tensor: flat.reshape(graph.spec.shapes[tensor]) for tensor, flat in weights.items()}
    untouched = {name: tensor for name, tensor in graph.tensors.items() if name not in graph.spec.aliases}
    return NeuronGraph(graph.architecture, {**untouched, **shaped})


def _add_weights(data: HeteroData, graph: NeuronGraph, block: WeightBlock, folded: Tensor) -> None:
    weight = graph.weight(block)
    outputs, _, positions = weight.shape
    index = graph.inputs(block)[:, :, None].expand(weight.shape).flatten()
    target = torch.arange(outputs)[:, None, None].expand(weight.shape).flatten()
    kernel = torch.arange(positions).expand(weight.shape).flatten()
    entries = graph.entries(block).flatten()
    flat = graph.flatten_positions(block)
    source = graph.nodes.reads[block.step][index]
    for step, chosen in graph.nodes.locate(source):
        edge = data[node_type(step), "weight", node_type(block.step)]
        edge.edge_index = torch.stack([source[chosen] - graph.nodes.offsets[step], target[chosen]])
        edge.edge_attr = weight.flatten()[chosen, None]
        edge.folded = folded.flatten()[chosen, None]
        edge.entry = entries[chosen]
        edge.kernel = kernel[chosen]
        edge.offset = graph.kernel_offsets(block)[edge.kernel]
        edge.position = flat.index[index[chosen]]
        edge.grid = flat.grid[index[chosen]]
