"""Distances, agreement, activation correlation and singular directions, where the values are known."""

import copy
import math

import pytest
import torch
from torch import nn

from graphalign import (
    Alignment,
    activation_correlation,
    agreement,
    align,
    distance,
    group,
    save_state,
    singular_vector_alignment,
    trace,
)
from graphalign.errors import InvalidInput, SpecMismatch

from .planted import plant
from .traced import other_state, traced

FAMILIES = ["mlp_3", "cnn_flatten", "conv_autoencoder", "resnext", "encoder_layer_relu", "tied_autoencoder"]
"""Linear, convolutional, transposed and grouped convolutions, attention, tied weights."""


def planted(name, noise=0.0):
    """A network, a permuted copy of it and their alignment."""
    network = traced(name)
    other, element = plant(network.spec, network.state, noise, seed=3)
    return network.state, other, Alignment(network.spec, element)


def unmoved(name):
    network = traced(name)
    return Alignment(network.spec, group.identity(network.spec))


def matrices(*values, seed=0):
    """Two networks x -> W x -> relu -> V and their spec; `values` replace W of the two."""
    torch.manual_seed(seed)
    pair = [nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).double() for _ in range(2)]
    with torch.no_grad():
        for model, value in zip(pair, values, strict=True):
            model[0].weight.copy_(torch.as_tensor(value, dtype=torch.float64))
    spec = trace(pair[0], torch.zeros(1, 3, dtype=torch.float64))
    return pair[0], pair[1], Alignment(spec, group.identity(spec))


class TestDistance:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_permuted_copy_is_at_distance_zero_once_aligned(self, name):
        a, b, alignment = planted(name)
        found = distance(a, b, alignment)
        assert found.after == 0.0
        assert all(part.after == 0.0 for part in found.parts.values())
        assert found.before > 0.1

    def test_it_is_the_norm_of_all_parameters(self):
        network, b = traced("mlp_2"), other_state("mlp_2")
        found = distance(network.model, b, unmoved("mlp_2"))
        expected = math.sqrt(sum(float((network.state[n].double() - b[n].double()).square().sum()) for n in b))
        assert found.before == pytest.approx(expected)
        assert found.after == found.before
        for name, part in found.parts.items():
            assert part.before == pytest.approx(float((network.state[name] - b[name]).norm()))
        assert set(found.parts) == set(b)

    def test_running_statistics_and_counters_do_not_count(self):
        network = traced("vgg_11_bn")
        a = network.state
        b = {n: t + 100 if "running" in n or "num_batches" in n else t for n, t in a.items()}
        found = distance(a, b, unmoved("vgg_11_bn"))
        assert found.before == 0.0
        assert not any("running" in n or "num_batches" in n for n in found.parts)

    def test_tied_weights_count_once(self):
        network = traced("gpt")
        assert network.spec.aliases
        state = {n: t + 1 if t.is_floating_point() else t for n, t in network.model.state_dict().items()}
        count = sum(p.numel() for p in network.model.parameters())
        for a in (network.model, network.model.state_dict()):
            assert distance(a, state, unmoved("gpt")).before == pytest.approx(math.sqrt(count), rel=1e-6)

    def test_weight_matching_lowers_it(self):
        a, b = traced("mlp_2").state, other_state("mlp_2")
        found = distance(a, b, align(a, b, method="weight"))
        assert 0 < found.after < found.before

    def test_files_and_half_precision(self, tmp_path):
        a, b, alignment = planted("mlp_2")
        save_state(b, tmp_path / "b.safetensors")
        assert distance(a, tmp_path / "b.safetensors", alignment).after == 0.0
        half = {n: torch.full_like(t, 300, dtype=torch.float16) for n, t in a.items()}
        far = {n: -t for n, t in half.items()}
        count = sum(t.numel() for t in half.values())
        assert distance(half, far, alignment).after == pytest.approx(600 * math.sqrt(count))

    def test_other_architectures_are_refused(self):
        with pytest.raises(SpecMismatch, match="network B does not fit the spec"):
            distance(traced("mlp_2").state, traced("mlp_3").state, unmoved("mlp_2"))


class TestAgreement:
    def test_equal_and_disjoint_alignments(self):
        _, _, alignment = planted("mlp_3")
        assert agreement(alignment, alignment).total == 1.0
        shifted = Alignment(alignment.spec, {n: p.roll(1) for n, p in alignment.permutations.items()})
        found = agreement(alignment, shifted)
        assert found.total == 0.0
        assert found.cells == {"0": 0.0, "2": 0.0, "4": 0.0}

    def test_shares_by_cell_and_over_all_units(self):
        spec = traced("mlp_3").spec
        identity = group.identity(spec)
        other = {**identity, "0": torch.tensor([1, 2, 0, 3, 4, 5, 6, 7])}
        found = agreement(Alignment(spec, identity), Alignment(spec, other))
        assert found.cells == {"0": 5 / 8, "2": 1.0, "4": 1.0}
        assert found.total == pytest.approx(18 / 21)
        assert repr(found) == "RowAgreement(85.7% of all rows; 0 62.5%, 2 100.0%, 4 100.0%)"
        assert "<th>total</th><td>85.7%</td>" in found._repr_html_()

    def test_against_the_identity_it_is_the_share_that_stays(self):
        _, _, alignment = planted("cnn_flatten")
        assert agreement(alignment, unmoved("cnn_flatten")).total == pytest.approx(1 - alignment.moved)

    def test_other_architectures_are_refused(self):
        with pytest.raises(SpecMismatch, match="the first alignment and the second are not the same architecture"):
            agreement(unmoved("mlp_2"), unmoved("mlp_3"))


class TestActivationCorrelation:
    @pytest.mark.parametrize("name", ["mlp_3", "cnn_flatten", "resnet_basic"])
    def test_a_permuted_copy_correlates_perfectly_once_aligned(self, name):
        network = traced(name)
        _, b, alignment = planted(name)
        found = activation_correlation(network.model, b, alignment, example_input=network.example)
        assert found.after > 0.9  # but for dead units
        assert found.before < 0.5
        assert set(found.parts) == set(network.spec.by_name)

    def test_it_is_the_correlation_of_the_units_on_the_data(self):
        torch.manual_seed(0)
        pair = [nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double() for _ in range(2)]
        x = torch.randn(64, 5, dtype=torch.float64)
        alignment = Alignment(trace(pair[0], x), {"0": torch.tensor([2, 0, 3, 1])})
        with torch.no_grad():
            first, second = (model[:2](x) for model in pair)
        joint = torch.corrcoef(torch.cat([first, second], 1).T)[:4, 4:]
        found = activation_correlation(*pair, alignment, [x[:32], (x[32:], None)], example_input=x)
        assert found.before == pytest.approx(float(joint.diagonal().mean()), abs=1e-5)
        assert found.after == pytest.approx(float(joint[range(4), [2, 0, 3, 1]].mean()), abs=1e-5)

    def test_dead_units_count_as_zero(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
        with torch.no_grad():
            model[0].weight[1:3] = 0
            model[0].bias[1:3] = -1
        alignment = Alignment(trace(model, torch.zeros(2, 5)), {"0": torch.arange(4)})
        found = activation_correlation(model, model, alignment, [torch.randn(40, 5)], example_input=torch.zeros(2, 5))
        assert found.after == pytest.approx(0.5, abs=1e-4)

    def test_an_alignment_of_other_networks_is_refused(self):
        network = traced("mlp_2")
        with pytest.raises(SpecMismatch, match="the networks and the alignment are not the same architecture"):
            activation_correlation(network.model, network.model, unmoved("mlp_3"), example_input=network.example)


class TestSingularVectors:
    @pytest.mark.parametrize("threshold", [None, 0.0, 0.4])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_permuted_copy_shares_all_directions_once_aligned(self, name, threshold):
        a, b, alignment = planted(name)
        found = singular_vector_alignment(a, b, alignment, threshold=threshold)
        assert found.after == pytest.approx(1.0, abs=1e-9)
        assert all(part.after == pytest.approx(1.0, abs=1e-9) for part in found.parts.values())
        assert found.before < 0.9

    @pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
    def test_random_networks_share_little_and_all_values_lie_between_minus_one_and_one(self, threshold):
        a, b = traced("cnn_flatten").state, other_state("cnn_flatten")
        found = singular_vector_alignment(a, b, unmoved("cnn_flatten"), threshold=threshold)
        assert abs(found.after) < 0.3
        assert all(-1 <= value <= 1 for part in found.parts.values() for value in part)
        opposite = singular_vector_alignment(a, {n: -t for n, t in a.items()}, unmoved("cnn_flatten"), threshold=threshold)
        assert opposite.after == pytest.approx(-1.0)

    def test_it_is_the_sum_over_pairs_of_directions(self):
        torch.manual_seed(1)
        first, second = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
        a, b, alignment = matrices(first, second)
        (u, s, v), (x, t, y) = torch.linalg.svd(first), torch.linalg.svd(second)
        cosines = (u.T @ x) * (v @ y.T)
        expected = float((s[:, None] * t * cosines).sum() / (s * t).sum())
        assert singular_vector_alignment(a, b, alignment).parts["0.weight"].after == pytest.approx(expected)
        for threshold in (0.0, 0.5, 1.0):
            p, q = (int((values >= threshold * values[0]).sum()) for values in (s, t))
            found = singular_vector_alignment(a, b, alignment, threshold=threshold)
            assert found.parts["0.weight"].after == pytest.approx(float(cosines[:p, :q].sum()) / max(p, q))

    def test_singular_values_alone_do_not_matter_and_their_order_does(self):
        a, b, alignment = matrices(torch.diag(torch.tensor([4.0, 2.0, 1.0])), torch.diag(torch.tensor([9.0, 3.0, 0.5])))
        assert singular_vector_alignment(a, b, alignment).parts["0.weight"].after == pytest.approx(1.0)
        a, b, alignment = matrices(torch.diag(torch.tensor([4.0, 2.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0, 4.0])))
        assert singular_vector_alignment(a, b, alignment).parts["0.weight"].after == pytest.approx((4 + 4 + 4) / (16 + 4 + 1))
        assert singular_vector_alignment(a, b, alignment, threshold=0.9).parts["0.weight"].after == pytest.approx(0.0)
        assert singular_vector_alignment(a, b, alignment, threshold=0.0).parts["0.weight"].after == pytest.approx(1.0)

    def test_directions_that_only_one_network_has_count_against_both(self):
        a, b, alignment = matrices(torch.diag(torch.tensor([4.0, 2.0, 1.0])), torch.diag(torch.tensor([4.0, 1.0, 1.0])))
        assert singular_vector_alignment(a, b, alignment, threshold=0.5).parts["0.weight"].after == pytest.approx(1 / 2)
        assert singular_vector_alignment(b, a, alignment, threshold=0.5).parts["0.weight"].after == pytest.approx(1 / 2)

    def test_convolutions_in_groups_are_block_diagonal(self):
        """Even where the blocks of the two networks have their large singular values in different groups."""
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
        a, b = (nn.Sequential(*copy.deepcopy(layers)).double() for _ in range(2))
        with torch.no_grad():
            b[2].weight.copy_(torch.randn(4, 2, 1, 1) * torch.tensor([5.0, 5.0, 0.1, 0.1])[:, None, None, None])
        full = [torch.block_diag(*m[2].weight.detach().reshape(2, 2, 2)) for m in (a, b)]
        spec = trace(a, torch.zeros(1, 3, 2, 2, dtype=torch.float64))
        assert any(layout.groups == 2 for layout in spec.axes_of_tensor["2.weight"])
        found = singular_vector_alignment(a, b, Alignment(spec, group.identity(spec)))
        expected = (full[0] * full[1]).sum() / (torch.linalg.svdvals(full[0]) * torch.linalg.svdvals(full[1])).sum()
        assert found.parts["2.weight"].before == pytest.approx(float(expected))

    def test_the_total_pools_the_layers(self):
        a, b, alignment = matrices(torch.diag(torch.tensor([4.0, 2.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0, 4.0])))
        second = [m[2].weight.detach() for m in (a, b)]
        shared = 12 + float((second[0] * second[1]).sum())
        possible = 21 + float((torch.linalg.svdvals(second[0]) * torch.linalg.svdvals(second[1])).sum())
        assert singular_vector_alignment(a, b, alignment).after == pytest.approx(shared / possible)

    @pytest.mark.parametrize("threshold", [None, 0.3])
    def test_zero_weights_have_no_directions(self, threshold):
        a, b, alignment = matrices(torch.zeros(3, 3), torch.eye(3))
        found = singular_vector_alignment(a, b, alignment, threshold=threshold)
        assert math.isnan(found.parts["0.weight"].after)
        assert found.after == found.parts["2.weight"].after
        with torch.no_grad():
            a[2].weight.zero_()
        with pytest.raises(InvalidInput, match="no weight of two or more dimensions that is non-zero"):
            singular_vector_alignment(a, b, alignment, threshold=threshold)

    def test_directions_of_zero_singular_value_do_not_count(self):
        """The singular vectors of a null space are arbitrary."""
        a, b, alignment = matrices(torch.diag(torch.tensor([2.0, 0.0, 0.0])), torch.diag(torch.tensor([3.0, 0.0, 0.0])))
        assert singular_vector_alignment(a, b, alignment, threshold=0.0).parts["0.weight"].after == pytest.approx(1.0)

    def test_vectors_do_not_count_and_kernels_are_matrices(self):
        network = traced("cnn_flatten")
        found = singular_vector_alignment(network.state, other_state("cnn_flatten"), unmoved("cnn_flatten"))
        assert set(found.parts) == {"0.weight", "2.weight", "6.weight", "8.weight"}
        first, second = (s["0.weight"].double().flatten(1) for s in (network.state, other_state("cnn_flatten")))
        expected = (first * second).sum() / (torch.linalg.svdvals(first) * torch.linalg.svdvals(second)).sum()
        assert found.parts["0.weight"].before == pytest.approx(float(expected))

    @pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
    def test_thresholds_outside_the_unit_interval_are_refused(self, threshold):
        a, b, alignment = planted("mlp_2")
        with pytest.raises(InvalidInput, match=r"expected a number in \[0, 1\], or None"):
            singular_vector_alignment(a, b, alignment, threshold=threshold)

    def test_weight_matching_aligns_them(self):
        a, b = traced("mlp_2").state, other_state("mlp_2")
        found = singular_vector_alignment(a, b, align(a, b, method="weight"))
        assert found.after > found.before + 0.1


def test_comparisons_print_as_tables():
    a, b, alignment = planted("mlp_1")
    found = distance(a, b, alignment)
    assert repr(found) == f"Comparison('L2 distance', before={found.before:.4g}, after=0, 4 parts)"
    lines = str(found).splitlines()
    assert lines[0] == "L2 distance"
    assert lines[2].split() == ["before", "after"]
    assert lines[-1].split() == ["total", f"{found.before:.4g}", "0"]
    assert "<tr><th>0.weight</th>" in found._repr_html_()
