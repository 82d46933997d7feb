"""Planted pairs: B is a changed copy of A with its units moved, so that the alignment is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graphalign import group
from graphalign.canonical import rescale
from graphalign.errors import InvalidInput
from graphalign.spec import NetworkSpec


@dataclass(frozen=True)
class Augmentation:
    """The changes of DEEP-ALIGN (Navon et al. 2023, arXiv 2310.13397), of kernels too.

    Attributes:
        noise: standard deviation of Gaussian noise, relative to that of every parameter tensor.
        dropout: share of entries set to zero; the others are divided by one minus it.
        scaling: units whose scale is free get a factor from U(1 - scaling, 1 + scaling), undone in the next layer: exact.
        pruning: the entries of the smallest magnitude are set to zero in every parameter tensor, a share drawn from U(0, pruning).
    """

    noise: float = 0.01
    dropout: float = 0.05
    scaling: float = 0.1
    pruning: float = 0.1

    def __post_init__(self) -> None:
        problems = [f"noise={self.noise!r}, expected at least 0"] if self.noise < 0 else []
        shares = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "noise"]
        problems += [f"{n}={v!r}, expected at least 0 and below 1" for n, v in shares if not 0 <= v < 1]
        if problems:
            raise InvalidInput("found " + "; ".join(problems))


def plant(
    spec: NetworkSpec, state: Mapping[str, Tensor], augmentation: Augmentation, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of B, and the permutations that bring its units into the order of A.

    Args:
        spec: what may move.
        state: tensors of A; left as they are.
        augmentation: how B differs beyond the order of its units.
        generator: source of randomness, on the CPU.
    """
    moved = _scaled(spec, state, augmentation.scaling, generator) if augmentation.scaling else dict(state)
    for name, tensor in moved.items():
        if tensor.is_floating_point() and name not in spec.buffers:
            moved[name] = _changed(tensor, augmentation, generator)
    element = group.random_element(spec, generator)
    return group.apply_to_state(spec, group.inverse(element), moved), element


def _scaled(spec: NetworkSpec, state: Mapping[str, Tensor], scaling: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The same function: factors on the units that are positively homogeneous, as the spec says."""
    factors = [
        1 - scaling + 2 * scaling * torch.rand(spec.by_name[r.cell].units, generator=generator, dtype=torch.float64)
        for r in spec.rescalings
    ]
    return rescale(spec, state, factors)


def _changed(tensor: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    if augmentation.noise and tensor.numel() > 1:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        tensor = tensor + augmentation.noise * tensor.std() * noise
    if augmentation.dropout:
        kept = (torch.rand(tensor.shape, generator=generator) >= augmentation.dropout).to(tensor)
        tensor = tensor * kept / (1 - augmentation.dropout)
    if augmentation.pruning:
        count = int(float(torch.rand((), generator=generator)) * augmentation.pruning * tensor.numel())
        if count:
            smallest = tensor.abs().flatten().kthvalue(count).values
            tensor = torch.where(tensor.abs() <= smallest, 0.0, tensor)
    return tensor
