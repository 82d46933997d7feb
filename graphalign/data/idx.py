"""Image data in IDX files, the format of MNIST and of the sets made to replace it, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from graphalign.data.sets import ImageSet, Split
from graphalign.errors import CorruptFile

UNSIGNED_BYTE = 0x08
"""Third byte of the magic number, the type of the entries; the fourth is the number of dimensions."""
SAMPLE = 2000


def read_idx(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Pixels (N, 1, H, W) and classes (N,) of an image file and a label file.

    Raises:
        CorruptFile: a wrong magic number, another image size, fewer or more bytes than the header says, or damaged gzip.
    """
    images, labels = files
    return _table(images, entry.shape[1:])[:, None], _table(labels, ())


def read_emnist_letters(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """As `read_idx`, with upright letters numbered from 0.

    The published files hold every image transposed (lines are columns), and a to z as 1 to 26 (Cohen, Afshar, Tapson and van
    Schaik 2017, arXiv:1702.05373).

    Raises:
        CorruptFile: as `read_idx`.
    """
    pixels, classes = read_idx(files, entry, split)
    return pixels.transpose(0, 1, 3, 2), classes.astype(np.int64) - 1


def mean_pixel(file: Path) -> float:
    """Mean of the first images of a 28x28 image file, pixels from 0 to 1; NaN if there are none to be read."""
    try:
        with _open(file) as stream:
            content = stream.read(16 + SAMPLE * 28 * 28)[16:]
    except (OSError, EOFError, zlib.error):
        return math.nan
    return float(np.frombuffer(content, np.uint8).mean()) / 255 if content else math.nan


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb")) if file.suffix == ".gz" else file.open("rb")


def _table(file: Path, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """The entries of a file of N tables of a size."""
    try:
        with _open(file) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None
    magic = bytes([0, 0, UNSIGNED_BYTE, 1 + len(size)])
    if content[:4] != magic:
        gzipped = "; it is gzipped, add .gz to its name" if content[:2] == b"\x1f\x8b" else "; copy it again"
        raise CorruptFile(
            f"{file}: found the magic number {content[:4].hex() or 'of an empty file'}, expected {magic.hex()}{gzipped}"
        )
    start = 4 * (2 + len(size))
    header = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if tuple(header[1:]) != size or len(content) < start:
        raise CorruptFile(f"{file}: found tables of size {tuple(header[1:])} in the header, expected {size}; copy it again")
    if len(content) - start != math.prod(header):
        found, expected = len(content) - start, f"{math.prod(header)} of tables {header}"
        raise CorruptFile(f"{file}: found {found} bytes after the header, expected {expected}; copy it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(header)
