"""The sound networks that bad files are made from: two multilayer perceptrons of one architecture."""

from __future__ import annotations

import io
import itertools
import json
import random
from functools import cache

import torch
from safetensors.torch import save
from torch import Tensor

WIDTHS = (4, 6, 5, 3)
STATES = (0, 1)


@cache
def _state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, (width, units) in enumerate(itertools.pairwise(WIDTHS)):
        found[f"{2 * i}.weight"] = torch.randn(units, width, generator=generator)
        found[f"{2 * i}.bias"] = torch.randn(units, generator=generator)
    return found


def state(seed: int = 1) -> dict[str, Tensor]:
    """The state dict of a network; a dict and tensors of its own."""
    return {key: tensor.clone() for key, tensor in _state(seed).items()}


@cache
def safetensors_bytes() -> bytes:
    """A safetensors file without metadata."""
    return save(_state(1))


@cache
def torch_bytes(legacy: bool = False) -> bytes:
    """A file as torch writes it, in the format of today or of before version 1.6."""
    return saved(_state(1), legacy)


def saved(content: object, legacy: bool = False) -> bytes:
    """Any content as torch writes it."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def header() -> dict[str, dict[str, object]]:
    """The header of the safetensors file, to be changed."""
    content = safetensors_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])  # type: ignore[no-any-return]


def with_header(text: str | bytes, data: bytes | None = None) -> bytes:
    """A safetensors file with this header and the tensors of the sound one, or these."""
    content = safetensors_bytes()
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    own = content[8 + int.from_bytes(content[:8], "little") :]
    return len(raw).to_bytes(8, "little") + raw + (own if data is None else data)


def some_key(rng: random.Random) -> str:
    """One of the tensors."""
    return rng.choice(list(_state(1)))
