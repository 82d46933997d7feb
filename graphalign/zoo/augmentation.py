"""Augmentations: random changes of a batch of images, drawn from a generator per network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

SHIFT = 2
"""Largest shift, in pixels."""

Augmentation = Callable[[Tensor, Sequence[Generator]], Tensor]


def flip(x: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Every image mirrored left to right with probability 1/2.

    Args:
        x: images of K networks (K, B, C, H, W).
        generators: K of them, on the CPU.
    """
    coins = torch.stack([torch.rand(x.shape[1], generator=g) < 0.5 for g in generators]).to(x.device)
    return torch.where(coins[..., None, None, None], x.flip(-1), x)


def shift(x: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Every image moved by up to SHIFT pixels in both directions, its border repeated.

    Args:
        x: images of K networks (K, B, C, H, W).
        generators: K of them, on the CPU.
    """
    networks, batch, channels, height, width = x.shape
    moves = torch.stack([torch.randint(-SHIFT, SHIFT + 1, (batch, 2), generator=g) for g in generators]).to(x.device)
    rows = (torch.arange(height, device=x.device) + moves[..., :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + moves[..., 1:]).clamp(0, width - 1)
    source = (rows[..., :, None] * width + columns[..., None, :]).reshape(networks, batch, 1, height * width)
    return x.flatten(-2).gather(-1, source.expand(-1, -1, channels, -1)).view_as(x)


def shift_flip(x: Tensor, generators: Sequence[Generator]) -> Tensor:
    """`shift`, then `flip`."""
    return flip(shift(x, generators), generators)


AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "shift": shift, "flip": flip, "shift_flip": shift_flip}
