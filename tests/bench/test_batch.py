"""The suite of many pairs: every pair is measured, and the table says what the results file says."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from graphalign.bench import batch
from tests.bench.composed import composed


@pytest.mark.parametrize("case", batch.cases("any", (3, 6, 9)))
def test_the_pairs_of_a_case(case: batch.Case) -> None:
    assert len(case.places) == case.pairs
    assert max(max(pair) for pair in case.places) == case.networks - 1
    if case.way == "all pairs":
        assert case.places == list(combinations(range(4), 2))
    if case.way == "pairs":
        assert len({place for pair in case.places for place in pair}) == case.networks


def test_a_quick_run(tmp_path: Path) -> None:
    report = batch.run(composed("batch", "repetitions=1", "pairs=[2,3]"))
    assert [row["way"] for row in report.results["rows"]] == ["pairs", "pairs", "one to many", "all pairs"]
    for row, shown in zip(report.results["rows"], report.tables[0].rows, strict=True):
        assert row["equal"] == 1.0
        assert float(shown[4]) == pytest.approx(1 / row["many"]["cpu"][0], abs=0.06)
        for place, clock in ((5, "cpu"), (6, "wall")):
            assert float(shown[place]) == pytest.approx(row["loop"][clock][0] / row["many"][clock][0], abs=0.06)
    assert report.results["command"] == "graphalign bench batch repetitions=1 pairs=[2,3] --quick --repetitions 1 --seed 11000"
    assert report.draw is not None
    report.draw(tmp_path / "batch.png")
    assert (tmp_path / "batch.png").read_bytes()[:4] == b"\x89PNG"
