"""Statistics of BatchNorm estimated again, against those estimated by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphalign.batch_norm import reset_statistics
from graphalign.connectivity import barrier, interpolate
from graphalign.errors import InvalidInput
from tests.lines import classifier, labelled, normalised


def test_equal_to_averages_over_batches_by_hand():
    network = normalised(0)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(n, 2, 6, generator=generator) * n for n in (5, 9, 4)]
    result = reset_statistics(network, [(x, torch.zeros(len(x))) for x in batches])
    first = [network[0](x) for x in batches]
    mean = torch.stack([y.mean((0, 2)) for y in first]).mean(0)
    variance = torch.stack([y.var((0, 2), unbiased=True) for y in first]).mean(0)
    torch.testing.assert_close(result[1].running_mean, mean)
    torch.testing.assert_close(result[1].running_var, variance)
    # the second norm sees what the first one, in training mode, makes of each batch; dropout is off
    second = []
    for y in first:
        normal = F.batch_norm(y, None, None, network[1].weight, network[1].bias, training=True)
        second.append(network[5](normal.relu().flatten(1)))
    torch.testing.assert_close(result[6].running_mean, torch.stack([y.mean(0) for y in second]).mean(0))
    torch.testing.assert_close(result[6].running_var, torch.stack([y.var(0) for y in second]).mean(0))


def test_result_is_in_eval_mode_with_its_momentum_and_the_input_is_untouched():
    network = normalised(0).train()
    network[1].momentum = 0.3
    before = copy.deepcopy(network.state_dict())
    result = reset_statistics(network, [torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(0))])
    assert not any(m.training for m in result.modules())
    assert result[1].momentum == 0.3
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_ends_are_measured_with_new_statistics_too():
    a, b = normalised(0), normalised(1)
    x = torch.randn(16, 2, 6, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.arange(16) % 3)]
    curve = barrier(a, b, data, points=3, reset_batch_norm=data)
    for position, network in ((-1, a), (0, b)):
        expected = F.cross_entropy(reset_statistics(network, data)(x), data[0][1])
        assert curve.losses[position] == pytest.approx(expected.item(), rel=1e-6)
        assert curve.losses[position] != pytest.approx(F.cross_entropy(network.eval()(x), data[0][1]).item(), rel=1e-3)


def test_every_network_of_the_line_has_its_own():
    a, b = normalised(0), normalised(1)
    x = torch.randn(16, 2, 6, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.arange(16) % 3)]
    expected = F.cross_entropy(reset_statistics(interpolate(a, b, 0.5), data)(x), data[0][1])
    curve = barrier(a, b, data, points=3, reset_batch_norm=data)
    assert curve.midpoint_loss == pytest.approx(expected.item(), rel=1e-6)


def test_networks_without_batch_norm_are_copied():
    network = classifier(0)
    result = reset_statistics(network, [labelled(4)])
    assert result is not network
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in result.state_dict().items())


def test_norms_without_running_statistics_are_left_alone():
    network = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), nn.BatchNorm1d(5))
    result = reset_statistics(network, [labelled(6)])
    assert result[0].running_mean is None
    assert result[1].num_batches_tracked.item() == 1


def test_a_batch_of_one_is_refused():
    with pytest.raises(InvalidInput, match=r"reset_batch_norm: found a batch with one value per channel.*drop_last=True"):
        reset_statistics(nn.BatchNorm1d(5), [labelled(6), labelled(1)])
