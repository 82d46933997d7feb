"""Weights on disk: safetensors, sharded safetensors and pickled checkpoints, read without running any code in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from graphalign.errors import InvalidInput, first_line
from graphalign.mapped import INDEX, ORDER, AnyPath, load_mapped, load_shards, read_header
from graphalign.pickled import load_pickled

PICKLED = (".pt", ".pth", ".bin")
FINITE_PART = 2**22
"""Entries that are checked at once for being finite."""


def load_state(path: AnyPath) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    Tensors are mapped from the file: the system reads them where they are used, so the file must not be overwritten in place
    as long as they are; replacing it, as `save_state` does, is safe.

    Args:
        path: .safetensors, an index of shards (model.safetensors.index.json), or .pt/.pth/.bin as written by `torch.save`.
            A checkpoint that holds the state dict under one of "state_dict", "model_state_dict", "model", "module" or
            "weights" is unwrapped when exactly one of them holds tensors.

    Raises:
        InvalidInput: no such file, an unknown ending, or a checkpoint in which the state dict cannot be told.
        CorruptFile: damaged, truncated, or a pickle that would run code; nothing in it is executed.
    """
    file = Path(path)
    if not os.path.isfile(file):  # which knows names that are too long for the system, unlike Path.is_file
        found = "is a folder" if os.path.isdir(file) else "is no file of data" if os.path.exists(file) else "does not exist"
        raise InvalidInput(f"{file} {found}; pass the path of a .safetensors, .safetensors.index.json, .pt, .pth or .bin file")
    if file.suffix == ".safetensors":
        return load_mapped(file)
    if file.name.endswith(INDEX):
        return load_shards(file)
    if file.suffix in PICKLED:
        return load_pickled(file)
    raise InvalidInput(
        f"{file}: unknown ending '{file.suffix}', expected .safetensors, .safetensors.index.json, .pt, .pth or .bin; rename the file "
        "or save its state dict with graphalign.files.save_state"
    )


def save_state(state: Mapping[str, Tensor], path: AnyPath, metadata: Mapping[str, str] | None = None, force: bool = False) -> None:
    """Writes a .safetensors file that appears complete or not at all; tensors that share memory are stored separately.

    Args:
        state: tensors by key; left as they are.
        path: ends in .safetensors.
        metadata: text entries to store with them.
        force: replace an existing file.

    Raises:
        InvalidInput: no tensors, another ending, an existing file without `force`, or a folder that cannot be written.
    """
    file = Path(path)
    problems = [f"'{k}': found {type(t).__name__}, expected a dense tensor" for k, t in state.items() if not _is_dense(t)]
    problems += [f"metadata '{k}': found {type(v).__name__}, expected text" for k, v in (metadata or {}).items() if not isinstance(v, str)]
    if not state:
        problems.append("the state dict is empty")
    if file.suffix != ".safetensors":
        problems.append(f"the path ends in '{file.suffix}', expected .safetensors")
    if problems:
        raise InvalidInput(f"{file} cannot be written:\n" + "\n".join(f"  - {p}" for p in problems))
    seen: set[tuple[str, int]] = set()
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        owner = (str(tensor.device), tensor.untyped_storage().data_ptr())
        tensor = tensor.detach().contiguous()
        tensors[key] = tensor.clone() if owner in seen else tensor
        seen.add(owner)
    with atomic_write(file, force=force) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", ORDER: json.dumps(list(tensors)), **(metadata or {})})


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and value.device.type != "meta"


@contextmanager
def atomic_write(path: AnyPath, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`; on success it replaces `path`, on failure it is removed and `path` stays as it was.

    Raises:
        InvalidInput: `path` exists and `force` is off, or its folder does not exist or cannot be written.
    """
    file = Path(path)
    if os.path.isdir(file):
        raise InvalidInput(f"{file} is a folder; pass the path of a file")
    if os.path.exists(file) and not force:
        raise InvalidInput(f"{file} exists already; pass force=True to replace it, or another path")
    if not os.path.isdir(file.parent):
        raise InvalidInput(f"{file} cannot be written: the folder {file.parent} does not exist; create it or pass another path")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask grants; some writers recreate the file as private
        yield temporary
        os.chmod(temporary, mode)
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InvalidInput(f"{file} cannot be written: {reason}; check the folder's permissions and free space, or pass another path") from None
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Removes a file if it is there and may be removed: it must not hide the error that got us here."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def check_weights(state: Mapping[str, Tensor], name: str = "the state dict") -> None:
    """Returns nothing if every tensor can be a trained weight.

    Weights and buffers must be dense and finite. Integer and boolean tensors are accepted where they can only be counters,
    indices or masks: without dimensions (num_batches_tracked), or under a key whose last part is neither "weight" nor
    "bias" nor starts with "weight_" or "bias_". Quantised integer weights are refused.

    Raises:
        InvalidInput: lists every tensor with NaN or infinite entries, every integer weight, or says that there are none.
    """
    if not state:
        raise InvalidInput(f"{name} is empty: there are no tensors; pass the state dict of a trained network")
    problems = [f"'{key}' {problem}" for key, tensor in state.items() if (problem := _weight_problem(key, tensor))]
    if problems:
        raise InvalidInput(
            f"{name} cannot be aligned:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nPass finite floating-point weights (a diverged run must be trained again, quantised weights must be dequantised)."
        )  # fmt: skip


def _weight_problem(key: str, tensor: Tensor) -> str:
    if not _is_dense(tensor):
        return f"is no dense tensor with values: found {type(tensor).__name__}, expected a strided, materialised tensor"
    if not (tensor.is_floating_point() or tensor.is_complex()):
        leaf = key.rpartition(".")[2]
        is_weight = leaf in ("weight", "bias") or leaf.startswith(("weight_", "bias_"))
        return f"has dtype {tensor.dtype}, expected a floating-point type" if is_weight and tensor.dim() else ""
    values = tensor.detach().reshape(-1)
    nan = infinite = 0
    for part in values.split(FINITE_PART):
        part = part.float() if part.element_size() == 1 else part  # 8-bit floats know no isfinite
        if not bool(part.isfinite().all()):
            nan, infinite = nan + int(part.isnan().sum()), infinite + int(part.isinf().sum())
    found = [f"{count} {what}" for count, what in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"has {' and '.join(found)} of {tensor.numel()} entries" if found else ""


def read_metadata(path: AnyPath) -> dict[str, str]:
    """Metadata of a .safetensors file, empty for other files.

    Raises:
        InvalidInput: the file cannot be opened.
        CorruptFile: it is no complete safetensors file.
    """
    return read_header(Path(path)) if Path(path).suffix == ".safetensors" else {}


__all__ = [
    "FINITE_PART", "INDEX", "ORDER", "PICKLED", "AnyPath", "atomic_write", "check_weights", "load_state", "read_metadata", "save_state",
]  # fmt: skip
