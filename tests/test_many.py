"""Many pairs in one call: the alignments that each pair gets alone, whatever the pairs have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphalign as ga
from graphalign import Aligner, AlignerConfig, InvalidInput, SpecMismatch, UnsupportedNetwork, group, many
from graphalign.methods import candidates
from graphalign.methods.batches import Batches, batch_size
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from tests.traced import build, cast, traced

ALIGNER = Aligner(AlignerConfig(codes=24, candidates=4, steps=3, sinkhorn_iterations=8))
SETTINGS: dict[str, Any] = {"aligner": ALIGNER, "example_input": torch.zeros(1, 6)}


def mlp(seed: int, width: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 9), nn.ReLU(), nn.Linear(9, 4))


def convolutional(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3))


def assert_same(found: ga.Alignment, alone: ga.Alignment) -> None:
    assert found == dataclasses.replace(alone, permutations=found.permutations)
    assert group.same(found.permutations, alone.permutations)
    for stage, expected in zip(found.history, alone.history, strict=True):
        assert stage.method == expected.method
        assert stage.objective == (None if expected.objective is None else pytest.approx(expected.objective, rel=1e-3, abs=1e-6))
        assert stage.losses == pytest.approx(expected.losses, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["mlp_3", "cnn_flatten", "vgg_11_bn", "resnet_basic", "resnext", "encoder_layer_relu"])
def test_every_family_gets_together_what_it_gets_alone(name: str) -> None:
    """In float64, where rounding decides nothing."""
    states = [{n: cast(t, torch.float64) for n, t in group.all_tensors(build(name, seed=seed)[0]).items()} for seed in range(4)]
    module = build(name)[0].double()
    architecture = traced(name).architecture
    problems = [
        Problem(architecture.spec, states[i], states[j], seed=3, architecture=architecture, module=module) for i, j in ((0, 1), (2, 1), (3, 0))
    ]
    solver = GNN(ALIGNER)
    together = Batches(solver)(problems)
    for problem, found in zip(problems, together, strict=True):
        alone = solver(problem)
        assert group.same(found.permutations, alone.permutations)
        assert found.losses == pytest.approx(alone.losses, rel=1e-6)
        assert found.objective == (None if alone.objective is None else pytest.approx(alone.objective, rel=1e-6))


@pytest.mark.parametrize("settings", [{}, {"data": [torch.randn(40, 6)]}, {"steps": 0}, {"refine": "consensus"}, {"seed": 5}])
def test_the_settings_are_those_of_align(settings: dict[str, Any]) -> None:
    pairs = [(mlp(0), mlp(1)), (mlp(2), mlp(1)), (mlp(3), mlp(4))]
    for (a, b), found in zip(pairs, ga.align_many(pairs, **SETTINGS, **settings), strict=True):
        assert_same(found, ga.align(a, b, **SETTINGS, **settings))


@pytest.mark.parametrize("method", ["weight", "sinkhorn", "activation"])
def test_other_methods_do_what_they_do_alone(method: str) -> None:
    pairs = [(mlp(0), mlp(1)), (mlp(2), mlp(1))]
    settings: dict[str, Any] = {"method": method, "example_input": torch.zeros(1, 6)}
    settings |= {"objective": "l2", "steps": 6} if method == "sinkhorn" else {}
    for (a, b), found in zip(pairs, ga.align_many(pairs, **settings), strict=True):
        assert_same(found, ga.align(a, b, **settings))


def test_architectures_and_kinds_of_networks_mix_and_the_order_stays(tmp_path: Path) -> None:
    ga.save_state(mlp(1).state_dict(), tmp_path / "b.safetensors")
    pairs: list[tuple[Any, Any]] = [
        (mlp(0).state_dict(), mlp(1).state_dict()), (mlp(0, 7).state_dict(), mlp(1, 7).state_dict()),
        (mlp(2).state_dict(), tmp_path / "b.safetensors"), (mlp(3, 7).state_dict(), mlp(1, 7).state_dict()),
    ]  # fmt: skip
    for (a, b), found in zip(pairs, ga.align_many(pairs, aligner=ALIGNER), strict=True):
        assert_same(found, ga.align(a, b, aligner=ALIGNER))
    convolutions = [(convolutional(0), convolutional(1).state_dict()), (convolutional(2), convolutional(3))]
    image = torch.zeros(1, 1, 8, 8)
    for (a, b), found in zip(convolutions, ga.align_many(convolutions, aligner=ALIGNER, example_input=image), strict=True):
        assert_same(found, ga.align(a, b, aligner=ALIGNER, example_input=image))


def test_integer_tensors_of_one_pair_are_not_used_for_another() -> None:
    class Picked(nn.Module):
        order: torch.Tensor

        def __init__(self, seed: int) -> None:
            super().__init__()
            self.body = mlp(seed)
            self.register_buffer("order", torch.randperm(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x[:, self.order])  # type: ignore[no-any-return]

    pairs = [(Picked(0), Picked(1)), (Picked(2), Picked(3))]
    for (a, b), found in zip(pairs, ga.align_many(pairs, **SETTINGS), strict=True):
        assert_same(found, ga.align(a, b, **SETTINGS))


def test_one_to_many_and_all_pairs_name_the_pairs() -> None:
    networks = [mlp(seed) for seed in range(4)]
    for network, found in zip(networks[1:], ga.align_to(networks[0], networks[1:], **SETTINGS), strict=True):
        assert_same(found, ga.align(networks[0], network, **SETTINGS))
    everything = ga.align_all(networks, **SETTINGS)
    assert list(everything) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for (i, j), found in everything.items():
        assert_same(found, ga.align(networks[i], networks[j], **SETTINGS))


def test_networks_are_read_traced_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(name) or original(*args, **kwargs))

    for seed in range(4):
        ga.save_state(mlp(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    for name in ("trace_architecture", "load_state", "check_weights"):
        counted(ga.reading, name)
    counted(Aligner, "opinions")
    counted(Aligner, "pool")
    monkeypatch.setattr(many, "MEMORY", 1)
    ga.align_all([tmp_path / f"{seed}.safetensors" for seed in range(4)], aligner=ALIGNER)
    assert {name: calls.count(name) for name in calls} == {
        "trace_architecture": 1, "load_state": 4, "check_weights": 4, "opinions": 1, "pool": 1,
    }  # fmt: skip


def test_memory_decides_how_many_pairs_go_together() -> None:
    architecture = traced("mlp_3").architecture
    sizes = [batch_size(architecture, memory) for memory in (1, 1 << 26, 1 << 40)]
    assert sizes[0] == 1 < sizes[1] <= sizes[2]
    pairs = [(mlp(seed), mlp(seed + 1)) for seed in range(3)]
    told: list[tuple[int, int, str]] = []
    few = ga.align_many(pairs, memory=1, progress=lambda *news: told.append(news), **SETTINGS)
    assert [done for done, _, what in told if what == "aligning"] == [0, 1, 2]
    assert told[-1] == (3, 3, "done")
    for one, other in zip(few, ga.align_many(pairs, **SETTINGS), strict=True):
        assert_same(one, other)


def test_opinions_that_were_dropped_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [mlp(seed) for seed in range(4)]
    expected = ga.align_all(networks, **SETTINGS)
    monkeypatch.setattr(candidates, "HELD", 1)
    for places, found in ga.align_all(networks, **SETTINGS).items():
        assert_same(found, expected[places])


def test_errors_name_every_bad_pair() -> None:
    broken = mlp(0)
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan  # type: ignore[index]
    pairs: list[tuple[Any, Any]] = [(mlp(0), mlp(1)), (mlp(0), mlp(1, 7)), (mlp(0), broken)]
    with pytest.raises(SpecMismatch, match=r"(?s)2 of the pairs .*pair 1: .*10 units in A, 7 in B.*pair 2: .*1 NaN"):
        ga.align_many(pairs, **SETTINGS)
    with pytest.raises(InvalidInput, match=r"pair 1: .*NaN or infinity"):
        ga.align_many([*pairs[:1], (mlp(0), huge())], **SETTINGS, data=[torch.ones(8, 6)])


def huge() -> nn.Module:
    network = mlp(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e30)
    return network


def test_an_unsupported_network_keeps_its_offences() -> None:
    class Sorted(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sort().values  # type: ignore[no-any-return]

    pairs = [(Sorted(nn.Linear(6, 5), nn.ReLU()), Sorted(nn.Linear(6, 5), nn.ReLU()))]
    with pytest.raises(UnsupportedNetwork, match=r"(?s)pair 0: .*sort") as raised:
        ga.align_many(pairs, **SETTINGS)
    assert raised.value.offences


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([], {}, "no pairs"),
        ([(mlp(0), mlp(1))], {"method": "transport"}, "transport"),
        ([(mlp(0), mlp(1))], {"memory": 0}, "memory=0"),
        ([(mlp(0), mlp(1))], {"refine": "activation"}, "activation"),
        ([(mlp(0), mlp(1))], {"example_input": None}, "pair 0: .*example_input"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used(pairs: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ga.align_many(pairs, **{"example_input": torch.zeros(1, 6), **settings})
    with pytest.raises(InvalidInput, match="at least two"):
        ga.align_all([mlp(0)])
