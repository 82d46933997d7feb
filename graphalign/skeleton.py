"""Networks that are known by their code alone: modules on the meta device, and how they get tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.inputs import Inputs

LISTED = 20
"""Tensors that a message names."""


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    """A copy of a module in eval mode that holds tensors of a state dict, shared and not copied; ties between parameters stay.

    Buffers that a state dict leaves out stay those of the module.

    Args:
        module: on any device, "meta" included; left as it is.
        tensors: by state-dict key; of a tied weight any of its names will do.
        name: of the network, for messages.

    Raises:
        SpecMismatch: tensors are missing or have another shape; all of them are listed.
        InvalidInput: a buffer on the meta device has no values in the state dict.
    """
    everything = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    saved = module.state_dict(keep_vars=True).keys()
    names_of_all = {key for key, _ in everything}
    names: dict[int, list[str]] = {}
    for key, tensor in everything:
        names.setdefault(id(tensor), []).append(key)
    shared: dict[int, Any] = {id(tensor): tensor for _, tensor in everything}
    problems: list[str] = []
    unknown: list[str] = []
    for _, tensor in everything:
        keys = names[id(tensor)]
        present = [k for k in keys if k in tensors]
        if not present:
            if any(k in saved for k in keys):
                problems.append(f"'{keys[0]}' is missing, expected shape {tuple(tensor.shape)}")
            elif tensor.is_meta:
                unknown.append(keys[0])
        elif tensors[present[0]].shape != tensor.shape:
            problems.append(f"'{present[0]}' has shape {tuple(tensors[present[0]].shape)}, expected {tuple(tensor.shape)}")
        else:
            found = tensors[present[0]].detach()
            shared[id(tensor)] = nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found
    if problems:
        listed = list(dict.fromkeys(problems))
        listed = [*listed[:LISTED], *([f"and {len(listed) - LISTED} more"] if len(listed) > LISTED else [])]
        others = [key for key in tensors if key not in names_of_all]
        listed += [f"tensors that the module does not have: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"] if others else []
        raise SpecMismatch(
            f"{name} does not have the tensors of the module:\n" + "\n".join(f"  - {p}" for p in listed) + "\nPass the module that wrote them."
        )
    if unknown:
        raise InvalidInput(
            f"module: found no values of the buffers {sorted(set(unknown))}, which are on the meta device and which state dicts leave out; "
            "build these buffers on the CPU"
        )
    return copy.deepcopy(module, shared).eval()


def materialised(example_input: Any) -> Any:
    """An example input whose tensors on the meta device are replaced by zeros on the CPU; the same object if there are none."""
    parts = (example_input.args, dict(example_input.kwargs)) if isinstance(example_input, Inputs) else example_input
    if not any(isinstance(v, Tensor) and v.is_meta for v in pytree.tree_leaves(parts)):
        return example_input
    if isinstance(example_input, Inputs):
        return Inputs(*materialised(example_input.args), **materialised(dict(example_input.kwargs)))
    return pytree.tree_map(lambda v: torch.zeros_like(v, device="cpu") if isinstance(v, Tensor) and v.is_meta else v, example_input)
