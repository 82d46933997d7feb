"""Populations of small classifiers trained on images: how they are made, and a cache of those that were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from graphalign import data
from graphalign.experiments.training import fit, initialise
from graphalign.files import load_state, save_state
from graphalign.zoo.networks import Shape, cnn, mlp, resnet, vgg

TEST_IMAGES = 4000
NARROW_VGG = ((16,), (32,), (48, 48), (64, 64))
WIDE_VGG = ((32,), (64,), (128,), (128,))


@dataclass(frozen=True)
class Recipe:
    """How a network is made: an initialisation, then Adam at 1e-3 in batches of 100.

    Attributes:
        build: a network for images of a shape.
        images: how many training images are used.
        epochs: passes over them.
        data: data set of `graphalign.data.images`.
        layout: memory layout while training, see `fit`.
        initialise: draws the weights that training starts from.
    """

    build: Callable[[Shape], nn.Module]
    images: int
    epochs: int
    data: str = "fashion_mnist"
    layout: torch.memory_format = torch.contiguous_format
    initialise: Callable[[nn.Module], None] = initialise


CIFAR = (50_000, 6, "cifar10", torch.channels_last)
FASHION = (20_000, 4, "fashion_mnist", torch.channels_last)

RECIPES: dict[str, Recipe] = {
    "mlp-64-64-64": Recipe(lambda image: mlp((64, 64, 64), image), 60_000, 3),
    "mlp-48x5": Recipe(lambda image: mlp((48,) * 5, image), 60_000, 3),
    "cnn-16-32-24": Recipe(lambda image: cnn((16, 32, 24), 56, image), 20_000, 4),
    "vgg-narrow": Recipe(lambda _: vgg(NARROW_VGG, hidden=(64,), pool=2), *CIFAR),
    "vgg-narrow-bn": Recipe(lambda _: vgg(NARROW_VGG, hidden=(64,), pool=2, batch_norm=True), *CIFAR),
    "vgg-wide": Recipe(lambda image: vgg(WIDE_VGG, hidden=(128,), channels=image[0]), *FASHION),
    "vgg-wide-bn": Recipe(lambda image: vgg(WIDE_VGG, hidden=(128,), batch_norm=True, channels=image[0]), *FASHION),
    "resnet-8-bn": Recipe(lambda image: resnet((1, 1, 1), 64, imagenet_stem=True, channels=image[0]), *FASHION),
}


@dataclass(frozen=True)
class Images:
    """Data to train on and to measure with.

    Attributes:
        name: prefix of cached networks.
        x: training images (N, C, H, W).
        y: classes (N,).
        test: batches of held-out images.
    """

    name: str
    x: Tensor
    y: Tensor
    test: list[tuple[Tensor, ...]]

    @property
    def shape(self) -> Shape:
        """Channels, height and width."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width


def read_images(root: str | None, name: str = "fashion_mnist") -> Images:
    """The training images and the first TEST_IMAGES test images of a data set of `graphalign.data`.

    Raises:
        InvalidInput, CorruptFile: as `graphalign.data.images`.
    """
    x, y = data.images(name, "train", root).tensors
    test_x, test_y = (t[:TEST_IMAGES] for t in data.images(name, "test", root).tensors)
    return Images(name, x, y, list(zip(torch.split(test_x, 1000), torch.split(test_y, 1000), strict=True)))


def trained(name: str, recipe: Recipe, images: Images, seed: int, cache: Path | None) -> nn.Module:
    """The network of a recipe and seed, from the cache if it is there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = recipe.build(images.shape)
        recipe.initialise(network)
    file = cache / f"{images.name}_{name}_{recipe.images}x{recipe.epochs}_seed{seed}.safetensors" if cache else None
    if file and file.is_file():
        network.load_state_dict(load_state(file))
        return network.eval()
    fit(
        network, images.x[: recipe.images], images.y[: recipe.images], epochs=recipe.epochs, seed=seed, layout=recipe.layout
    )  # fmt: skip
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_state(network.state_dict(), file, force=True)
    return network
