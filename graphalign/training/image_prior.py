"""Fitting the learned distribution of images, `graphalign.prior.ImagePrior`, to image data sets, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.prior import TENSORS, ImagePrior

SIZES = {"grey": 28, "colour": 32}
"""Rows and columns of the images that a mixture is fitted to."""
CHANNELS = {1: "grey", 3: "colour"}
STORED = torch.float16


@dataclass(frozen=True)
class FittedTo:
    """Images of one data set.

    Attributes:
        images: (N, C, H, W), standardised.
        mean: of the pixels in [0, 1], over channels, by which they were.
        std: the same.
    """

    images: Tensor
    mean: float
    std: float


def fit_prior(
    data: Sequence[FittedTo], *, components: int = 64, rank: int = 16, dimensions: int = 256, most: int = 30_000, seed: int = 0
) -> ImagePrior:
    """The prior of several data sets, each of which gets the same share of its kind.

    The basis of a kind holds the principal components of all its images; k-means in it splits each data set, and every cluster
    becomes a Gaussian of its own mean and largest principal components.

    Args:
        data: images, with one channel or three.
        components: clusters per data set.
        rank: principal components per cluster.
        dimensions: principal components of a kind.
        most: images of a data set that are used.
        seed: of the images used and of k-means.

    Raises:
        InvalidInput: no data, or images with two channels or more than three.
    """
    kinds: dict[str, list[FittedTo]] = {}
    for each in data:
        if each.images.shape[1] not in CHANNELS:
            raise InvalidInput(f"prior: found images with {each.images.shape[1]} channels, expected 1 or 3; leave that data set out")
        kinds.setdefault(CHANNELS[each.images.shape[1]], []).append(each)
    if not kinds:
        raise InvalidInput("prior: found no data set, expected at least one; name some in data=")
    return ImagePrior({kind: _fit_kind(kind, kinds[kind], components, rank, dimensions, most, seed) for kind in CHANNELS.values() if kind in kinds})


def _fit_kind(
    kind: str, data: Sequence[FittedTo], components: int, rank: int, dimensions: int, most: int, seed: int
) -> dict[str, Tensor]:
    size = SIZES[kind]
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for each in data:
        chosen = each.images[torch.randperm(len(each.images), generator=generator)[:most]].float()
        if chosen.shape[2:] != (size, size):
            chosen = F.interpolate(chosen, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        sets.append(chosen)
    shape = sets[0].shape[1:]
    flat = [images.flatten(1) for images in sets]
    mean = torch.stack([x.mean(0) for x in flat]).mean(0)
    covariance = sum(((x - mean).T @ (x - mean) / len(x) for x in flat), torch.zeros(len(mean), len(mean)))
    basis = _leading(covariance, dimensions)[1].T
    clusters: dict[str, list[Tensor]] = {name: [] for name in TENSORS[2:]}
    for each, x in zip(data, flat, strict=True):
        codes = (x - mean) @ basis.T
        _, labels = kmeans2(codes.numpy(), min(components, len(codes)), minit="++", missing="warn", iter=15, seed=np.random.default_rng(seed))
        assigned = torch.from_numpy(labels).long()
        for k in assigned.unique():
            mine = assigned == k
            centre = codes[mine].mean(0)
            deviations = codes[mine] - centre
            values, directions = _leading(deviations.T @ deviations / int(mine.sum()), rank)
            factors = directions * values.clamp(min=0).sqrt()
            left = (deviations.square().mean(0) - factors.square().sum(1)).clamp(min=0).sqrt()
            beyond = (x[mine] - mean - codes[mine] @ basis).square().mean().sqrt()
            clusters["shares"].append(mine.float().mean() / len(data))
            clusters["centres"].append(centre)
            clusters["factors"].append(factors)
            clusters["spread"].append(left)
            clusters["residual"].append(beyond)
            clusters["offset"].append(torch.tensor(each.mean))
            clusters["scale"].append(torch.tensor(each.std))
    stacked = {name: torch.stack(values).to(STORED) for name, values in clusters.items()}
    return {"mean": mean.reshape(shape).to(STORED), "basis": basis.reshape(-1, *shape).to(STORED), **stacked}


def _leading(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (count,) and their eigenvectors (D, count), padded with zeros if there are fewer."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    missing = count - len(values)
    return F.pad(values, (0, missing)), F.pad(vectors, (0, missing))
