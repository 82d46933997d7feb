"""What every alignment method gets, two networks of one architecture, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from graphalign.architecture import Architecture
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss
from graphalign.spec import NetworkSpec

REMEDIES = {
    "architecture": "pass modules and an example_input",
    "module": "pass modules and an example_input",
    "data": "pass data= (--align-data), a loader of inputs or of (inputs, labels)",
    "start": "pass init=, or name the method in refine=",
}


@dataclass(frozen=True)
class Problem:
    """Two networks to align.

    Attributes:
        spec: what may move.
        a: parameters and buffers of the reference network, by state-dict key.
        b: those of the network to be moved.
        seed: of everything random in the method.
        architecture: the traced network; None when only a spec is known.
        module: the network in eval mode, to be called with other tensors by `torch.func.functional_call`.
        data: batches of inputs or of (inputs, labels), as in `graphalign.evaluation.evaluate`.
        loss: what the data are judged by, as in `graphalign.evaluation.evaluate`.
        start: permutations to start from, by cell.
        scores: by cell, (U, U), of the method that found `start`: rows are slots of A, columns units of B in B's own order.
    """

    spec: NetworkSpec
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    seed: int = 0
    architecture: Architecture | None = None
    module: nn.Module | None = None
    data: Loader | None = None
    loss: Loss = "cross_entropy"
    start: Mapping[str, Tensor] | None = None
    scores: Mapping[str, Tensor] | None = None

    def require(self, method: str, *names: str) -> None:
        """Returns nothing if all the attributes named are there.

        Raises:
            InvalidInput: lists what is missing and how to pass it.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            remedies = "; ".join(dict.fromkeys(REMEDIES[name] for name in missing))
            raise InvalidInput(f"method '{method}': found no {' and no '.join(missing)}, which it needs; {remedies}")


@dataclass(frozen=True)
class Solution:
    """What a method found.

    Attributes:
        permutations: LongTensor (U,) by cell; entry i is the unit of B that goes to slot i of A.
        scores: by cell, (U, U), where the method has them: rows are slots of A, columns units of B in B's own order.
        objective: what the method maximised or minimised, of the permutations returned; None if it has no objective.
        losses: the objective after every step of an iterative method.
    """

    permutations: dict[str, Tensor]
    scores: dict[str, Tensor] | None = None
    objective: float | None = None
    losses: tuple[float, ...] = ()
