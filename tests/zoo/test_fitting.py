import math
from dataclasses import replace

import pytest
import torch
from torch import Generator

from graphalign.errors import InvalidInput
from graphalign.zoo import fitting
from graphalign.zoo.design import CNN, MLP, SIREN, VGG, ResNet
from graphalign.zoo.fitting import fit_many
from graphalign.zoo.images import read_images, signal, subset
from graphalign.zoo.initialisation import initialise
from graphalign.zoo.recipe import Recipe

RECIPE = Recipe("digits", epochs=2, batch=50)
SINE = Recipe("digits", epochs=10, batch=64, initialisation="siren", signal=3)


@pytest.fixture(scope="module")
def digits():
    return subset(read_images("digits"), 200)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, tensor in a.items():
            torch.testing.assert_close(tensor, b[key], rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, optimiser="adamw", weight_decay=0.1, augmentation="shift_flip"),
        replace(RECIPE, optimiser="sgd", rate=0.05, schedule="cosine", weight_decay=0.01),
        RECIPE,
    ],
    ids=lambda r: r.name,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_a_network_does_not_depend_on_those_trained_with_it(digits, recipe, dtype, tolerance):
    design = MLP((12, 10), "tanh")
    together = fit_many(design, recipe, digits, [5, 0, 7], dtype=dtype)
    alone = [fit_many(design, recipe, digits, [seed], dtype=dtype)[0] for seed in (5, 0, 7)]
    assert_close(together, alone, tolerance)
    assert together[0]["1.weight"].dtype == dtype
    assert not torch.allclose(together[0]["1.weight"], together[1]["1.weight"], atol=0.1)


def test_training_is_the_plain_loop(digits):
    recipe = replace(RECIPE, optimiser="sgd", rate=0.05, weight_decay=0.01, schedule="cosine")
    generator = Generator().manual_seed(4)
    network = MLP((6,)).build(digits.shape, digits.classes)
    initialise(network, "he", generator)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    rates = [0.05 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    for epoch in range(2):
        for step, index in enumerate(torch.randperm(200, generator=generator).split(50)):
            optimiser.param_groups[0]["lr"] = rates[4 * epoch + step]
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(digits.x[index]), digits.y[index]).backward()
            optimiser.step()
    assert_close(fit_many(MLP((6,)), recipe, digits, [4, 3])[:1], [network.state_dict()], 1e-5)


def test_more_networks_than_fit_at_once_are_the_same(digits, monkeypatch):
    design = MLP((6,))
    whole = fit_many(design, RECIPE, digits, range(5), dtype=torch.float64)
    monkeypatch.setitem(fitting.AT_ONCE, "cpu", 2)
    assert_close(fit_many(design, RECIPE, digits, range(5), dtype=torch.float64), whole, 1e-10)


@pytest.mark.parametrize(
    "design", [CNN((4, 4), 6), VGG(((4,), (4,)), norm="batch"), VGG(((4,), (4, 4)), (5,), 2), ResNet((1, 1), 4)], ids=lambda d: d.name
)
def test_stacked_convolutions_are_those_trained_one_by_one(digits, design, monkeypatch):
    one_by_one = fit_many(design, RECIPE, digits, [1, 2], dtype=torch.float64)
    monkeypatch.setattr(fitting, "DENSE", (design.family,))
    stacked = fit_many(design, RECIPE, digits, [1, 2], dtype=torch.float64)
    assert_close(stacked, one_by_one, 1e-9)
    if "-bn-" in design.name:
        assert int(stacked[0]["features.1.num_batches_tracked"]) == 8
        assert (stacked[0]["features.1.running_var"] - 1).abs().max() > 1e-3


def test_sine_networks_learn_their_image(digits):
    one = signal(digits, 3)
    states = fit_many(SIREN((16, 16)), replace(SINE, epochs=200), one, [0, 1])
    for state in states:
        network = SIREN((16, 16)).build(one.shape, one.classes)
        network.load_state_dict(state)
        assert float((network(one.x) - one.y).detach().square().mean()) < 1e-3


@pytest.mark.parametrize("design", [MLP((32,)), CNN((8,), 16)], ids=lambda d: d.name)
def test_classifiers_learn_their_classes(design):
    digits = read_images("digits")
    state = fit_many(design, Recipe("digits", epochs=6, batch=50, rate=3e-3), digits, [0])[0]
    network = design.build(digits.shape, digits.classes)
    network.load_state_dict(state)
    assert float((network(digits.test_x).argmax(1) == digits.test_y).float().mean()) > 0.88


def test_every_part_of_a_recipe_counts(digits):
    changes = [
        {"epochs": 3}, {"batch": 40}, {"optimiser": "sgd"}, {"optimiser": "adamw", "weight_decay": 0.1}, {"weight_decay": 0.1}, {"rate": 0.01},
        {"schedule": "cosine"}, {"initialisation": "pytorch"}, {"initialisation": "xavier"}, {"augmentation": "shift"}, {"augmentation": "flip"},
    ]  # fmt: skip
    first = [fit_many(MLP((6,)), replace(RECIPE, **change), digits, [0])[0]["1.weight"] for change in ({}, *changes)]
    for i, one in enumerate(first):
        for other in first[:i]:
            assert not torch.allclose(one, other, atol=1e-4)


def test_images_are_left_as_they_are(digits):
    x, y = digits.x.clone(), digits.y.clone()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fit_many(CNN((4,), 4), replace(RECIPE, augmentation="shift_flip"), digits, [0])
    assert torch.equal(digits.x, x)
    assert torch.equal(digits.y, y)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("design", "recipe", "message"),
    [
        (MLP((4,)), SINE, "signal: found 3, expected null(?s:.*)initialisation: found 'siren', expected one for classifiers"),
        (SIREN((4,)), RECIPE, "signal: found None, expected the number of(?s:.*)initialisation: found 'he', expected 'siren'"),
        (MLP((4,)), replace(RECIPE, batch=300), "batch: found 300, expected at most the 200 training inputs"),
        (CNN((4,) * 4), RECIPE, "found images of 8x8"),
        (MLP((65_536,) * 2), RECIPE, r"mlp-65536-65536-relu: found 4[0-9]{9} parameters on images of \(1, 8, 8\), expected at most 1000000000"),
    ],
)
def test_what_cannot_be_trained_is_refused(digits, design, recipe, message):
    with pytest.raises(InvalidInput, match=message):
        fit_many(design, recipe, digits, [0])
