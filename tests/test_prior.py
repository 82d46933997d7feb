"""The prior of images: what a mixture draws, sizes and channels, flattened images, and its fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphalign import InvalidInput, data
from graphalign.prior import NORMALISATIONS, ImageMixture, ImagePrior, image_shape, mixed_codes, textures
from graphalign.training.image_prior import FittedTo, fit_prior


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(**settings: int) -> ImagePrior:
    x, _ = data.digits().tensors
    return fit_prior([FittedTo(x, 0.3, 0.37)], **{"components": 8, "rank": 4, "dimensions": 24, **settings})


@pytest.fixture(scope="module")
def prior() -> ImagePrior:
    return fitted()


def mixture(factor: float = 0.0, spread: float = 0.0, residual: float = 0.0) -> ImageMixture:
    """Two components in a basis of two images, far from [0, 1] so that the normalisations can be told apart."""
    basis = torch.linalg.qr(torch.randn(36, 2, generator=generator()))[0].T.reshape(2, 1, 6, 6)
    return ImageMixture(
        {
            "mean": torch.full((1, 6, 6), 0.5), "basis": basis, "shares": torch.tensor([0.75, 0.25]),
            "centres": torch.tensor([[3.0, 0.0], [0.0, 3.0]]), "factors": torch.full((2, 2, 1), factor),
            "spread": torch.full((2, 2), spread), "residual": torch.full((2,), residual), "offset": torch.full((2,), 0.4),
            "scale": torch.full((2,), 0.1),
        }
    )  # fmt: skip


def test_a_mixture_draws_its_centres_in_their_shares_and_normalisations() -> None:
    m = mixture()
    images = m(4000, generator())
    expected = [m.mean + (centre @ m.basis.flatten(1)).reshape(1, 6, 6) for centre in m.centres]
    pixels = [(e * 0.1 + 0.4).clamp(0, 1) for e in expected]
    for k, share in enumerate((0.75, 0.25)):
        for form, part in zip((expected[k], pixels[k], 2 * pixels[k] - 1), NORMALISATIONS, strict=True):
            found = ((images - form).abs().amax((1, 2, 3)) < 1e-5).float().mean()
            assert float(found) == pytest.approx(share * part, abs=0.02)


def test_factors_spread_and_residual_are_standard_deviations() -> None:
    for settings, size in (({"factor": 0.7}, 2 * 0.7**2), ({"spread": 0.5}, 2 * 0.5**2), ({"residual": 0.3}, 36 * 0.3**2)):
        drawn, still = (mixture(**s)(3000, generator()) for s in (settings, {}))
        centred = mixture(**settings)
        deviations = [drawn - (centred.mean + (c @ centred.basis.flatten(1)).reshape(1, 6, 6)) for c in centred.centres]
        nearest = torch.stack([d.square().sum((1, 2, 3)) for d in deviations]).amin(0)
        standard = still.amax((1, 2, 3)) > 1.05
        assert float(nearest[standard].mean()) == pytest.approx(size, rel=0.25)


def test_textures_have_unit_variance_and_no_slow_part() -> None:
    t = textures(200, (32, 32), generator())
    assert t.shape == (200, 1, 32, 32)
    assert torch.allclose(t.flatten(1).std(1), torch.ones(200), atol=1e-3)
    power = torch.fft.rfft2(t).abs().square().mean((0, 1))
    assert float(power[0, 1]) < float(power[0, 6]) < 10 * float(power[0, 1])


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 14)])
def test_images_come_in_any_size(prior: ImagePrior, shape: tuple[int, int, int]) -> None:
    images = prior.draw(shape, 12, generator())
    assert images.shape == (12, *shape)
    assert bool(images.isfinite().all())
    assert torch.equal(images, prior.draw(shape, 12, generator()))
    assert not torch.equal(images, prior.draw(shape, 12, generator(1)))


def test_every_kind_gives_its_part() -> None:
    """Three quarters of the images are of the kind with the channels asked for."""
    x = torch.randn(60, 3, 8, 8, generator=generator())
    grey, colour = torch.zeros(40, 1, 8, 8), 5 + torch.zeros(40, 3, 8, 8)
    both = fit_prior([FittedTo(grey + 0.01 * x[:40, :1], 0.0, 1.0), FittedTo(colour + 0.01 * x[:40], 0.0, 1.0)], components=2, rank=2, dimensions=4)
    means = both.draw((3, 8, 8), 400, generator()).mean((1, 2, 3))
    high = (means > 0.6).float().mean()  # standardised or in [0, 1] both lie above
    assert float(high) == pytest.approx(0.75, abs=0.03)


def test_vectors_as_long_as_an_image_may_be_flattened_images() -> None:
    assert image_shape((1, 784)) == (1, 28, 28)
    assert image_shape((3072,)) == (3, 32, 32)
    assert image_shape((1, 3, 20, 10)) == (3, 20, 10)
    assert image_shape((1, 100)) == (1, 10, 10)
    assert image_shape((1, 49)) is None
    assert image_shape((4, 50)) is None
    assert image_shape(()) is None


def test_codes_mix_images_with_random_ones(prior: ImagePrior) -> None:
    codes = mixed_codes(prior, 0.25, (2, 1, 8, 8), 16, generator())
    assert codes.shape == (16, 2, 1, 8, 8)
    flat = mixed_codes(prior, 0.25, (1, 64), 400, generator())
    assert flat.shape == (400, 1, 64)
    rough = flat.reshape(400, 8, 8)
    neighbours = (rough[:, :, 1:] * rough[:, :, :-1]).mean((1, 2)) / rough.square().mean((1, 2))
    assert float((neighbours.abs() < 0.3).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert mixed_codes(prior, 0.25, (1, 7), 5, generator()).shape == (5, 1, 7)


@pytest.mark.parametrize("made_up", [0.0, 1.0])
def test_codes_may_be_of_one_kind_and_few(prior: ImagePrior, made_up: float) -> None:
    colour = ImagePrior({"grey": prior.kinds["grey"].state_dict(), "colour": prior.kinds["grey"].state_dict()})
    codes = mixed_codes(colour, made_up, (2, 1, 8, 8), 1, generator())
    assert codes.shape == (1, 2, 1, 8, 8)
    assert bool(codes.isfinite().all())


def test_the_fit_has_the_moments_of_the_data() -> None:
    x, _ = data.digits().tensors
    big = torch.nn.functional.interpolate(x, size=(28, 28), mode="bilinear", antialias=True)
    grey = fitted(dimensions=60).kinds["grey"]
    assert isinstance(grey, ImageMixture)
    g = generator()
    drawn = torch.cat([grey(2000, g) for _ in range(3)])
    standard = drawn[drawn.amax((1, 2, 3)) > 1.01]
    assert float((standard.mean(0) - big.mean(0)).abs().mean()) < 0.12
    assert float(standard.var(0).mean()) == pytest.approx(float(big.var(0).mean()), rel=0.15)


def test_a_fit_is_deterministic_and_has_an_orthonormal_basis() -> None:
    first, again = (fitted(rank=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    basis = first["kinds.grey.basis"].flatten(1).float()
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=5e-3)
    assert float(first["kinds.grey.shares"].float().sum()) == pytest.approx(1, abs=1e-2)


def test_a_state_gives_the_prior_back(prior: ImagePrior) -> None:
    again = ImagePrior.from_state(prior.state_dict())
    assert torch.equal(again.draw((1, 8, 8), 5, generator()), prior.draw((1, 8, 8), 5, generator()))


def test_images_of_other_channels_are_refused() -> None:
    def images(channels: int) -> Tensor:
        return torch.zeros(4, channels, 8, 8)

    with pytest.raises(InvalidInput, match="prior: found images with 2 channels, expected 1 or 3"):
        fit_prior([FittedTo(images(2), 0.0, 1.0)])
    with pytest.raises(InvalidInput, match="prior: found no data set"):
        fit_prior([])
