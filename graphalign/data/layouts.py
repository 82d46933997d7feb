"""The ways in which a data set lies in a folder: which files, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphalign.data.cifar import read_binary, read_pickled
from graphalign.data.idx import mean_pixel, read_emnist_letters, read_idx
from graphalign.data.npz import read_npz
from graphalign.data.sets import IMAGES, SPLITS, ImageSet, Split
from graphalign.data.usps import read_libsvm

Reader = Callable[[Sequence[Path], ImageSet, Split], tuple[NDArray[np.uint8], NDArray[np.integer]]]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""
ALIKE = ("mnist", "fashion_mnist", "kmnist")
"""Their files have the same names, sizes and labels."""
CLOSE = 0.02
"""Mean pixels of the sets that are alike lie at least .05 apart, and those of their first 2,000 images within .01 of the whole."""


@dataclass(frozen=True)
class Layout:
    """A way in which a data set lies in a folder.

    Attributes:
        folder: where its files lie in the data root; empty for the root itself.
        files: names of the files of each split.
        read: makes pixels (N, C, H, W) uint8 and classes (N,) of them.
        endings: of the files, the first one found counts.
    """

    folder: str
    files: Mapping[Split, tuple[str, ...]]
    read: Reader
    endings: tuple[str, ...] = ("",)

    def paths(self, root: Path, split: Split) -> list[Path | None]:
        """Each file of a split, None for those that are not there."""
        choices = [[root / self.folder / (name + e) for e in self.endings] for name in self.files[split]]
        return [next((file for file in files if file.is_file()), None) for files in choices]

    def problem(self, name: str, root: Path) -> str:
        """Why the root does not hold a data set in this layout, empty if it does.

        It does if the files of both splits are there, so that no training images come from one source and test images from
        another. Files that lie in the root itself, under names that several data sets use, are told apart by their mean pixel.
        """
        found = (pair for split in SPLITS for pair in zip(self.files[split], self.paths(root, split), strict=True))
        missing = dict.fromkeys(n for n, file in found if file is None)
        if missing:
            return f"missing {', '.join('|'.join(n + e for e in self.endings) for n in missing)}"
        if name in ALIKE and not self.folder and self.read is read_idx:
            file = self.paths(root, "train")[0]
            mean = mean_pixel(file) if file else 0.0
            other = next((n for n in ALIKE if n != name and abs(mean - IMAGES[n].mean[0]) < CLOSE), "")
            if other:
                return f"{file} is {other} by its mean pixel, {mean:.3f}"
        return ""


def _idx(folder: str, train: str = "train-", test: str = "t10k-", read: Reader = read_idx) -> Layout:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return Layout(folder, {"train": tuple(train + k for k in kinds), "test": tuple(test + k for k in kinds)}, read, ("", ".gz"))


def _npz(name: str) -> Layout:
    file = (IMAGES[name].file,)
    return Layout("", {"train": file, "test": file}, read_npz)


def _anywhere(layout: Layout) -> tuple[Layout, Layout]:
    return layout, replace(layout, folder="")


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_EMNIST = _idx("EMNIST/raw", "emnist-letters-train-", "emnist-letters-test-", read_emnist_letters)
_USPS = Layout("USPS", {"train": ("usps",), "test": ("usps.t",)}, read_libsvm, (".bz2", ""))
_BINARY = Layout("cifar-10-batches-bin", {"train": tuple(b + ".bin" for b in _BATCHES), "test": ("test_batch.bin",)}, read_binary)
_PICKLED = Layout("cifar-10-batches-py", {"train": _BATCHES, "test": ("test_batch",)}, read_pickled)

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "mnist": (_npz("mnist"), *_anywhere(_idx("MNIST/raw"))),
    "fashion_mnist": (_npz("fashion_mnist"), *_anywhere(_idx("FashionMNIST/raw"))),
    "emnist_letters": (_npz("emnist_letters"), *_anywhere(_EMNIST)),
    "kmnist": (_npz("kmnist"), *_anywhere(_idx("KMNIST/raw"))),
    "usps": (_npz("usps"), *_anywhere(_USPS)),
    "cifar10": (_npz("cifar10"), *_anywhere(_BINARY), *_anywhere(_PICKLED)),
}
"""Layouts of each data set in the order in which they are looked for."""


def places(name: str, root: Path | None) -> list[tuple[Path, Layout]]:
    """Where a data set is looked for, in this order: folders and the layouts that it may have in them."""
    found = [(root, layout) for layout in LAYOUTS[name]] if root else []
    return found + ([(DEBIAN, _idx(""))] if name == "fashion_mnist" else [])
