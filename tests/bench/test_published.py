"""The suite of the published protocol: what it extrapolates, and the table it makes."""

from __future__ import annotations

from pathlib import Path

from graphalign.bench.published import IMAGES, NO_DATA, PUBLISHED, STEPS, WITH_INPUTS, run, table
from graphalign.bench.settings import Settings
from graphalign.experiments.results import publish


def test_a_quick_run_measures_every_method_and_can_be_published(tmp_path: Path) -> None:
    report = run(Settings(repetitions=1, quick=True))
    publish(tmp_path, "bench_published", report.results, report.tables)
    assert "`graphalign bench published --repetitions 1 --seed 11000 --quick`" in (tmp_path / "bench_published.md").read_text()
    rows = {row["name"]: row for row in report.results["rows"]}
    assert rows.keys() == {NO_DATA, WITH_INPUTS, *PUBLISHED}
    assert rows["activation"]["factor"] == IMAGES / 256
    assert rows["sinkhorn"]["factor"] == STEPS / 2
    assert all(row["seconds"] > 0 for row in rows.values())


def test_ratios_are_the_others_seconds_over_ours() -> None:
    seconds = {NO_DATA: 0.5, WITH_INPUTS: 2.0, "activation": 10.0, "sinkhorn": 100.0}
    rows = [{"name": n, "seconds": s, "spread": 0.0, "factor": 1.0 if s <= 2 else 12.5} for n, s in seconds.items()]
    found = {row[0]: row[1:] for row in table({"rows": rows, "tracing": 0.1, "environment": {"threads": 1}}).rows}
    assert found[NO_DATA] == ["0.500", "0.000", "whole", "20.0", "200.0"]
    assert found[WITH_INPUTS][-2:] == ["5.0", "50.0"]
    assert found["sinkhorn"] == ["100.000", "0.000", "1 / 12.5", "", ""]
    assert found["DEEP-ALIGN, as published"][-2:] == ["17.1", "181.4"]
