"""The suite of many pairs: every pair is measured, and the table says what the results file says."""

from __future__ import annotations

from itertools import combinations

import pytest

from graphalign.bench import batch
from graphalign.bench.settings import Settings


@pytest.mark.parametrize("case", batch.cases("any", (3, 6, 9)))
def test_the_pairs_of_a_case(case: batch.Case) -> None:
    assert len(case.places) == case.pairs
    assert max(max(pair) for pair in case.places) == case.networks - 1
    if case.way == "all pairs":
        assert case.places == list(combinations(range(4), 2))
    if case.way == "pairs":
        assert len({place for pair in case.places for place in pair}) == case.networks


def test_a_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SMALL", (2, 3))
    report = batch.run(Settings(repetitions=1, quick=True))
    assert [row["way"] for row in report.results["rows"]] == ["pairs", "pairs", "one to many", "all pairs"]
    for row, shown in zip(report.results["rows"], report.tables[0].rows, strict=True):
        assert row["equal"] == 1.0
        assert float(shown[4]) == pytest.approx(1 / row["many"]["wall"][0], abs=0.06)
        assert float(shown[5]) == pytest.approx(row["loop"]["wall"][0] / row["many"]["wall"][0], abs=0.06)
