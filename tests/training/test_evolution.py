"""Estimated derivatives: their expectation, and that nothing stays perturbed."""

from __future__ import annotations

import pytest
import torch

from graphalign.aligner import Aligner
from graphalign.training.evolution import estimate, few_numbers


def test_the_mean_estimate_is_the_gradient():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(p)
    for _ in range(3000):
        value = estimate([p], lambda: (p * torch.tensor([3.0, 1.0])).sum() + p[0] ** 2, 0.1, generator)
        total += torch.autograd.grad(value, p)[0] / 3000
    torch.testing.assert_close(total, torch.tensor([5.0, 1.0], dtype=torch.float64), rtol=0.1, atol=0.1)
    assert float(value.detach()) == pytest.approx(2.0, abs=0.1)


def test_steps_count_too():
    p = torch.nn.Parameter(torch.tensor(0.05))
    generator = torch.Generator().manual_seed(0)
    slopes = [float(torch.autograd.grad(estimate([p], lambda: (p > 0).float(), 0.1, generator), p)[0]) for _ in range(500)]
    assert sum(slopes) / 500 == pytest.approx(3.52, abs=0.5)  # the density of N(0, 0.1^2) at -0.05


def test_parameters_are_restored_even_after_an_error():
    p = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    before = p.detach().clone()
    estimate([p], lambda: p.sum(), 0.3, torch.Generator().manual_seed(1))
    assert torch.equal(p.detach(), before)

    def fails() -> torch.Tensor:
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        estimate([p], fails, 0.3, torch.Generator().manual_seed(1))
    assert torch.equal(p.detach(), before)


def test_the_few_numbers_of_an_aligner():
    aligner = Aligner()
    found = {name for name, p in aligner.named_parameters() if any(p is q for q in few_numbers(aligner))}
    assert {"forward_weight", "backward_weight", "kernel_weight", "refiner.log_rate", "refiner.momentum", "refiner.log_spread"} <= found
    assert not {"temperature", "refiner.hidden", "refiner.output"} & found
