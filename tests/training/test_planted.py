"""Planted pairs: which changes keep the function, and what the others do."""

from __future__ import annotations

import pytest
import torch

from graphalign import group
from graphalign.converters.trace import trace_architecture
from graphalign.errors import InvalidInput
from graphalign.training.planted import Augmentation, plant
from graphalign.zoo.networks import cnn, mlp, resnet

NONE = {"noise": 0.0, "dropout": 0.0, "scaling": 0.0, "pruning": 0.0}


@pytest.mark.parametrize("kind", ["mlp", "cnn", "gelu", "resnet"])
def test_order_and_positive_scales_leave_the_function(kind):
    torch.manual_seed(0)
    image = (1, 8, 8)
    network = {
        "mlp": lambda: mlp((9, 7), image, 4), "cnn": lambda: cnn((5, 6), 8, image, 4, kernel=3),
        "gelu": lambda: mlp((9, 7), image, 4, activation="gelu"), "resnet": lambda: resnet((1, 1), 4, imagenet_stem=False, classes=4, channels=1),
    }[kind]().double().eval()  # fmt: skip
    x = torch.randn(5, *image, dtype=torch.float64)
    spec = trace_architecture(network, x).spec
    state = {n: t.clone() for n, t in network.state_dict().items()}
    planted, element = plant(spec, state, Augmentation(**NONE | {"scaling": 0.5}), torch.Generator().manual_seed(1))
    expected = network(x)
    assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items())
    network.load_state_dict(planted)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-10)
    back = group.apply_to_state(spec, element, planted)
    changed = any(not torch.allclose(back[n], state[n]) for n in state)
    assert changed == (kind != "gelu")  # which is not positively homogeneous


def test_noise_is_relative_to_every_tensor(mlp):
    spec, state = mlp.architecture.spec, mlp.states[0]
    big = {n: t * (100.0 if n.startswith("1.") else 1.0) for n, t in state.items()}
    planted, element = plant(spec, big, Augmentation(**NONE | {"noise": 0.1}), torch.Generator().manual_seed(1))
    back = group.apply_to_state(spec, element, planted)
    for name, tensor in big.items():
        assert float((back[name] - tensor).std() / tensor.std()) == pytest.approx(0.1, rel=0.5), name


def test_dropout_rescales_what_is_left(mlp):
    spec, state = mlp.architecture.spec, mlp.states[0]
    planted, element = plant(spec, state, Augmentation(**NONE | {"dropout": 0.25}), torch.Generator().manual_seed(1))
    back = group.apply_to_state(spec, element, planted)
    name = max(state, key=lambda n: state[n].numel())
    dropped = back[name] == 0
    assert 0.15 < float(dropped.float().mean()) < 0.35
    torch.testing.assert_close(back[name][~dropped], state[name][~dropped] / 0.75)


def test_pruning_takes_the_smallest_entries(mlp):
    spec, state = mlp.architecture.spec, mlp.states[0]
    planted, element = plant(spec, state, Augmentation(**NONE | {"pruning": 0.9}), torch.Generator().manual_seed(1))
    back = group.apply_to_state(spec, element, planted)
    name = max(state, key=lambda n: state[n].numel())
    pruned = back[name] == 0
    assert pruned.any()
    assert float(state[name][pruned].abs().max()) < float(state[name][~pruned].abs().min())
    assert torch.equal(back[name][~pruned], state[name][~pruned])


def test_running_statistics_are_only_moved(vgg):
    spec, state = vgg.architecture.spec, vgg.states[0]
    planted, element = plant(spec, state, Augmentation(scaling=0.0), torch.Generator().manual_seed(1))
    back = group.apply_to_state(spec, element, planted)
    buffers = [n for n in spec.buffers if n in state]
    assert any(n.endswith("running_var") for n in buffers)
    assert all(torch.equal(back[n], state[n]) for n in buffers)
    assert not torch.equal(next(back[n] for n in back if n not in buffers), next(state[n] for n in back if n not in buffers))


def test_the_same_generator_gives_the_same_pair(mlp):
    first, second = (plant(mlp.architecture.spec, mlp.states[0], Augmentation(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert group.same(first[1], second[1])
    assert all(torch.equal(t, second[0][n]) for n, t in first[0].items())


def test_settings_out_of_range():
    with pytest.raises(InvalidInput, match=r"noise=-1, expected at least 0; dropout=1.0, expected at least 0 and below 1"):
        Augmentation(noise=-1, dropout=1.0)
