"""Jobs go to another interpreter and come back, errors included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphalign.bench import methods, processes
from graphalign.bench.pairs import Pair, make_pair
from graphalign.bench.processes import Job, MeasurementFailed, Result, measure
from graphalign.bench.stopwatch import Stopwatch, by_repetition, milliseconds


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("mlp", (5, 6, 3), 0.0, seed=0)


def alignment(pair: Pair, **options: object) -> Job:
    arguments = {"kind": pair.kind, "sizes": pair.sizes, "repetitions": 2, "budget": 60, "implementation": "graphalign"}
    return Job("alignment", {**arguments, "options": {"method": "weight"}, **options}, {"a": pair.a, "b": pair.b})


def test_results_states_and_errors_come_back_in_order(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [alignment(pair), alignment(pair, options={"method": "wieght"}), alignment(pair, budget=0)]
    good, bad, short = measure(jobs)
    assert list(good.states) == ["moved0"], "every run returned the same"
    assert pair.recovered(good.states["moved0"]) == 1.0
    assert len(good.facts["wall"]["matching"]) == 2
    assert bad.states == {}
    assert list(bad.facts) == ["error"]
    assert bad.facts["error"].startswith("InvalidInput: method: found 'wieght'")
    assert len(short.facts["wall"]["matching"]) == 1, "out of budget after the first run, which then counts"
    assert short.facts["wall"] == {stage: [seconds] for stage, seconds in short.facts["first"].items()}
    assert "graphalign {'method': 'weight'}, mlp [5, 6, 3]:" in capfd.readouterr().err


def test_an_implementation_is_judged_by_its_worst_run(pair: Pair) -> None:
    case = methods.Case("weight", {"network": "MLP"}, alignment(pair), pair)
    broken = {**pair.right, "0.bias": pair.right["0.bias"].flip(0)}
    row = case.row(Result({}, {"moved0": pair.right, "moved1": broken, "moved2": pair.right}))
    assert row["recovered"] == pair.recovered(broken) < 1.0
    assert row["change"] == pair.change_of_function(broken) > 1e-3


def test_our_own_failures_end_the_suite_and_those_of_peers_do_not(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "measure", lambda jobs, **_: [Result({"error": "ValueError: no"}, {}) for _ in jobs])
    cases = [methods.Case("weight", {"network": name}, alignment(pair), pair) for name in ("MLP", "CNN")]
    with pytest.raises(MeasurementFailed, match=r"failed:\n  - \{'network': 'MLP'\}: ValueError: no\n  - \{'network': 'CNN'\}: ValueError"):
        methods.collect({"weight": []}, cases, 1)
    parts: dict[str, list[dict[str, object]]] = {"weight": []}
    methods.collect(parts, cases, 1, [tmp_path])
    assert parts["weight"] == [{"network": "MLP", "error": "ValueError: no"}, {"network": "CNN", "error": "ValueError: no"}]


def test_threads_and_paths_reach_the_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.update(command=command, env=env)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(MeasurementFailed, match="a measuring process ended with status 3; what it said is above"):
        measure([Job("assignments", {})], threads=2, paths=[tmp_path])
    assert seen["command"][:4] == [sys.executable, "-m", "graphalign.bench.worker", "2"]
    assert seen["env"]["OMP_NUM_THREADS"] == "2"
    assert seen["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)


def test_a_process_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LONGEST", 0.05)
    with pytest.raises(MeasurementFailed, match="took more than 0 seconds and was stopped"):
        measure([Job("assignments", {})])


def test_tensors_that_share_memory_can_travel(tmp_path: Path) -> None:
    shared = torch.zeros(4, 4)
    processes.save_state_dict({"a": shared, "b": shared.T, "c": shared[0]}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").is_file()


def test_stages_add_up_and_the_clocks_are_apart() -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch.stage("one"):
            sum(range(1000))
    first = watch.wall["one"]
    with pytest.raises(ZeroDivisionError), watch.stage("one"):
        print(1 / 0)
    assert watch.wall["one"] > first > 0, "what an error ends counts too"
    assert set(watch.cpu) == {"one"}
    assert by_repetition([watch, watch]) == {"wall": {"one": [watch.wall["one"]] * 2}, "cpu": {"one": [watch.cpu["one"]] * 2}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([0.0123, 0.5, 0.00012], "12.3 (0.12-500)"),
        ([0.002], "2.00 (2.00-2.00)"),
        ([1.0, 2.0], "1500 (1000-2000)"),
    ],
)
def test_milliseconds_are_median_and_range(seconds: list[float], text: str) -> None:
    assert milliseconds(seconds) == text
