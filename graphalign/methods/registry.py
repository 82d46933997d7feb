"""All alignment methods by name, with their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from graphalign.methods.gnn import gnn
from graphalign.methods.naive import naive
from graphalign.methods.problem import Problem
from graphalign.methods.weight import weight


@dataclass(frozen=True)
class Method:
    """An alignment method.

    Attributes:
        run: from a problem to permutations by cell.
        description: one line.
        source: the paper.
        needs_architecture: whether a spec alone is not enough.
    """

    run: Callable[[Problem], dict[str, Tensor]]
    description: str
    source: str
    needs_architecture: bool = False


METHODS: dict[str, Method] = {
    "gnn": Method(gnn, "one pass of the aligner, no data", "this project; after Navon et al. 2024, arXiv 2310.13397", True),
    "naive": Method(naive, "the identity", "-"),
    "weight": Method(weight, "coordinate ascent on the inner product of weights", "Ainsworth et al. 2023, arXiv 2209.04836"),
}


def list_methods() -> list[str]:
    """Names of all alignment methods."""
    return sorted(METHODS)
