"""Neuron graphs: nodes, weights, offsets, folding, features, PyG and networkx forms, and the per-edge twin of dense layers."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import group
from graphalign.converters.graph import neuron_graph
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.features import LAYER_FEATURES, NODE_FEATURES
from graphalign.graph import NeuronGraph
from graphalign.hetero import node_type
from graphalign.testing import EdgeMessage, assert_equivariant, assert_same_function, brute_force_assignment

from .networks import FAMILIES, randomise

WITHOUT_BLOCKS = ("weight_norm", "attention_einsum", "mixer")  # weights that are computed, have several axes of units, or mix tokens
WITH_KEYWORDS = ("mixed_inputs",)  # an example input is positional or by keyword
GRAPHS = sorted(name for name in set(FAMILIES) - set(WITH_KEYWORDS) if not name.startswith("vgg") or name == "vgg_11_bn")


def build(name: str, seed: int = 0) -> tuple[nn.Module, Any, NeuronGraph]:
    torch.manual_seed(seed)
    model, args, kwargs = FAMILIES[name]()
    model = randomise(model, torch.Generator().manual_seed(seed + 1)).double().eval()
    example: Any = kwargs or args
    values = example.values() if isinstance(example, dict) else example
    cast = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
    example = dict(zip(example, cast, strict=True)) if isinstance(example, dict) else tuple(cast)
    return model, example, neuron_graph(model, example)


def sequential(*layers: nn.Module, shape: tuple[int, ...]) -> NeuronGraph:
    model = randomise(nn.Sequential(*layers), torch.Generator().manual_seed(0)).double().eval()
    return neuron_graph(model, torch.randn(2, *shape, dtype=torch.float64))


def nodes_of_heads(graph: NeuronGraph) -> set[str]:
    """Layers whose nodes are heads: they follow their blocks without being units themselves."""
    found: set[str] = set()
    for edges in graph.nodes.edges:
        if (edges.relation == "mix" or edges.source in found) and bool((graph.units[edges.target] < 0).all()):
            found.add(edges.target)
    return found


def node_permutation(graph: NeuronGraph, element: dict[str, Tensor]) -> dict[str, Tensor]:
    """By step, the node of the graph whose place each node of the permuted graph takes."""
    source = torch.arange(sum(cell.units for cell in graph.spec.cells))
    for cell in graph.spec.cells:
        first = graph.architecture.offsets[cell.name]
        source[first : first + cell.units] = first + element[cell.name]
    result = {}
    for step, units in graph.units.items():
        occurrence = [(u, units[:i].tolist().count(u)) if u >= 0 else (-1, i) for i, u in enumerate(units.tolist())]
        place = {key: i for i, key in enumerate(occurrence)}
        result[step] = torch.tensor([place[(int(source[u]), n)] if u >= 0 else n for u, n in occurrence])
    return result


def weights_by_place(edge: Any, source: Tensor, target: Tensor, values: Tensor) -> dict[tuple[int, ...], float]:
    keys = torch.stack([source[edge.edge_index[0]], target[edge.edge_index[1]], edge.kernel, edge.position], dim=1)
    return dict(zip(map(tuple, keys.tolist()), values[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_family_is_one_acyclic_graph_in_topological_order(name: str) -> None:
    *_, graph = build(name)
    data = graph.to_hetero_data()
    assert data.validate()
    layers: nx.DiGraph = nx.DiGraph()
    layers.add_nodes_from(data.node_types)
    layers.add_edges_from((source, target) for source, _, target in data.edge_types)
    assert nx.is_weakly_connected(layers)
    order = {node_type(step): i for i, step in enumerate(graph.nodes.counts)}
    assert all(order[source] < order[target] for source, _, target in data.edge_types)
    drawn = graph.to_networkx()
    assert list(drawn) == [layer.step for layer in graph.layers]
    assert all(list(drawn).index(a) < list(drawn).index(b) for a, b in drawn.edges)


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - set(WITHOUT_BLOCKS)))
def test_permuting_a_network_permutes_the_nodes_of_its_graph_and_nothing_else(name: str) -> None:
    *_, graph = build(name)
    element = group.random_element(graph.spec, torch.Generator().manual_seed(3))
    moved = NeuronGraph(graph.architecture, group.apply_to_state(graph.spec, element, graph.tensors))
    before, after, place = graph.to_hetero_data(), moved.to_hetero_data(), node_permutation(graph, element)
    place, heads = {node_type(s): p for s, p in place.items()}, {node_type(s) for s in nodes_of_heads(graph)}
    identity = {node_type(step): torch.arange(count) for step, count in graph.nodes.counts.items()}
    assert before.edge_types == after.edge_types
    for step in before.node_types:
        torch.testing.assert_close(after[step].x, before[step].x[place[step]], rtol=1e-10, atol=1e-12)
    for source, relation, target in before.edge_types:
        old, new = before[source, relation, target], after[source, relation, target]
        if relation == "weight":
            for field in ("edge_attr", "folded"):
                expected = weights_by_place(old, identity[source], identity[target], old[field])
                found = weights_by_place(new, place[source], place[target], new[field])
                assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)
        elif not heads & {source, target}:
            pairs = torch.stack([place[source][new.edge_index[0]], place[target][new.edge_index[1]]])
            assert set(map(tuple, pairs.T.tolist())) == set(map(tuple, old.edge_index.T.tolist()))


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - set(WITHOUT_BLOCKS)))
def test_layers_that_carry_cells_have_movable_nodes(name: str) -> None:
    *_, graph = build(name)
    for layer in graph.layers:
        if layer.op != "output":
            assert bool((graph.units[layer.step] >= 0).any()) == bool(layer.cells), layer


def test_offsets_are_centred_and_follow_dilation() -> None:
    wide_kernel = nn.Conv2d(4, 5, (1, 4), dilation=2)
    graph = sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), wide_kernel, nn.ReLU(), nn.Conv2d(5, 2, 2), shape=(1, 14, 14))
    odd, wide, even = graph.blocks
    assert graph.kernel_offsets(odd)[4].tolist() == [0, 0]
    assert graph.kernel_offsets(odd)[[0, 5]].tolist() == [[-1, -1], [0, 1]]
    assert graph.kernel_offsets(wide).tolist() == [[0, -3], [0, -1], [0, 1], [0, 3]]
    assert graph.kernel_offsets(even).tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]


def test_a_flatten_repeats_channels_over_positions() -> None:
    graph = sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 12, 2), shape=(1, 5, 6))
    positions = graph.flatten_positions(graph.blocks[1])
    assert positions.count == 12
    assert positions.index.tolist() == list(range(12)) * 3
    torch.testing.assert_close(positions.grid[[0, 5, 11]], torch.tensor([[-1.0, -1.0], [0.0, -1 / 3], [1.0, 1.0]]))
    assert graph.flatten_positions(graph.blocks[0]).count == 1


def test_inputs_are_channels_pixels_or_vocabulary() -> None:
    channels = sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), shape=(3, 6, 6))
    pixels = sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3, 4, 4))
    features = sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), shape=(5, 6))
    words = neuron_graph(nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 3)), torch.tensor([[1, 2, 0]]))
    assert [next(iter(g.nodes.counts.values())) for g in (channels, pixels, features, words)] == [3, 48, 6, 11]
    assert words.weight(words.blocks[0]).shape == (4, 11, 1)


class Reversed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.relu(self.first(x)), torch.relu(self.second(x))
        return self.last(torch.cat([second, first], 1))  # type: ignore[no-any-return]


def test_a_concatenation_lists_nodes_in_the_order_of_its_operands() -> None:
    data = neuron_graph(Reversed(), torch.randn(2, 4)).to_hetero_data()
    assert data["relu", "identity", "cat"].edge_index.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert data["relu_1", "identity", "cat"].edge_index.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_folding_gives_the_function_of_the_normalised_layer() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=0.1)
    graph = sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), shape=(3, 6, 6))
    first, last = graph.blocks
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    layer = graph.folded()[first.step]
    found = F.conv2d(x, layer.weight.reshape(4, 3, 3, 3), layer.bias)
    torch.testing.assert_close(found, norm(conv(x)), rtol=1e-12, atol=1e-12)
    assert (layer.norm, graph.folded()[last.step].norm) == ("batch_norm", "batch_norm_1")
    assert graph.tensors["0.weight"].data_ptr() == conv.weight.data_ptr()


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.relu(self.norm(h)) + h)


class NormOverTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(3)
        self.last = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return result


@pytest.mark.parametrize(("model", "shape"), [(TwoReaders(), (2, 4)), (NormOverTokens(), (2, 3, 4))])
def test_a_norm_that_is_not_the_only_reader_or_runs_over_tokens_is_not_folded(model: nn.Module, shape: tuple[int, ...]) -> None:
    graph = neuron_graph(model, torch.randn(*shape))
    assert {layer.norm for layer in graph.folded().values()} == {None}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 4), (5,)),
        (nn.Conv1d(2, 4, 3, padding=1), (2, 9)),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 7, 6)),
        (nn.Conv2d(3, 4, 5, padding=2), (3, 7, 6)),
        (nn.Conv2d(3, 4, 2), (3, 7, 6)),
        (nn.Conv2d(3, 4, (4, 2), padding=1), (3, 7, 6)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
        (nn.Conv2d(3, 4, 3, dilation=2, padding=2), (3, 7, 6)),
    ],
    ids=str,
)
def test_messages_per_edge_agree_with_dense_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    last = nn.Linear(4, 2) if isinstance(layer, nn.Linear) else type(layer)(layer.out_channels, 2, 1)
    graph = sequential(layer, nn.ReLU(), last, shape=shape)
    (edge,) = (e for e in graph.to_hetero_data().edge_stores if e._key[1] == "weight" and e._key[2] == graph.blocks[0].step)
    x = torch.randn(3, *shape, dtype=torch.float64)
    geometry = {k: graph.blocks[0].geometry[k] for k in ("stride", "padding") if k in graph.blocks[0].geometry}
    sent = EdgeMessage(**geometry)(x.transpose(0, 1), edge, len(graph.blocks[0].target)).transpose(0, 1)
    layer.bias = None  # type: ignore[assignment]
    torch.testing.assert_close(sent, layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [2, 4])
def test_messages_per_edge_agree_with_grouped_convolutions(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    graph = sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(8, 2, 1), shape=(3, 5, 5))
    edge = graph.to_hetero_data()["relu", "weight", "conv2d_1"]
    assert edge.edge_index.shape[1] == conv.weight.numel()
    maps = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    sent = EdgeMessage(padding=1)(maps.transpose(0, 1), edge, 8).transpose(0, 1)
    torch.testing.assert_close(sent, F.conv2d(maps, conv.weight, padding=1, groups=groups), rtol=1e-12, atol=1e-12)


def test_messages_per_edge_agree_after_a_flatten() -> None:
    torch.manual_seed(0)
    graph = sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), shape=(2, 6, 6))
    edge = graph.to_hetero_data()["relu", "weight", "linear"]
    maps = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    sent = EdgeMessage()(maps.flatten(2).transpose(0, 1), edge, 5).T
    torch.testing.assert_close(sent, F.linear(maps.flatten(1), graph.tensors["3.weight"]), rtol=1e-12, atol=1e-12)


def test_transposed_grouped_kernels_are_oriented_from_source_to_target() -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
    graph = sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(6, 2, 1), shape=(1, 3, 3))
    block = graph.blocks[1]
    weight, inputs = graph.weight(block), graph.inputs(block)
    assert weight.shape == (6, 2, 4)
    dense = torch.zeros(6, 4, 4, dtype=torch.float64).scatter(1, inputs[:, :, None].expand(weight.shape), weight)
    impulse = torch.eye(4, dtype=torch.float64)[:, :, None, None]
    with torch.no_grad():
        response = up(impulse) - up(torch.zeros_like(impulse))
    torch.testing.assert_close(dense, response.flatten(2).transpose(0, 1), rtol=1e-12, atol=1e-12)
    assert torch.equal(graph.kernel_offsets(block)[0], torch.tensor([0.5, 0.5]))


def test_features_have_their_documented_names_and_values() -> None:
    graph = sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), shape=(6,))
    first = dict(zip(LAYER_FEATURES, graph.layer_features["linear"].tolist(), strict=True))
    assert first["kind: linear"] == 1
    assert first["log fan-in"] == pytest.approx(torch.tensor(7.0).log().item())
    assert (first["depth from inputs"], first["depth from outputs"]) == pytest.approx((0.25, 0.75))
    relu = dict(zip(LAYER_FEATURES, graph.layer_features["relu"].tolist(), strict=True))
    assert (relu["kind: activation"], relu["nonlinearity: relu"]) == (1, 1)
    nodes = graph.node_features["linear"]
    assert nodes.shape == (4, len(NODE_FEATURES))
    torch.testing.assert_close(nodes[:, 1], graph.tensors["0.bias"])
    torch.testing.assert_close(nodes[:, 0].exp(), graph.tensors["0.weight"].norm(dim=1) / 6**0.5, rtol=1e-9, atol=0)


def test_all_problems_of_the_tensors_are_reported_together() -> None:
    graph = sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), shape=(6,))
    broken = {**graph.tensors, "0.weight": torch.full((4, 6), float("nan")), "2.weight": torch.ones(2, 4, dtype=torch.long)}
    del broken["2.bias"]
    with pytest.raises(InvalidInput, match=r"(?s)'0.weight' holds 24 NaN.*'2.weight' has dtype torch.int64.*'2.bias' is missing"):
        NeuronGraph(graph.architecture, broken)
    with pytest.raises(SpecMismatch, match=r"'0.weight' has shape \(3, 6\), expected \(4, 6\)"):
        NeuronGraph(graph.architecture, {**graph.tensors, "0.weight": torch.ones(3, 6)})


def test_equivariance_check_passes_what_is_equivariant_and_fails_what_is_not() -> None:
    _, _, a = build("mlp_2", 0)
    _, _, b = build("mlp_2", 1)

    def rows(graph: NeuronGraph) -> dict[str, Tensor]:
        return {"0": graph.node_features["linear"], "2": graph.node_features["linear_1"]}

    def norms(x: NeuronGraph, y: NeuronGraph) -> dict[str, Tensor]:
        return {cell: rows(x)[cell] @ rows(y)[cell].T for cell in ("0", "2")}

    def positions(x: NeuronGraph, y: NeuronGraph) -> dict[str, Tensor]:
        return {cell: s + torch.arange(len(s))[:, None] + torch.arange(len(s)) for cell, s in norms(x, y).items()}

    def one_sided(x: NeuronGraph, y: NeuronGraph) -> dict[str, Tensor]:
        return {cell: rows(x)[cell] @ (2 * rows(y)[cell] - 1).T for cell in ("0", "2")}

    assert_equivariant(norms, a, b, tolerance=1e-12, seed=0)
    with pytest.raises(AssertionError, match="g F"):
        assert_equivariant(positions, a, b, seed=0)
    with pytest.raises(AssertionError, match=r"F\(B, A\)"):
        assert_equivariant(one_sided, a, b, seed=0)
    with pytest.raises(AssertionError, match=r"cell '2': F.* gives nothing"):
        assert_equivariant(lambda x, y: {"0": norms(x, y)["0"]}, a, b, seed=0)


def test_same_function_check() -> None:
    model, example, graph = build("resnet_basic")
    moved = group.apply_to_module(graph.spec, group.random_element(graph.spec, torch.Generator().manual_seed(2)), model)
    moved.train()
    assert_same_function(model, moved, example, 1e-12)
    assert moved.training
    with torch.no_grad():
        next(moved.parameters())[0] *= 2
    with pytest.raises(AssertionError, match="output 0 differ"):
        assert_same_function(model, moved, example, 1e-12)


def test_brute_force_assignment_finds_the_best_of_all() -> None:
    scores = torch.tensor([[5.0, 9.0, 1.0], [10.0, 9.0, 2.0], [8.0, 7.0, 4.0]])
    assert brute_force_assignment(scores).tolist() == [1, 0, 2]
    with pytest.raises(InvalidInput, match="n up to 9"):
        brute_force_assignment(torch.zeros(10, 10))
