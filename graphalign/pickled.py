"""Checkpoints written by `torch.save`, read without running code in them and without more memory than their size calls for."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphalign.errors import CorruptFile, InvalidInput, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights")
SHARED = 64
"""How many times the size of the file the tensors may take together: a weight that goes by several names is counted once for each."""
ALWAYS_ALLOWED = 1 << 20
"""Bytes that tensors may take in any case."""


def load_pickled(file: Path) -> dict[str, Tensor]:
    """The state dict in a file that `torch.save` wrote, mapped from it where the format allows.

    Raises:
        InvalidInput: the file cannot be opened, or it cannot be told what in it is the state dict.
        CorruptFile: damaged, a pickle that would run code, or tensors larger than the file; nothing in it is executed.
    """
    state = _unwrap(_load(file), file)
    if nested := [key for key, tensor in state.items() if tensor.is_nested]:
        raise InvalidInput(f"{file}: {nested} are nested tensors, expected dense ones; save tensors of one shape each")
    if zipfile.is_zipfile(file):
        _check_storages(file, state)
    if problems := list(_oversized(state, file.stat().st_size)):
        raise CorruptFile(
            f"{file} claims tensors that are not in it:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nExpand no tensors before saving them (tensor.clone()), or copy or download the file again."
        )  # fmt: skip
    return state


def _load(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = zipfile.is_zipfile(file)  # the format before torch 1.6 cannot be mapped
            if mapped:
                _check_archive(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except CorruptFile:
        raise
    except PermissionError as error:
        raise InvalidInput(f"{file} cannot be opened: {error.strerror or error}; make it readable") from None
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        if "weights" in reason.lower() or "global" in str(error).lower():
            named = next((part for part in str(error).splitlines() if "GLOBAL" in part or "global" in part), reason).strip()
            raise CorruptFile(
                f"{file} holds Python objects besides tensors, and was not loaded because that would run code ({named}). "
                "In the program that wrote it, save only the weights: torch.save(model.state_dict(), path) or graphalign.files.save_state."
            ) from None
        raise CorruptFile(f"{file} is no torch checkpoint: {reason}. Copy or download it again.") from None
    except Exception as error:  # noqa: BLE001 (a damaged pickle can raise anything)
        raise CorruptFile(
            f"{file} is damaged, truncated or no torch checkpoint: {first_line(error)}. Copy or download it again; "
            "of a TorchScript archive, save the state_dict."
        ) from None


def _check_archive(file: Path) -> None:
    """Returns nothing if a zip archive is stored as torch stores it: not compressed, so that it holds no more than it weighs."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CorruptFile(f"{file} is no torch checkpoint: its entry {packed[0]!r} is compressed, which torch.save never does; of a TorchScript archive, save the state_dict")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptFile(f"{file} is no torch checkpoint: its entry {twice!r} is there more than once")
    if (claimed := sum(entry.file_size for entry in entries)) > (size := file.stat().st_size):
        raise CorruptFile(f"{file} is damaged: its entries claim {claimed} bytes, the file has {size}")


def _check_storages(file: Path, state: Mapping[str, Tensor]) -> None:
    """Returns nothing if the archive has an entry of the right size for every storage: mapped ones would reach into the next entry."""
    with zipfile.ZipFile(file) as archive:
        left = Counter(entry.file_size for entry in archive.infolist())
    found: dict[int, str] = {}
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or not (size := tensor.untyped_storage().nbytes()):
            continue
        if found.setdefault(tensor.untyped_storage().data_ptr(), key) != key:
            continue
        left[size] -= 1
        if left[size] < 0:
            raise CorruptFile(f"{file} is damaged: '{key}' takes {size} bytes, and no entry of the archive is left that has so many. Copy or download it again.")


def _oversized(state: Mapping[str, Tensor], size: int) -> Iterator[str]:
    total = 0
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            continue  # never expanded: whoever needs values refuses it
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > max(size, ALWAYS_ALLOWED):
            yield f"'{key}' of shape {tuple(tensor.shape)} takes {claimed} bytes, the file has {size}"
    if total > max(SHARED * size, ALWAYS_ALLOWED):
        yield f"all tensors take {total} bytes, more than {SHARED} times the {size} of the file"


def _unwrap(content: Any, file: Path) -> dict[str, Tensor]:
    if _is_state(content):
        return {key: tensor.detach() for key, tensor in content.items()}
    if isinstance(content, Mapping):
        wrapped = [key for key in WRAPPERS if _is_state(content.get(key))]
        if len(wrapped) == 1:
            return {key: tensor.detach() for key, tensor in content[wrapped[0]].items()}
        if wrapped:
            raise InvalidInput(
                f"{file} holds several state dicts: {wrapped}; load it with torch.load(path, weights_only=True) and pass one of them"
            )
        found = "a dict with " + (", ".join(f"'{k}': {type(v).__name__}" for k, v in list(content.items())[:8]) or "no entries")
        others = [str(key) for key, value in content.items() if _is_state(value)]
        if others:
            found += f" (tensors under {others})"
    else:
        found = type(content).__name__
    raise InvalidInput(
        f"{file}: found {found}, expected a dict of tensors, alone or under one of {list(WRAPPERS)}; "
        "load it with torch.load(path, weights_only=True) and pass its state dict"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )
