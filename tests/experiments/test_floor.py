from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from graphalign import data
from graphalign.experiments import floor
from graphalign.experiments.population import Images, Recipe, trained
from graphalign.zoo.networks import cnn, mlp

ROOT = os.environ.get(data.ROOT)
RECIPES = {
    "mlp-16-16": Recipe(lambda image: mlp((16, 16), image), 800, 8),
    "cnn-4-6": Recipe(lambda image: cnn((6, 8), 16, image), 1300, 8),
}


def digit_images() -> Images:
    x, y = data.digits("train").tensors
    test_x, test_y = data.digits("test").tensors
    return Images("digits", x, y, [(test_x, test_y)])


def test_digits_give_a_complete_table(tmp_path: Path) -> None:
    results = floor.EXPERIMENT.run(RECIPES, digit_images(), 2, tmp_path / "cache", "command")
    assert [row["architecture"] for row in results["rows"]] == list(RECIPES)
    for row in results["rows"]:
        assert len(row["accuracies"]) == 4
        assert min(row["accuracies"]) > 0.3
        for found in row["methods"].values():
            assert len(found["barriers"]) == len(found["seconds"]) == 2
            assert all(b > -1e-6 for b in found["barriers"])
    barriers = {m: sum(found["barriers"]) for m, found in results["rows"][0]["methods"].items()}
    assert barriers["gnn, untrained"] < barriers["naive"]
    (table,) = floor.tables(results)
    assert len(table.rows) == len(RECIPES) * len(floor.METHODS)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[1][2] == floor.PUBLISHED
    assert table.rows[1][4] == "1.00"
    assert table.rows[2][5] == "1.00"


def test_networks_come_from_the_cache_again(tmp_path: Path) -> None:
    images, recipe = digit_images(), RECIPES["cnn-4-6"]
    first = trained("cnn-4-6", recipe, images, 5, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == "digits_cnn-4-6_1300x8_seed5.safetensors"
    stamp = file.stat().st_mtime_ns
    again = trained("cnn-4-6", recipe, images, 5, tmp_path)
    fresh = trained("cnn-4-6", recipe, images, 5, None)
    other = trained("cnn-4-6", recipe, images, 6, None)
    assert file.stat().st_mtime_ns == stamp
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, fresh.state_dict()[name])
    assert not torch.equal(first.state_dict()["0.weight"], other.state_dict()["0.weight"])


def test_a_missing_data_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT, raising=False)
    with pytest.raises(data.GraphAlignError, match="GRAPHALIGN_DATA"):
        floor.EXPERIMENT.main(["--quick"])


def test_pairs_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        floor.EXPERIMENT.main(["--pairs", "0"])
    assert "--pairs: found 0, expected at least 1" in capsys.readouterr().err


@pytest.mark.skipif(not ROOT, reason=f"{data.ROOT} is not set: no fashion_mnist.npz")
def test_quick_run_on_fashion_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floor.EXPERIMENT.main(["--quick", "--archs", "mlp-64-64-64", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert "| mlp-64-64-64 |" in capsys.readouterr().out
    assert (tmp_path / "floor.json").is_file()
    assert "gnn, untrained" in (tmp_path / "floor.md").read_text()
