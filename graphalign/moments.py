"""Means and covariances of channels over batches, exact however the batches are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelStatistics:
    """How the C channels of an activation are distributed over all examples, positions and tokens.

    Attributes:
        mean: (C,) float64.
        std: (C,) float64, not corrected for the number of samples.
        count: number of samples.
    """

    mean: Tensor
    std: Tensor
    count: int


def channel_rows(activation: Tensor, axis: int) -> Tensor:
    """Samples (S, C) of an activation: every example, position and token is one; single precision at least.

    Args:
        activation: any shape with C channels along `axis`.
        axis: of the channels.
    """
    wide = torch.promote_types(activation.dtype, torch.float32)
    return activation.detach().movedim(axis, -1).reshape(-1, activation.shape[axis]).to(wide)


class Moments:
    """Count, means and centred second moments of C channels, in n networks that see the same samples.

    Batches are merged in double precision by the pairwise update of Chan, Golub and LeVeque (1979), so the result is that of
    all samples at once, not a mean of standard deviations per batch.

    Attributes:
        count: samples seen.
        mean: (n, C) float64, on the CPU.
        products: (n, n, C) float64: sum over samples of (x_i - mean_i) (x_j - mean_j).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, 0, dtype=torch.float64)
        self.products = torch.zeros(0, 0, 0, dtype=torch.float64)

    def add(self, *rows: Tensor) -> None:
        """Takes in the same samples as every network sees them: n tensors of shape (S, C)."""
        stacked = torch.stack(rows)
        count = stacked.shape[1]
        if not count:
            return
        mean = stacked.mean(1)
        centred = stacked - mean[:, None]
        products = torch.stack([(centred * centred[i]).sum(1) for i in range(len(rows))])
        mean, products = (t.to("cpu", torch.float64) for t in (mean, products))
        if self.count:
            shift = mean - self.mean
            total = self.count + count
            products = self.products + products + shift[:, None] * shift[None] * (self.count * count / total)
            mean = self.mean + shift * (count / total)
        self.count, self.mean, self.products = self.count + count, mean, products

    @property
    def statistics(self) -> list[ChannelStatistics]:
        """Of every network."""
        variances = self.products.diagonal().T / max(self.count, 1)
        return [ChannelStatistics(mean, variance.sqrt(), self.count) for mean, variance in zip(self.mean, variances, strict=True)]

    def combined(self, weights: Sequence[float]) -> ChannelStatistics:
        """Of sum_i w_i x_i: mean sum_i w_i mean_i and variance sum_ij w_i w_j cov_ij."""
        w = torch.tensor(weights, dtype=torch.float64)
        variance = torch.einsum("i,j,ijc->c", w, w, self.products) / max(self.count, 1)
        return ChannelStatistics(w @ self.mean, variance.clamp(min=0.0).sqrt(), self.count)


def interpolated(parts: Sequence[ChannelStatistics], weights: Sequence[float]) -> ChannelStatistics:
    """The goal of REPAIR: means and standard deviations (not variances) of several networks, interpolated."""
    w = torch.tensor(weights, dtype=torch.float64)
    mean, std = (torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "std"))
    return ChannelStatistics(w @ mean, w @ std, parts[0].count)
