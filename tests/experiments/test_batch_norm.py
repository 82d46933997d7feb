from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from graphalign import data
from graphalign.experiments import batch_norm
from graphalign.experiments.batch_norm import EXPERIMENT, METHODS, RESET, TREATMENTS
from graphalign.experiments.population import Recipe
from graphalign.zoo.networks import vgg

from .test_floor import digit_images

ROOT = os.environ.get(data.ROOT)
RECIPES = {
    f"vgg{'-bn' * norm}": Recipe(lambda image, norm=norm: vgg(((12,), (16,)), hidden=(16,), batch_norm=norm, channels=image[0]), 1300, 10)
    for norm in (False, True)
}


def test_digits_give_complete_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "METHODS", {name: METHODS[name] for name in ("naive", "weight")})
    results = EXPERIMENT.run(RECIPES, digit_images(), 1, tmp_path, "command")
    plain, normalised = results["rows"]
    for row in results["rows"]:
        assert len(row["parents"]) == 2
    assert min(p["accuracy"] for p in normalised["parents"]) > 0.3
    assert RESET not in plain["methods"]["weight"]
    assert set(normalised["methods"]["weight"]) == set(TREATMENTS)
    for method in ("naive", "weight"):
        averaged, reset = (sum(s["loss"] for s in normalised["methods"][method][t]) for t in ("averaged", RESET))
        assert reset < averaged
    for table, factor in zip(EXPERIMENT.tables(results), (100, 1), strict=True):
        assert [row[:3] for row in table.rows] == [[name, "1", method] for name in RECIPES for method in ("naive", "weight")]
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.rows[0][5] == "-"
        measure = "accuracy" if factor == 100 else "loss"
        (score,) = normalised["methods"]["weight"]["REPAIR"]
        assert table.rows[3][6] == (f"{100 * score[measure]:.1f}" if factor == 100 else f"{score[measure]:.3f}")
        two = {"rows": [{**row, "parents": 2 * row["parents"], "methods": {"naive": {"REPAIR": [{measure: 0.1}, {measure: 0.3}]}}} for row in results["rows"]]}
        assert batch_norm._table(two, measure, "", []).rows[0][6] == ("20.0 ± 14.1" if factor == 100 else "0.200 ± 0.141")


def test_every_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "METHODS", {"naive": METHODS["naive"]})
    recipes = {"vgg-bn": Recipe(RECIPES["vgg-bn"].build, 100, 1)}
    first, again = (EXPERIMENT.run(recipes, digit_images(), 1, tmp_path, "command") for _ in range(2))
    assert first["rows"] == again["rows"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"digits_vgg-bn_100x1_seed{seed}.safetensors" for seed in (6000, 6001)]
    assert torch.get_num_threads() == 1


def test_the_command_line_refuses_no_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        EXPERIMENT.main(["--pairs", "0"])
    assert "--pairs: found 0, expected at least 1" in capsys.readouterr().err


def test_a_missing_data_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT, raising=False)
    with pytest.raises(data.GraphAlignError, match="GRAPHALIGN_DATA"):
        EXPERIMENT.main(["--quick"])


@pytest.mark.skipif(not ROOT, reason=f"{data.ROOT} is not set: no fashion_mnist.npz")
def test_quick_run_on_fashion_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EXPERIMENT.main(["--quick", "--archs", "resnet-8-bn", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert "| resnet-8-bn |" in capsys.readouterr().out
    assert (tmp_path / "batch_norm.json").is_file()
    assert RESET in (tmp_path / "batch_norm.md").read_text()
