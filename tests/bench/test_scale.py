"""The suite "scale": its networks, its stages, and its tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from graphalign import encoder
from graphalign.bench import scale
from graphalign.bench.assignments import measure_one_assignment
from graphalign.bench.large_networks import build, layout, parameter_count, random_tensor
from graphalign.bench.probe import Probe
from graphalign.bench.scale_tables import beyond, draw, growth_table, tables
from graphalign.bench.scaling import measure_scale, working_set
from graphalign.bench.settings import Settings, read_sizes
from graphalign.converters.trace import trace_architecture
from graphalign.experiments.results import environment
from graphalign.skeleton import with_tensors
from tests.bench.composed import composed

PARAMETERS = {
    "VGG-11, 32x32": 9_225_610, "VGG-16, 32x32": 14_719_818, "WideResNet-28-10, 32x32": 36_479_194, "ResNet-50, 224x224": 25_557_032,
    "ViT-B/16, 224x224": 86_567_656, "GPT-2 small, 16 tokens": 124_439_808,
}  # fmt: skip


def sizes_of(settings: Settings) -> scale.Sizes:
    return read_sizes(scale.Sizes, settings.sizes, "bench scale")


def test_the_networks_have_their_published_sizes() -> None:
    found = {}
    subjects = sizes_of(composed("scale", quick=False)).subjects
    for subject in subjects:
        network, example = build(subject.kind, subject.sizes)
        assert example.device.type == "cpu"
        assert all(t.is_meta for t in layout(network).values())
        found[subject.name] = parameter_count(layout(network), network)
    assert {name: found[name] for name in PARAMETERS} == PARAMETERS
    assert 1.0e9 < found["1 B transformer, files"] < 1.1e9
    for series in ("MLP", "transformer"):
        for power, subject in enumerate((s for s in subjects if s.series == series), start=5):
            assert 0.8 < found[subject.name] / 10**power < 1.25, subject.name


@pytest.mark.parametrize(("kind", "sizes"), [("vit", (16, 1, 2, 4, 8)), ("wide_resnet", (10, 1)), ("gpt", (16, 8, 16, 1, 2, 4))])
def test_every_kind_runs_and_has_units_that_may_move(kind: str, sizes: tuple[int, ...]) -> None:
    network, example = build(kind, sizes)
    generator = torch.Generator().manual_seed(0)
    filled = with_tensors(network, {n: random_tensor(n, t, generator) for n, t in layout(network).items()}, "A")
    with torch.no_grad():
        assert bool(filled(example).isfinite().all())
    spec = trace_architecture(filled, example).spec
    assert bool(spec.cells)
    assert any(cell.blocks > 1 for cell in spec.cells) == (kind != "wide_resnet"), "heads"


@pytest.mark.parametrize("files", [False, True])
def test_a_measurement_recovers_every_unit_and_knows_every_stage(files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MULTIPLY_BUDGET", 1.0)
    monkeypatch.setattr("graphalign.bench.scaling.warm_up", lambda: None)
    row = measure_scale({"name": "x", "kind": "gpt", "sizes": (16, 8, 16, 1, 2, 4), "seed": 0, "files": files}, tmp_path)
    assert row["recovered"] == 1.0
    assert row["equal"]
    assert row["blocks"] == 2
    assert set(row["cpu"]) == {"trace", "other", "codes", "encode", "score", "assign", "apply"}
    assert set(row["peak"]) >= {"trace", "codes", "encode", "score", "assign", "apply"}
    assert row["networks"] == 2 * row["parameters"] * (2 if files else 4)
    assert list(tmp_path.iterdir()) == []


def test_the_working_set_is_that_of_the_largest_layer() -> None:
    network, example = build("mlp", (4, 50, 1))
    filled = with_tensors(network, {n: torch.zeros(t.shape) for n, t in layout(network).items()}, "A")
    assert working_set(trace_architecture(filled, example)) == 4 * (2 * 500 + 4 * encoder.MOST_CODES * 50 + 3 * 50 * 50)


def test_stages_inside_stages_keep_their_own_time_and_memory() -> None:
    probe = Probe()
    begun = time.perf_counter()
    with probe.watching(inner="time.sleep"), probe.stage("outer"):
        held = torch.ones(2**22)
        time.sleep(0.05)
    assert probe.wall["inner"] >= 0.05
    assert probe.wall["outer"] + probe.wall["inner"] <= time.perf_counter() - begun, "nothing is counted twice"
    assert probe.peak["outer"] >= held.numel() * 4
    assert set(probe.cpu) == {"outer", "inner"}
    assert time.sleep.__module__ == "time", "the function is put back"


def test_generators_are_measured_while_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MULTIPLY_BUDGET", 1.0)
    probe = Probe()
    with probe.watching(compare="graphalign.cellwise.compare_cells"):
        from graphalign import cellwise

        network, example = build("mlp", (4, 8, 1))
        filled = with_tensors(network, {n: torch.ones(t.shape) for n, t in layout(network).items()}, "A")
        architecture = trace_architecture(filled, example)
        state = dict(filled.named_parameters())
        found = list(cellwise.compare_cells(architecture, state, state))
    assert len(found) == 1
    assert probe.cpu["compare"] > 0


@pytest.mark.parametrize("scores", ["random", "noisy"])
def test_single_assignments_are_exact(scores: str, tmp_path: Path) -> None:
    row = measure_one_assignment({"units": 96, "scores": scores, "seed": 0}, tmp_path)
    assert row["optimal"] is True
    assert row["cpu"] > 0


def results() -> dict[str, Any]:
    """Rows whose time grows as parameters^1.05 and whose memory grows as the square of the width."""
    rows = []
    for series in ("MLP", "transformer"):
        for power in (5, 6, 7):
            width = 10 ** ((power - 1) / 2)
            seconds = 10 ** (1.05 * power - 6)
            rows.append({
                "name": f"{series} {power}", "series": series, "files": False, "parameters": 10**power, "networks": 8 * 10**power, "codes": 16,
                "widest": width, "working_set": 10**power, "recovered": 1.0, "equal": True,
                "cpu": {"trace": 0.5, "encode": seconds, "codes": 0.0, "assign": 99.0, "apply": 0.1},
                "peak": {"trace": 1, "encode": 1000 * width**2, "assign": 5, "apply": 7},
            })  # fmt: skip
    rows.append({**rows[0], "name": "large, files", "series": "networks", "parameters": 10**9})
    solved = [{"units": 64, "scores": "random", "cpu": 0.5, "peak": 2**20, "optimal": None}]
    return {"title": "Scale", "command": "x", "seed": 0, "environment": environment(), "networks": rows, "assignments": solved, "left_out": []}


def test_tables_hold_every_row_and_the_exponents() -> None:
    found = tables(results())
    assert [len(table.rows) for table in found] == [7, 7, 2, 1]
    assert all(len(row) == len(table.columns) for table in found for row in table.rows)
    for row in growth_table(results()).rows:
        assert row[3:] == ["1.05", "1.05", "0.00", "2.00", "2.00"], "the assignment does not count"
    assert beyond(results()["networks"][0]) == 1000 * 10**4
    assert found[1].rows[0][-1] == f"{10**7 / (200 * 2**20):.2f}"


def test_what_does_not_fit_in_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "available", lambda: 0)
    monkeypatch.setattr(scale, "_one", lambda job: {"cpu": 1.0, "peak": 1, "optimal": True})
    settings = composed("scale")
    report = scale.run(settings)
    assert report.results["left_out"] == [subject.name for subject in sizes_of(settings).subjects]
    assert "Left out on this machine: ViT, 32x32; VGG, 32x32" in report.tables[0].notes[0]


def test_the_figure_is_written(tmp_path: Path) -> None:
    draw(results(), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_a_failed_measurement_ends_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphalign.bench.processes import MeasurementFailed, Result
    monkeypatch.setattr(scale, "measure", lambda jobs: [Result({"error": "ValueError: no"}, {}) for _ in jobs])
    with pytest.raises(MeasurementFailed, match="bench: ViT, 32x32 failed: ValueError: no"):
        scale.run(composed("scale"))


def test_a_run_puts_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphalign.bench.processes import Result

    found = results()

    sizes = iter(range(1, 100))

    def measured(jobs: list[Any]) -> list[Result]:
        size = next(sizes)
        network = {**found["networks"][0], "parameters": 10.0**size, "widest": 2**size}
        facts = {k: v for k, v in network.items() if k not in ("name", "series", "files")}
        return [Result(found["assignments"][0] if job.task == "solve" else facts, {}) for job in jobs]

    monkeypatch.setattr(scale, "measure", measured)
    report = scale.run(composed("scale"))
    assert len(report.results["networks"]) == 7
    assert len(report.results["assignments"]) == 4
    assert report.results["command"] == "graphalign bench scale --quick --repetitions 1 --seed 11000"
    assert report.draw is not None
