"""Several networks whose alignment is known: one network with its units moved in different ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphalign import group
from graphalign.spec import NetworkSpec

from .planted import plant
from .traced import build


def copies(spec: NetworkSpec, state: Mapping[str, Tensor], count: int, noise: float = 0.0) -> list[dict[str, Tensor]]:
    """Networks with the units of `state` moved by random elements, no two alike and no element its own inverse."""
    found = []
    for seed in range(count):
        moved, element = plant(spec, state, noise=noise, seed=seed)
        twice = group.compose(element, element)
        assert any(not torch.equal(perm, torch.arange(len(perm))) for perm in twice.values())
        found.append(moved)
    return found


def independent(name: str, count: int) -> list[dict[str, Tensor]]:
    """Weights of independent networks of a family."""
    return [group.all_tensors(build(name, seed=seed)[0]) for seed in range(count)]
