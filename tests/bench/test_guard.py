"""The guard compares ratios: it does not see how fast a machine is, and sees what became slower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphalign.bench.guard import RATIOS, Regression, guard, read_published
from graphalign.bench.published import ACTIVATION, NO_DATA, SINKHORN, WITH_INPUTS
from graphalign.errors import CorruptFile, InvalidInput


def results(suite: str, machine: float = 1.0, ours: float = 1.0) -> dict[str, Any]:
    """Results on a machine that takes so many times longer, with a pass, a batch and an import that take so many times longer."""
    if suite == "published":
        seconds = {NO_DATA: ours, WITH_INPUTS: 2 * ours, ACTIVATION: 40.0, SINKHORN: 400.0}
        return {"networks": [{"name": "x", "seconds": {name: {"cpu": [machine * s]} for name, s in seconds.items()}}]}
    if suite == "batch":
        clocks = {"loop": {"cpu": [machine * 20.0]}, "many": {"cpu": [machine * ours]}}
        return {"rows": [{"network": "x", "pairs": 10, "way": "pairs", **clocks}]}
    return {"rows": [{"name": "import torch", "cpu": [machine * 2.0]}, {"name": "import graphalign", "cpu": [machine * ours]}]}


@pytest.mark.parametrize("suite", RATIOS)
def test_a_slow_machine_is_no_regression_and_slow_code_is(suite: str) -> None:
    table = guard(suite, results(suite), results(suite, machine=17.0, ours=1.4))
    assert all(row[-1] == "0.71" for row in table.rows)
    with pytest.raises(Regression, match="worse than published by more than a factor of 1.5:\n  - .*: found .*, published"):
        guard(suite, results(suite), results(suite, machine=0.1, ours=1.6))
    assert guard(suite, results(suite), results(suite, ours=1.6), tolerance=2.0).rows


def test_only_what_both_have_is_compared() -> None:
    other = results("batch")
    other["rows"][0]["pairs"] = 11
    with pytest.raises(InvalidInput, match="found no ratio that the published results have too"):
        guard("batch", results("batch"), other)


def test_what_is_no_results_file_is_refused_before_time_is_spent(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected it with one of published, batch, startup"):
        read_published("scale", tmp_path)
    with pytest.raises(InvalidInput, match="found no such file, expected a results file such as docs/results/bench_batch.json"):
        read_published("batch", tmp_path / "none.json")
    for content in ("{", "{}", "[]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(CorruptFile, match="found no results of the suite batch"):
            read_published("batch", tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(results("batch")))
    assert read_published("batch", tmp_path / "good.json") == results("batch")
