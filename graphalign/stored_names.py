"""The names of tensors in files of transformers, which are not always those in its code, nor the same in all of its versions."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphalign.files import load_state

LEGACY = {".weight": ".gamma", ".bias": ".beta"}
"""Endings of norms in files that were converted from TensorFlow."""


def stored_names(module: nn.Module, found: Collection[str]) -> dict[str, str]:
    """The names that tensors of a module have in a file, by their key in the module, as far as the two differ.

    Models of transformers write other names than those of their code where earlier versions had others, and a network may have been
    written with a head that it lacks here, or without.

    Args:
        module: the code; of other libraries there is nothing to rename.
        found: the names in the file.
    """
    if not hasattr(module, "save_pretrained"):
        return {}
    keys = list(module.state_dict())
    if all(key in found for key in keys):
        return {}
    written = _written(module, keys)
    free = set(found) - set(keys)
    missing = [key for key in keys if key not in found]
    first = written.get(missing[0], missing[0])
    prefixes = sorted((name.removesuffix(first) for name in free if name.endswith(f".{first}")), key=len)
    names = {key: next((name for name in _candidates(key, written.get(key, key), prefixes) if name in free), key) for key in missing}
    claims = Counter(names.values())
    return {key: name for key, name in names.items() if name != key and claims[name] == 1}


def _candidates(key: str, written: str, prefixes: Iterable[str]) -> Iterator[str]:
    for name in (key, written):
        for variant in (name, name.partition(".")[2], *(prefix + name for prefix in prefixes)):
            yield variant
            yield from (variant.removesuffix(end) + old for end, old in LEGACY.items() if variant.endswith(end))


def _written(module: Any, keys: list[str]) -> dict[str, str]:
    """What `save_pretrained` calls each tensor, told by writing numbers in their place; empty where it joins or cuts tensors."""
    if find_spec("transformers") is None:  # a method of this name in another library
        return {}
    logging: Any = import_module("transformers.utils.logging")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as folder:
            module.save_pretrained(folder, state_dict={key: torch.tensor([number]) for number, key in enumerate(keys)})
            return {keys[int(tensor)]: name for name, tensor in load_state(Path(folder) / "model.safetensors").items()}
    except Exception:  # noqa: BLE001 (a library of its own, given tensors of shapes that it does not expect)
        return {}
    finally:
        if bars:
            logging.enable_progress_bar()
