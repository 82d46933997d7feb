"""The suite of the published protocol: what it extrapolates, and the tables it makes."""

from __future__ import annotations

from pathlib import Path

from graphalign.bench.published import ACTIVATION, NO_DATA, SINKHORN, WITH_INPUTS, run, table
from graphalign.experiments.results import publish
from tests.bench.composed import composed


def test_a_quick_run_measures_every_method_and_can_be_published(tmp_path: Path) -> None:
    report = run(composed("published"))
    publish(tmp_path, "bench_published", report.results, report.tables)
    assert "`graphalign bench published --quick --repetitions 1 --seed 11000`" in (tmp_path / "bench_published.md").read_text()
    (network,) = report.results["networks"]
    assert network["seconds"].keys() == {NO_DATA, WITH_INPUTS, ACTIVATION, SINKHORN}
    assert network["measured"] == {ACTIVATION: 256, SINKHORN: 2}
    assert all(clocks["cpu"][0] > 0 and len(clocks["wall"]) == 1 for clocks in network["seconds"].values())


def test_the_networks_are_those_of_the_paper() -> None:
    networks = composed("published", quick=False).sizes["networks"]
    assert [width for stage in networks["vgg16"]["widths"] for width in stage] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [width for stage in networks["cifar_cnn"]["widths"] for width in stage] == [16, 32, 32, 64, 64, 128, 128]


def test_ratios_are_the_others_seconds_over_ours() -> None:
    seconds = {NO_DATA: [0.5], WITH_INPUTS: [1.0, 2.0, 3.0], ACTIVATION: [10.0], SINKHORN: [100.0]}
    network = {
        "name": "x", "parameters": 1000, "tracing": 0.1, "published": {"activation": 7.52, "sinkhorn": 79.81, "ours": 0.44},
        "measured": {ACTIVATION: 256, SINKHORN: 2}, "seconds": {name: {"cpu": s, "wall": s} for name, s in seconds.items()},
    }  # fmt: skip
    found = {row[0]: row[1:] for row in table(network, {"environment": {"threads": 1}, "images": 50_000, "steps": 1000, "inputs": 64, "repetitions": 1}).rows}
    assert found["graphalign, no data"] == ["0.5", "0.5-0.5", "0.5", "whole", "20.0", "200.0"]
    assert found["graphalign, 64 inputs, 10 steps"][-2:] == ["5.0", "50.0"]
    assert found["Sinkhorn, 1,000 steps"] == ["100", "100-100", "100", "2", "", ""]
    assert found["DEEP-ALIGN, as published (A100)"][-2:] == ["17.1", "181.4"]
