import math

import pytest
import torch
from torch import Generator, nn

from graphalign.zoo.initialisation import initialise
from graphalign.zoo.networks import Sine

LINEAR, CONVOLUTION = lambda: nn.Linear(300, 100), lambda: nn.Conv2d(30, 40, 5)


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("kind", ["he", "xavier", "pytorch"])
def test_weights_have_the_variance_of_the_scheme(module, kind):
    layer = module()
    fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    initialise(layer, kind, Generator().manual_seed(0))
    expected = {"he": 2 / fan_in, "xavier": 2 / (fan_in + fan_out), "pytorch": 1 / (3 * fan_in)}[kind]
    assert float(layer.weight.detach().var()) == pytest.approx(expected, rel=0.03)
    assert bool(layer.bias.any()) == (kind == "pytorch")


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
def test_pytorch_stands_for_what_pytorch_draws(module):
    torch.manual_seed(0)
    theirs, ours = module(), module()
    initialise(ours, "pytorch", Generator().manual_seed(1))
    for key, tensor in theirs.state_dict().items():
        assert float(ours.state_dict()[key].abs().max()) == pytest.approx(float(tensor.abs().max()), rel=0.05)


def test_sine_networks_start_as_in_the_paper():
    network = nn.Sequential(nn.Linear(2, 400), Sine(30.0), nn.Linear(400, 400), Sine(30.0), nn.Linear(400, 200))
    initialise(network, "siren", Generator().manual_seed(0))
    for index, bound in ((0, 1 / 2), (2, math.sqrt(6 / 400) / 30), (4, math.sqrt(6 / 400) / 30)):
        assert bound * 0.98 < float(network[index].weight.detach().abs().max()) <= bound


def test_norms_start_as_the_identity_and_the_global_generator_is_untouched():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to_empty(device="cpu")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    initialise(network, "he", Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert network[1].weight.tolist() == network[1].running_var.tolist() == [1, 1]
    assert network[1].bias.tolist() == network[1].running_mean.tolist() == [0, 0]
