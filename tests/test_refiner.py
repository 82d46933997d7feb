"""The learned step: as it is created it is normalised gradient descent with momentum, and it is equivariant whatever it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphalign.refiner import Refiner


def matrices(*size: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*size, generator=generator, dtype=torch.float64) for _ in range(count)]


def perturbed(seed: int = 1) -> Refiner:
    refiner = Refiner()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in refiner.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return refiner


def test_as_created_it_is_normalised_descent_with_momentum() -> None:
    x, g, v = matrices(2, 7, 7)
    moved, velocity = Refiner(rate=0.3, momentum=0.6)(x, g, v, 0.5)
    expected = 0.6 * v + g / g.square().mean((-1, -2), keepdim=True).sqrt()
    assert torch.allclose(velocity, expected)
    assert torch.allclose(moved, x - 0.3 * expected)


def test_scores_begin_with_the_spread() -> None:
    (x, *_) = matrices(3, 64, 64)
    assert torch.allclose(Refiner(spread=2.5).begin(7 * x).std((-1, -2)), torch.full((3,), 2.5, dtype=torch.float64))


def test_the_terms_of_time_and_width_count_as_written() -> None:
    refiner = Refiner(rate=0.2)
    with torch.no_grad():
        refiner.log_rate.copy_(torch.tensor([math.log(0.2), -1.0, 0.5]))
        refiner.log_spread.copy_(torch.tensor([0.0, 2.0]))
    x, g, v = matrices(16, 16)
    width = math.log(16 / 64)
    moved, velocity = refiner(x, g, v, 0.7)
    assert torch.allclose(x - moved, 0.2 * math.exp(-0.7 + 0.5 * width) * velocity)
    assert float(refiner.begin(x).detach().std()) == pytest.approx(math.exp(2 * width))


def test_it_is_equivariant_and_swap_symmetric() -> None:
    refiner = perturbed()
    x, g, v = matrices(9, 9)
    generator = torch.Generator().manual_seed(2)
    rows, columns = (torch.randperm(9, generator=generator) for _ in range(2))
    plain = refiner(x, g, v, 0.3)
    moved = refiner(*(t[rows][:, columns] for t in (x, g, v)), 0.3)
    swapped = refiner(x.T, g.T, v.T, 0.3)
    for a, b, c in zip(plain, moved, swapped, strict=True):
        assert torch.allclose(a[rows][:, columns], b, atol=1e-12)
        assert torch.allclose(a.T, c, atol=1e-12)
    assert not torch.allclose(plain[0], Refiner()(x, g, v, 0.3)[0], atol=1e-3)


def test_pairs_do_not_mix() -> None:
    refiner = perturbed()
    x, g, v = matrices(4, 6, 6)
    together = refiner(x, g, v, 0.1)[0]
    assert torch.allclose(together[2], refiner(x[2], g[2], v[2], 0.1)[0], atol=1e-12)


def test_the_mixer_is_left_out_only_where_it_is_zero() -> None:
    refiner = Refiner()
    x, g, v = matrices(5, 5)
    with torch.no_grad():
        plain = refiner(x, g, v, 0.0)[0]
        refiner.output += 0.1
        assert not torch.allclose(refiner(x, g, v, 0.0)[0], plain)


def test_every_parameter_has_a_derivative() -> None:
    refiner = perturbed()
    x, g, v = matrices(5, 5)
    y, w = refiner(refiner.begin(x), g, v, 0.4)
    (refiner(y, g.T, w, 0.6)[0] * matrices(5, 5)[1]).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in refiner.parameters())
