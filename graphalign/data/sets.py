"""The image data sets by name, their two halves, and the batches of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from graphalign.errors import InvalidInput

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class ImageSet:
    """The facts of a data set, the same wherever its files come from.

    Attributes:
        file: its name in the .npz layout; empty for the embedded digits.
        shape: channels, height and width of an image.
        mean: of the training images by channel, pixels from 0 to 1; what `images` subtracts.
        std: of the same; what `images` divides by.
        classes: how many; labels are 0 to classes - 1.
    """

    file: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10


IMAGES: dict[str, ImageSet] = {
    "digits": ImageSet("", (1, 8, 8), (0.3052,), (0.3760,)),
    "mnist": ImageSet("mnist.npz", (1, 28, 28), (0.1307,), (0.3081,)),
    "fashion_mnist": ImageSet("fashion_mnist.npz", (1, 28, 28), (0.2860,), (0.3530,)),
    "emnist_letters": ImageSet("emnist_letters.npz", (1, 28, 28), (0.1722,), (0.3310,), classes=26),
    "kmnist": ImageSet("kmnist_10k.npz", (1, 28, 28), (0.1847,), (0.3417,)),
    "usps": ImageSet("usps.npz", (1, 16, 16), (0.2545,), (0.3846,)),
    "cifar10": ImageSet("cifar10_jpeg.npz", (3, 32, 32), (0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606)),
}


def check_split(split: str) -> None:
    """Returns nothing if `split` is one of `SPLITS`.

    Raises:
        InvalidInput: it is not.
    """
    if split not in SPLITS:
        raise InvalidInput(f"split: found {split!r}, expected 'train' or 'test'")


def loader(dataset: TensorDataset, batch_size: int = 128) -> DataLoader[tuple[Tensor, ...]]:
    """The batches of a data set in their order, the last one as large as is left."""
    return DataLoader(dataset, batch_size=batch_size)
