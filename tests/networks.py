"""Small networks, one per family, and the networks that must be refused: the tables `FAMILIES` and `UNSUPPORTED`.

Fully connected families are here, the others in modules of their own.
A factory returns (module, example arguments, example keyword arguments); it draws from torch's global generator, so seed
it, and leaves norms and biases at their initial constants until `randomise` is called.
"""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks_attention import ATTENTION_FAMILIES, Factory
from .networks_convolutional import (
    VGG_STAGES,
    BasicBlock,
    Bottleneck,
    Head,
    InPlaceResidual,
    Norm,
    ResNet,
    ShuffleSplitUnit,
    ShuffleUnit,
    SqueezeExcite,
    UNet,
    between,
    channel_prelu,
    cnn,
    conv1d,
    conv_autoencoder,
    densenet,
    mobilenet,
    pre_activation_resnet,
    vgg,
)  # fmt: skip
from .networks_unusual import UNUSUAL_FAMILIES, UNUSUAL_UNSUPPORTED

NORM_STATISTICS = {"running_mean": (-0.5, 0.5), "running_var": (0.5, 2.0)}


def randomise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """The module itself, with no bias, norm affine, running statistic or other constant-initialised parameter left constant.

    Biases are drawn from U(-0.25, 0.75), mostly positive so that no narrow ReLU layer dies as a whole, running means from
    U(-0.5, 0.5), scales from U(0.5, 1.5), running variances from U(0.5, 2).
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.25, 0.75, generator=generator)
            elif parameter.ndim <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in module.named_buffers():
            if (bounds := NORM_STATISTICS.get(name.rpartition(".")[2])) is not None:
                buffer.uniform_(*bounds, generator=generator)
    return module


# Fully connected


def mlp(
    hidden: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU, *, bias: bool = True, norm: Norm | None = None
) -> nn.Sequential:
    """Linear layers 5 -> hidden -> 3 with an activation, and a norm before it, between them."""
    layers: list[nn.Module] = []
    features = 5
    for width in hidden:
        layers += [nn.Linear(features, width, bias=bias), *([norm(width)] if norm else []), activation()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 3, bias=bias))


class FunctionalMLP(nn.Module):
    """The same function as mlp([8, 7]) without layer modules: parameters, F.linear and F.relu."""

    def __init__(self, sizes: Sequence[int] = (5, 8, 7, 3)) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(o, i) / i**0.5 for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(torch.randn(o) for o in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x, weight, bias)
            x = F.relu(x) if i < last else x
        return x


# Tables


def vectors(build: Callable[[], nn.Module]) -> Factory:
    """Factory of a network that takes (2, 5)."""
    return lambda: (build(), (torch.randn(2, 5),), {})


def images(build: Callable[[], nn.Module], size: int = 8) -> Factory:
    """Factory of a network that takes (2, 3, size, size)."""
    return lambda: (build(), (torch.randn(2, 3, size, size),), {})


def _vgg_cases() -> dict[str, Factory]:
    def case(depth: int, batch_norm: bool, head: Head) -> Factory:
        return images(lambda: vgg(depth, batch_norm, 1 / 16, head), 32)

    small = {f"vgg_{d}{'_bn' if bn else ''}": case(d, bn, "small") for d in VGG_STAGES for bn in (False, True)}
    return {**small, "vgg_11_hidden_head": case(11, False, "hidden"), "vgg_11_large_head": case(11, True, "large")}


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


CONVOLUTIONAL_FAMILIES: dict[str, Factory] = {
    "mlp_1": vectors(lambda: mlp([8])),
    "mlp_2": vectors(lambda: mlp([8, 7])),
    "mlp_3": vectors(lambda: mlp([8, 7, 6])),
    "mlp_6": vectors(lambda: mlp([8, 7, 6, 8, 7, 6])),
    "mlp_1_no_bias": vectors(lambda: mlp([8], bias=False)),
    "mlp_2_no_bias": vectors(lambda: mlp([8, 7], bias=False)),
    "mlp_3_no_bias": vectors(lambda: mlp([8, 7, 6], bias=False)),
    "mlp_6_no_bias": vectors(lambda: mlp([8, 7, 6, 8, 7, 6], bias=False)),
    "mlp_tanh": vectors(lambda: mlp([8, 7], nn.Tanh)),
    "mlp_gelu": vectors(lambda: mlp([8, 7], nn.GELU)),
    "mlp_leaky_relu": vectors(lambda: mlp([8, 7], nn.LeakyReLU)),
    "mlp_silu": vectors(lambda: mlp([8, 7], nn.SiLU)),
    "mlp_batch_norm": vectors(lambda: mlp([8, 7], norm=nn.BatchNorm1d)),
    "mlp_functional": vectors(FunctionalMLP),
    "mlp_in_place_residual": vectors(InPlaceResidual),
    "cnn_flatten": images(cnn, 12),
    "cnn_flatten_bn": images(lambda: cnn(norm=nn.BatchNorm2d), 12),
    "cnn_flatten_average_pool": images(lambda: cnn((3, 3, 3), pool="average"), 12),
    "cnn_stride": images(lambda: cnn(stride=2, padding=1, pool="none"), 12),
    "cnn_kernel_5x5": images(lambda: cnn((5, 5)), 12),
    "cnn_kernel_1x3": images(lambda: cnn(((1, 3), (3, 1))), 12),
    "cnn_kernel_4x4": images(lambda: cnn((4, 4), padding=1), 12),
    "cnn_dilation": images(lambda: cnn(dilation=2), 12),
    "cnn_global_pool": images(lambda: cnn(head="global"), 12),
    "cnn_global_pool_bn": images(lambda: cnn((3, 3, 3), head="global", norm=nn.BatchNorm2d), 12),
    "conv1d": lambda: (conv1d(), (torch.randn(2, 2, 16),), {}),
    "conv_autoencoder": images(conv_autoencoder),
    **_vgg_cases(),
    "resnet_basic": images(lambda: ResNet(BasicBlock, (2, 2), 6)),
    "resnet_basic_group_norm": images(lambda: ResNet(BasicBlock, (2, 2), 6, norm=_group_norm)),
    "resnet_bottleneck": images(lambda: ResNet(Bottleneck, (2, 2), 4)),
    "resnet_bottleneck_group_norm": images(lambda: ResNet(Bottleneck, (2, 2), 4, norm=_group_norm)),
    "resnet_7x7_stem": images(lambda: ResNet(BasicBlock, (1, 1), 6, stem="7x7"), 32),
    "resnet_pre_activation": images(pre_activation_resnet),
    "resnext": images(lambda: ResNet(Bottleneck, (2, 1), 6, groups=3)),
    "densenet": images(densenet),
    "mobilenet_relu6": images(lambda: mobilenet(nn.ReLU6)),
    "mobilenet_hardswish": images(lambda: mobilenet(nn.Hardswish, squeeze=True)),
    "shufflenet": images(lambda: between(ShuffleUnit(), ShuffleUnit(), stem=12)),
    "shufflenet_split": images(lambda: between(ShuffleSplitUnit(), ShuffleSplitUnit(), stem=12)),
    "squeeze_excite": images(lambda: between(SqueezeExcite(6), nn.Conv2d(6, 7, 3), SqueezeExcite(7), stem=6, out=7)),
    "unet_interpolate": images(lambda: UNet("interpolate")),
    "unet_transposed": images(lambda: UNet("transposed")),
    "prelu": images(channel_prelu),
    "dropout_identity": vectors(lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.ReLU(), nn.Identity(), nn.Linear(8, 3))),
}

FAMILIES: dict[str, Factory] = {**CONVOLUTIONAL_FAMILIES, **ATTENTION_FAMILIES, **UNUSUAL_FAMILIES}

UNSUPPORTED: dict[str, Factory] = {
    "no_hidden_unit": vectors(lambda: nn.Linear(5, 3)),
    "no_parameters": vectors(lambda: nn.Sequential(nn.ReLU(), nn.Softmax(-1))),
    **UNUSUAL_UNSUPPORTED,
}
