from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphalign import data
from graphalign.experiments import different_widths
from graphalign.experiments.different_widths import LARGE, SMALL, WAYS, mlps
from graphalign.experiments.population import Images
from graphalign.experiments.training import keep_initialisation

ROOT = os.environ.get(data.ROOT)


def digit_images() -> Images:
    x, y = data.digits("train").tensors
    test_x, test_y = data.digits("test").tensors
    return Images("digits", x, y, [(test_x, test_y)])


def test_digits_give_a_complete_table_and_mass_preserving_maps_are_calibrated(tmp_path: Path) -> None:
    pairs = {"small": mlps((16, 12), (32, 24), 1300, 25, initialise=keep_initialisation)}
    results = different_widths.run(pairs, digit_images(), 2, tmp_path, "command")
    assert len(list(tmp_path.iterdir())) == 4
    (row,) = results["rows"]
    assert min(score["accuracy"] for parent in (SMALL, LARGE) for score in row["parents"][parent]) > 0.75
    assert row["ways"].keys() == WAYS.keys()
    assert all(len(measured) == 2 for measured in row["ways"].values())
    for cost in ("weights", "activations"):
        kept, published = (
            sum(m["transported"]["loss"] for m in row["ways"][f"{cost}, exact, {way}"]) for way in ("mass-preserving", "published")
        )
        assert kept < published - 0.5
    (table,) = different_widths.tables(results)
    assert len(table.rows) == 2 + len(WAYS)
    assert all(len(line) == len(table.columns) for line in table.rows)
    assert "±" in table.rows[0][1]
    assert "PyTorch's initialisation" in table.title
    (he,) = different_widths.tables({**results, "rows": [{**row, "networks": "small-he"}]})
    assert "He initialisation" in he.title


def test_a_missing_data_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT, raising=False)
    with pytest.raises(data.GraphAlignError, match="GRAPHALIGN_DATA"):
        different_widths.main(["--quick"])


def test_pairs_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        different_widths.main(["--pairs", "0"])
    assert "--pairs: found 0, expected at least 1" in capsys.readouterr().err


@pytest.mark.skipif(not ROOT, reason=f"{data.ROOT} is not set: no mnist.npz")
def test_quick_run_on_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    different_widths.main(["--quick", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert "| weights, exact, mass-preserving" in capsys.readouterr().out
    assert (tmp_path / "different_widths.json").is_file()
    assert "activations, entropic" in (tmp_path / "different_widths.md").read_text()
