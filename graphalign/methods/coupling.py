"""The transport problem of one cell, solved by POT (Flamary et al. 2021, JMLR 22:78): exact, or with an entropic penalty."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphalign.errors import InvalidInput

EXACT_ITERATIONS = 100_000
"""Pivots of the network simplex at first; ten times as many where they do not suffice, up to MOST_ITERATIONS."""
MOST_ITERATIONS = 1_000_000_000
ENTROPIC_ITERATIONS = 2_000
CONVERGED, MARGINAL_ERROR = 1e-6, 1e-2
"""Error of the masses of an entropic plan, in units of the mean mass, at which iterations end, and above which it is refused.

Units that are exactly alike make the last digits slow. Maps divide by the sums that a plan has, so sums of weights are kept anyway.
"""


def require_pot() -> Any:
    """The module `ot`.

    Raises:
        InvalidInput: it is not installed.
    """
    try:
        import ot
    except ImportError:
        raise InvalidInput(
            "method 'transport' solves its assignments with POT (import ot), which is not installed; "
            "run: pip install 'graphalign[transport]'"
        ) from None
    return ot


def couple(cost: Tensor, masses_a: Tensor, masses_b: Tensor, regularisation: float | None, where: str) -> Tensor:
    """The plan T >= 0 that minimises <T, C> with row sums `masses_a` and column sums `masses_b`.

    Exact by the network simplex, or with the entropic penalty + regularisation * sum T log T by Sinkhorn's iterations (Cuturi 2013,
    arXiv 1306.0895) in a form that does not underflow (Schmitzer 2019, arXiv 1610.06519).

    Args:
        cost: C (U_A, U_B), scaled to a largest entry of 1, so that `regularisation` means the same in every layer.
        masses_a: (U_A,), positive, of sum 1.
        masses_b: (U_B,), the same.
        regularisation: None for exact transport.
        where: what is transported, for messages.

    Returns:
        (U_A, U_B) float64 on the CPU.

    Raises:
        InvalidInput: POT is missing, or the iterations do not converge.
    """
    ot = require_pot()
    problem = [x.detach().to("cpu", torch.float64).contiguous().numpy() for x in (masses_a, masses_b, cost)]
    if regularisation is None:
        return torch.from_numpy(_exact(ot.emd, problem, where))
    for method in ("sinkhorn_stabilized", "sinkhorn_log"):  # the second is 20 times slower and cannot underflow
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = ot.sinkhorn(
                *problem, regularisation, method=method, numItermax=ENTROPIC_ITERATIONS, stopThr=CONVERGED / len(masses_b)
            )
        found = torch.from_numpy(plan)
        error = float((found.sum(0) - masses_b.to(found)).abs().max()) * len(masses_b)
        if error <= MARGINAL_ERROR:
            return found
    raise InvalidInput(
        f"method 'transport': {where}: entropic transport with regularisation={regularisation:g} did not converge in "
        f"{ENTROPIC_ITERATIONS:,} iterations (masses are off by {error:.1e}); pass a larger one, such as 0.01, or None for exact transport"
    )


def _exact(emd: Callable[..., Any], problem: list[Any], where: str) -> Any:
    iterations = EXACT_ITERATIONS
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan, log = emd(*problem, numItermax=iterations, log=True)
        if log["warning"] is None:
            return plan
        iterations *= 10
        if iterations > MOST_ITERATIONS:
            raise InvalidInput(
                f"method 'transport': {where}: exact transport did not finish ({log['warning']}); pass regularisation=0.01"
            )
