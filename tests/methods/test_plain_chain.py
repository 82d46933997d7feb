"""Which families are plain chains, and what is said about the others."""

import itertools

import pytest
import torch
from torch import nn

from graphalign import trace
from graphalign.converters.trace import trace_architecture
from graphalign.errors import UnsupportedNetwork
from graphalign.methods.plain_chain import plain_chain

from ..networks import FAMILIES
from ..traced import traced

CHAINS = {
    "mlp_1", "mlp_2", "mlp_3", "mlp_6", "mlp_1_no_bias", "mlp_2_no_bias", "mlp_3_no_bias", "mlp_6_no_bias", "mlp_tanh", "mlp_gelu",
    "mlp_leaky_relu", "mlp_silu", "mlp_functional", "cnn_flatten", "cnn_flatten_average_pool", "cnn_stride", "cnn_kernel_5x5",
    "cnn_kernel_1x3", "cnn_kernel_4x4", "cnn_dilation", "cnn_global_pool", "vgg_11", "vgg_13", "vgg_16", "vgg_19",
    "vgg_11_hidden_head", "dropout_identity",
}  # fmt: skip
REFUSED = {
    "vgg_11_bn": "batch_norm in module 'features.1': is no convolution, linear layer, activation or pooling",
    "mlp_batch_norm": "batch_norm in module '1'",
    "resnet_basic": "add in module 'layer1.0': reads batch_norm_2 and relu, not only the step before it",
    "mlp_in_place_residual": "add in the network itself: reads",
    "layer_norm_mlp": "layer_norm in module '1'",
    "shared_linear": "linear in module 'shared': shares its weight 'shared.weight' with another layer",
    "tied_autoencoder": "shares its weight 'first' with another layer",
    "conv_autoencoder": "conv_transpose2d in module '11': convolves in 2 groups",
    "weight_norm": "linear in module '0': its weight is computed",
    "densenet": "cat in module",
    "prelu": "prelu in module '1'",
    "dict_output": "output in the network itself: reads linear_1 and linear_2",
    "two_inputs": "'args_1' is a second input",
    "swiglu": "linear in module 'value': reads args_0",
    "squeeze_excite": "mul in module '2'",
    "vit": "scaled_dot_product_attention",
    "channel_scale": "mul in the network itself",
}


@pytest.mark.parametrize("name", sorted(CHAINS - {"vgg_13", "vgg_16", "vgg_19"}))
def test_chains_are_recognised(name):
    links = plain_chain(traced(name).architecture)
    state = traced(name).state
    assert links[0].source is None
    assert links[-1].target is None
    assert all(before.target == after.source is not None for before, after in itertools.pairwise(links))
    assert {key for link in links for key in (link.weight, link.bias) if key} == set(state)
    for link in links:
        matrix = link.matrix(state)
        weight = state[link.weight]
        assert torch.equal(link.weight_of(matrix, link.kernel(tuple(weight.shape))), weight.double())


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_with_what_was_found(name):
    with pytest.raises(UnsupportedNetwork) as caught:
        plain_chain(traced(name).architecture)
    assert REFUSED[name] in str(caught.value)
    assert "plain chain of convolutions and linear layers" in str(caught.value)
    assert "What to do: " in str(caught.value)


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(UnsupportedNetwork) as caught:
        plain_chain(traced("resnet_basic").architecture)
    assert {offence.op for offence in caught.value.offences} >= {"batch_norm", "add"}


def test_no_family_slips_through():
    """Every family is either listed as a chain or refused."""
    for name in sorted(FAMILIES.keys() - CHAINS - REFUSED.keys()):
        if name.startswith(("resn", "vgg", "mobilenet", "shufflenet", "attention", "encoder", "decoder")):
            continue  # slow to trace, and of the kinds above
        with pytest.raises(UnsupportedNetwork):
            plain_chain(traced(name).architecture)


class Odd(nn.Module):
    """One step between two linear layers."""

    def __init__(self, step) -> None:
        super().__init__()
        self.a, self.step, self.b = nn.Linear(4, 6), step, nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.step(self.a(x)))


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(1, keepdim=True)


def test_a_step_that_depends_on_the_number_of_units_is_refused():
    model = Odd(Centred())
    assert trace(model, torch.zeros(2, 4)).cells[0].units == 6
    with pytest.raises(UnsupportedNetwork, match="mean in module 'step': mixes units"):
        plain_chain(trace_architecture(model, torch.zeros(2, 4)))


def test_a_parameter_outside_the_layers_is_refused():
    model = Odd(nn.ReLU())
    model.unused = nn.Parameter(torch.zeros(3))
    with pytest.raises(UnsupportedNetwork, match="'unused' is no weight or bias of a layer"):
        plain_chain(trace_architecture(model, torch.zeros(2, 4)))


class LastFlatten(nn.Module):
    """Positions before channels in the flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(16, 2)

    def forward(self, x):
        return self.linear(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


def test_positions_before_channels_are_refused():
    with pytest.raises(UnsupportedNetwork, match="the positions of its inputs before their channels"):
        plain_chain(trace_architecture(LastFlatten(), torch.zeros(1, 1, 4, 4)))
