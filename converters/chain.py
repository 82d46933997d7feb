"""Networks from a bare state dict: which kind of chain it is, and its spec."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from graphalign.spec import NetworkSpec

from .chain_order import read_chain
from .cnn import convolutional
from .mlp import perceptron
from .trace import trace
from .vgg import vgg_problems, visual_geometry_group


def chain_network(state: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor]:
    """A network with exactly these tensors, and an example input for it.

    Linear layers alone make an MLP, convolutions a CNN, and 8, 10, 13 or 16 convolutions in the stages of a VGG a VGG, all with
    ReLU (for other activations call `mlp_network` or `cnn_network`). The network has the symmetries of the one that the
    state dict came from; see `cnn_network` for what it need not share. Skip connections without weights, around layers that are not
    named as blocks, leave no trace in a state dict: of such a network pass the module. The tensors are shared, not copied, and
    not modified.

    Raises:
        InvalidInput: the tensors are no plain chain, or it is not certain how they are connected; every reason is listed.
    """
    layers = read_chain(state)
    if not layers[0].is_conv:
        return perceptron(layers, "relu")
    return convolutional(layers, "relu") if vgg_problems(layers) else visual_geometry_group(layers)


def chain_spec(state: Mapping[str, Tensor]) -> NetworkSpec:
    """The symmetries of the network that a bare state dict belongs to; as `chain_network`, then `trace`.

    Raises:
        InvalidInput: as `chain_network`.
        UnsupportedNetwork: there is no hidden layer.
    """
    return trace(*chain_network(state))
