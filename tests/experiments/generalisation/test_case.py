from __future__ import annotations

import pytest
import torch

import graphalign as ga
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.case import Case, family_of, open_case
from graphalign.experiments.generalisation.protocol import Protocol
from graphalign.methods.naive import Naive
from graphalign.zoo.zoo import Zoo

PROTOCOL = Protocol(pairs=3, tuning_pairs=1, points=3, test_images=100, statistics_images=200, inputs=20, images=300, batch=50)


def case_of(zoo: Zoo, section: str) -> Case:
    return open_case(zoo, zoo.select(section=section)[0], PROTOCOL)


def test_a_curve_is_that_of_the_two_networks(zoo: Zoo) -> None:
    case = case_of(zoo, "width")
    states = zoo.states(case.group)
    networks = []
    for index in case.pairs[1]:
        network = zoo.module(case.group)
        network.load_state_dict(states[index])
        networks.append(network)
    images = zoo.images(case.group)
    expected = ga.barrier(*networks, [(images.test_x[:100], images.test_y[:100])], points=3)
    found = case.curve(1, Naive()(case.problems[1]).permutations)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.accuracies == pytest.approx(expected.accuracies)


def test_permutations_move_b_alone(zoo: Zoo) -> None:
    case = case_of(zoo, "width")
    naive = Naive()(case.problems[0]).permutations
    turned = case.curve(0, {name: perm.roll(1) for name, perm in naive.items()})
    as_is = case.curve(0, naive)
    assert turned.losses[[0, -1]] == pytest.approx(as_is.losses[[0, -1]], rel=1e-4)
    assert abs(turned.losses[1] - as_is.losses[1]) > 1e-3


def test_what_methods_see(zoo: Zoo) -> None:
    data = case_of(zoo, "width").data
    images = zoo.images(zoo.select(section="width")[0])
    sizes = {sees: sum(len(b[0] if isinstance(b, tuple) else b) for b in batches or []) for sees, batches in data.items()}
    everything = len(images.x)
    assert sizes == {"nothing": 0, "inputs": 20, "images": 300, "labels": everything, "everything": everything}
    rows = {tuple(x.flatten().tolist()): int(y) for x, y in zip(images.x, images.y, strict=True)}
    x, y = data["labels"][0]  # type: ignore[index]
    assert [rows[tuple(image.flatten().tolist())] for image in x] == y.tolist()
    assert torch.equal(x[:20], data["inputs"][0])  # type: ignore[index]
    assert not torch.equal(x, images.x[:50])


def test_batch_norm_gets_new_statistics(zoo: Zoo) -> None:
    case = case_of(zoo, "depth_vgg")
    assert family_of(case.group) == "vgg-bn"
    assert case.statistics is not None
    assert sum(map(len, case.statistics)) == 200
    assert case_of(zoo, "width").statistics is None
    naive = Naive()(case.problems[0]).permutations
    module = zoo.module(case.group)
    other = zoo.module(case.group)
    other.load_state_dict(zoo.states(case.group)[1])
    expected = ga.barrier(module, other, case.test, points=3, reset_batch_norm=case.statistics)
    assert case.curve(0, naive).losses == pytest.approx(expected.losses, rel=1e-5)
    assert case.curve(0, naive).losses[1] != pytest.approx(ga.barrier(module, other, case.test, points=3).losses[1], rel=1e-2)


def test_signals_are_measured_on_their_pixels(zoo: Zoo) -> None:
    case = case_of(zoo, "in_distribution")
    assert len(case.pairs) == 3
    curve = case.curve(0, Naive()(case.problems[0]).permutations)
    assert curve.accuracies is None
    assert sum(len(x) for x, _ in case.test) == 64
    psnr = zoo.select(section="in_distribution")[0].psnr[case.pairs[0][1]]
    assert 10 * torch.log10(4 / torch.tensor(curve.losses[0])) == pytest.approx(psnr, abs=0.01)


def test_one_network_has_no_pair(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    group = zoo.select(section="width")[0]
    monkeypatch.setattr(Zoo, "states", lambda self, group: [{}])
    with pytest.raises(InvalidInput, match=r"found 1 network\(s\), expected at least 2 to align; raise `seeds`"):
        open_case(zoo, group, PROTOCOL)
