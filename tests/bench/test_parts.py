"""Extrapolation from parts: what does not grow counts once."""

from __future__ import annotations

import time

import pytest

from graphalign.bench.parts import Part, Parts, extrapolated


def test_a_fixed_share_counts_once() -> None:
    assert extrapolated({"1": 5.0 + 2.0, "4": 5.0 + 8.0}, [1, 4], 1000) == pytest.approx(5.0 + 2000.0)
    assert extrapolated({"1": 7.0}, [1], 1) == 7.0


def test_both_parts_are_measured_by_both_clocks() -> None:
    calls: list[int] = []
    found = Parts((Part(lambda: calls.append(1), 1), Part(lambda: (calls.append(3), time.sleep(0.03)), 3)), 9).seconds()
    assert calls == [1, 3]
    assert found["wall"] > 4 * 0.03 - 0.005
    assert found["cpu"] < found["wall"]
