"""The tensors of a network in the type that is computed in, converted one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class Converted(Mapping[str, Tensor]):
    """Tensors without derivatives, floating-point ones in one type; each is converted when it is asked for, and not kept.

    Tensors that have the type already are given as they are, so that nothing is copied.

    Args:
        tensors: by state-dict key; they may be mapped from a file.
        dtype: of the floating-point ones.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name].detach()
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def copies(self) -> bool:
        """Whether any tensor has to be converted."""
        return any(t.is_floating_point() and t.dtype != self.dtype for t in self.tensors.values())


def sample_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """An empty tensor of the type and device that a network is computed in."""
    stored = tensors.tensors if isinstance(tensors, Converted) else tensors
    sample = next(t for t in stored.values() if t.is_floating_point())
    return torch.empty(0, dtype=tensors.dtype if isinstance(tensors, Converted) else sample.dtype, device=sample.device)
