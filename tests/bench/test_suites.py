"""The suite of methods as the command runs it: small sizes, our own methods, real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import graphalign
from graphalign.bench import methods
from graphalign.bench.method_tables import tables
from graphalign.bench.peers import VARIABLE
from graphalign.bench.suites import SUITES, describe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the command printed, and the folder it wrote to."""
    folder = tmp_path_factory.mktemp("results")
    arguments = ["bench", "methods", "--quick", "--repetitions", "1", "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(graphalign.__file__).parents[1]), "PYTHONWARNINGS": "error", VARIABLE: ""}
    command = [sys.executable, "-c", "from graphalign.cli import main; main()", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "bench: no --peers folder, measuring graphalign alone" in done.stderr
    return done.stdout, folder


@pytest.fixture(scope="module")
def results(run: tuple[str, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run[1] / "bench_methods.json").read_text())
    return found


def test_every_suite_describes_itself() -> None:
    for name in SUITES:
        assert describe(name).endswith(".")


def test_every_part_of_the_methods_suite_has_rows(results: dict[str, Any]) -> None:
    assert set(methods.PARTS) <= results.keys()
    assert {part: len(results[part]) for part in methods.PARTS} == {
        "weight": 2, "families": 5, "sinkhorn": 1, "transport": 2, "assignments": 3
    }  # fmt: skip
    assert results["peers"] == {}
    assert results["environment"]["threads"] == 1


def test_our_methods_find_every_unit_and_keep_the_function(results: dict[str, Any]) -> None:
    for row in [*results["weight"], *results["families"], *results["sinkhorn"]]:
        assert row["recovered"] == 1.0, row["network"]
        assert row["change"] < 1e-10, row["network"]


def test_exact_transport_is_that_of_pot_and_of_assignment(results: dict[str, Any]) -> None:
    equal, different = results["transport"]
    assert equal["from_pot"] < 1e-12
    assert equal["from_assignment"] < 1e-12
    assert different["from_pot"] < 1e-12
    assert different["from_assignment"] is None


def test_assignments_reach_the_sums_of_scipy(results: dict[str, Any]) -> None:
    assert [row["scores"] for row in results["assignments"]] == ["random", "similar", "clear"]
    assert all(row["equal"] for row in results["assignments"])


def test_every_repetition_is_kept_and_the_first_run_apart(results: dict[str, Any]) -> None:
    for row in results["families"]:
        assert set(row["wall"]) == set(row["cpu"]) == set(row["first"]) == {"tracing", "matching"}
        assert all(len(seconds) == 1 for clock in ("wall", "cpu") for seconds in row[clock].values())


def test_tables_are_complete_printed_and_written(run: tuple[str, Path], results: dict[str, Any]) -> None:
    printed, folder = run
    written = (folder / "bench_methods.md").read_text()
    assert results["command"] == "graphalign bench methods --quick --repetitions 1 --seed 11000"
    assert results["command"] in written
    assert len(tables(results)) == 5
    for table in tables(results):
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert str(table) in printed
        assert str(table) in written


def test_tables_say_which_peers_were_not_measured(results: dict[str, Any]) -> None:
    for table, peer in zip(tables(results), ("rebasin", "rebasin", "sinkhorn-rebasin"), strict=False):
        assert f"{peer} was not measured: pass --peers FOLDER" in table.notes[0]
