"""The suite "startup", and what must not be loaded at the start."""

from __future__ import annotations

import pytest

from graphalign.bench import startup
from graphalign.bench.processes import MeasurementFailed
from graphalign.bench.startup import CASES, HEAVY, measure_case, run, table
from tests.bench.composed import composed


@pytest.mark.parametrize("name", ["import graphalign", "graphalign --help"])
def test_nothing_heavy_is_loaded(name: str) -> None:
    assert not set(HEAVY) & set(measure_case(*CASES[name])["loaded"])


def test_aligning_loads_neither_drawing_nor_graph_libraries() -> None:
    loaded = set(measure_case(*CASES["from graphalign import align"])["loaded"])
    assert "torch" in loaded
    assert not {"networkx", "torch_geometric", "matplotlib", "hydra", "sklearn"} & loaded


def test_only_what_is_measured_counts() -> None:
    found = measure_case("import time; time.sleep(0.3)\n", "import json\n")
    assert 0 <= found["cpu"] <= found["wall"] + 0.1
    assert "json" in found["loaded"]
    with pytest.raises(MeasurementFailed, match="ZeroDivisionError"):
        measure_case("", "1 / 0\n")


def test_the_suite_takes_medians_of_warm_runs_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([*[9.0] * 6, *[2.0] * 6, *[4.0] * 6, *[3.0] * 5, 6.0])
    monkeypatch.setattr(startup, "measure_case", lambda *_: {"wall": 1.0, "cpu": next(seconds), "loaded": ["torch", "re"]})
    report = run(composed("startup", "repetitions=3", quick=False))
    rows = {row["name"]: row for row in report.results["rows"]}
    assert rows.keys() == CASES.keys()
    assert rows["import torch"]["cpu"] == [2.0, 4.0, 3.0]
    assert rows["import torch"]["loaded"] == ["torch"]
    cells = {row[0]: row[1:] for row in table(report.results).rows}
    assert cells["import torch"] == ["3.000", "2.00-4.00", "1.000", "1.00", "torch"]
    assert cells["second call of align"][3] == "1.33"
    assert report.results["command"] == "graphalign bench startup repetitions=3 --repetitions 3 --seed 11000"
