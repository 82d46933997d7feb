"""Merging groups of networks: a complete table from tiny networks on digits, and the command line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphalign import data, group
from graphalign.converters.trace import trace_architecture
from graphalign.experiments import many_models
from graphalign.experiments.many_models import ENSEMBLE, NAIVE, ROWS, SINGLE, Ensemble, Group, measure, merge, tables
from graphalign.experiments.population import Images, Recipe
from graphalign.experiments.training import keep_initialisation
from graphalign.zoo.networks import mlp
from tests.experiments.test_floor import digit_images

ROOT = os.environ.get(data.ROOT)
RECIPE = Recipe(lambda image: mlp((24, 24), image), 1300, 8, "digits", initialise=keep_initialisation)
JOINT = [row for row in ROWS if "MergeMany" in row or "Frank-Wolfe" in row]


@pytest.fixture(scope="module")
def images() -> Images:
    return digit_images()


def test_digits_give_a_complete_table(images: Images) -> None:
    entry = measure("mlp-24-24", RECIPE, images, 2, 3, None)
    rows = entry["rows"]
    assert list(rows) == [SINGLE, ENSEMBLE, *ROWS]
    assert [len(rows[row]) for row in (SINGLE, ENSEMBLE, NAIVE)] == [6, 2, 2]
    mean = {row: {key: sum(m[key] for m in found) / len(found) for key in found[0]} for row, found in rows.items()}
    for row, way in ROWS.items():
        assert len(rows[row]) == (6 if way.every_reference else 2)
    assert mean[ENSEMBLE]["loss"] < mean[SINGLE]["loss"] < mean[NAIVE]["loss"]
    assert mean[NAIVE]["repaired_loss"] < mean[NAIVE]["loss"]
    for row in JOINT:
        assert mean[row]["objective"] > mean["weight matching to a reference"]["objective"] > mean[NAIVE]["objective"]
        assert mean[row]["accuracy"] > mean[NAIVE]["accuracy"]
    best = "MergeMany from weight matching, best of 5"
    assert mean[best]["objective"] >= mean["MergeMany from weight matching"]["objective"]
    (table,) = tables({"rows": [entry], "test_images": 449})
    assert [row[0] for row in table.rows] == list(rows)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][3:] == ["-", "-", "-", "-"]


def test_the_reference_keeps_its_order(images: Images) -> None:
    model = RECIPE.build(images.shape)
    architecture = trace_architecture(model, images.x[:1])
    states = [group.all_tensors(RECIPE.build(images.shape)) for _ in range(3)]
    for name in ("weight matching to a reference", "gnn, untrained, to a reference"):
        elements = ROWS[name].align(Group(architecture, states, [images.x[:32]], reference=1))
        moved = [any(not torch.equal(perm, torch.arange(len(perm))) for perm in element.values()) for element in elements]
        assert moved == [True, False, True]


def test_a_merged_network_is_the_mean_and_a_copy(images: Images) -> None:
    models = [RECIPE.build(images.shape) for _ in range(3)]
    merged = merge(models[0], [group.all_tensors(m) for m in models])
    assert torch.allclose(merged[1].bias, (models[0][1].bias + models[1][1].bias + models[2][1].bias) / 3)  # type: ignore[index]
    assert merged[1].bias.data_ptr() != models[0][1].bias.data_ptr()  # type: ignore[index]


def test_an_ensemble_averages_probabilities(images: Images) -> None:
    models = [RECIPE.build(images.shape).eval() for _ in range(2)]
    x = images.x[:4]
    with torch.no_grad():
        expected = (models[0](x).softmax(-1) + models[1](x).softmax(-1)) / 2
        assert torch.allclose(Ensemble(models)(x).exp(), expected)


def test_initialisations_differ(images: Images) -> None:
    """PyTorch's own leaves biases, He's sets them to zero."""
    from graphalign.experiments.population import trained

    untouched = replace(RECIPE, epochs=0)
    kept = trained("a", untouched, images, 0, None).state_dict()
    he = trained("a", Recipe(RECIPE.build, 1300, 0, "digits"), images, 0, None).state_dict()
    assert float(kept["1.bias"].abs().max()) > 0
    assert float(he["1.bias"].abs().max()) == 0


def test_groups_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        many_models.main(["--groups", "0"])
    assert "--groups: found 0, expected at least 1" in capsys.readouterr().err


def test_a_missing_data_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT, raising=False)
    with pytest.raises(data.GraphAlignError, match="GRAPHALIGN_DATA"):
        many_models.main(["--quick"])


@pytest.mark.skipif(not ROOT, reason=f"{data.ROOT} is not set: no mnist.npz")
def test_quick_run_on_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many_models.main(["--quick", "--archs", "mnist-mlp-128-128", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert "mnist-mlp-128-128: 3 networks" in capsys.readouterr().out
    assert (tmp_path / "many_models.json").is_file()
    assert "Frank-Wolfe from weight matching" in (tmp_path / "many_models.md").read_text()
