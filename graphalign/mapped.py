"""Safetensors files, one or several with an index, read by mapping them: tensors are in memory where they are used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from graphalign.errors import CorruptFile, InvalidInput, first_line

INDEX = ".safetensors.index.json"
"""Ending of the file that says in which shard every tensor is."""

ORDER = "graphalign.key_order"
"""Metadata entry that keeps the order of keys: safetensors files sort them, and the order says how a chain is connected."""

AnyPath = str | os.PathLike[str]


def load_mapped(file: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors file, in the order in which `graphalign.save_state` got them.

    Raises:
        InvalidInput: the file cannot be opened.
        CorruptFile: it is damaged or truncated, or names a tensor twice.
    """
    _check_names(file)
    with _opened(file) as opened:
        keys: list[str] = list(opened.keys())
        state = {key: cast(Tensor, opened.get_tensor(key)) for key in keys}
        metadata: dict[str, str] = opened.metadata() or {}
    try:
        order = json.loads(metadata.get(ORDER, "null"))
    except (ValueError, RecursionError):
        order = None
    if isinstance(order, list) and len(order) == len(state) and set(map(str, order)) == state.keys():
        return {str(key): state[str(key)] for key in order}
    return state


def read_header(file: Path) -> dict[str, str]:
    """The metadata of one .safetensors file.

    Raises:
        InvalidInput, CorruptFile: as `load_mapped`.
    """
    with _opened(file) as opened:
        return dict(opened.metadata() or {})


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            yield opened
    except PermissionError as error:
        raise InvalidInput(f"{file} cannot be opened: {error.strerror or error}; make it readable") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        # the last three are for types of tensors that this version of torch lacks
        raise CorruptFile(
            f"{file} is no complete safetensors file: {first_line(error)}. Copy or download it again, and compare its size with the original."
        ) from None


def _check_names(file: Path) -> None:
    """Returns nothing if no name is in the header twice: of two entries the format's readers keep one without a word."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                return  # the reader says so
            header = stream.read(length)
        json.loads(header, object_pairs_hook=lambda pairs: _once(pairs, str(file)))
    except PermissionError as error:
        raise InvalidInput(f"{file} cannot be opened: {error.strerror or error}; make it readable") from None
    except CorruptFile:
        raise
    except (ValueError, RecursionError, OSError):
        return  # the reader says so


def load_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards of an index (model.safetensors.index.json), in the order of the index.

    Raises:
        InvalidInput: a file cannot be opened.
        CorruptFile: a shard is missing or damaged, lies outside the folder, or does not hold what the index says; lists everything.
    """
    weight_map = read_index(index)
    problems = []
    shards: dict[str, dict[str, Tensor]] = {}
    for name in dict.fromkeys(weight_map.values()):
        shard = index.parent / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            problems.append(f"shard '{name}' is not the name of a .safetensors file beside the index")
        elif not os.path.isfile(shard):
            problems.append(f"shard '{name}' is missing")
        else:
            shards[name] = load_mapped(shard)
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


def read_index(index: Path) -> dict[str, str]:
    """The name of the shard of every tensor, in the order of the index.

    Raises:
        InvalidInput: the file cannot be opened.
        CorruptFile: it is no index.
    """
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _once(pairs, str(index)))
    except OSError as error:
        raise InvalidInput(f"{index} cannot be opened: {error.strerror or error}; make it readable") from None
    except CorruptFile:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{index} is not JSON: {first_line(error)}. Copy or download it again.") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CorruptFile(f"{index} has no 'weight_map' from tensor names to shard files. Copy or download it again.")
    return cast(dict[str, str], weight_map)


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptFile(f"{where} names {twice!r} twice, so that it is uncertain which one is meant; write it again")
    return found
