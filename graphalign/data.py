"""Image data: the digits that come with scikit-learn, and a folder of .npz files for more."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from graphalign.errors import CorruptFile, GraphAlignError, InvalidInput

Split = Literal["train", "test"]
SPLITS = ("train", "test")
ROOT = "GRAPHALIGN_DATA"


@dataclass(frozen=True)
class ImageFile:
    """A data set of the data root.

    Attributes:
        file: its name in the root.
        shape: channels, height and width of an image.
        mean: of x / 255 over the training images, by channel.
        std: the same.
        jpeg: images are concatenated JPEG files, to be cut by their lengths.
    """

    file: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    jpeg: bool = False


IMAGES: dict[str, ImageFile] = {
    "mnist": ImageFile("mnist.npz", (1, 28, 28), (0.1307,), (0.3081,)),
    "fashion_mnist": ImageFile("fashion_mnist.npz", (1, 28, 28), (0.2860,), (0.3530,)),
    "emnist_letters": ImageFile("emnist_letters.npz", (1, 28, 28), (0.1722,), (0.3310,)),
    "kmnist": ImageFile("kmnist_10k.npz", (1, 28, 28), (0.1847,), (0.3417,)),
    "usps": ImageFile("usps.npz", (1, 16, 16), (0.2545,), (0.3846,)),
    "cifar10": ImageFile("cifar10_jpeg.npz", (3, 32, 32), (0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606), jpeg=True),
}


def digits(split: Split = "train", seed: int = 0) -> TensorDataset:
    """Handwritten digits, 8x8 pixels, 1,797 images by 43 writers (Alpaydin and Kaynak 1998), from scikit-learn; no download.

    Every fourth image of a seeded shuffle is a test image: 1,348 to train on, 449 to test with.

    Args:
        split: "train" or "test".
        seed: of the shuffle that splits.

    Returns:
        Images (N, 1, 8, 8) float32, of mean 0 and standard deviation 1 over the training images, and classes (N,) int64.

    Raises:
        InvalidInput: an unknown split, or scikit-learn is missing.
    """
    _check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidInput("the digits need scikit-learn, which is not installed; run: pip install 'graphalign[demo]'") from None
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)[order]
    y = torch.from_numpy(classes).long()[order]
    test = torch.arange(len(x)) % 4 == 3
    mean, std = x[~test].mean(), x[~test].std()
    chosen = test if split == "test" else ~test
    return TensorDataset((x[chosen] - mean) / std, y[chosen])


def images(name: str, split: Split = "train", root: str | os.PathLike[str] | None = None) -> TensorDataset:
    """A data set from a folder of .npz files.

    A file holds `x_train, y_train, x_test, y_test` (uint8, images N x H x W), or for CIFAR-10 concatenated JPEG files
    `jpeg_train` with their lengths `len_train` (the same for test).

    Args:
        name: a key of `IMAGES`.
        split: "train" or "test".
        root: the folder; the environment variable GRAPHALIGN_DATA if None.

    Returns:
        Images (N, C, H, W) float32, normalised by the mean and std of the training images, and classes (N,) int64.

    Raises:
        InvalidInput: an unknown name or split, no data root, or no such file in it.
        CorruptFile: the file is damaged or lacks a table.
    """
    _check_split(split)
    if name not in IMAGES:
        raise InvalidInput(f"images: found {name!r}, expected one of {', '.join(IMAGES)}; digits() needs no file")
    entry = IMAGES[name]
    folder = root if root is not None else os.environ.get(ROOT)
    if not folder:
        raise InvalidInput(f"images: no folder given for {entry.file}; pass root=, or set {ROOT} to the folder that holds it")
    file = Path(folder) / entry.file
    if not file.is_file():
        raise InvalidInput(f"images: {file} does not exist; pass as root= (or in {ROOT}) the folder that holds {entry.file}")
    pixels, classes = _read(file, entry, split)
    if len(pixels) != len(classes) or not len(pixels) or pixels.shape[1:] != entry.shape:
        expected = f"as many of shape {entry.shape}; copy the file again"
        raise CorruptFile(f"{file}: found {len(classes)} classes and images of shape {pixels.shape}, expected {expected}")
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (entry.mean, entry.std))
    return TensorDataset((torch.from_numpy(pixels).float() / 255 - mean) / std, torch.from_numpy(classes).long())


def loader(dataset: TensorDataset, batch_size: int = 128) -> DataLoader[tuple[Tensor, ...]]:
    """The batches of a data set in their order, the last one as large as is left."""
    return DataLoader(dataset, batch_size=batch_size)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InvalidInput(f"split: found {split!r}, expected 'train' or 'test'")


def _read(file: Path, entry: ImageFile, split: Split) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    names = [f"jpeg_{split}", f"len_{split}", f"y_{split}"] if entry.jpeg else [f"x_{split}", f"y_{split}"]
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as tables:
            missing = [n for n in names if n not in tables.files]
            if missing:
                raise CorruptFile(f"{file}: found tables {tables.files}, expected {missing} too; make the file again")
            *parts, classes = (tables[n] for n in names)
            pixels = _decode(parts[0], parts[1]) if entry.jpeg else parts[0][:, None]
    except GraphAlignError:
        raise
    except (BadZipFile, OSError, EOFError, ValueError) as error:
        raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None
    return pixels, classes


def _decode(stream: NDArray[np.uint8], lengths: NDArray[Any]) -> NDArray[np.uint8]:
    """JPEG files in a row -> (N, 3, H, W)."""
    try:
        from PIL import Image
    except ImportError:
        raise InvalidInput("JPEG images need Pillow, which is not installed; run: pip install 'graphalign[demo]'") from None
    ends = np.cumsum(lengths.astype(np.int64))
    starts = ends - lengths
    files = (io.BytesIO(stream[i:j].tobytes()) for i, j in zip(starts, ends, strict=True))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).transpose(0, 3, 1, 2)
