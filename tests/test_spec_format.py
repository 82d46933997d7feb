"""Tables, exact round trips through dicts and files, and differences between specs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from graphalign.converters.trace import trace
from graphalign.errors import CorruptFile, InvalidInput, SpecMismatch
from graphalign.spec import AxisLayout, Cell, FixedUnits, NetworkSpec, Segment
from graphalign.spec_format import difference, format_table, load_spec, require_equal, save_spec, spec_from_dict, spec_to_dict


def everything() -> NetworkSpec:
    """A spec with every feature, and names that YAML and JSON could mistake for something else."""
    return NetworkSpec(
        (Cell("on", 2, 3, "heads", rigid=True, activation=("gelu", "tanh"), sign_free=True), Cell("1", 4, 3, "heads"), Cell("käse: [", 5)),
        (
            AxisLayout("on.weight", 0, (Segment("on", 0, 6), Segment(None, 0, 2))),
            AxisLayout("1.weight", 1, (Segment("1", 0, 12),), groups=3),
            AxisLayout("null", 0, (Segment("käse: [", 0, 5, 2),)),
        ),
        {"on.weight": (8, 2), "1.weight": (2, 4), "null": (10,), "scalar": ()},
        (FixedUnits("head", 2, "network output"), FixedUnits("head", 1, "meets a constant")),
        aliases={"tied": "null"},
        buffers=("scalar",),
    )


def conv_spec(width: int = 4) -> NetworkSpec:
    model = nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    )
    return trace(model, torch.zeros(1, 1, 6, 6))


SPECS: dict[str, Callable[[], NetworkSpec]] = {"everything": everything, "conv": conv_spec, "empty": lambda: NetworkSpec((), (), {})}


def test_table_of_a_traced_network() -> None:
    table = format_table(conv_spec())
    assert str(conv_spec()) == table
    lines = table.splitlines()
    assert lines[0] == "NetworkSpec: 10 movable units in 2 cells, 11 tensors"
    assert lines[2].split() == ["cell", "units", "blocks", "activation", "free", "moves"]
    assert lines[4].split()[:7] == ["0", "4", "-", "relu", "scale", "0.weight[0]", "0.bias[0]"]
    assert lines[4].endswith("and 1 more")
    assert "3.weight[1]" in lines[4]
    assert lines[5].endswith("3.weight[0] 3.bias[0] 6.weight[1]")
    assert lines[-2:] == ["fixed:", "  6: 5 units, network output"]


def test_table_of_blocks_and_ties() -> None:
    table = format_table(everything())
    assert "3 x 2 rigid" in table
    assert "gelu+tanh" in table
    assert "sign" in table
    assert "blocks that move together:\n  on, 1" in table
    assert "  head: 1 unit, meets a constant" in table
    assert "tied:\n  tied is null" in table


@pytest.mark.parametrize("name", SPECS)
def test_dicts_are_plain_and_exact(name: str) -> None:
    spec = SPECS[name]()
    data = spec_to_dict(spec)
    assert data["version"] == 1
    assert json.loads(json.dumps(data)) == data
    assert spec_from_dict(data) == spec
    assert list(spec_from_dict(data).shapes) == list(spec.shapes)


def test_every_field_of_a_spec_is_written() -> None:
    data = spec_to_dict(everything())
    assert set(data) == {"format", "version"} | {f.name for f in dataclasses.fields(NetworkSpec)}
    assert set(data["cells"][0]) == {f.name for f in dataclasses.fields(Cell)}
    assert set(data["axes"][0]) == {f.name for f in dataclasses.fields(AxisLayout)}
    assert set(data["axes"][0]["segments"][0]) == {f.name for f in dataclasses.fields(Segment)}


@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
@pytest.mark.parametrize("name", SPECS)
def test_files_are_exact(name: str, ending: str, tmp_path: Path) -> None:
    spec = SPECS[name]()
    path = tmp_path / f"spec.{ending}"
    save_spec(spec, path)
    assert load_spec(path) == spec
    assert list(load_spec(str(path)).shapes) == list(spec.shapes)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_are_not_replaced_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    save_spec(everything(), path)
    with pytest.raises(InvalidInput, match="spec.yaml exists already; pass force=True"):
        save_spec(conv_spec(), path)
    assert load_spec(path) == everything()
    save_spec(conv_spec(), path, force=True)
    assert load_spec(path) == conv_spec()


@pytest.mark.parametrize("act", [lambda p: save_spec(everything(), p), load_spec])
def test_other_endings_are_refused(act: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"spec.txt: found ending '.txt', expected .yaml, .yml or .json"):
        act(tmp_path / "spec.txt")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none.yaml cannot be read: No such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(InvalidInput, match="the folder .*absent does not exist; create it"):
        save_spec(everything(), tmp_path / "absent" / "spec.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"cells: [\nfixed: }", r"a.yaml, line 2, column \d+: "),
        ("a.json", b'{"cells": [,]}', r"a.json, line 1, column 12: Expecting value"),
        ("b.yaml", b"\xff\xfe\x00", "b.yaml is no UTF-8 text"),
        ("c.yaml", b"!!python/object/apply:os.getcwd []", "c.yaml, line 1, column 1: could not determine a constructor"),
        ("d.json", b"", "d.json, line 1, column 1"),
    ],
)  # fmt: skip
def test_corrupt_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=message):
        load_spec(tmp_path / name)


def set_at(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


BAD: dict[str, tuple[Callable[[Any], None], str]] = {
    "format": (set_at("format", value="other"), "format: found 'other', expected 'graphalign-spec'"),
    "version": (set_at("version", value=2), "version: found 2, expected 1; trace the network again"),
    "version kind": (set_at("version", value=True), "version: found True, expected int"),
    "missing": (lambda d: d.pop("axes"), "the spec: 'axes' is missing"),
    "unknown": (set_at("colour", value=1), r"the spec: unknown entries \['colour'\]"),
    "deep kind": (set_at("axes", 0, "segments", 1, "count", value="two"), r"axes\[0\].segments\[1\].count: found 'two', expected int"),
    "deep missing": (lambda d: d["cells"][1].pop("size"), r"cells\[1\]: 'size' is missing"),
    "deep unknown": (set_at("cells", 0, "tone", value=1), r"cells\[0\]: unknown entries \['tone'\]"),
    "no list": (set_at("cells", value={}), "cells: found {}, expected list"),
    "no record": (set_at("fixed", 1, value=3), r"fixed\[1\]: found 3, expected dict"),
    "shape": (set_at("shapes", "null", value=[2.5]), r"shapes\['null'\]\[0\]: found 2.5, expected int"),
    "activation": (set_at("cells", 0, "activation", value=["relu", 1]), r"cells\[0\].activation\[1\]: found 1, expected str"),
    "alias": (set_at("aliases", "tied", value=None), r"aliases\['tied'\]: found None, expected str"),
    "idle cell": (lambda d: d["cells"].append({**d["cells"][0], "name": "idle", "activation": []}), "cells: found idle, whose units are on no axis"),
    "inconsistent": (set_at("shapes", "null", value=[11]), "(?s)the spec is inconsistent.*segments cover 10 indices"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_entries_are_named(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    data = spec_to_dict(everything())
    change(data)
    with pytest.raises(InvalidInput, match=message):
        spec_from_dict(data)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(InvalidInput, match=f"(?s)bad.yaml: .*{message.removeprefix('(?s)')}"):
        load_spec(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("pair", "message"),
    [(["a.weight"], r"multiplied\[0\]: found \['a.weight'\], expected \[tensor, axis\]"), (["a", "b"], r"multiplied\[0\]\[1\]: found 'b', expected int")],
)  # fmt: skip
def test_bad_rescalings_are_named(pair: list[str], message: str) -> None:
    data = spec_to_dict(conv_spec())
    data["rescalings"][0]["multiplied"][0] = pair
    with pytest.raises(InvalidInput, match=rf"rescalings\[0\].{message}"):
        spec_from_dict(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_something_else_is_no_spec(data: Any) -> None:
    with pytest.raises(InvalidInput, match="the spec: found .*, expected dict"):
        spec_from_dict(data)


def test_equal_specs_do_not_differ() -> None:
    for build in SPECS.values():
        assert difference(build(), build()) == ""
        require_equal(build(), build())


def test_difference_of_widths() -> None:
    text = difference(conv_spec(4), conv_spec(3), "mine", "yours").splitlines()
    assert text[0] == "cell '0': 4 units (relu, scale-free) in mine, 3 units (relu, scale-free) in yours"
    assert "tensor '0.weight': shape (4, 1, 3, 3) in mine, shape (3, 1, 3, 3) in yours" in text
    assert "axis 0 of '0.weight': moves with 0[0:4] in mine, moves with 0[0:3] in yours" in text


def axis_of(cell: str | None) -> dict[str, Any]:
    """A layout of an axis on which nothing moves."""
    return {"tensor": "1.weight", "axis": 0, "groups": 1, "segments": [{"cell": cell, "start": 0, "count": 2, "repeat": 1}]}


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "missing cell": (
        lambda d: d["cells"].append({**d["cells"][2], "name": "more", "size": 2}) or d["axes"].append(axis_of("more")),
        "cell 'more': missing in A, 2 units (no activation) in B\naxis 0 of '1.weight': does not move in A, moves with more[0:2] in B",
    ),
    "activation": (set_at("cells", 2, "activation", value=["relu"]), "cell 'käse: [': 5 units (no activation) in A, 5 units (relu) in B"),
    "missing tensor": (lambda d: d["shapes"].pop("scalar"), "tensor 'scalar': shape () in A, missing in B"),
    "axis moves": (
        lambda d: d["axes"].append(axis_of(None)),
        "axis 0 of '1.weight': does not move in A, moves with 2 fixed in B",
    ),
    "other layout": (
        set_at("axes", 2, "segments", value=[{"cell": "käse: [", "start": 0, "count": 5, "repeat": 1}] * 2),
        "axis 0 of 'null': moves with käse: [[0:5] x 2 in A, moves with käse: [[0:5], käse: [[0:5] in B",
    ),
    "fixed": (set_at("fixed", 1, "count", value=7), "fixed units of 'head (2)': 1, meets a constant in A, 7, meets a constant in B"),
    "alias": (lambda d: d["aliases"].clear(), "alias 'tied': tied to 'null' in A, missing in B"),
    "buffers": (lambda d: d["buffers"].clear(), "the buffers differ: 1 only in A, 0 only in B"),
    "rescaling": (
        lambda d: d["rescalings"].append({"cell": "on", "multiplied": [["on.weight", 0]], "divided": []}),
        "the exact rescalings differ: 0 only in A, 1 only in B",
    ),
    "order": (lambda d: d["cells"].reverse(), "the same cells in another order"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_every_difference_is_told_and_refused(case: str) -> None:
    change, message = CHANGES[case]
    data = spec_to_dict(everything())
    change(data)
    a, b = everything(), spec_from_dict(data)
    assert difference(a, b).splitlines() == message.splitlines()
    with pytest.raises(SpecMismatch) as caught:
        require_equal(a, b)
    assert all(f"  - {line}" in str(caught.value) for line in message.splitlines())
    assert "pass two networks with the same layers" in str(caught.value)


def test_long_differences_are_cut() -> None:
    text = difference(NetworkSpec((), (), {f"t{i}": (i,) for i in range(50)}), NetworkSpec((), (), {}))
    assert len(text.splitlines()) == 21
    assert text.endswith("... and 30 more differences")
