from collections import Counter

import pytest
import torch

from graphalign.zoo.networks import ACTIVATIONS, cnn, mlp, resnet, siren, vgg

BUILDERS = {
    "mlp": (lambda **k: mlp((5, 6), (1, 8, 8), **k), 2),
    "cnn": (lambda **k: cnn((3, 4), 5, (1, 8, 8), **k), 3),
    "vgg": (lambda **k: vgg(((3,), (4, 5)), hidden=(6,), channels=1, **k), 4),
    "resnet": (lambda **k: resnet((1, 2), 4, channels=1, **k), 7),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("family", BUILDERS)
def test_every_nonlinearity_is_the_one_asked_for(family, activation):
    build, count = BUILDERS[family]
    nonlinearities = Counter(type(m) for m in build(activation=activation).modules()) & Counter({type(f()): 99 for f in ACTIVATIONS.values()})
    assert nonlinearities == {type(ACTIVATIONS[activation]()): count}


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_kernels_keep_the_resolution(kernel):
    network = cnn((3, 4), 5, (1, 9, 8), kernel=kernel)
    assert network[0].kernel_size == network[3].kernel_size == (kernel, kernel)
    assert network(torch.zeros(2, 1, 9, 8)).shape == (2, 10)


def test_a_siren_is_sines_of_linear_layers():
    network = siren((5, 4), 3, frequency=7.0).double()
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second, last = network[0], network[2], network[4]
    hidden = torch.sin(7 * (torch.sin(7 * (x @ first.weight.T + first.bias)) @ second.weight.T + second.bias))
    torch.testing.assert_close(network(x), hidden @ last.weight.T + last.bias)
    assert network(x).shape == (6, 3)
