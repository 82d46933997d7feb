"""The tensors of several networks under the same names: read, compared, written back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.errors import SpecMismatch


def is_weight(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers that can be averaged: floating point or complex, no counter, index or mask."""
    return tensor.is_floating_point() or tensor.is_complex()


def tensors_for(module: nn.Module, network: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network under the names that `group.all_tensors` gives them in `module`, each once, not copied.

    Of a state dict, entries for a tied weight may go by any of its names, and buffers that state dicts leave out are those of
    `module`. Keys that are no tensors of `module` are kept, so that a comparison finds them.
    """
    if isinstance(network, nn.Module):
        return group.all_tensors(network)
    owned = group.all_tensors(module)
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    names: dict[int, str] = {}
    own = {name: names.setdefault(id(tensor), name) for name, tensor in every}
    found: dict[str, Tensor] = {}
    for key, tensor in network.items():
        found.setdefault(own.get(key, key), tensor.detach())
    saved = module.state_dict()
    return {**{name: tensor for name, tensor in owned.items() if name not in saved}, **found}


def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrites the parameters and buffers of a module with the tensors of the same names; others stay as they are."""
    with torch.no_grad():
        for name, tensor in group.all_tensors(module).items():
            if name in tensors:
                tensor.copy_(tensors[name])


def require_same_tensors(networks: Mapping[str, Mapping[str, Tensor]], remedy: str = "Pass networks of one architecture.") -> None:
    """Returns nothing if all networks have the tensors of the first: names, shapes, and whether they can be averaged.

    Args:
        networks: tensors of each network by what it is called in messages.
        remedy: what to do, for the message.

    Raises:
        SpecMismatch: lists all differences of all networks.
    """
    (first, expected), *others = networks.items()
    problems = [problem for name, found in others for problem in _differences(first, expected, name, found)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise SpecMismatch(f"the networks do not have the same tensors:\n{listed}\n{remedy}")


def _differences(name_a: str, a: Mapping[str, Tensor], name_b: str, b: Mapping[str, Tensor]) -> Iterator[str]:
    for key in a:
        if key not in b:
            yield f"'{key}' is in {name_a} and not in {name_b}"
        elif a[key].shape != b[key].shape:
            yield f"'{key}' is {tuple(a[key].shape)} in {name_a} and {tuple(b[key].shape)} in {name_b}"
        elif is_weight(a[key]) != is_weight(b[key]):
            yield f"'{key}' is {a[key].dtype} in {name_a} and {b[key].dtype} in {name_b}"
    for key in b:
        if key not in a:
            yield f"'{key}' is in {name_b} and not in {name_a}"
