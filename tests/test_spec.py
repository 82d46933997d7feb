"""Specs that contradict themselves are refused, all contradictions at once; derived tables agree with brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphalign.errors import InvalidInput
from graphalign.spec import AxisLayout, Cell, FixedUnits, NetworkSpec, Rescaling, Segment
from graphalign.spec_format import LINES_SHOWN


def parts() -> dict[str, Any]:
    """Arguments of a small valid spec: a 2-layer network whose hidden units are read at two positions each."""
    return {
        "cells": (Cell("a", 3, activation=("relu",), scale_free=True),),
        "axes": (
            AxisLayout("a.weight", 0, (Segment("a", 0, 3),)),
            AxisLayout("b.weight", 1, (Segment("a", 0, 3, 2), Segment(None, 0, 1))),
        ),
        "shapes": {"a.weight": (3, 2), "b.weight": (2, 7)},
        "fixed": (FixedUnits("b", 2, "network output"),),
        "rescalings": (Rescaling("a", (("a.weight", 0),), (("b.weight", 1),)),),
    }


def test_valid_spec_and_its_tables() -> None:
    spec = NetworkSpec(**parts())
    assert spec.by_name["a"].units == 3
    assert [layout.tensor for layout in spec.axes_of_cell["a"]] == ["a.weight", "b.weight"]
    assert list(spec.axes_of_tensor) == ["a.weight", "b.weight"]
    assert spec.aliases == {}
    assert hash(spec) == hash(NetworkSpec(**parts()))
    assert spec == NetworkSpec(**parts())


def axis(tensor: str = "a.weight", number: int = 0, *segments: Segment, groups: int = 1) -> Callable[[dict[str, Any]], None]:
    return lambda p: p.update(axes=(*p["axes"], AxisLayout(tensor, number, segments, groups)))


def replace_first_axis(*segments: Segment, groups: int = 1) -> Callable[[dict[str, Any]], None]:
    return lambda p: p.update(axes=(AxisLayout("a.weight", 0, segments, groups), p["axes"][1]))


def cells(*added: Cell) -> Callable[[dict[str, Any]], None]:
    return lambda p: p.update(cells=(*p["cells"], *added))


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "same name": (cells(Cell("a", 2)), "cell 'a' is defined twice"),
    "no units": (cells(Cell("c", 0)), "cell 'c' has 1 blocks of 0 units; both must be at least 1"),
    "no blocks": (cells(Cell("c", 2, 0)), "cell 'c' has 0 blocks of 2 units"),
    "unequal blocks": (
        cells(Cell("c", 2, 2, "g"), Cell("d", 2, 3, "g")), "group 'g' joins cells with different numbers of blocks: c has 2, d has 3",
    ),
    "axis twice": (axis("a.weight", 0, Segment("a", 0, 3)), "axis 0 of 'a.weight' is described twice"),
    "unknown tensor": (axis("z", 0, Segment("a", 0, 3)), "axis 0 of 'z': the tensor is not in shapes"),
    "unknown axis": (axis("a.weight", 2, Segment("a", 0, 3)), r"axis 2 of 'a.weight' does not exist in shape \(3, 2\)"),
    "negative axis": (axis("a.weight", -1, Segment("a", 0, 3)), "axis -1 of 'a.weight' does not exist"),
    "too short": (replace_first_axis(Segment("a", 0, 2)), "segments cover 2 indices in 1 groups, the tensor has 3 there"),
    "groups": (replace_first_axis(Segment("a", 0, 3), groups=2), "segments cover 3 indices in 2 groups"),
    "no groups": (replace_first_axis(Segment("a", 0, 3), groups=0), "in 0 groups"),
    "negative start": (replace_first_axis(Segment("a", -1, 3)), "has a negative start or count, or a repeat below 1"),
    "repeat": (replace_first_axis(Segment("a", 0, 3, 0)), "has a negative start or count, or a repeat below 1"),
    "count of fixed units": (
        lambda p: p.update(fixed=(FixedUnits("a", -3, "output"),)), "fixed units of 'a': found count -3, expected 1 to 9223372036854775807",
    ),
    "more fixed units than can be": (lambda p: p.update(fixed=(FixedUnits("a", 1 << 63, "output"),)), "fixed units of 'a': found count 9223372036854775808"),
    "negative shape": (lambda p: p["shapes"].update(z=(-1, 2)), r"'z': found shape \(-1, 2\), expected dimensions of at least 0 and at most"),
    "shape beyond memory": (lambda p: p["shapes"].update(z=(1 << 32, 1 << 31)), r"'z': found shape \(4294967296, 2147483648\), expected"),
    "unknown cell": (replace_first_axis(Segment("z", 0, 3)), "axis 0 of 'a.weight' names the unknown cell 'z'"),
    "too many units": (replace_first_axis(Segment("a", 1, 3)), "uses unit 3 of 'a', which has 3"),
    "uneven": (replace_first_axis(Segment("a", 0, 2), Segment("a", 0, 1)), "the units of 'a' do not all appear equally often"),
    "rescaling of nothing": (
        lambda p: p.update(rescalings=(Rescaling("z", (), ()),)), "a rescaling names the unknown cell 'z'",
    ),
    "rescaling elsewhere": (
        lambda p: p.update(rescalings=(Rescaling("a", (("b.weight", 0),), ()),)),
        "the rescaling of 'a' names axis 0 of 'b.weight', which carries no units",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused(case: str) -> None:
    change, message = CONTRADICTIONS[case]
    arguments = parts()
    change(arguments)
    with pytest.raises(InvalidInput, match=f"(?s)the spec is inconsistent.*{message}"):
        NetworkSpec(**arguments)


def test_all_contradictions_are_listed_at_once() -> None:
    arguments = parts()
    cells(Cell("a", 2))(arguments)
    axis("z", 0, Segment("a", 0, 3))(arguments)
    with pytest.raises(InvalidInput, match="(?s)defined twice.*not in shapes"):
        NetworkSpec(**arguments)


def test_positions_agree_with_a_scan_of_the_axis() -> None:
    layout = AxisLayout("w", 0, (Segment("a", 2, 2, 3), Segment(None, 0, 2), Segment("b", 0, 1), Segment("a", 0, 2, 3)))
    owner = [2, 2, 2, 3, 3, 3, -1, -1, -1, 0, 0, 0, 1, 1, 1]
    assert layout.units_of("a").tolist() == owner
    assert layout.positions("a").tolist() == [[i for i, unit in enumerate(owner) if unit == u] for u in range(4)]
    assert layout.positions("b").tolist() == [[8]]
    assert layout.cells == ("a", "b")
    assert layout.length == len(owner)
    assert layout.positions("a").dtype == np.int64


def test_cells_of_a_group_come_together() -> None:
    spec = NetworkSpec((Cell("q", 2, 2, "h"), Cell("m", 3), Cell("v", 4, 2, "h")), (), {})
    assert {name: [c.name for c in found] for name, found in spec.groups.items()} == {"h": ["q", "v"], "m": ["m"]}


def test_it_prints_as_a_table() -> None:
    spec = NetworkSpec(**parts())
    assert "a.weight[0] b.weight[1]" in str(spec)
    escaped = NetworkSpec((Cell("<a>", 2),), (), {})
    assert "&lt;a&gt;" in escaped._repr_html_()
    assert "a.weight[0] b.weight[1]" in spec._repr_html_()
    assert repr(escaped) == "NetworkSpec(2 movable units in 1 cells, 0 tensors, 0 fixed)"


def test_many_cells_are_counted_in_a_notebook() -> None:
    shown = NetworkSpec(tuple(Cell(f"c{i}", 2) for i in range(LINES_SHOWN + 3)), (), {})._repr_html_()
    assert f"<td>c{LINES_SHOWN - 1}</td>" in shown
    assert f"<td>c{LINES_SHOWN}</td>" not in shown
    assert "and 3 more cells" in shown
