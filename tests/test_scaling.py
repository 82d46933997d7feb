"""Scaling by matrix-vector products against the iteration of logarithms, its slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphalign.scaling import sinkhorn, sinkhorn_of_logarithms


def random_scores(scale: float, shape: tuple[int, ...] = (3, 7, 7), dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def gradient(result: Tensor, scores: Tensor) -> Tensor:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = torch.autograd.grad((result * weights.to(result)).sum(), scores)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 40.0, 400.0])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_values_and_gradients_are_those_of_the_logarithms(
    scale: float, iterations: int, dtype: torch.dtype, tolerance: float
) -> None:
    scores = random_scores(scale, dtype=dtype)
    exact = random_scores(scale, dtype=dtype).detach().double().requires_grad_()
    found, expected = sinkhorn(scores, iterations), sinkhorn_of_logarithms(exact, iterations)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.allclose(gradient(found, scores).double(), gradient(expected, exact), rtol=tolerance, atol=tolerance)


def test_the_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda scores: sinkhorn(scores, 4), random_scores(1.0, (2, 4, 4)))


@pytest.mark.parametrize("shift", [-1e4, 300.0, 1e4])
def test_a_constant_changes_nothing(shift: float) -> None:
    scores = random_scores(2.0)
    assert torch.allclose(sinkhorn(scores + shift, 5), sinkhorn(scores, 5), atol=1e-10)


def test_transposing_the_scores_transposes_the_result() -> None:
    scores = random_scores(3.0)
    assert torch.allclose(sinkhorn(scores.mT, 3), sinkhorn(scores, 3).mT, atol=1e-14)


def test_many_iterations_are_doubly_stochastic() -> None:
    found = sinkhorn(random_scores(2.0), 300)
    assert torch.allclose(found.sum(-1), torch.ones(3, 7, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.sum(-2), torch.ones(3, 7, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dim", [0, 1])
def test_it_can_be_vectorised(scale: float, dim: int) -> None:
    scores = random_scores(scale)
    moved = scores.movedim(0, dim)
    found = torch.func.vmap(lambda one: sinkhorn(one, 5), in_dims=dim)(moved)
    assert torch.allclose(found, sinkhorn(scores, 5))
    assert torch.allclose(gradient(found, scores), gradient(sinkhorn(scores, 5), scores))


def test_one_sharp_matrix_does_not_spoil_the_others() -> None:
    scores = torch.stack([random_scores(1.0, (7, 7)), random_scores(1e5, (7, 7))]).detach()
    assert torch.allclose(sinkhorn(scores, 5)[0], sinkhorn(scores[0], 5))
    assert bool(torch.isfinite(sinkhorn(scores.float(), 5)).all())


def test_scores_are_not_modified() -> None:
    scores = random_scores(1.0)
    before = scores.detach().clone()
    gradient(sinkhorn(scores, 5), scores)
    assert torch.equal(scores.detach(), before)


def test_second_derivatives_are_those_of_the_logarithms() -> None:
    assert torch.autograd.gradgradcheck(lambda scores: sinkhorn(scores, 3), random_scores(1.0, (3, 3)))
    results = []
    for function in (sinkhorn, sinkhorn_of_logarithms):
        scores = random_scores(1.0)
        first = gradient_with_graph(function(2 * scores, 3), scores)
        results.append(torch.autograd.grad((first * scores).square().sum(), scores)[0])
    assert torch.allclose(*results, rtol=1e-10, atol=1e-12)


def gradient_with_graph(result: Tensor, scores: Tensor) -> Tensor:
    return torch.autograd.grad(result.square().sum(), scores, create_graph=True)[0]
