"""CIFAR-10 as published (Krizhevsky 2009): the binary version, and the pickled one read without running any code in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from graphalign.data.sets import ImageSet, Split
from graphalign.errors import CorruptFile, GraphAlignError

PIXELS = 3 * 32 * 32


def read_binary(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Pixels (N, 3, 32, 32) and classes (N,) of the batches: records of one byte of class and 3,072 of pixels.

    Raises:
        CorruptFile: a file that is not a whole number of records, at least one.
    """
    parts = []
    for file in files:
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None
        if not len(content) or len(content) % (1 + PIXELS):
            raise CorruptFile(f"{file}: found {len(content)} bytes, expected a multiple of {1 + PIXELS}; copy it again")
        parts.append(content.reshape(-1, 1 + PIXELS))
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, *entry.shape), records[:, 0]


def read_pickled(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """As `read_binary`, of the pickled batches: `data` (N, 3072) uint8 and `labels`, a list.

    Nothing but lists, numbers, text and the bytes of arrays is made of a pickle: no name in it is imported.

    Raises:
        CorruptFile: a damaged pickle, one that would run code, or one without these two.
    """
    parts: list[NDArray[np.uint8]] = []
    classes: list[int] = []
    for file in files:
        try:
            with file.open("rb") as stream:
                pixels, labels = _batch(_Unpickler(stream, file).load(), file)
        except GraphAlignError:
            raise
        except Exception as error:  # noqa: BLE001 (a damaged pickle can raise anything)
            raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None
        parts.append(pixels)
        classes += labels
    return np.concatenate(parts).reshape(-1, *entry.shape), np.array(classes, np.int64)


def _batch(content: Any, file: Path) -> tuple[NDArray[np.uint8], list[int]]:
    named = content if isinstance(content, dict) else {}
    entries = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in named.items()}
    pixels, labels = entries.get("data"), entries.get("labels")
    if not isinstance(pixels, _Array) or not isinstance(labels, list) or not all(type(label) is int for label in labels):
        found = sorted(map(str, entries)) or type(content).__name__
        raise CorruptFile(f"{file}: found {found}, expected an array 'data' and a list of numbers 'labels'; copy it again")
    shape, length = (len(labels), PIXELS), len(pixels.content)
    if pixels.dtype not in ("u1", "uint8") or pixels.shape != shape or length != len(labels) * PIXELS or not labels:
        found = f"{pixels.dtype} of shape {pixels.shape} in {length} bytes"
        raise CorruptFile(f"{file}: found {found}, expected uint8 of shape {shape}, one row for each label; copy it again")
    return np.frombuffer(pixels.content, np.uint8).reshape(shape, order="F" if pixels.columns_first else "C"), labels


class _Type:
    """Stands in for numpy.dtype in a pickle: its name, and no state, which bytes do not need."""

    def __init__(self, name: str | bytes, align: object = None, copy: object = None) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        return


class _Array:
    """Stands in for numpy.ndarray in a pickle: the parts that it is made of, as they are written."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = ""
        self.columns_first = False
        self.content = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes]) -> None:
        _, self.shape, dtype, self.columns_first, content = state
        self.dtype, self.content = dtype.name, bytes(memoryview(content))

    @classmethod
    def empty(cls, kind: type, shape: tuple[int, ...], code: str | bytes) -> _Array:
        """What numpy's _reconstruct does."""
        return cls()


def _encode(text: str, encoding: str | bytes = "latin1") -> bytes:
    """How Python 3 writes bytes into pickles of protocol 2."""
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array.empty,
    ("numpy._core.multiarray", "_reconstruct"): _Array.empty,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Gives the stand-ins for the names that an array is pickled by, and knows no others."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        super().__init__(stream, encoding="bytes")  # what Python 2 wrote as text holds the pixels
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise CorruptFile(
                f"{self.file}: found the name {module}.{name}, which could run code, expected arrays, lists and numbers; "
                "copy it again, or use the binary version, cifar-10-batches-bin"
            ) from None
