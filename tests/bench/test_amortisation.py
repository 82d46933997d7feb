"""Cost against savings: what is credited, and the whole way from a population to a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphalign.bench.amortisation import run
from graphalign.bench.amortisation_tables import Trade, draw, tables, trade
from graphalign.zoo.zoo import Zoo
from tests.bench.composed import composed


@pytest.mark.parametrize(
    ("trade", "verdict"),
    [
        (Trade(100.0, 1.0, 11.0, (0.1, 0.2)), "10"),
        (Trade(101.0, 1.0, 11.0, (0.2, 0.2)), "11"),
        (Trade(100.0, 1.0, 11.0, (0.3, 0.2)), "not credited: higher barrier"),
        (Trade(100.0, 1.0, 0.5, (0.1, 0.2)), "never: slower"),
        (Trade(100.0, 1.0, 11.0, (0.1, None)), "barrier not measured"),
    ],
)
def test_only_equal_or_better_barriers_are_credited(trade: Trade, verdict: str) -> None:
    assert trade.verdict == verdict


def results() -> dict[str, Any]:
    def row(name: str, barriers: tuple[float, float], seconds: tuple[float, float]) -> dict[str, Any]:
        clocks = {key: {"cpu": [s, s, 99.0], "wall": [s, s, s]} for key, s in zip(("ours", "other"), seconds, strict=True)}
        return {"family": "mlp", "architecture": f"section/{name}_data", "barriers": dict(zip(("ours", "other"), barriers, strict=True)), "seconds": clocks}

    return {
        "pairs": 8, "timed_steps": 4, "cost": {"networks": 6, "population": 60.0, "steps": 5, "training": 40.0}, "ours": {"ours": "trained"},
        "others": {"other": "Sinkhorn"}, "rows": [row("one", (0.1, 0.5), (1.0, 5.0)), row("two", (0.3, 0.2), (1.0, 9.0))],
    }  # fmt: skip


def test_a_family_is_judged_by_its_means(tmp_path: Path) -> None:
    found = results()
    assert trade(found, found["rows"], "ours", "other") == Trade(100.0, 1.0, 7.0, (0.2, 0.35))
    cost, family, architecture = tables(found)
    assert [row[-1] for row in cost.rows] == ["60", "40", "100"]
    assert family.rows == [["mlp", "2", "trained", "Sinkhorn", "0.200", "0.350", "1", "7", "6", "17"]]
    assert [(row[0], row[-1]) for row in architecture.rows] == [("one", "25"), ("two", "not credited: higher barrier")]
    draw(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_the_whole_way_on_a_fresh_machine(tmp_path: Path) -> None:
    places = [f"{key}={tmp_path / key}" for key in ("networks", "run", "work")]
    report = run(composed("amortisation", *places, "training.steps=1", "population.sections.train_cnn=null", "training.families.cnn.share=0"))
    cost = report.results["cost"]
    groups = [g for g in Zoo.open(tmp_path / "networks").groups if g.split != "test"]
    assert cost["networks"] == sum(len(g.seeds) for g in groups) == 19
    assert cost["population"] == pytest.approx(sum(g.seconds * len(g.seeds) for g in groups))
    assert cost["steps"] == 1
    assert cost["training"] > 0
    (row,) = report.results["rows"]
    assert row["family"] == "mlp"
    assert set(row["barriers"]) == set(row["seconds"]) == {"trained", "trained_inputs", "activation", "sinkhorn"}
    assert all(value is not None for value in row["barriers"].values())
    assert len(report.tables[1].rows) == 4
    again = run(composed("amortisation", *places, "training.steps=1", "population.sections.train_cnn=null", "training.families.cnn.share=0"))
    assert again.results["cost"] == cost, "nothing is trained again"
    assert [r["barriers"] for r in again.results["rows"]] == [row["barriers"]]
