"""A learned distribution of images, from which an aligner without data draws the inputs that it sends through a pair of networks.

Images of one kind (grey or colour) are a mixture of low-rank Gaussians in a basis of principal components (mixtures of
probabilistic principal component analysers, Tipping and Bishop 1999; as generators of images: Richardson and Weiss 2018, arXiv
1805.12462). What the basis does not span is drawn as noise of a falling spectrum under a smooth random envelope, a Gaussian
scale mixture (Wainwright and Simoncelli 2000), with each component's own strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign.codes import SMALLEST_IMAGE, input_codes, standardise

TENSORS = ("mean", "basis", "shares", "centres", "factors", "spread", "residual", "offset", "scale")
RESIDUAL_CUT = 0.1
"""Cycles per pixel below which the basis is taken to span what there is."""
SMALLEST_FLAT = 8
"""Rows and columns from which a vector of fitting length is taken for a flattened image."""
NORMALISATIONS = (0.7, 0.15, 0.15)
"""Shares of images that are standardised, in [0, 1], and in [-1, 1], for networks trained on either."""


class ImageMixture(nn.Module):
    """A mixture of K low-rank Gaussians over images of one kind.

    x = mean + basis^T (centre_k + factors_k z + spread_k e) + residual_k texture, z ~ N(0, I_R), e ~ N(0, I_D). All tensors are
    buffers.

    Attributes:
        mean: (C, H, W), of the standardised images.
        basis: (D, C, H, W), orthonormal.
        shares: (K,), of the components.
        centres: (K, D).
        factors: (K, D, R).
        spread: (K, D), standard deviations of what the factors leave.
        residual: (K,), standard deviation of what the basis leaves.
        offset: (K,), mean of the pixels in [0, 1] by which the component's images were standardised.
        scale: (K,), their standard deviation.
    """

    mean: Tensor
    basis: Tensor
    shares: Tensor
    centres: Tensor
    factors: Tensor
    spread: Tensor
    residual: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in TENSORS:
            self.register_buffer(name, tensors[name])

    def forward(self, count: int, generator: torch.Generator) -> Tensor:
        """Images drawn at random, (count, C, H, W) float32 on the CPU, each in one of the `NORMALISATIONS`."""
        kind = torch.multinomial(self._cpu("shares"), count, replacement=True, generator=generator)
        factors, centres = self._cpu("factors")[kind], self._cpu("centres")[kind]
        codes = centres + (factors @ torch.randn(count, factors.shape[2], 1, generator=generator)).squeeze(-1)
        codes = codes + self._cpu("spread")[kind] * torch.randn(codes.shape, generator=generator)
        mean = self._cpu("mean")
        images = mean + torch.einsum("nd,dchw->nchw", codes, self._cpu("basis"))
        images = images + self._cpu("residual")[kind].reshape(-1, 1, 1, 1) * textures(count, (mean.shape[1], mean.shape[2]), generator)
        pixels = images * self._cpu("scale")[kind].reshape(-1, 1, 1, 1) + self._cpu("offset")[kind].reshape(-1, 1, 1, 1)
        form = torch.multinomial(torch.tensor(NORMALISATIONS), count, replacement=True, generator=generator).reshape(-1, 1, 1, 1)
        pixels = pixels.clamp(0, 1)
        return torch.where(form == 0, images, torch.where(form == 1, pixels, 2 * pixels - 1))

    def _cpu(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name)
        return tensor.to("cpu", torch.float32)


class ImagePrior(nn.Module):
    """Mixtures of grey and of colour images, resampled to any size.

    Attributes:
        kinds: mixtures by kind, "grey" (one channel) and "colour" (three).
    """

    def __init__(self, mixtures: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict({kind: ImageMixture(tensors) for kind, tensors in mixtures.items()})

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ImagePrior:
        """The prior of a state dict, whatever the number of components in it."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            _, kind, name = key.split(".")
            found.setdefault(kind, {})[name] = tensor
        return cls(found)

    def draw(self, shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Tensor:
        """Images of C channels, H rows and W columns, (count, C, H, W) float32 on the CPU.

        Each kind gives the same number, those of the kind with C channels three times as many.

        Args:
            shape: C, H, W.
            count: number of images.
            generator: source of randomness, on the CPU.
        """
        channels, height, width = shape
        own = {"grey": 1, "colour": 3}
        weights = {kind: 3 if own[kind] == channels else 1 for kind in self.kinds}
        parts = []
        left = count
        for index, (kind, mixture) in enumerate(self.kinds.items()):
            number = left if index == len(self.kinds) - 1 else count * weights[kind] // sum(weights.values())
            left -= number
            if not number:
                continue
            images = mixture(number, generator)
            if images.shape[1] != channels:
                images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
            if images.shape[2:] != (height, width):
                images = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
            parts.append(images)
        return torch.cat(parts)[torch.randperm(count, generator=generator)]


def mixed_codes(
    prior: ImagePrior, made_up: float, shape: Sequence[int], count: int, generator: torch.Generator
) -> Tensor:
    """Codes for a floating-point input: images of a prior beside those of `graphalign.codes.input_codes`, (count, *shape).

    Vectors as long as a square image with one or three channels are flattened images in half of the cases. Every other input has
    random codes alone.

    Args:
        prior: of images.
        made_up: share of random codes of an image input.
        shape: of the example input.
        count: number of codes.
        generator: source of randomness, on the CPU.
    """
    image = image_shape(shape)
    if image is None:
        return input_codes(shape, count, generator)
    spatial = len(shape) >= 3 and image == tuple(shape[-3:])
    random = math.ceil(count * (made_up if spatial else max(made_up, 0.5)))
    if random == count:
        return input_codes(shape, count, generator)
    each = math.prod(shape) // math.prod(image)
    drawn = prior.draw(image, (count - random) * each, generator).reshape(count - random, *shape)
    mixed = torch.cat([drawn, input_codes(shape, random, generator)]) if random else drawn
    return mixed[torch.randperm(count, generator=generator)]


def image_shape(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Channels, rows and columns of what may be an image, flattened or not; None for everything else."""
    if len(shape) >= 3 and min(shape[-2:]) >= SMALLEST_IMAGE:
        return (shape[-3], shape[-2], shape[-1])
    for channels in (1, 3):
        side = math.isqrt(shape[-1] // channels) if shape else 0
        if side >= SMALLEST_FLAT and channels * side * side == shape[-1]:
            return (channels, side, side)
    return None


def textures(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Grey noise of amplitude 1 / frequency above `RESIDUAL_CUT`, under a smooth envelope; (count, 1, H, W), unit variance."""
    fine = _spectral(count, size, 1.0, generator, cut=RESIDUAL_CUT)
    envelope = torch.exp(_spectral(count, size, 1.5, generator))
    return standardise(fine * envelope)


def _spectral(count: int, size: tuple[int, int], power: float, generator: torch.Generator, cut: float = 0.0) -> Tensor:
    white = torch.randn(count, 1, *size, generator=generator)
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    radius = (rows.square() + columns.square()).sqrt()
    gain = radius.clamp(min=1 / max(size)) ** -power
    if cut:
        gain = gain * (1 - torch.exp(-((radius / cut) ** 2)))
    return standardise(torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=size))
