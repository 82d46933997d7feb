"""The neuron graph as a PyTorch Geometric object: one node type per layer, one edge type per weight block."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from graphalign.architecture import WeightBlock
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
      dimensions) its centred offset, `position` (E,) flatten position and `grid` (E, D) its coordinates. Edges run over
      (o, i, s) in order.
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


def _add_weights(data: HeteroData, graph: NeuronGraph, block: WeightBlock, folded: Tensor) -> None:
    weight = graph.weight(block)
    outputs, _, positions = weight.shape
    index = graph.inputs(block)[:, :, None].expand(weight.shape).flatten()
    target = torch.arange(outputs)[:, None, None].expand(weight.shape).flatten()
    kernel = torch.arange(positions).expand(weight.shape).flatten()
    flat = graph.flatten_positions(block)
    source = graph.nodes.reads[block.step][index]
    for step, chosen in graph.nodes.locate(source):
        edge = data[node_type(step), "weight", node_type(block.step)]
        edge.edge_index = torch.stack([source[chosen] - graph.nodes.offsets[step], target[chosen]])
        edge.edge_attr = weight.flatten()[chosen, None]
        edge.folded = folded.flatten()[chosen, None]
        edge.kernel = kernel[chosen]
        edge.offset = graph.kernel_offsets(block)[edge.kernel]
        edge.position = flat.index[index[chosen]]
        edge.grid = flat.grid[index[chosen]]
