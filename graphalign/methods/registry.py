"""All alignment methods by name, with their sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from graphalign.errors import InvalidInput
from graphalign.methods.activation import Activation
from graphalign.methods.consensus import Consensus
from graphalign.methods.gnn import GNN
from graphalign.methods.naive import Naive
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.methods.straight_through import StraightThrough
from graphalign.methods.transport import Transport
from graphalign.methods.universe import Universe
from graphalign.methods.weight import Weight


class Solver(Protocol):
    """The settings of a method, called with a problem: a frozen dataclass."""

    def __call__(self, problem: Problem, /) -> Solution:
        """The solution of a problem."""


@dataclass(frozen=True)
class Method:
    """An alignment method.

    Attributes:
        settings: dataclass of its settings; an instance maps a problem to a solution.
        description: one line.
        source: the paper.
        needs: attributes of a `Problem` that must not be None.
        starts: whether it can start from permutations that were found before.
    """

    settings: Callable[..., Solver]
    description: str
    source: str
    needs: tuple[str, ...] = ()
    starts: bool = False


METHODS: dict[str, Method] = {
    "activation": Method(
        Activation, "correlation of activations, on data or on random inputs", "Li et al. 2016, arXiv 1511.07543", ("architecture",)
    ),
    "consensus": Method(
        Consensus, "a few steps towards the averaged predictions, on unlabelled inputs", "this project", ("module", "start"),
        starts=True,
    ),
    "gnn": Method(GNN, "one pass of the aligner, no data", "this project; after Navon et al. 2024, arXiv 2310.13397", ("architecture",)),
    "naive": Method(Naive, "the identity", "-"),
    "transport": Method(
        Transport, "optimal transport of weights or activations, between any widths", "Singh and Jaggi 2020, arXiv 1910.05653",
        ("architecture",),
    ),
    "universe": Method(
        Universe, "MergeMany or Frank-Wolfe through a universe of slots, for n networks",
        "Ainsworth et al. 2023, arXiv 2209.04836; Crisostomi et al. 2024, arXiv 2405.17897", starts=True,
    ),
    "sinkhorn": Method(
        Sinkhorn, "gradient descent on soft permutations", "Pena et al. 2023, arXiv 2212.12042", ("module",), starts=True
    ),
    "straight_through": Method(
        StraightThrough, "gradient descent on the midpoint's loss through weight matching", "Ainsworth et al. 2023, arXiv 2209.04836",
        ("module", "data"), starts=True,
    ),
    "weight": Method(
        Weight, "coordinate ascent on the inner product of weights", "Ainsworth et al. 2023, arXiv 2209.04836", starts=True
    ),
}  # fmt: skip


def list_methods() -> list[str]:
    """Names of all alignment methods."""
    return sorted(METHODS)


def name_of(solver: Solver) -> str:
    """The registered name of a method's settings; the class name of a solver that is not registered."""
    return next((name for name, method in METHODS.items() if type(solver) is method.settings), type(solver).__name__)


def configure(method: str | Solver, options: dict[str, Any] | None = None) -> Solver:
    """The solver of a method's name with the settings given; a solver is returned as it is.

    Raises:
        InvalidInput: an unknown method, an unknown setting or a value it refuses, or settings for a solver that has its own.
    """
    options = options or {}
    if not isinstance(method, str):
        if options:
            raise InvalidInput(f"{type(method).__name__}: found settings {sorted(options)} beside it; put them into the solver itself")
        return method
    if method not in METHODS:
        raise InvalidInput(f"method: found {method!r}, expected one of {', '.join(list_methods())}")
    settings = METHODS[method].settings
    valid = [f.name for f in dataclasses.fields(settings) if f.init]  # type: ignore[arg-type]
    unknown = sorted(options.keys() - set(valid))
    if unknown:
        expected = f"expected some of {', '.join(valid)}" if valid else "it has none"
        raise InvalidInput(f"method '{method}': found unknown settings {', '.join(unknown)}; {expected}")
    return settings(**options)
