"""Weights that go to PyTorch Geometric or networkx and come back are the same to the last bit."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from graphalign.errors import InvalidInput
from graphalign.graph import NeuronGraph
from graphalign.hetero import with_hetero_data
from graphalign.neuron_networkx import with_networkx

from .traced import other_state, traced

NAMES = ("mlp_2", "mlp_batch_norm", "cnn_flatten", "resnext", "unet_transposed", "gpt", "encoder_layer_relu")


def pair(name: str) -> tuple[NeuronGraph, NeuronGraph]:
    network = traced(name)
    return NeuronGraph(network.architecture, network.state), NeuronGraph(network.architecture, other_state(name))


def assert_weights_of(found: NeuronGraph, weights: NeuronGraph, rest: NeuronGraph) -> None:
    reads = weights.nodes.reads
    carried = {b.tensor for b in weights.blocks if b.step in reads and bool((reads[b.step] >= 0).all())}
    assert carried
    for name in rest.spec.shapes:
        assert torch.equal(found.tensors[name], (weights if name in carried else rest).tensors[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_from_pyg_and_networkx(name: str) -> None:
    first, second = pair(name)
    before = {key: tensor.clone() for key, tensor in second.tensors.items()}
    assert_weights_of(second.with_hetero_data(first.to_hetero_data()), first, second)
    neurons = first.neurons_to_networkx()
    assert nx.is_directed_acyclic_graph(neurons)
    assert len(neurons) == sum(first.nodes.counts.values())
    assert_weights_of(second.with_networkx(neurons), first, second)
    assert all(torch.equal(tensor, before[key]) for key, tensor in second.tensors.items())


@pytest.mark.parametrize("name", ["mlp_2", "unet_transposed", "resnext"])
def test_entries_are_places_in_the_flattened_tensor(name: str) -> None:
    graph, _ = pair(name)
    for block in graph.blocks:
        assert torch.equal(graph.tensors[block.tensor].flatten()[graph.entries(block)], graph.weight(block))


def test_changed_removed_and_reordered_edges() -> None:
    graph, _ = pair("mlp_2")
    neurons = graph.neurons_to_networkx()
    edges = list(neurons.edges(keys=True, data=True))
    (_, b, _, values), (c, d, other, removed) = [edge for edge in edges if edge[3]["relation"] == "weight"][:2]
    values["weight"] = 42.0
    neurons.remove_edge(c, d, other)
    tensor = graph.block_of[b[0]].tensor
    found = graph.with_networkx(neurons).tensors[tensor].flatten()
    expected = graph.tensors[tensor].flatten().clone()
    expected[values["entry"]], expected[removed["entry"]] = 42.0, 0.0
    assert torch.equal(found, expected)
    data = graph.to_hetero_data()
    for kind in data.edge_types:
        if kind[1] == "weight":
            order = torch.randperm(len(data[kind].entry), generator=torch.Generator().manual_seed(0))
            data[kind].entry, data[kind].edge_attr = data[kind].entry[order], data[kind].edge_attr[order]
    assert_weights_of(graph.with_hetero_data(data), graph, graph)


def test_edges_of_something_else_are_refused() -> None:
    graph, _ = pair("mlp_2")
    data = graph.to_hetero_data()
    first, second = [kind for kind in data.edge_types if kind[1] == "weight"][:2]
    data[first].entry = data[first].entry + 1000
    del data[second].edge_attr
    with pytest.raises(InvalidInput, match=r"(?s)entries 1000 to 1039, '0.weight' has 0 to 39.*expected edge_attr \(E, 1\) and entry"):
        with_hetero_data(graph, data)
    neurons = graph.neurons_to_networkx()
    for *_, values in neurons.edges(data=True):
        values.pop("weight", None)
    with pytest.raises(InvalidInput, match="found edges without weight or entry"):
        with_networkx(graph, neurons)


def test_tied_weights_have_to_agree() -> None:
    graph, _ = pair("gpt")
    shared = {name: [b for b in graph.blocks if b.tensor == name and b.step in graph.nodes.reads] for name in graph.spec.shapes}
    tied = next((blocks for blocks in shared.values() if len(blocks) > 1), None)
    if tied is None:
        pytest.skip("no weight of this network is used twice")
    data = graph.to_hetero_data()
    kind = next(k for k in data.edge_types if k[1] == "weight" and k[2] == tied[-1].step)
    data[kind].edge_attr = data[kind].edge_attr + 1.0
    with pytest.raises(InvalidInput, match=f"other weights than another layer has that shares '{tied[0].tensor}'"):
        with_hetero_data(graph, data)
