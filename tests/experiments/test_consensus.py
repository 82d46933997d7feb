"""The experiment on consensus refinement, small: complete results, the table, and rows that stay."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from graphalign import data
from graphalign.experiments import consensus, population
from graphalign.experiments.population import Images, Recipe
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.zoo.networks import mlp

ROOT = os.environ.get(data.ROOT)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    """The digits, and a small network in the place of the first architecture."""
    x, y = data.digits("train").tensors
    monkeypatch.setitem(population.RECIPES, "mlp-64-64-64", Recipe(lambda image: mlp((16, 16), image), 1300, 6))
    monkeypatch.setattr(consensus, "SINKHORN", {"Sinkhorn, random": Sinkhorn(steps=5), "Sinkhorn, midpoint": Sinkhorn("midpoint", steps=5)})
    return Images("digits", x, y, [data.digits("test").tensors])


def test_results_are_complete(images: Images, tmp_path: Path) -> None:
    case = replace(consensus.CASES["mlp-64-64-64"], pairs=2, test_images=300)
    row = consensus.measure("mlp-64-64-64", case, images, tmp_path)
    assert len(row["accuracies"]) == 4
    assert row["test_images"] == 300
    means = {method: sum(found["barriers"]) for method, found in row["methods"].items()}
    assert means[consensus.MANY] < means["naive"]
    assert all(len(found["barriers"]) == 2 for found in row["methods"].values())
    activation, refined = (row["methods"][m]["seconds"] for m in (consensus.ACTIVATION, consensus.MANY))
    assert refined > activation > 0  # the start is included
    (table,) = consensus.tables({"rows": [row]})
    assert [line[2] for line in table.rows].count("Sinkhorn, random (best)") + [line[2] for line in table.rows].count("Sinkhorn, midpoint (best)") == 1
    assert table.rows[[line[2] for line in table.rows].index(consensus.ACTIVATION)][4] == "1.00"
    assert "consensus / best Sinkhorn" in table.notes[1]


@pytest.mark.skipif(ROOT is None, reason=f"{data.ROOT} is not set: no Fashion-MNIST")
def test_rows_of_other_architectures_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mlp-48x5", "mlp-64-64-64"):
        consensus.main(["--quick", "--archs", name, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "consensus.json").read_text())["rows"]
    assert [row["architecture"] for row in rows] == ["mlp-64-64-64", "mlp-48x5"]
    assert "consensus, 10 steps" in capsys.readouterr().out
