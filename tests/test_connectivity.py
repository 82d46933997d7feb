"""Interpolation, and loss barriers in closed form."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphalign.connectivity import barrier, interpolate
from graphalign.errors import InvalidInput, SpecMismatch
from tests.lines import classifier, labelled, linear, normalised


def product_network(u, v, dtype=torch.float64):
    """x -> v u x with scalars: at lambda of (u, v) and (-u, -v) it is (2 lambda - 1)^2 u v x."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).to(dtype)
    with torch.no_grad():
        network[0].weight.fill_(u)
        network[1].weight.fill_(v)
    return network


class TestInterpolate:
    def test_entries_between_the_ends(self):
        a, b = classifier(0), classifier(1)
        between = interpolate(a, b, 0.3)
        for name, value in between.state_dict().items():
            torch.testing.assert_close(value, 0.3 * a.state_dict()[name] + 0.7 * b.state_dict()[name])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_ends_are_exact_and_keep_their_dtype(self, dtype):
        a, b = classifier(0, dtype).state_dict(), classifier(1, dtype).state_dict()
        for lam, end in ((1.0, a), (0.0, b)):
            result = interpolate(a, b, lam)
            assert all(torch.equal(result[k], end[k]) and result[k].dtype == dtype for k in end)

    def test_half_precision_is_rounded_only_at_the_end(self):
        a, b = {"w": torch.tensor([0.0]).half()}, {"w": torch.tensor([90000.0])}
        assert interpolate(a, b, 0.5)["w"].item() == torch.tensor(45000.0).half().item()

    def test_integer_buffers_come_from_a(self):
        a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        a.num_batches_tracked.fill_(7)
        b.num_batches_tracked.fill_(11)
        for result in (interpolate(a, b, 0.5).state_dict(), interpolate(a.state_dict(), b.state_dict(), 0.5)):
            assert result["num_batches_tracked"].item() == 7
            assert result["num_batches_tracked"].dtype == torch.long

    def test_inputs_stay_as_they_are_and_share_no_memory(self):
        a, b = normalised(0).train(), normalised(1)
        before = [copy.deepcopy(n.state_dict()) for n in (a, b)]
        result = interpolate(a, b, 0.5)
        with torch.no_grad():
            for tensor in result.state_dict().values():
                tensor.zero_()
        for network, state in zip((a, b), before, strict=True):
            assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert result.training

    def test_state_dicts_share_no_memory(self):
        a, b = normalised(0).state_dict(), normalised(1).state_dict()
        for lam in (0.0, 0.5, 1.0):
            result = interpolate(a, b, lam)
            owned = {t.data_ptr() for t in (*a.values(), *b.values())}
            assert not owned & {t.data_ptr() for t in result.values()}

    def test_tied_weights_stay_tied(self):
        def tied(seed):
            torch.manual_seed(seed)
            network = nn.ModuleDict({"x": nn.Linear(3, 3), "y": nn.Linear(3, 3)})
            network["y"].weight = network["x"].weight
            return network

        a, b = tied(0), tied(1)
        result = interpolate(a, b, 0.25)
        assert result["x"].weight is result["y"].weight
        torch.testing.assert_close(result["x"].weight, 0.25 * a["x"].weight + 0.75 * b["x"].weight)

    def test_all_differences_are_listed(self):
        a, b = classifier(0).state_dict(), classifier(1).state_dict()
        b["extra"] = torch.zeros(1)
        del b["0.bias"]
        b["2.weight"] = torch.zeros(3, 6)
        b["2.bias"] = torch.zeros(3, dtype=torch.long)
        with pytest.raises(SpecMismatch) as caught:
            interpolate(a, b, 0.5)
        shapes = "'2.weight' is (3, 7) in A and (3, 6) in B"
        for problem in ("'0.bias' is only in A", "'extra' is only in B", shapes, "'2.bias' is torch.float32 in A and torch.int64 in B"):
            assert problem in str(caught.value)

    def test_a_module_and_a_state_dict_do_not_mix(self):
        with pytest.raises(InvalidInput, match=r"found Sequential and OrderedDict, expected two modules or two state dicts"):
            interpolate(classifier(0), classifier(1).state_dict(), 0.5)

    @pytest.mark.parametrize("lam", [math.nan, math.inf])
    def test_lambda_must_be_finite(self, lam):
        with pytest.raises(InvalidInput, match=r"expected a finite number"):
            interpolate(classifier(0), classifier(1), lam)


class TestClosedForms:
    def test_linear_model_with_square_loss_is_a_parabola(self):
        # f is linear in the weights, so L is quadratic in lambda: psi = -lambda (1 - lambda) mean (f_A - f_B)^2
        a, b = linear([1.0, -2.0], 0.5), linear([0.3, 1.0], -1.0)
        x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.randn(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        curve = barrier(a, b, [(x[:7], y[:7]), (x[7:], y[7:])], loss="mse", points=11)
        gap = ((a(x) - b(x)) ** 2).mean().item()
        lam = np.linspace(0, 1, 11)
        np.testing.assert_allclose(curve.lambdas, lam)
        np.testing.assert_allclose(curve.psi, -lam * (1 - lam) * gap, atol=1e-12)
        assert curve.barrier == 0.0
        assert curve.auc == pytest.approx(-gap * (1 - 1 / 100) / 6)  # trapezoids of 10 intervals lose 1/100 of a parabola
        assert curve.auc_clipped == 0.0
        assert curve.losses[-1] == pytest.approx(F.mse_loss(a(x), y).item())
        assert curve.losses[0] == pytest.approx(F.mse_loss(b(x), y).item())
        assert curve.accuracies is None
        assert curve.accuracy_barrier is None

    def test_two_equal_functions_with_opposite_weights(self):
        # f = (2 lambda - 1)^2 x against the target x: L = 16 lambda^2 (1 - lambda)^2 for x = +-1, barrier 1 at the middle
        x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        curve = barrier(product_network(1.0, 1.0), product_network(-1.0, -1.0), [(x, x)], loss="mse", points=201)
        lam = curve.lambdas
        np.testing.assert_allclose(curve.losses, 16 * lam**2 * (1 - lam) ** 2, atol=1e-12)
        assert curve.barrier == pytest.approx(1.0)
        assert curve.auc == pytest.approx(16 / 30, abs=1e-4)
        assert curve.auc_clipped == curve.auc
        assert curve.midpoint_loss == pytest.approx(1.0)

    def test_a_is_at_lambda_one(self):
        good, bad = linear([1.0], 0.0), linear([3.0], 0.0)
        x = torch.ones(2, 1, dtype=torch.float64)
        curve = barrier(good, bad, [(x, x)], loss="mse", points=3)
        np.testing.assert_allclose(curve.losses, [4.0, 1.0, 0.0])

    @pytest.mark.parametrize("points", [4, 5])
    def test_midpoint_is_measured_whether_or_not_it_is_a_point(self, points):
        data = [labelled(30)]
        a, b = classifier(0), classifier(1)
        curve = barrier(a, b, data, points=points)
        middle = interpolate(a, b, 0.5)
        x, y = data[0]
        assert curve.midpoint_loss == pytest.approx(F.cross_entropy(middle(x), y).item(), rel=1e-6)
        assert curve.midpoint_accuracy == pytest.approx(float((middle(x).argmax(1) == y).double().mean()))


class TestBarrier:
    def test_equal_networks_have_none(self):
        curve = barrier(classifier(0), classifier(0), [labelled(20)], points=5)
        assert curve.barrier == pytest.approx(0.0, abs=1e-6)
        np.testing.assert_allclose(curve.losses, curve.losses[0])

    def test_batches_of_any_size_weigh_by_examples(self):
        x, y = labelled(50)
        whole = barrier(classifier(0), classifier(1), [(x, y)], points=5)
        uneven = [(x[i:j], y[i:j]) for i, j in ((0, 1), (1, 30), (30, 50))]
        for loss in ("cross_entropy", lambda o, batch: F.cross_entropy(o, batch[1])):
            curve = barrier(classifier(0), classifier(1), uneven, loss=loss, points=5)
            np.testing.assert_allclose(curve.losses, whole.losses, rtol=1e-6)
            np.testing.assert_allclose(curve.accuracies, whole.accuracies)

    def test_callable_may_return_one_loss_per_example(self):
        x, y = labelled(50)
        whole = barrier(classifier(0), classifier(1), [(x, y)], points=5)
        per_example = barrier(
            classifier(0), classifier(1), [(x[:3], y[:3]), (x[3:], y[3:])], points=5,
            loss=lambda o, batch: F.cross_entropy(o, batch[1], reduction="none"),
        )  # fmt: skip
        np.testing.assert_allclose(per_example.losses, whole.losses, rtol=1e-6)

    def test_ignored_targets_do_not_weigh(self):
        x, y = labelled(50)
        masked = torch.where(torch.arange(50) < 20, y, -100)
        curve = barrier(classifier(0), classifier(1), [(x, masked)], points=3)
        expected = barrier(classifier(0), classifier(1), [(x[:20], y[:20])], points=3)
        np.testing.assert_allclose(curve.losses, expected.losses, rtol=1e-6)
        np.testing.assert_allclose(curve.accuracies, expected.accuracies)

    def test_networks_keep_weights_statistics_and_modes(self):
        a, b = normalised(0).train(), normalised(1).train()
        a[1].eval()
        before = [(copy.deepcopy(n.state_dict()), [m.training for m in n.modules()]) for n in (a, b)]
        x = torch.randn(12, 2, 6, generator=torch.Generator().manual_seed(0))
        y = torch.arange(12) % 3
        barrier(a, b, [(x, y)], points=3, reset_batch_norm=[(x, y)])
        for network, (state, modes) in zip((a, b), before, strict=True):
            assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
            assert [m.training for m in network.modules()] == modes
            assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm1d))

    def test_dropout_is_off(self):
        a, b = normalised(0).train(), normalised(1).train()
        x = torch.randn(12, 2, 6, generator=torch.Generator().manual_seed(0))
        data = [(x, torch.arange(12) % 3)]
        first, again = (barrier(a, b, data, points=3, reset_batch_norm=data) for _ in range(2))
        np.testing.assert_array_equal(first.losses, again.losses)

    def test_inputs_follow_the_dtype_of_the_network(self):
        data = [labelled(20)]
        single = barrier(classifier(0), classifier(1), data, points=3)
        double = barrier(classifier(0).double(), classifier(1).double(), data, points=3)
        half = barrier(classifier(0).bfloat16(), classifier(1).bfloat16(), data, points=3)
        np.testing.assert_allclose(double.losses, single.losses, rtol=1e-5)
        np.testing.assert_allclose(half.losses, single.losses, rtol=0.05)

    def test_inputs_may_be_keyword_arguments(self):
        class TwoInputs(nn.Module):
            def __init__(self, seed):
                super().__init__()
                self.inner = classifier(seed)

            def forward(self, *, left, right):
                return self.inner(left + right)

        x, y = labelled(20)
        plain = barrier(classifier(0), classifier(1), [(x, y)], points=3)
        keyed = barrier(TwoInputs(0), TwoInputs(1), [({"left": x / 2, "right": x / 2}, y)], points=3)
        np.testing.assert_allclose(keyed.losses, plain.losses, rtol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        ("loader", "loss", "message"),
        [
            ([], "cross_entropy", r"loader: found no batch"),
            ((b for b in [labelled(4)]), "cross_entropy", r"found generator, which can be read only once"),
            ([3], "cross_entropy", r"found a batch of type int"),
            ([labelled(4)[0]], "cross_entropy", r"found a batch without targets"),
            ([labelled(4)], "hinge", r"loss: found 'hinge', expected one of cross_entropy, mse"),
            ([labelled(4)], "mse", r"outputs of shape \(4, 3\) and torch.int64 targets of shape \(4,\), expected equal shapes"),
            ([(labelled(4)[0], torch.zeros(4))], "cross_entropy", r"torch.float32 targets of shape \(4,\), expected logits"),
            ([(labelled(4)[0], torch.full((4,), 3))], "cross_entropy", r"found classes 3 to 3, expected 0 to 2"),
            ([(labelled(4)[0], torch.full((4,), -100))], "cross_entropy", r"no target that counts"),
            ([labelled(4)], lambda o, batch: o, r"returned shape \(4, 3\), expected .* one loss per example, \(4,\)"),
            ([labelled(4)], lambda o, batch: 1.0, r"returned float"),
        ],
    )
    def test_data_and_losses_that_do_not_fit(self, loader, loss, message):
        with pytest.raises(InvalidInput, match=message):
            barrier(classifier(0), classifier(1), loader, loss=loss, points=3)

    def test_outputs_that_are_no_tensor(self):
        class Wrapped(nn.Linear):
            name = "logits"

            def forward(self, x):
                return {"hidden": x, self.name: super().forward(x)}

        class Other(Wrapped):
            name = "scores"

        a, b = Wrapped(5, 3), Wrapped(5, 3)
        plain = [nn.Linear(5, 3), nn.Linear(5, 3)]
        for network, wrapped in zip(plain, (a, b), strict=True):
            network.load_state_dict(wrapped.state_dict())
        expected = barrier(*plain, [labelled(4)], points=3)
        found = barrier(a, b, [labelled(4)], points=3)
        assert found.losses.tolist() == expected.losses.tolist()
        assert found.accuracies.tolist() == expected.accuracies.tolist()
        with pytest.raises(InvalidInput, match=r"the network returned dict, expected a tensor; pass a callable"):
            barrier(Other(5, 3), Other(5, 3), [labelled(4)], points=3)

    def test_batches_that_the_network_does_not_take(self):
        x = torch.zeros(4, 6, dtype=torch.float64)
        with pytest.raises(InvalidInput, match=r"Sequential does not run on a batch with inputs of shape \(4, 6\): RuntimeError: mat1"):
            barrier(classifier(0), classifier(1), [(x, torch.zeros(4, dtype=torch.long))], points=3)

    def test_too_few_points(self):
        with pytest.raises(InvalidInput, match=r"points=2, expected at least 3"):
            barrier(classifier(0), classifier(1), [labelled(4)], points=2)

    def test_different_architectures(self):
        with pytest.raises(SpecMismatch, match=r"'2.weight' is only in A"):
            barrier(classifier(0), nn.Linear(5, 3), [labelled(4)])

    def test_a_diverged_network_is_named(self):
        bad = classifier(1)
        nn.init.constant_(bad[0].bias, math.nan)
        with pytest.raises(InvalidInput, match=r"found a loss of nan for B on this data, expected a finite one"):
            barrier(classifier(0), bad, [labelled(4)], points=3)
