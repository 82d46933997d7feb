"""What every alignment method gets: two networks of one architecture, and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from graphalign.architecture import Architecture
from graphalign.spec import NetworkSpec

if TYPE_CHECKING:
    from graphalign.aligner import Aligner


@dataclass(frozen=True)
class Problem:
    """Two networks to align.

    Attributes:
        spec: what may move.
        a: parameters and buffers of the reference network, by state-dict key.
        b: those of the network to be moved.
        seed: of everything random in the method.
        architecture: the traced network; None when only a spec is known.
        aligner: the model that `gnn` uses; None for the default one.
        restarts: further starting points of iterative methods.
    """

    spec: NetworkSpec
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    seed: int = 0
    architecture: Architecture | None = None
    aligner: Aligner | None = None
    restarts: int = 0
