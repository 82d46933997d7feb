"""The neuron graph as a PyTorch Geometric object: one node type per layer, one edge type per weight block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from graphalign.architecture import WeightBlock
from graphalign.graph import NeuronGraph


def to_hetero_data(graph: NeuronGraph) -> HeteroData:
    """The graph with every weight as an edge; for VGG-sized networks use the dense path, edges take O * I * S rows.

    Node type = step of a layer: `x` (N, 3) as `features.NODE_FEATURES`, `unit` (N,) unit over all cells or -1, `layer` (1, F) as
    `features.LAYER_FEATURES`. Edge types:

    - (source, "weight", target) per weight block and layer it reads: `edge_index` (2, E), `edge_attr` (E, 1) raw weight,
      `folded` (E, 1) weight after folding a batch normalisation, `kernel` (E,) kernel position, `offset` (E, spatial
      dimensions) its centred offset, `position` (E,) flatten position and `grid` (E, D) its coordinates. Edges run over
      (o, i, s) in order.
    - (source, "identity", target): a node continues as another one (activation, norm, sum, concatenation).
    - (source, "mix", target): a node enters a reduction or a product over nodes (attention scores).
    """
    data = HeteroData()
    for step, count in graph.nodes.counts.items():
        data[step].x = graph.node_features[step]
        data[step].num_nodes = count
        data[step].unit = graph.units[step]
        data[step].layer = graph.layer_features[step][None]
    folded = graph.folded()
    for block in graph.blocks:
        if block.step in graph.nodes.reads:
            _add_weights(data, graph, block, folded[block.step].weight)
    free: dict[tuple[str, str, str], list[Tensor]] = {}
    for edges in graph.nodes.edges:
        free.setdefault((edges.source, edges.relation, edges.target), []).append(edges.index)
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
        edge = data[step, "weight", block.step]
        edge.edge_index = torch.stack([source[chosen] - graph.nodes.offsets[step], target[chosen]])
        edge.edge_attr = weight.flatten()[chosen, None]
        edge.folded = folded.flatten()[chosen, None]
        edge.kernel = kernel[chosen]
        edge.offset = graph.kernel_offsets(block)[edge.kernel]
        edge.position = flat.index[index[chosen]]
        edge.grid = flat.grid[index[chosen]]
