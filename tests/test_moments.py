from __future__ import annotations

import pytest
import torch

from graphalign.moments import ChannelStatistics, Moments, channel_rows, interpolated


def rows(samples: int = 101, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)[:channels]
    return torch.randn(samples, channels, generator=generator, dtype=torch.float64) * scale + torch.arange(channels) * 5


def test_trap_statistics_are_those_of_all_samples_not_a_mean_over_batches() -> None:
    x = rows()
    x[:50] += 4.0  # the batches differ, so that their standard deviations are less than that of all samples
    moments = Moments()
    for part in x.split([50, 1, 0, 30, 20]):
        moments.add(part)
    (found,) = moments.statistics
    assert found.count == 101
    torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.std, x.std(0, correction=0), rtol=1e-12, atol=0)
    assert bool((torch.stack([p.std(0, correction=0) for p in x.split(50)[:2]]).mean(0) < 0.99 * found.std)[:2].all())


def test_covariances_of_networks_give_the_statistics_of_their_weighted_sum() -> None:
    x, y, z = rows(seed=1), rows(seed=2), rows(seed=1) ** 2
    moments = Moments()
    for parts in zip(x.split(40), y.split(40), z.split(40), strict=True):
        moments.add(*parts)
    weights = [0.5, 0.2, 0.3]
    expected = 0.5 * x + 0.2 * y + 0.3 * z
    found = moments.combined(weights)
    torch.testing.assert_close(found.mean, expected.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.std, expected.std(0, correction=0), rtol=1e-12, atol=0)


def test_single_precision_is_exact_enough_far_from_zero() -> None:
    x = (1e3 + torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))).float()
    moments = Moments()
    for part in x.split(64):
        moments.add(part)
    torch.testing.assert_close(moments.statistics[0].std, x.double().std(0, correction=0), rtol=1e-5, atol=0)


def test_trap_standard_deviations_are_interpolated_not_variances() -> None:
    parts = [ChannelStatistics(torch.tensor([m]), torch.tensor([s]), 7) for m, s in ((1.0, 1.0), (3.0, 9.0))]
    goal = interpolated([ChannelStatistics(p.mean.double(), p.std.double(), p.count) for p in parts], [0.75, 0.25])
    assert goal.mean.tolist() == [1.5]
    assert goal.std.tolist() == [3.0]  # the variance would give sqrt(0.75 + 81 / 4) = 4.58


@pytest.mark.parametrize(("shape", "axis"), [((7, 3), -1), ((2, 4, 3), -1), ((2, 3, 5, 6), -3), ((3, 5, 6), -3), ((2, 3, 4), 1)])
def test_positions_and_tokens_are_samples(shape: tuple[int, ...], axis: int) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    found = channel_rows(x, axis)
    assert found.shape == (x.numel() // 3, 3)
    for channel in range(3):
        assert torch.equal(found[:, channel], x.select(axis, channel).flatten())


def test_half_precision_is_widened_before_it_is_squared() -> None:
    moments = Moments()
    moments.add(channel_rows(torch.tensor([[300.0], [-300.0]], dtype=torch.float16), -1))
    assert moments.statistics[0].std.tolist() == [300.0]
