"""Safetensors files written tensor by tensor, so that a network never has to be in memory as a whole.

The format (github.com/huggingface/safetensors): the length of a header as a 64-bit number, the header, JSON with type, shape and
place of every tensor, and the tensors one after the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.files import ORDER, AnyPath, atomic_write

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def save_streamed(
    layout: Mapping[str, Tensor], tensor_of: Callable[[str], Tensor], path: AnyPath, metadata: Mapping[str, str] | None = None, *,
    force: bool = False,
) -> None:  # fmt: skip
    """Writes a .safetensors file that appears complete or not at all, holding one of its tensors at a time.

    Args:
        layout: for every key a tensor of the type and shape that is written; its values are not looked at.
        tensor_of: the tensor of a key, asked for once.
        path: ends in .safetensors.
        metadata: text entries to store with the tensors.
        force: replace an existing file.

    Raises:
        InvalidInput: another ending, types that the format does not know, an existing file without `force`, or a folder that cannot be
            written.
    """
    problems = [f"'{key}' has dtype {t.dtype}, expected one of {', '.join(map(str, TYPES))}" for key, t in layout.items() if t.dtype not in TYPES]
    problems += [f"the path ends in '{str(path).rpartition('.')[2]}', expected .safetensors"] * (not str(path).endswith(".safetensors"))
    if problems:
        raise InvalidInput(f"{path} cannot be written:\n" + "\n".join(f"  - {p}" for p in problems))
    keys = sorted(layout, key=lambda key: -layout[key].element_size())  # keeps every tensor aligned to its own type
    header: dict[str, object] = {"__metadata__": {"format": "pt", ORDER: json.dumps(list(layout)), **(metadata or {})}}
    place = 0
    for key in keys:
        end = place + math.prod(layout[key].shape) * layout[key].element_size()
        header[key] = {"dtype": TYPES[layout[key].dtype], "shape": list(layout[key].shape), "data_offsets": [place, end]}
        place = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path, force=force) as draft, draft.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for key in keys:
            tensor = tensor_of(key).detach().cpu().contiguous()
            if tensor.shape != layout[key].shape or tensor.dtype != layout[key].dtype:
                raise InvalidInput(
                    f"{path}: '{key}' turned out as {tensor.dtype} {tuple(tensor.shape)}, expected {layout[key].dtype} {tuple(layout[key].shape)}"
                )
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
