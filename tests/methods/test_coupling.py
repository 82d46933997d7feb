"""Transport problems as POT solves them: exact and entropic, however long it takes."""

from __future__ import annotations

import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from graphalign import InvalidInput
from graphalign.methods import coupling
from graphalign.methods.coupling import couple


def test_entropic_transport_is_that_of_pot() -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(5, 8, generator=generator, dtype=torch.float64)
    a, b = torch.full((5,), 0.2, dtype=torch.float64), torch.full((8,), 0.125, dtype=torch.float64)
    expected = torch.as_tensor(ot.sinkhorn(a, b, cost, 0.1, stopThr=1e-12))
    assert torch.allclose(couple(cost, a, b, 0.1, "test"), expected, atol=1e-8)
    assert torch.allclose(couple(cost, a, b, None, "test"), torch.as_tensor(ot.emd(a, b, cost)), atol=1e-12)


def test_the_log_domain_helps_out_where_stabilised_iterations_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = torch.full((5,), 0.2, dtype=torch.float64), torch.full((8,), 0.125, dtype=torch.float64)
    expected, sinkhorn, methods = couple(cost, a, b, 0.05, "test"), ot.sinkhorn, []

    def broken(*problem: object, method: str, **options: object) -> object:
        methods.append(method)
        return sinkhorn(*problem, method=method, **options) * (float("nan") if method == "sinkhorn_stabilized" else 1)

    monkeypatch.setattr(ot, "sinkhorn", broken)
    assert torch.allclose(couple(cost, a, b, 0.05, "test"), expected, atol=1e-6)
    assert methods == ["sinkhorn_stabilized", "sinkhorn_log"]


def test_entropic_transport_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coupling, "ENTROPIC_ITERATIONS", 2)
    cost = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = torch.full((9,), 1 / 9, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="cell 'x': entropic transport with regularisation=0.001 did not converge in 2 iterations"):
        couple(cost, uniform, uniform, 0.001, "cell 'x'")


def test_exact_transport_takes_the_iterations_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """POT warns and returns a plan that is not optimal when it stops early; no warning comes through and the plan is optimal."""
    cost = torch.rand(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = torch.full((40,), 1 / 40, dtype=torch.float64)
    expected = couple(cost, uniform, uniform, None, "test")
    monkeypatch.setattr(coupling, "EXACT_ITERATIONS", 3)
    with pytest.warns(UserWarning, match="numItermax"):
        ot.emd(uniform, uniform, cost, numItermax=3)
    assert torch.equal(couple(cost, uniform, uniform, None, "test"), expected)
    monkeypatch.setattr(coupling, "MOST_ITERATIONS", 20)
    with pytest.raises(InvalidInput, match=r"cell 'x': exact transport did not finish \(numItermax.*pass regularisation=0.01"):
        couple(cost, uniform, uniform, None, "cell 'x'")


@pytest.mark.parametrize(("rows", "columns"), [(700, 700), (300, 900)])
def test_exact_transport_of_many_units_is_optimal(rows: int, columns: int) -> None:
    cost = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masses = [torch.full((n,), 1 / n, dtype=torch.float64) for n in (rows, columns)]
    plan = couple(cost.float(), *masses, None, "test")
    best = linear_sum_assignment(cost.repeat_interleave(columns // rows, 0).numpy())
    assert float((plan * cost).sum()) == pytest.approx(float(cost.repeat_interleave(columns // rows, 0)[best].mean()), rel=1e-6)
    assert torch.allclose(plan.sum(0), masses[1])
