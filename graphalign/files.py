"""Weights on disk: safetensors, sharded safetensors and pickled checkpoints, read without running any code in them."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphalign.errors import CorruptFile, InvalidInput

PICKLED = (".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights")
ORDER = "graphalign.key_order"
"""Metadata entry that keeps the order of keys: safetensors files sort them, and the order says how a chain is connected."""

FINITE_PART = 2**22
"""Entries that are checked at once for being finite."""

AnyPath = str | os.PathLike[str]


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
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise InvalidInput(f"{file} {found}; pass the path of a .safetensors, .safetensors.index.json, .pt, .pth or .bin file")
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    if file.name.endswith(".safetensors.index.json"):
        return _load_shards(file)
    if file.suffix in PICKLED:
        return _unwrap(_load_pickled(file), file)
    raise InvalidInput(
        f"{file}: unknown ending '{file.suffix}', expected .safetensors, .safetensors.index.json, .pt, .pth or .bin; rename the file "
        "or save its state dict with graphalign.files.save_state"
    )


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            keys: list[str] = list(opened.keys())
            state = {key: cast(Tensor, opened.get_tensor(key)) for key in keys}
            metadata: dict[str, str] = opened.metadata() or {}
    except PermissionError as error:
        raise InvalidInput(f"{file} cannot be opened: {error.strerror or error}; make it readable") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CorruptFile(
            f"{file} is no complete safetensors file: {_first_line(error)}. Copy or download it again, and compare its size with the original."
        ) from None
    try:
        order = json.loads(metadata.get(ORDER, "null"))
    except json.JSONDecodeError:
        order = None
    if isinstance(order, list) and len(order) == len(state) and set(map(str, order)) == state.keys():
        return {str(key): state[str(key)] for key in order}
    return state


def _load_shards(index: Path) -> dict[str, Tensor]:
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise InvalidInput(f"{index} cannot be opened: {error.strerror or error}; make it readable") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{index} is not JSON: {_first_line(error)}. Copy or download it again.") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CorruptFile(f"{index} has no 'weight_map' from tensor names to shard files. Copy or download it again.")
    problems = []
    shards: dict[str, dict[str, Tensor]] = {}
    for name in dict.fromkeys(weight_map.values()):
        shard = index.parent / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            problems.append(f"shard '{name}' is not the name of a .safetensors file beside the index")
        elif not shard.is_file():
            problems.append(f"shard '{name}' is missing")
        else:
            shards[name] = _load_safetensors(shard)
    for key, name in weight_map.items():
        if name in shards and key not in shards[name]:
            problems.append(f"'{key}' is not in shard '{name}'")
    for name, tensors in shards.items():
        problems += [f"shard '{name}' holds '{key}', which the index places elsewhere" for key in tensors if weight_map.get(key) != name]
    if problems:
        raise CorruptFile(
            f"{index} and its shards do not fit:\n" + "\n".join(f"  - {p}" for p in problems) + "\nCopy or download all files again."
        )
    return {key: shards[name][key] for key, name in weight_map.items()}


def _load_pickled(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = zipfile.is_zipfile(file)  # the format before torch 1.6 cannot be mapped
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except PermissionError as error:
        raise InvalidInput(f"{file} cannot be opened: {error.strerror or error}; make it readable") from None
    except pickle.UnpicklingError as error:
        reason = _first_line(error)
        if "weights" in reason.lower() or "global" in str(error).lower():
            named = next((part for part in str(error).splitlines() if "GLOBAL" in part or "global" in part), reason).strip()
            raise CorruptFile(
                f"{file} holds Python objects besides tensors, and was not loaded because that would run code ({named}). "
                "In the program that wrote it, save only the weights: torch.save(model.state_dict(), path) or graphalign.files.save_state."
            ) from None
        raise CorruptFile(f"{file} is no torch checkpoint: {reason}. Copy or download it again.") from None
    except Exception as error:  # noqa: BLE001 (a damaged pickle can raise anything)
        raise CorruptFile(
            f"{file} is damaged, truncated or no torch checkpoint: {_first_line(error)}. Copy or download it again; "
            "of a TorchScript archive, save the state_dict."
        ) from None


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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


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
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder; pass the path of a file")
    if file.exists() and not force:
        raise InvalidInput(f"{file} exists already; pass force=True to replace it, or another path")
    if not file.parent.is_dir():
        raise InvalidInput(f"{file} cannot be written: the folder {file.parent} does not exist; create it or pass another path")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask grants; some writers recreate the file as private
        yield temporary
        os.chmod(temporary, mode)
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
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
    """Metadata of a .safetensors file, empty for other files."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})
