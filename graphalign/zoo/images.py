"""What networks of a population learn: classes of images, or the pixels of one image."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphalign import data
from graphalign.errors import InvalidInput
from graphalign.zoo.networks import Shape


@dataclass(frozen=True)
class Images:
    """Data to train on and to measure with.

    Attributes:
        x: training images (N, C, H, W), or coordinates (H W, 2) of a signal's pixels.
        y: their classes (N,), int64, or the pixels' values (H W, C).
        test_x: held-out images; for a signal its coordinates again.
        test_y: the same of y.
        shape: channels, height and width of an image.
        classes: number of classes.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    shape: Shape
    classes: int


def read_images(name: str, root: str | os.PathLike[str] | None = None) -> Images:
    """A data set of `graphalign.data` with both splits.

    Raises:
        InvalidInput, CorruptFile: as `graphalign.data.images`.
    """
    (x, y), (test_x, test_y) = (data.images(name, split, root).tensors for split in data.SPLITS)
    channels, height, width = x.shape[1:]
    return Images(x, y, test_x, test_y, (channels, height, width), int(y.max()) + 1)


def subset(images: Images, count: int | None) -> Images:
    """The first `count` training images, all of them if None; test images stay.

    Raises:
        InvalidInput: there are fewer.
    """
    if count is None:
        return images
    if count > len(images.x):
        raise InvalidInput(f"recipe: images: found {count}, expected at most the {len(images.x)} training images; lower it or use null")
    return replace(images, x=images.x[:count], y=images.y[:count])


def signal(images: Images, index: int) -> Images:
    """One training image as a function of coordinates, both scaled to [-1, 1].

    Raises:
        InvalidInput: there is no such image.
    """
    if index >= len(images.x):
        raise InvalidInput(f"recipe: signal: found {index}, expected less than the {len(images.x)} training images")
    image = images.x[index]
    channels, height, width = images.shape
    rows, columns = (torch.linspace(-1, 1, n, dtype=image.dtype) for n in (height, width))
    x = torch.cartesian_prod(rows, columns).flip(-1)
    low, high = image.min(), image.max()
    y = ((image - low) / (high - low).clamp_min(1e-6) * 2 - 1).reshape(channels, -1).T.contiguous()
    return replace(images, x=x, y=y, test_x=x, test_y=y)
