"""Image data by name: embedded, or found in a data root in any of the layouts that are known."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from graphalign.data.embedded import digits
from graphalign.data.layouts import places
from graphalign.data.sets import IMAGES, ImageSet, Split, check_split
from graphalign.errors import CorruptFile, InvalidInput

ROOT = "GRAPHALIGN_DATA"
"""Environment variable that names the data root."""

AnyPath = str | os.PathLike[str]


def images(name: str, split: Split = "train", root: AnyPath | None = None) -> TensorDataset:
    """A data set by name: "digits" are embedded (scikit-learn), all others are found in a data root.

    The layouts of a data root, in the order in which they are looked for; the first that holds both splits is read:

    1. `mnist.npz`, `fashion_mnist.npz`, `emnist_letters.npz`, `usps.npz`, `kmnist_10k.npz` with `x_train, y_train, x_test, y_test`
       (uint8, images N x H x W), `cifar10_jpeg.npz` with concatenated JPEG files `jpeg_train`, their lengths `len_train` and
       `y_train` (the same for test).
    2. What torchvision leaves: `MNIST/raw`, `FashionMNIST/raw`, `KMNIST/raw`, `EMNIST/raw` with IDX files (letters are made
       upright and numbered from 0), `USPS` with `usps.bz2` and `usps.t.bz2` (LIBSVM text), `cifar-10-batches-bin`, then
       `cifar-10-batches-py` (whose pickles are read without running code). IDX files may be gzipped, those of USPS unpacked.
    3. The same files in the root itself.
    4. Fashion-MNIST only: the folder of Debian's package dataset-fashion-mnist, with or without a root.

    Args:
        name: a key of `IMAGES`.
        split: "train" or "test".
        root: the folder; the environment variable GRAPHALIGN_DATA if None.

    Returns:
        Images (N, C, H, W) float32, normalised by the mean and std of `IMAGES` in every layout, and classes (N,) int64.

    Raises:
        InvalidInput: an unknown name or split, a root that is no folder, or no files (with every place that was looked at).
        CorruptFile: a file is damaged, or holds something else.
    """
    check_split(split)
    if name not in IMAGES:
        raise InvalidInput(f"images: found {name!r}, expected one of {', '.join(IMAGES)}")
    if name == "digits":
        return digits(split)
    folder = _folder(root)
    problems = [] if folder else [f"no data root: none was given, and {ROOT} is not set"]
    for place, layout in places(name, folder):
        problem = layout.problem(name, place)
        if not problem:
            files = [file for file in layout.paths(place, split) if file]
            return _normalised(*layout.read(files, IMAGES[name], split), IMAGES[name], files)
        problems.append(f"{place / layout.folder}: {problem}")
    raise InvalidInput(
        f"images: found no {name}, having looked for it in\n" + "\n".join(f"  - {p}" for p in problems)
        + f"\nPass as root= (or in {ROOT}) the folder that holds these files in one of these ways."
    )  # fmt: skip


def available(root: AnyPath | None = None) -> list[str]:
    """The names that `images` can read from a data root, in the order of `IMAGES`.

    Files are looked for and not read, so that one of them may still turn out to be damaged. The digits count if scikit-learn is
    installed, and Fashion-MNIST if Debian's package is, with or without a root.

    Args:
        root: as in `images`.

    Raises:
        InvalidInput: a root that is no folder.
    """
    folder = _folder(root)
    embedded = ["digits"] if find_spec("sklearn") else []
    others = (n for n in IMAGES if n != "digits")
    return embedded + [n for n in others if any(not layout.problem(n, place) for place, layout in places(n, folder))]


def _folder(root: AnyPath | None) -> Path | None:
    named = root if root is not None else os.environ.get(ROOT)
    if not named:
        return None
    if not Path(named).is_dir():
        source = "root" if root is not None else ROOT
        raise InvalidInput(
            f"{source}: found {named}, which is no folder, expected the folder that holds the data sets; correct the path"
        )
    return Path(named)


def _normalised(pixels: NDArray[np.uint8], classes: NDArray[Any], entry: ImageSet, files: list[Path]) -> TensorDataset:
    where = " and ".join(map(str, files[:2]))
    if len(pixels) != len(classes) or not len(pixels) or pixels.shape[1:] != entry.shape or classes.ndim != 1:
        found, expected = f"labels of shape {classes.shape} and images of shape {pixels.shape}", f"as many of shape {entry.shape}"
        raise CorruptFile(f"{where}: found {found}, expected {expected}; copy it again")
    if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= entry.classes:
        found, expected = (
            f"classes {classes.dtype} from {classes.min()} to {classes.max()}",
            f"whole numbers from 0 to {entry.classes - 1}",
        )
        raise CorruptFile(f"{where}: found {found}, expected {expected}; copy it again")
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (entry.mean, entry.std))
    x = torch.from_numpy(np.array(pixels, order="C")).float().div_(255).sub_(mean).div_(std)
    return TensorDataset(x, torch.from_numpy(classes.astype(np.int64)))
