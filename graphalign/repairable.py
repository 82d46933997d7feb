"""Which layers of a network REPAIR corrects, and how their outputs are seen while the network runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from graphalign.evaluation import call

Observe = Callable[[str, Tensor], Tensor | None]
"""Gets a module's name and its output (its input, of a BatchNorm); an output that it returns takes the place of the module's."""


def find_repairable(model: nn.Module, batch: Any, last_layer: bool = False) -> dict[str, nn.Module]:
    """The modules of a network that REPAIR corrects, in the order in which they run; found by running one batch.

    These are BatchNorms with running statistics, and linear and convolution modules except those
      - whose output goes straight into a BatchNorm, which undoes any scale and shift;
      - that share their weight or bias with another module, or compute it (parametrisations);
      - that the network does not call as modules (the projections of `nn.MultiheadAttention`);
      - that make the network's outputs, unless `last_layer` is set: their result is returned as it is, or they run last.
    """
    ran: dict[str, list[tuple[Tensor, int]]] = {}
    norms: set[str] = set()
    settled: set[str] = set()

    def note(name: str, tensor: Tensor) -> None:
        if isinstance(model.get_submodule(name), _BatchNorm):
            norms.add(name)
            settled.update(layer for layer, results in ran.items() if any(_unchanged(*r, tensor) for r in results))
        ran.setdefault(name, []).append((tensor, tensor._version))

    with observed(model, note), torch.no_grad():
        outputs = [leaf for leaf in tree_leaves(call(model, batch)) if isinstance(leaf, Tensor)]
    layers = [name for name in ran if name not in norms]
    if not last_layer:
        settled.update(layer for layer in layers if any(_unchanged(*r, output) for r in ran[layer] for output in outputs))
        settled.update(layers[-1:])
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = {}
    for name in ran:
        module = model.get_submodule(name)
        own = dict(module.named_parameters(recurse=False))
        usable = "weight" in own and all(owners[id(parameter)] == 1 for parameter in own.values()) and name not in settled
        if module.running_mean is not None if name in norms else usable:
            found[name] = module
    return found


def _unchanged(result: Tensor, version: int, tensor: Tensor) -> bool:
    """Whether `tensor` is what a layer returned, possibly in another shape, and nothing has been written to it since."""
    same = result.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() and result.numel() == tensor.numel()
    return same and result.numel() > 0 and tensor._version == version


@contextmanager
def observed(model: nn.Module, observe: Observe) -> Iterator[None]:
    """Shows `observe` the outputs of all linear and convolution modules and the inputs of all BatchNorms while it lasts."""

    def after(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        return lambda module, inputs, output: observe(name, output) if isinstance(output, Tensor) else None

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            observe(name, inputs[0])

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            handles.append(module.register_forward_hook(after(name)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(before(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_axis(module: nn.Module) -> int:
    """The axis of the channels in the output of a layer or the input of a norm, counted so that a batch axis may be missing."""
    if isinstance(module, _ConvNd):
        return -1 - len(module.kernel_size)
    return 1 if isinstance(module, _BatchNorm) else -1
