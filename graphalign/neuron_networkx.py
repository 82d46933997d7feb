"""The neuron graph as a networkx graph: one node per neuron, one edge per weight, and the way back."""

from __future__ import annotations

import networkx as nx
import torch

from graphalign.errors import InvalidInput
from graphalign.graph import NeuronGraph
from graphalign.hetero import node_type, to_hetero_data, with_hetero_data
from graphalign.pyg import HeteroData


def neurons_to_networkx(graph: NeuronGraph) -> nx.MultiDiGraph[tuple[str, int]]:
    """A directed multigraph for networks of at most some ten thousand weights: every edge is a Python object.

    Nodes are (layer, number), layers as in `hetero.to_hetero_data`, with the attribute unit (unit over all cells, or -1). Edges have
    relation ("weight", "identity" or "mix"); those of a weight also have weight, kernel (position in the kernel) and entry (place in the
    flattened tensor). Several edges join two neurons where a kernel has several positions or a flatten keeps several of a channel.
    """
    data = to_hetero_data(graph)
    neurons: nx.MultiDiGraph[tuple[str, int]] = nx.MultiDiGraph()
    for step in graph.nodes.counts:
        layer = node_type(step)
        neurons.add_nodes_from(((layer, i), {"unit": unit}) for i, unit in enumerate(data[layer].unit.tolist()))
    for source, relation, target in data.edge_types:
        edge = data[source, relation, target]
        ends = edge.edge_index.T.tolist()
        if relation != "weight":
            neurons.add_edges_from(((source, i), (target, j), {"relation": relation}) for i, j in ends)
            continue
        values = zip(ends, edge.edge_attr[:, 0].tolist(), edge.kernel.tolist(), edge.entry.tolist(), strict=True)
        neurons.add_edges_from(
            ((source, i), (target, j), {"relation": relation, "weight": weight, "kernel": kernel, "entry": entry})
            for (i, j), weight, kernel, entry in values
        )
    return neurons


def with_networkx(graph: NeuronGraph, neurons: nx.MultiDiGraph[tuple[str, int]]) -> NeuronGraph:
    """The way back: a graph of the same architecture with the weights of the edges, as `hetero.with_hetero_data`; those removed become 0.

    Raises:
        InvalidInput: an edge of a weight lacks its weight or entry, or as `hetero.with_hetero_data`.
    """
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    missing = []
    for (source, i), (target, j), values in neurons.edges(data=True):
        if values.get("relation") != "weight":
            continue
        if "weight" not in values or "entry" not in values:
            missing.append(f"({source}, {i}) to ({target}, {j})")
            continue
        found.setdefault((source, target), []).append((values["entry"], values["weight"]))
    if missing:
        raise InvalidInput(f"with_networkx: found edges without weight or entry, expected both: {', '.join(missing[:10])}")
    data = HeteroData()
    for (source, target), edges in found.items():
        data[source, "weight", target].entry = torch.tensor([entry for entry, _ in edges])
        data[source, "weight", target].edge_attr = torch.tensor([[weight] for _, weight in edges], dtype=torch.float64)
    return with_hetero_data(graph, data)
