"""Random codes for the inputs and outputs of a pair of networks: shared by the two, drawn anew for every seed.

Images are dead leaves (overlapping random shapes; Lee, Mumford and Huang 2001; as training data: Baradad et al. 2021, arXiv
2106.05963) mixed with smooth noise of several scales; other inputs are white noise; tokens are uniform.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH_SCALES = (1, 3, 7)
LEAVES = 12
GRAIN = 1e-3
"""White noise on leaves. Exactly flat regions tie in max pooling, and rounding would decide where backward codes go."""
SMALLEST_IMAGE = 5


def input_codes(shape: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Codes for a floating-point input.

    Args:
        shape: shape of the example input; (..., C, H, W) with H and W of at least 5 is taken for images.
        count: number of codes C.
        generator: source of randomness, on the CPU.

    Returns:
        (C, *shape), zero mean and unit variance per code and example.
    """
    if len(shape) >= 3 and min(shape[-2:]) >= SMALLEST_IMAGE:
        images = count
        for n in shape[:-3]:
            images *= n
        return image_codes(images, (shape[-3], shape[-2], shape[-1]), generator).reshape(count, *shape)
    return torch.randn(count, *shape, generator=generator)


def image_codes(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Half dead leaves, half smooth noise of several scales; (count, C, H, W), interleaved so that any part is a mixture."""
    parts = len(SMOOTH_SCALES) + 1
    each = -(-count // parts)
    kinds = [smooth_noise(each, shape, scale, generator) for scale in SMOOTH_SCALES] + [dead_leaves(each, shape, generator)]
    return torch.stack(kinds, dim=1).flatten(0, 1)[:count]


def smooth_noise(count: int, shape: tuple[int, int, int], scale: int, generator: torch.Generator) -> Tensor:
    """White noise on a grid of `scale` pixels, interpolated bicubically; (count, C, H, W)."""
    channels, height, width = shape
    if scale <= 1:
        return torch.randn(count, channels, height, width, generator=generator)
    coarse = torch.randn(count, channels, -(-height // scale) + 3, -(-width // scale) + 3, generator=generator)
    fine = F.interpolate(coarse, scale_factor=scale, mode="bicubic", align_corners=False)
    top, left = torch.randint(0, scale, (2,), generator=generator).tolist()
    return standardise(fine[:, :, scale + top : scale + top + height, scale + left : scale + left + width])


def dead_leaves(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Overlapping discs and boxes of random place, size, angle and level; (count, C, H, W)."""
    channels, height, width = shape
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, 1, 1, generator=generator)

    images = torch.randn(count, channels, 1, 1, generator=generator).expand(count, channels, height, width)
    for _ in range(LEAVES):
        radius = min(height, width) * (0.06 + 0.4 * uniform(count) ** 2)
        aspect = 0.5 + uniform(count)
        y, x = rows - uniform(count) * height, columns - uniform(count) * width
        angle = uniform(count) * torch.pi
        along, across = (y * angle.cos() + x * angle.sin()) * aspect, (x * angle.cos() - y * angle.sin()) / aspect
        box = uniform(count) < 0.5
        distance = torch.where(box, torch.maximum(along.abs(), across.abs()), (along.square() + across.square()).sqrt())
        level = torch.randn(count, channels, 1, 1, generator=generator)
        images = torch.where((distance < radius).unsqueeze(1), level, images)
    return standardise(images + GRAIN * torch.randn(images.shape, generator=generator))


def standardise(images: Tensor) -> Tensor:
    """Zero mean and unit variance for each image."""
    flat = images.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return (centred / (flat.std(1, keepdim=True) + 1e-8)).view_as(images)
