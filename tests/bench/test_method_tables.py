"""Tables of results that are written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from graphalign.bench.method_tables import tables


def row(implementation: str, milliseconds: float, **facts: Any) -> dict[str, Any]:
    """A measurement: matching took this long every time, tracing 10 ms; of one that failed, the error alone."""
    seconds = {"tracing": [0.01] * 3, "matching": [milliseconds / 1000] * 3}
    options = {"method": "weight"} if implementation == "graphalign" else {}
    found = {"wall": seconds, "cpu": seconds, "recovered": 1.0, "change": 0.0, "steps": 3} if "error" not in facts else {}
    return {"implementation": implementation, "network": "MLP", "sizes": [4, 8, 8, 2], "options": options, **found, **facts}


@pytest.fixture
def results() -> dict[str, Any]:
    slow, fast = ({"options": {"rate": rate, "limit": 60}} for rate in (0.1, 1.0))
    wide = {"sizes": [4, 16, 16, 2]}
    return {
        "repetitions": 3, "budget": 60.0, "limit": 60, "rates": [0.1, 1.0], "peers": {"rebasin": "0.0.47", "sinkhorn-rebasin": "0.0.2"},
        "weight": [row("rebasin", 100), row("graphalign", 10)],
        "families": [row("rebasin", 1, error="ValueError: no"), row("graphalign", 1, recovered=0.99999)],
        "sinkhorn": [
            row("sinkhorn-rebasin", 90, **slow), row("sinkhorn-rebasin", 60, **fast), row("sinkhorn-rebasin", 5, **wide, **slow, recovered=0.5),
            row("sinkhorn-rebasin", 5, **wide, **fast, error="RuntimeError: no"),
            row("graphalign", 20), row("graphalign", 20, **wide),
        ],
        "transport": [{"widths": [8, 6], "from_pot": 0.0, "from_assignment": None}],
        "assignments": [
            {
                "problems": 2, "units": 4, "scores": "random", "threads": 1, "equal": False,
                "wall": {"graphalign": [0.001], "scipy": [0.007]}, "cpu": {"graphalign": [0.002], "scipy": [0.006]},
            }
        ],
    }  # fmt: skip


def test_ratios_are_times_of_the_peer_over_ours(results: dict[str, Any]) -> None:
    weight, *_, assignments = tables(results)
    peer, ours = weight.rows
    assert (peer[0], ours[0]) == ("rebasin 0.0.47", "graphalign, weight")
    assert (peer[3], ours[3]) == ("1.0x", "10.0x")  # matching alone
    assert (peer[6], ours[6]) == ("1.0x", "5.5x")  # with tracing
    assert ours[1] == "10.0 (10.0-10.0)"
    assert [assignments.rows[0][i] for i in (5, 8, 9)] == ["7.0x", "3.0x", "NO"]


def test_a_peer_that_fails_is_a_row_with_its_error(results: dict[str, Any]) -> None:
    peer, ours = tables(results)[1].rows
    assert peer == ["MLP", "rebasin 0.0.47", "-", "ValueError: no"]
    assert ours[-1] == "99.9", "100 only if nothing is missing"


def test_sinkhorn_is_compared_with_the_published_rate_and_with_the_fastest_that_succeeded(results: dict[str, Any]) -> None:
    rows = tables(results)[2].rows
    assert [line[0] for line in rows] == ["8", "8", "8", "16", "16", "16"]
    by_name = {(line[0], line[1]): line for line in rows}
    assert by_name["8", "graphalign, weight"][-2:] == ["4.5x", "3.0x"]
    assert by_name["8", "sinkhorn-rebasin 0.0.2, rate 0.1"][-2:] == ["1.0x", "0.7x"]
    assert by_name["16", "graphalign, weight"][-2:] == ["> 0.2x", "-"], "the published rate had not finished, the other one failed"
    assert by_name["16", "sinkhorn-rebasin 0.0.2, rate 0.1"][-2:] == ["1.0x", "-"]
    assert by_name["16", "sinkhorn-rebasin 0.0.2, rate 1"][-1] == "RuntimeError: no"


def test_weight_matching_that_failed_leaves_no_ratios(results: dict[str, Any]) -> None:
    results["weight"][0] = row("rebasin", 1, error="ImportError: torchview")
    peer, ours = tables(results)[0].rows
    assert peer[-1] == "ImportError: torchview"
    assert ours[3] == ours[6] == "-"
