from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation import figures, goals, tables
from graphalign.experiments.generalisation.findings import LEAST, Findings

TITLES = {"weight": "weight matching", "activation": "activation matching", "untrained": "untrained", "trained": "trained"}


def record(row: str, architecture: str, column: str, barriers: list[float], aligner: str | None = None, family: str = "mlp") -> dict[str, Any]:
    return {
        "row": row, "family": family, "architecture": architecture, "column": column, "aligner": aligner, "seconds": [0.1] * len(barriers),
        "figures": {"barrier": barriers}, "psi": [0.0, sum(barriers) / len(barriers), 0.0], "tuning": {}, "variant": "", "pairs": len(barriers),
        "revision": "r", "device": "cpu",
    }  # fmt: skip


def results(records: list[dict[str, Any]], timings: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    groups = {r["architecture"]: {"design": r["architecture"], "recipe": "x", "quality": "90.0-91.0", "seeds": [1, 2]} for r in records}
    return {
        "records": records, "timings": timings or [], "families": list(dict.fromkeys(r["family"] for r in records)),
        "rows": list(dict.fromkeys(r["row"] for r in records)), "columns": {n: {"title": t} for n, t in TITLES.items()}, "groups": groups,
        "protocol": {"points": 3, "test_images": 10, "statistics_images": 10, "pairs": 2}, "revisions": ["r"], "devices": ["cpu"], "report": {},
    }  # fmt: skip


RECORDS = [
    record("width", "a", "weight", [1.0, 3.0]), record("width", "b", "weight", [0.5, 0.5]),
    record("width", "a", "trained", [0.5, 0.5], "t 1"), record("width", "b", "trained", [0.2, 0.3], "t 1"),
    record("width", "a", "trained", [1.0, 1.0], "t 2"), record("width", "b", "trained", [0.5, 0.5], "t 2"),
]  # fmt: skip


def test_ratios_are_of_mean_barriers_and_geometric_over_architectures() -> None:
    found = Findings(results(RECORDS)).ratio("width", "mlp", "trained", "weight")
    first, second = math.sqrt((0.5 / 2) * (0.25 / 0.5)), math.sqrt((1 / 2) * 1)
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx((first + second) / 2), 2)
    assert found.std == pytest.approx(abs(first - second) / math.sqrt(2))
    assert Findings(results(RECORDS)).ratio("width", "mlp", "trained", "activation") is None


def test_architectures_without_a_reference_do_not_count() -> None:
    found = Findings(results([*RECORDS, record("width", "c", "trained", [9.0, 9.0], "t 1")])).ratio("width", "mlp", "trained", "weight")
    assert found == Findings(results(RECORDS)).ratio("width", "mlp", "trained", "weight")


def test_barriers_of_zero_do_not_run_away() -> None:
    records = [record("width", "a", "weight", [2.0, 2.0]), record("width", "a", "trained", [0.0, 0.0], "t 1")]
    found = Findings(results(records)).ratio("width", "mlp", "trained", "weight")
    assert found is not None
    assert found.mean == pytest.approx(LEAST)


def test_means_are_over_aligners_pairs_and_architectures() -> None:
    found = Findings(results(RECORDS)).mean("width", "mlp", "trained")
    assert found is not None
    assert found.mean == pytest.approx(((0.75 + 0.75) / 2 + (0.35 + 0.4) / 2) / 2)
    assert found.std == pytest.approx(math.sqrt((0 + 0.05**2 / 2) / 2))
    weight = Findings(results(RECORDS)).mean("width", "mlp", "weight")
    assert weight is not None
    assert weight.std == pytest.approx(math.sqrt((2.0 + 0.0) / 2))


def test_goals_hold_over_all_architectures_or_in_every_row() -> None:
    records = [record(row, row, column, [1.0, 1.0]) for row in ("width", "depth", "data", "recipe") for column in ("weight", "activation")]
    records += [record(row, row, "trained", [value], "t 1") for row, value in (("width", 0.4), ("depth", 0.6), ("data", 0.5), ("recipe", 1.5))]
    records += [record("width", "cnn", "weight", [1.0], family="cnn"), record("width", "cnn", "trained", [0.8], "t 1", family="cnn")]
    (table,) = goals.goal_tables(Findings(results(records)))
    assert table.columns[4:] == ["width", "depth", "data", "recipe", "together", "architectures", "verdict"]
    assert [list(row) for row in table.rows] == [
        ["trained", "weight matching", "mlp", "0.5", "0.40", "0.60", "-", "-", "0.49", "2", "holds; above it: depth"],
        ["trained", "weight matching", "cnn", "0.7", "0.80", "-", "-", "-", "0.80", "1", "falls short: width"],
        ["trained", "activation matching", "mlp", "0.75", "0.40", "0.60", "-", "-", "0.49", "2", "holds"],
        ["trained", "activation matching", "mlp", "1", "-", "-", "0.50", "1.50", "0.87", "2", "falls short: recipe"],
    ]


def test_goals_of_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = [{"row": "width", "family": "mlp", "architecture": "a", "trace_seconds": 1.0, "seconds": {"trained": 0.01, "weight": s}} for s in (0.1, 0.4)]
    monkeypatch.setattr(goals, "SPEED_GOALS", (goals.SpeedGoal("trained", "weight", 20), goals.SpeedGoal("trained", "weight", 21)))
    found = Findings(results(RECORDS, timings))
    assert found.speed("mlp", "trained", "weight") == pytest.approx(20.0)
    speeds = goals.goal_tables(found)[-1]
    assert [row[-2:] for row in speeds.rows] == [["20x", "holds"], ["20x", "falls short"]]


def test_tables_show_what_there_is() -> None:
    found = Findings(results(RECORDS, [{"row": "width", "family": "mlp", "architecture": "a", "trace_seconds": 1.0, "seconds": {"trained": 0.25}}]))
    barrier = tables.figure_table(found, "barrier")
    assert list(barrier.columns) == ["family", "row", "architectures", "weight matching", "trained"]
    assert barrier.rows == [["mlp", "width", "2", "1.250 ± 1.000", "0.562 ± 0.025"]]
    fewer = Findings(results([*RECORDS, record("width", "c", "weight", [1.0])]))
    assert tables.figure_table(fewer, "barrier").rows[0][-1].endswith(" (of 2)")
    other = {**found.results, "protocols": {"vgg": {**found.results["protocol"], "points": 5}}}
    assert tables.figure_table(Findings(other), "barrier").notes[-1] == "Measured otherwise: vgg: points 5."
    assert tables.ratio_table(found, "weight").rows[0][:3] == ["mlp", "width", "1.00"]
    assert tables.timing_table(found).rows == [["mlp", "width", "a", "1.00", "0.25"]]
    assert [row[0] for row in tables.architecture_table(found).rows] == ["a", "b"]
    assert tables.quality((0.9, 0.95), ()) == "90.0-95.0"
    assert tables.quality((), (31.24,)) == "31.2-31.2"


def test_many_columns_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WIDEST", 1)
    table = tables.figure_table(Findings(results(RECORDS)), "barrier")
    assert list(table.columns) == ["", "mlp, width, 2 architectures"]
    assert table.rows == [["weight matching", "1.250 ± 1.000"], ["trained", "0.562 ± 0.025"]]


def test_figures_are_drawn(tmp_path: Path) -> None:
    found = Findings(results(RECORDS))
    figures.heat_map(found, "weight", tmp_path / "map.png")
    figures.curves(found, ["weight", "trained"], ["depth", "width"], tmp_path / "curves.png")
    series = {"networks": {"row": "width", "reference": "weight", "columns": {"trained": 10, "weight": 100}}}
    figures.sample_sizes(found, series, tmp_path / "sizes.png")
    for name in ("map", "curves", "sizes"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_heat_map_of_many_columns_is_upright(tmp_path: Path) -> None:
    found = results([*RECORDS, *(record("width", "a", f"variant {i}", [1.0, 1.0], "t 1") for i in range(20))])
    found["columns"] |= {f"variant {i}": {"title": f"variant {i}"} for i in range(20)}
    figures.heat_map(Findings(found), "weight", tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.height > picture.width


def test_nothing_to_draw() -> None:
    found = Findings(results([r for r in RECORDS if r["column"] == "weight"]))
    with pytest.raises(InvalidInput, match="found no barriers beside those of 'weight'"):
        figures.heat_map(found, "weight", "x.png")
    with pytest.raises(InvalidInput, match="found none of the rows family, expected one of them"):
        figures.curves(found, ["weight"], ["family"], "x.png")
    with pytest.raises(InvalidInput, match="found none of the columns of the series"):
        figures.sample_sizes(found, {"n": {"row": "width", "reference": "trained", "columns": {"trained": 1}}}, "x.png")
