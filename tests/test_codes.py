"""Codes: shapes, statistics, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphalign.codes import dead_leaves, image_codes, input_codes, smooth_noise, standardise


def draw(shape: tuple[int, ...], count: int = 16, seed: int = 0) -> Tensor:
    return input_codes(shape, count, torch.Generator().manual_seed(seed))


VECTORS = [(5,), (2, 5), (2, 5, 8), (2, 2, 16), (2, 3, 4, 4)]
IMAGES = [(3, 8, 8), (2, 3, 8, 8), (1, 1, 28, 28), (2, 3, 12, 7), (2, 3, 5, 5), (1, 2, 3, 6, 6)]
SHAPES = [*VECTORS, *IMAGES]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_have_the_shape_of_the_input_and_unit_scale(shape: tuple[int, ...]) -> None:
    codes = draw(shape, 64)
    assert codes.shape == (64, *shape)
    assert codes.isfinite().all()
    assert abs(float(codes.mean())) < 0.25
    assert 0.75 < float(codes.std()) < 1.25


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_follow_the_seed(shape: tuple[int, ...]) -> None:
    assert torch.equal(draw(shape), draw(shape))
    assert not torch.equal(draw(shape), draw(shape, seed=1))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw((2, 3, 8, 8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_number_of_images(count: int) -> None:
    images = image_codes(count, (3, 8, 9), torch.Generator().manual_seed(0))
    assert images.shape == (count, 3, 8, 9)


@pytest.mark.parametrize("scale", [3, 7])
@pytest.mark.parametrize("size", [(1, 5, 5), (3, 28, 28), (2, 9, 31)])
def test_smooth_noise_is_smoother_than_white_noise(scale: int, size: tuple[int, int, int]) -> None:
    def roughness(images: Tensor) -> float:
        return float(images.diff(dim=-1).square().mean())

    generator = torch.Generator().manual_seed(0)
    white, smooth = smooth_noise(32, size, 1, generator), smooth_noise(32, size, scale, generator)
    assert smooth.shape == (32, *size)
    assert roughness(smooth) < 0.6 * roughness(white)


def test_dead_leaves_have_edges_between_flat_regions() -> None:
    images = dead_leaves(16, (3, 24, 24), torch.Generator().manual_seed(0))
    steps = images.diff(dim=-1).abs()
    assert 0.5 < float((steps < 0.02).float().mean()) < 0.98
    assert float(steps.max()) > 0.5


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_neighbours_are_hardly_ever_equal(shape: tuple[int, ...]) -> None:
    """Max pooling would choose between them by rounding, which depends on the order of the units."""
    assert float((draw(shape, 64).diff(dim=-1) == 0).float().mean()) < 1e-3


def test_standardised_images_have_zero_mean_and_unit_variance() -> None:
    images = standardise(torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 9 + 4)
    assert torch.allclose(images.flatten(1).mean(1), torch.zeros(8), atol=1e-5)
    assert torch.allclose(images.flatten(1).std(1), torch.ones(8), atol=1e-5)
    assert standardise(torch.ones(2, 1, 5, 5)).isfinite().all()
