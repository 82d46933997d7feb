"""Batches by name: an image data set, a file of inputs and targets, or a loader that code makes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from graphalign.data import IMAGES, SPLITS, images, loader
from graphalign.errors import CorruptFile, InvalidInput, first_line
from graphalign.evaluation import Loader, inputs_of
from graphalign.example_inputs import mapped
from graphalign.files import AnyPath, load_state
from graphalign.named_code import call_named

EXPECTED = f"expected one of {', '.join(IMAGES)} (with :train or :test), a .safetensors or .npz file, or module:factory of a loader"
COMPRESSED = 64
"""How many times its size the tables of an .npz file may take."""


def named_batches(text: str, *, split: str = "test", root: AnyPath | None = None, batch_size: int = 128) -> Loader:
    """Batches of inputs, or of (inputs, targets).

    Args:
        text: - the name of an image data set, alone or with a split, such as "digits" or "cifar10:train" (see `graphalign.data.images`).
            - a .safetensors or .npz file with "inputs" (N, ...) and, optionally, "targets" (N, ...).
            - "module:factory" or "file.py:factory", which returns a loader; this runs the code of that file.
        split: of an image data set whose name has none.
        root: folder with image data sets; the environment variable GRAPHALIGN_DATA if None.
        batch_size: of data sets and files.

    Raises:
        InvalidInput: no such data.
        CorruptFile: a file is damaged or does not hold inputs.
    """
    name, _, part = text.partition(":")
    if name in IMAGES and part in ("", *SPLITS):
        return loader(images(name, "train" if (part or split) == "train" else "test", root), batch_size)
    if re.search(r"\.(safetensors|npz)$", text):
        return loader(_read(Path(text)), batch_size)
    if ":" not in text:
        raise InvalidInput(f"data: found {text!r}, {EXPECTED}")
    found = call_named(text, "data")
    if not hasattr(found, "__iter__"):
        raise InvalidInput(f"data: {text} returned {type(found).__name__}, expected a loader of batches of (inputs, targets)")
    return found  # type: ignore[no-any-return]


def _read(file: Path) -> TensorDataset:
    if not file.is_file():
        raise InvalidInput(f"data: found no file {file}, {EXPECTED}")
    tensors = load_state(file) if file.suffix == ".safetensors" else _read_npz(file)
    if "inputs" not in tensors or not tensors.keys() <= {"inputs", "targets"}:
        raise CorruptFile(f"{file}: found {sorted(tensors)[:20]}, expected 'inputs' and, optionally, 'targets'; rename its tensors")
    if len({len(t) if t.dim() else 0 for t in tensors.values()}) > 1 or not all(t.dim() and t.numel() for t in tensors.values()):
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise CorruptFile(f"{file}: found {shapes}, expected as many targets as inputs, and one at least; make the file again")
    return TensorDataset(*(_usable(tensors[name]) for name in ("inputs", "targets") if name in tensors))


def _usable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor if tensor.is_floating_point() else tensor.long()


def _read_npz(file: Path) -> Mapping[str, Tensor]:
    try:
        with zipfile.ZipFile(file) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > COMPRESSED * file.stat().st_size:
            raise CorruptFile(f"{file}: its tables claim {claimed} bytes, more than {COMPRESSED} times the file; save it with numpy.savez")
        with np.load(file, allow_pickle=False) as tables:
            return {name: torch.from_numpy(np.array(tables[name], order="C")) for name in tables.files}
    except CorruptFile:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged archive can raise anything)
        raise CorruptFile(f"{file} cannot be read as an .npz file of plain arrays: {first_line(error)}; save it with numpy.savez") from None


@dataclass(frozen=True)
class Flattened:
    """Batches whose inputs have one axis per example.

    Attributes:
        batches: of tensors (N, ...) of inputs, alone or with targets.
    """

    batches: Loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            parts = batch if isinstance(batch, (tuple, list)) else (batch,)
            inputs = parts[0].flatten(1) if isinstance(parts[0], Tensor) and parts[0].dim() > 2 else parts[0]
            yield (inputs, *parts[1:])


def first_inputs(batches: Any) -> Any:
    """The inputs of the first example of a loader, as an input of a network."""
    for batch in batches:
        inputs = inputs_of(tuple(batch) if isinstance(batch, list) else batch)
        return mapped(inputs, lambda value: value[:1] if isinstance(value, Tensor) and value.dim() else value)
    raise InvalidInput("data: found no batch, expected at least one")
