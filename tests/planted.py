"""Pairs whose alignment is known: B is A with its units moved and noise added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphalign import group
from graphalign.spec import NetworkSpec

RECOVERABLE = ["mlp_3", "cnn_flatten", "vgg_11", "vgg_11_bn", "resnet_basic", "densenet", "encoder_layer_relu", "gpt", "resnext"]
"""One family of each kind: fully connected, convolutional, VGG, residual, dense, attention, grouped convolutions."""


def plant(
    spec: NetworkSpec, state: Mapping[str, Tensor], noise: float = 0.0, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of B and the permutations that bring B into the order of A.

    Args:
        spec: what may move.
        state: weights of A.
        noise: standard deviation of the noise on every parameter, as a fraction of that of the parameter.
        seed: of the element and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    element = group.random_element(spec, generator)
    noisy = {
        n: t + noise * (t.std() if t.numel() > 1 else 0.0) * torch.randn(t.shape, generator=generator)
        if noise and t.is_floating_point() and n not in spec.buffers else t
        for n, t in state.items()
    }  # fmt: skip
    return group.apply_to_state(spec, group.inverse(element), noisy), element


def recovered(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Share of units that are where they belong."""
    right = sum(int((found[name] == perm).sum()) for name, perm in expected.items())
    return right / sum(len(perm) for perm in expected.values())
