"""Barriers between every two of several networks, and mean curves."""

import numpy as np
import pytest
import torch
from torch import nn

from graphalign import barrier, mean_curve, pairwise_barriers
from graphalign.curve import Curve
from graphalign.errors import InvalidInput, SpecMismatch


def classifier(seed, hidden=7):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3)).double().eval()


def batches(seed=0, classes=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return [(x, torch.randint(0, 3, (40,), generator=generator) if classes else torch.randn(40, 3, generator=generator).double())]


def curve(losses, accuracies=None):
    losses = np.array(losses, dtype=float)
    accuracies = None if accuracies is None else np.array(accuracies, dtype=float)
    middle = len(losses) // 2
    return Curve(np.linspace(0, 1, len(losses)), losses, accuracies, losses[middle], None if accuracies is None else accuracies[middle])


class TestPairwise:
    def test_every_pair_is_measured_as_by_barrier(self):
        models = [classifier(seed) for seed in range(3)]
        found = pairwise_barriers(models, batches(), points=5, reset_batch_norm=batches(1))
        matrix = np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                if i != j:
                    matrix[i, j] = barrier(models[i], models[j], batches(), points=5, reset_batch_norm=batches(1)).barrier
        assert found.barriers == pytest.approx(matrix, abs=1e-12)
        assert found.mean == pytest.approx(matrix[np.triu_indices(3, 1)].mean())
        assert found.max == pytest.approx(matrix.max())
        i, j = found.worst
        assert matrix[int(i), int(j)] == pytest.approx(matrix.max())
        assert found.accuracy_barriers.shape == (3, 3)
        assert np.array_equal(found.accuracy_barriers, found.accuracy_barriers.T)
        first = barrier(models[0], models[2], batches(), points=5, reset_batch_norm=batches(1))
        assert found.curves[0, 2].losses.tolist() == first.losses.tolist()

    def test_copies_have_no_barrier(self):
        model = classifier(0)
        found = pairwise_barriers([model, model, model], batches(), points=3)
        assert found.max == 0.0
        assert found.barriers.tolist() == np.zeros((3, 3)).tolist()

    def test_without_classes_there_is_no_accuracy(self):
        models = [classifier(0), classifier(1)]
        found = pairwise_barriers(models, batches(classes=False), loss="mse", points=3)
        assert found.accuracy_barriers is None
        assert found.barriers[0, 1] == found.mean == found.max

    def test_the_mean_curve_is_that_of_all_pairs(self):
        models = [classifier(seed) for seed in range(3)]
        found = pairwise_barriers(models, batches(), points=5)
        mean = found.mean_curve()
        assert len(mean.curves) == 3
        assert mean.mean["barrier"] == pytest.approx(found.mean)

    def test_it_prints_and_plots(self, tmp_path):
        found = pairwise_barriers([classifier(0), classifier(1)], batches(), points=3, names=["left", "right<"])
        assert repr(found) == f"PairwiseBarriers(2 networks, mean={found.mean:.4g}, max={found.max:.4g} (left, right<))"
        assert "<th>right&lt;</th>" in found._repr_html_()
        found.plot(tmp_path / "matrix.png")
        assert (tmp_path / "matrix.png").stat().st_size > 1000
        with pytest.raises(InvalidInput, match="choose one of these"):
            found.plot(tmp_path / "matrix.gif")

    def test_bad_arguments_are_refused(self):
        models = [classifier(0), classifier(1)]
        with pytest.raises(InvalidInput, match="found 1 network, expected two or more"):
            pairwise_barriers(models[:1], batches())
        for names in (["a"], ["a", "a"]):
            with pytest.raises(InvalidInput, match="expected 2 different ones"):
                pairwise_barriers(models, batches(), names=names)
        with pytest.raises(SpecMismatch, match=r"'0.weight' is \(7, 5\) in network 0 and \(6, 5\) in network 2"):
            pairwise_barriers([*models, classifier(2, hidden=6)], batches())


class TestMeanCurve:
    def test_means_and_sample_deviations(self):
        found = mean_curve([curve([1.0, 3.0, 1.0], [0.8, 0.4, 0.8]), curve([1.0, 1.0, 3.0], [0.6, 0.6, 1.0])])
        assert found.losses.tolist() == [1.0, 2.0, 2.0]
        assert found.losses_std == pytest.approx(np.array([0.0, 2**0.5, 2**0.5]))
        assert found.psi.tolist() == [0.0, 0.5, 0.0]
        assert found.psi_std == pytest.approx(np.array([0.0, 1.5 * 2**0.5, 0.0]))
        assert found.accuracies == pytest.approx(np.array([0.7, 0.5, 0.9]))
        assert found.accuracies_std == pytest.approx(np.array([0.1 * 2**0.5, 0.1 * 2**0.5, 0.1 * 2**0.5]))
        assert found.mean["barrier"] == pytest.approx(1.0)
        assert found.std["barrier"] == pytest.approx(2**0.5)
        assert found.mean["auc"] == pytest.approx(0.25)
        assert found.mean["auc_clipped"] == pytest.approx(0.5)
        assert found.mean["accuracy_barrier"] == pytest.approx(0.3)

    def test_the_barrier_of_the_mean_is_not_the_mean_barrier(self):
        found = mean_curve([curve([0.0, 1.0, 0.0, 0.0, 0.0]), curve([0.0, 0.0, 0.0, 1.0, 0.0])])
        assert found.mean["barrier"] == 1.0
        assert found.barrier_of_mean == 0.5

    def test_one_curve_is_its_own_mean(self):
        single = curve([1.0, 2.0, 1.0])
        found = mean_curve([single])
        assert found.losses.tolist() == single.losses.tolist()
        assert found.losses_std.tolist() == [0.0, 0.0, 0.0]
        assert found.mean == pytest.approx(single.summary())
        assert set(found.std.values()) == {0.0}

    def test_figures_that_some_curve_lacks_are_left_out(self):
        found = mean_curve([curve([1.0, 2.0, 1.0], [0.5, 0.4, 0.5]), curve([1.0, 2.0, 1.0])])
        assert found.accuracies is None
        assert found.accuracies_std is None
        assert "accuracy_barrier" not in found.mean

    @pytest.mark.parametrize("accuracies", [None, [0.5, 0.4, 0.5]])
    def test_it_prints_and_plots(self, tmp_path, accuracies):
        found = mean_curve([curve([1.0, 2.0, 1.0], accuracies), curve([1.0, 1.5, 1.0], accuracies)])
        assert repr(found).startswith("MeanCurve(2 curves of 3 points, barrier=0.75±0.35, auc=0.375±0.18")
        assert "<th>barrier</th><td>0.75</td><td>± 0.35</td>" in found._repr_html_()
        found.plot(tmp_path / "mean.svg")
        assert "<svg" in (tmp_path / "mean.svg").read_text()

    def test_curves_that_cannot_be_averaged_are_refused(self):
        with pytest.raises(InvalidInput, match="found no curve"):
            mean_curve([])
        with pytest.raises(InvalidInput, match=r"other lambdas in curves \[1\]"):
            mean_curve([curve([1.0, 2.0, 1.0]), curve([1.0, 2.0, 2.0, 1.0])])
