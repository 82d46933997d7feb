"""Image data in .npz files: arrays, or concatenated JPEG files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from graphalign.data.sets import ImageSet, Split
from graphalign.errors import CorruptFile, GraphAlignError, InvalidInput


def read_npz(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Pixels (N, C, H, W) and classes (N,) of one file.

    The file holds `x_train, y_train, x_test, y_test` (images N x H x W uint8) or, of colour images, concatenated JPEG files
    `jpeg_train` with their lengths `len_train` and `y_train` (the same for test).

    Raises:
        CorruptFile: the file is damaged or lacks a table.
        InvalidInput: JPEG files, and Pillow is missing.
    """
    (file,) = files
    jpeg = entry.shape[0] == 3
    names = [f"jpeg_{split}", f"len_{split}", f"y_{split}"] if jpeg else [f"x_{split}", f"y_{split}"]
    try:
        with file.open("rb") as stream:
            tables = np.load(stream, allow_pickle=False)
            if not isinstance(tables, np.lib.npyio.NpzFile):
                raise CorruptFile(f"{file}: found one array, expected an .npz file with {names}; make the file again")
            with tables:
                missing = [n for n in names if n not in tables.files]
                if missing:
                    raise CorruptFile(f"{file}: found tables {tables.files}, expected {missing} too; make the file again")
                *parts, classes = (tables[n] for n in names)
            return (_decode(parts[0], parts[1], file) if jpeg else _one_channel(parts[0], file)), classes
    except GraphAlignError:
        raise
    except (BadZipFile, OSError, EOFError, ValueError, zlib.error) as error:
        raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None


def _one_channel(pixels: NDArray[np.uint8], file: Path) -> NDArray[np.uint8]:
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise CorruptFile(
            f"{file}: found images {pixels.dtype} of shape {pixels.shape}, expected uint8 N x H x W; make the file again"
        )
    return pixels[:, None]


def _decode(stream: NDArray[np.uint8], lengths: NDArray[np.integer], source: Path) -> NDArray[np.uint8]:
    """JPEG files in a row -> (N, 3, H, W)."""
    try:
        from PIL import Image
    except ImportError:
        raise InvalidInput("JPEG images need Pillow, which is not installed; run: pip install 'graphalign[demo]'") from None
    ends = np.cumsum(lengths.astype(np.int64))
    if not len(ends) or ends[-1] != len(stream):
        expected = f"{ends[-1:].sum()}, the sum of their lengths"
        raise CorruptFile(f"{source}: found {len(stream)} bytes of JPEG files, expected {expected}; copy it again")
    starts = ends - lengths
    files = (io.BytesIO(stream[i:j].tobytes()) for i, j in zip(starts, ends, strict=True))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).transpose(0, 3, 1, 2)
