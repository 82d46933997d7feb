"""All alignment methods on one pair of networks, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphalign.alignment import Alignment
from graphalign.comparison import Change
from graphalign.connectivity import barrier
from graphalign.curve import Curve
from graphalign.errors import GraphAlignError, InvalidInput
from graphalign.evaluation import Loader, Loss
from graphalign.measures import distance
from graphalign.methods import METHODS, configure, list_methods
from graphalign.opened import Opened
from graphalign.pairwise import run_stages

STARTS_FROM = "gnn"
"""Where methods start that refine what another one has found."""


@dataclass(frozen=True)
class MethodResult:
    """What a method does on a pair.

    Attributes:
        method: its name; with that of the method it starts from.
        alignment: what it found, or None if it could not run.
        distance: L2 distance of the parameters before and after.
        curve: the line between the networks, if there were labelled data.
        problem: why it could not run.
    """

    method: str
    alignment: Alignment | None = None
    distance: Change | None = None
    curve: Curve | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, ready for JSON."""
        found: dict[str, Any] = {"method": self.method, "problem": self.problem or None}
        if self.alignment is not None and self.distance is not None:
            found |= {"seconds": self.alignment.seconds, "moved": self.alignment.moved, "distance": self.distance.after}
            found |= {"curve": None if self.curve is None else self.curve.summary()}
        return found


def compare_methods(
    opened: Opened, methods: Sequence[str] = (), *, align_data: Loader | None = None, data: Loader | None = None, loss: Loss = "cross_entropy", points: int = 11,
    reset_batch_norm: Loader | None = None, seed: int = 0, fixed: tuple[str, ...] = (),
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[MethodResult]:  # fmt: skip
    """What every method does on the first two networks, "naive" first, then from the lowest barrier (or distance) to the highest.

    A method that cannot run (it needs data, labels or code that are not there) is listed with the reason.

    Args:
        opened: two networks.
        methods: names; all of them if there are none.
        align_data: training batches that methods see.
        data: held-out batches with labels, for curves.
        loss: of methods and curves.
        points: of a curve.
        reset_batch_norm: training batches for BatchNorm statistics on the line, as in `graphalign.barrier`.
        seed: of everything random.
        fixed: as in `graphalign.align`.
        progress: told the methods done, the methods in all, and what is going on.

    Raises:
        InvalidInput: an unknown method, or as `graphalign.align` and `graphalign.barrier`.
        SpecMismatch, UnsupportedNetwork: as `graphalign.align`.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise InvalidInput(f"methods: found {', '.join(unknown)}, expected some of {', '.join(list_methods())}")
    chosen = list(methods) or ["naive", *(name for name in list_methods() if name != "naive")]
    problem = opened.problem(data=align_data, loss=loss, seed=seed, fixed=fixed)
    networks = None if data is None else (opened.network(0), opened.network(1))
    results = []
    for done, name in enumerate(chosen):
        progress(done, len(chosen), name)
        refines = "start" in METHODS[name].needs
        label = f"{STARTS_FROM}+{name}" if refines else name
        try:
            alignment = run_stages([*([configure(STARTS_FROM)] if refines else []), configure(name)], problem)
        except GraphAlignError as error:
            results.append(MethodResult(label, problem=str(error).splitlines()[0]))
            continue
        change = distance(problem.a, problem.b, alignment)
        curve = None
        if networks is not None and data is not None:
            curve = barrier(networks[0], alignment.apply(networks[1]), data, loss, points, reset_batch_norm)
        results.append(MethodResult(label, alignment, Change(change.before, change.after), curve))
    progress(len(chosen), len(chosen), "done")
    return sorted(results, key=_order)


def _order(result: MethodResult) -> tuple[bool, bool, float]:
    if result.distance is None:
        return True, True, 0.0
    return False, result.method != "naive", result.distance.after if result.curve is None else result.curve.barrier
