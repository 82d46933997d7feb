from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphalign.errors import GraphAlignError
from graphalign.experiments import footprint

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@LINUX
def test_peak_sees_an_allocation_that_is_gone() -> None:
    footprint.reset_peak()
    before = footprint.resident("VmRSS")
    data = bytearray(64 * footprint.MIB)
    data[::1024] = b"x" * len(data[::1024])
    del data
    assert footprint.resident("VmHWM") - before > 48 * footprint.MIB
    footprint.reset_peak()
    assert footprint.resident("VmHWM") - before < 32 * footprint.MIB


@LINUX
def test_fresh_processes_measure_and_tables_hold_them() -> None:
    aligned = ((footprint.CONSTANT, "gnn"), ("small VGG", "gnn"))
    results = footprint.run(("small VGG",), aligned, 1, "command")
    assert results["environment"]["threads"] == 1
    assert [row["network"] for row in results["align"]] == [footprint.CONSTANT, "small VGG"]
    assert all(row["extra_bytes"] > 0 for row in results["align"])
    assert results["trace"][0]["units"] == 16
    traced, found = footprint.tables(results)
    assert traced.rows[0][0] == "small VGG"
    assert found.rows[0][-1] == "-"
    assert float(found.rows[1][-1]) == pytest.approx(float(found.rows[1][-2]) + 1, abs=0.02)


def test_a_failed_process_is_reported() -> None:
    with pytest.raises(GraphAlignError, match=r"align small VGG nonsense failed: .*method: found .nonsense"):
        footprint.in_fresh_process(("align", "small VGG", "nonsense"), 1)


def test_table_counts_in_units_of_the_two_networks() -> None:
    row = {"method": "gnn", "seconds": 1.0, "seconds_with_tracing": 2.0, "before_bytes": 0}
    results = {
        "environment": {"threads": 2},
        "trace": [],
        "align": [
            {**row, "network": footprint.CONSTANT, "networks_bytes": 8, "extra_bytes": 100},
            {**row, "network": "VGG-16, 32x32", "networks_bytes": 1000, "extra_bytes": 1600},
        ],
    }
    assert footprint.tables(results)[1].rows[1][-2:] == ["1.50", "2.50"]


def test_no_proc_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(GraphAlignError, match="run it on Linux"):
        footprint.resident("VmRSS")
    with pytest.raises(GraphAlignError, match="run it on Linux"):
        footprint.reset_peak()
