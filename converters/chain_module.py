"""A network module around the tensors of a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphalign.errors import InvalidInput

from .chain_layers import ChainLayer, ChainModule

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU, "selu": nn.SELU, "mish": nn.Mish,
    "softplus": nn.Softplus, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu6": nn.ReLU6, "hardswish": nn.Hardswish,
}  # fmt: skip
CONVS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
GLOBAL_POOLS = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}
MAX_POOLS = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}


@dataclass(frozen=True)
class Step:
    """One layer of the forward pass and the modules without weights that follow it."""

    path: str
    norm: str | None
    after: tuple[nn.Module, ...]


class Chain(nn.Module):
    """Layer, batch norm, activation, layer, ...: parameters and buffers under the keys of the state dict."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self._steps = tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """The output (N, C) of the last layer for inputs (N, D) or (N, C, *positions)."""
        for step in self._steps:
            x = self.get_submodule(step.path)(x)
            if step.norm is not None:
                x = self.get_submodule(step.norm)(x)
            for module in step.after:
                x = module(x)
        return x


def build(layers: Sequence[ChainLayer], after: Sequence[Sequence[nn.Module]]) -> Chain:
    """The chain in eval mode; its parameters share memory with the tensors given, need no gradient, and are not modified.

    Args:
        layers: in the order in which data flows.
        after: for every layer, the modules that follow it and its batch norm.
    """
    chain = Chain(
        [
            Step(layer.matrix.path, layer.norm.path if layer.norm else None, tuple(m))
            for layer, m in zip(layers, after, strict=True)
        ]
    )
    for layer in layers:
        _place(chain, layer.matrix, _layer(layer.weight, "bias" in layer.matrix.tensors))
        if layer.norm is not None:
            tensors = layer.norm.tensors
            norm = NORMS[layer.weight.dim()](layer.norm.channels, affine="weight" in tensors, device="meta")
            norm.num_batches_tracked = tensors.get("num_batches_tracked")
            _place(chain, layer.norm, norm)
    return chain.eval()


def activation_module(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        InvalidInput: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise InvalidInput(
            f"activation: found {name!r}, expected one of {sorted(ACTIVATIONS)}; pass the module and an example_input for others"
        )
    return ACTIVATIONS[name]()


def _layer(weight: Tensor, bias: bool) -> nn.Module:
    out, inputs, *kernel = weight.shape
    if not kernel:
        return nn.Linear(inputs, out, bias=bias, device="meta")
    padding = [(k - 1) // 2 for k in kernel] if all(k % 2 for k in kernel) else "same"
    return CONVS[weight.dim()](inputs, out, kernel, padding=padding, bias=bias, device="meta")  # type: ignore[arg-type]


def _place(chain: Chain, source: ChainModule, module: nn.Module) -> None:
    _fill(module, source.tensors)
    parent: nn.Module = chain
    parts = source.path.split(".")
    try:
        for part in parts[:-1]:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(parts[-1], module)
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"'{source.path}' cannot be the name of a module: {error}; rename its tensors") from None


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for leaf in ("weight", "bias"):
        if leaf in tensors:
            module.register_parameter(leaf, nn.Parameter(tensors[leaf], requires_grad=False))
    for leaf in ("running_mean", "running_var", "num_batches_tracked"):
        if leaf in tensors:
            module.register_buffer(leaf, tensors[leaf])


def example(layers: Sequence[ChainLayer], positions: Sequence[int]) -> Tensor:
    """A zero input (1, I, *positions) in the chain's dtype, on its device."""
    first = layers[0].weight
    return torch.zeros((1, first.shape[1], *positions), dtype=first.dtype, device=first.device)
