"""What a curve says, shows and draws."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from graphalign.connectivity import Curve, barrier
from graphalign.errors import InvalidInput
from tests.lines import classifier, labelled, linear


def test_clipped_area_leaves_out_what_lies_below_the_chord():
    lam = np.linspace(0, 1, 5)
    curve = Curve(lam, np.array([0.0, 1.0, 0.0, -1.0, 0.0]), None, 0.0, None)
    assert curve.auc == pytest.approx(0.0)
    assert curve.auc_clipped == pytest.approx(0.25)


def test_chord_is_interpolated_between_unequal_ends():
    curve = Curve(np.linspace(0, 1, 3), np.array([2.0, 5.0, 4.0]), np.array([1.0, 0.5, 0.8]), 5.0, 0.5)
    assert curve.barrier == pytest.approx(2.0)
    assert curve.accuracy_barrier == pytest.approx(0.4)


@pytest.fixture
def curve():
    return barrier(classifier(0), classifier(1), [labelled(40)], points=5)


def test_repr_and_html_name_the_figures(curve):
    for text in (repr(curve), curve._repr_html_()):
        for name in ("barrier", "auc", "midpoint_accuracy", "accuracy_barrier"):
            assert name in text
        assert f"{curve.barrier:.4g}" in text


def test_a_notebook_shows_the_curve_unless_it_diverges(curve):
    points = re.search(r'<polyline points="([^"]*)"', curve._repr_html_())
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert np.argsort(heights).tolist() == np.argsort(-curve.losses).tolist()
    diverged = dataclasses.replace(curve, losses=np.where(curve.lambdas == 0.5, np.inf, curve.losses))
    assert "<svg" not in diverged._repr_html_()


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_a_figure_and_nothing_else(curve, tmp_path, ending, magic):
    path = tmp_path / f"curve.{ending}"
    curve.plot(path)
    curve.plot(path)
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]


def test_plot_without_classes(tmp_path):
    x = torch.ones(2, 1, dtype=torch.float64)
    barrier(linear([1.0], 0.0), linear([3.0], 0.0), [(x, x)], loss="mse", points=3).plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_other_endings_and_missing_folders_are_refused(curve, tmp_path):
    with pytest.raises(InvalidInput, match=r"found the ending '.bmp', expected .png, .svg or .pdf"):
        curve.plot(tmp_path / "curve.bmp")
    with pytest.raises(InvalidInput, match=r"does not exist; create it"):
        curve.plot(tmp_path / "missing" / "curve.png")
