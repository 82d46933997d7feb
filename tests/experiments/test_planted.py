from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphalign import group
from graphalign.converters.trace import trace_architecture
from graphalign.experiments import planted
from graphalign.experiments.networks import FAMILIES
from graphalign.zoo.networks import mlp, resnet, vgg


def test_recovery_counts_units_and_equal_units() -> None:
    torch.manual_seed(0)
    network = mlp((6,), (1, 2, 2))
    with torch.no_grad():  # units 1 and 4 become the same
        network[1].weight[4], network[1].bias[4] = network[1].weight[1].clone(), network[1].bias[1].clone()
        network[3].weight[:, 4] = network[3].weight[:, 1].clone()
    spec = trace_architecture(network, torch.zeros(1, 1, 2, 2)).spec
    (cell,) = spec.cells
    state = group.all_tensors(network)
    shuffle = {cell.name: torch.tensor([2, 0, 1, 5, 3, 4])}
    truth = group.inverse(shuffle)
    assert planted.recovered(spec, state, shuffle, truth) == 1.0
    swapped = truth[cell.name].clone()
    swapped[[1, 4]] = swapped[[4, 1]]
    assert planted.recovered(spec, state, shuffle, {cell.name: swapped}) == 1.0
    wrong = truth[cell.name].clone()
    wrong[[0, 1, 2]] = wrong[[1, 2, 0]]
    assert planted.recovered(spec, state, shuffle, {cell.name: wrong}) == 0.5


def test_planted_copies_compute_the_same_and_noise_spares_statistics() -> None:
    build, example = FAMILIES["VGG-BN"]
    torch.manual_seed(1)
    network = planted.randomise(build(), torch.Generator().manual_seed(1)).double()
    architecture = trace_architecture(network, example().double())
    state = group.all_tensors(network)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    copy, shuffle = planted.planted(architecture.spec, state, 0.0, torch.Generator().manual_seed(2))
    assert torch.allclose(torch.func.functional_call(network, copy, (x,)), network(x), atol=1e-10)
    noisy, shuffle = planted.planted(architecture.spec, state, 0.1, torch.Generator().manual_seed(2))
    back = group.apply_to_state(architecture.spec, group.inverse(shuffle), noisy)
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(back[name], tensor)
        elif tensor.numel() > 100:
            assert float((back[name] - tensor).std() / tensor.std()) == pytest.approx(0.1, rel=0.3)


def test_sizes_of_the_full_networks() -> None:
    def parameters(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    from graphalign.experiments.networks import VGG16

    with torch.device("meta"):
        assert parameters(resnet((3, 4, 6, 3), 64, bottleneck=True, imagenet_stem=True, classes=1000)) == 25_557_032
        assert parameters(vgg(VGG16, hidden=(4096, 4096), pool=7, classes=1000)) == 138_357_544
        assert parameters(vgg(VGG16)) == 14_719_818


def test_residual_network_of_the_issue() -> None:
    network = planted.residual_network(3, 5, "ones", torch.Generator().manual_seed(0))
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["0.weight"] == shapes["3.weight"] == (3, 3)
    assert shapes["1.first.weight"] == shapes["2.first.weight"] == (5, 3)
    assert shapes["1.second.bias"] == (3,)
    assert len(shapes) == 10
    assert bool((network.get_parameter("0.weight") == 1).all())
    spec = trace_architecture(network, torch.zeros(1, 3)).spec
    assert sorted(cell.units for cell in spec.cells) == [3, 5, 5]


def test_quick_tables(tmp_path: Path) -> None:
    results = planted.run(("MLP", "Transformer"), 1, 2, ((3, 5),), "command")
    families, residual = planted.tables(results)
    assert [row[0] for row in families.rows] == ["MLP", "Transformer"]
    assert families.rows[0][2:4] == ["100.0 (100.0)", "100.0 (100.0)"]
    assert [row[:2] for row in residual.rows] == [["(3, 5)", "ones (the issue)"], ["(3, 5)", "random"]]
    for table in (families, residual):
        assert all(len(row) == len(table.columns) for row in table.rows)
    planted.publish(tmp_path, "planted", results, [families, residual])
    assert json.loads((tmp_path / "planted.json").read_text())["residual"][0]["networks"] == 2
