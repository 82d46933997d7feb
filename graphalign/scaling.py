"""Doubly stochastic matrices by scaling rows and columns (Sinkhorn 1967), at the cost of matrix-vector products.

Rows and columns are scaled at once with half a step each, so that transposing the scores transposes the result (Knight, Ruiz and
Ucar 2014). With K = exp(scores), u = v = 1 at first and P = diag(u) K diag(v), one iteration is

    u <- sqrt(u / K v),   v <- sqrt(v / K^T u),

which needs no exponential of a matrix once K is there. The gradient is that of the unrolled iterations, exactly: it runs
backwards through the vectors, and what reaches K is the sum of two outer products per iteration, one matrix product in the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WIDEST = {torch.float32: 80.0, torch.float64: 700.0}
"""Spread of scores up to which their exponentials can be told from 0; beyond it the logarithms are iterated instead."""


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Doubly stochastic matrices from scores (..., U, U); differentiable, alone or under `torch.func.vmap`.

    The values and gradients are those of `sinkhorn_of_logarithms`, which is several times slower for wide matrices. Second
    derivatives (`create_graph=True`) are taken through the logarithms, at their cost.

    Args:
        scores: float32 or float64, divided by the temperature.
        iterations: at least 1.
    """
    result: Tensor = _Scaling.apply(scores, iterations)[0]  # type: ignore[no-untyped-call]
    return result


def sinkhorn_of_logarithms(scores: Tensor, iterations: int) -> Tensor:
    """The same in the log domain: log P <- log P - (logsumexp of its rows + logsumexp of its columns) / 2."""
    log = scores
    for _ in range(iterations):
        log = log - 0.5 * (log.logsumexp(-1, keepdim=True) + log.logsumexp(-2, keepdim=True))
    return log.exp()


class _Scaling(torch.autograd.Function):
    """Outputs P and what the gradient needs: K and the vectors u, v, K v, K^T u of every iteration; none for wide scores."""

    @staticmethod
    def forward(scores: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        shifted = scores - scores.amax((-1, -2), keepdim=True)  # a constant leaves the result as it is
        rows = shifted.amax(-1, keepdim=True)
        kernel = shifted - rows
        columns = kernel.amax(-2, keepdim=True)
        kernel -= columns
        if not float(torch.minimum(kernel.amin(), rows.amin())) > -WIDEST.get(scores.dtype, 0.0):
            return sinkhorn_of_logarithms(scores, iterations), scores.new_empty(0), scores.new_empty(0)
        kernel.exp_()
        log_u, log_v = rows.mT.contiguous(), columns  # the maxima that were taken out of K
        trail = []
        for _ in range(iterations):
            u, v = log_u.exp(), log_v.exp()  # rows: batches of a row times a matrix are several times faster than matrix times column
            sums, sums_t = v @ kernel.mT, u @ kernel
            log_u, log_v = 0.5 * (log_u - sums.log()), 0.5 * (log_v - sums_t.log())
            trail.append(torch.stack([u, v, sums, sums_t]))
        return log_u.exp().mT * kernel * log_v.exp(), kernel, torch.stack(trail)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.iterations = inputs[1]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        scores, result, kernel, trail = ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradient will be differentiated
        if again or not trail.numel():
            with torch.enable_grad():
                start = scores if again else scores.detach().requires_grad_()
                expected = sinkhorn_of_logarithms(start, ctx.iterations)
                return torch.autograd.grad(expected, start, gradient, create_graph=again)[0], None
        flow = gradient * result
        to_u, to_v = flow.sum(-1).unsqueeze(-2), flow.sum(-2, keepdim=True)  # of the logarithms of u and v
        left, right = [], []
        for u, v, sums, sums_t in (step.unbind(0) for step in trail.flip(0).unbind(0)):
            to_sums, to_sums_t = -0.5 * to_u / sums, -0.5 * to_v / sums_t
            left += [to_sums, u]
            right += [v, to_sums_t]
            to_u = torch.addcmul(0.5 * to_u, u, to_sums_t @ kernel.mT)
            to_v = torch.addcmul(0.5 * to_v, v, to_sums @ kernel)
        return torch.addcmul(flow, torch.cat(left, -2).mT @ torch.cat(right, -2), kernel), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], scores: Tensor, iterations: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        result: tuple[Tensor, ...] = _Scaling.apply(scores.movedim(in_dims[0], 0), iterations)  # type: ignore[no-untyped-call]
        return result, (0, 0, 0)
