from __future__ import annotations

import pytest

from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.rows import read_rows
from graphalign.zoo.zoo import Zoo


def test_rows_take_groups_by_section_and_family(zoo: Zoo) -> None:
    rows = read_rows({
        "width": {"sections": ["width", "wide_*"], "architectures": 1},
        "family_vgg": {"row": "family", "sections": ["*"], "families": ["vgg-bn"], "trained": "without_vgg"},
        "everything": {"sections": "*"},
        "left_out": None,
    })  # fmt: skip
    assert [(row.key, row.name, row.trained) for row in rows] == [
        ("width", "width", "trained"), ("family_vgg", "family", "without_vgg"), ("everything", "everything", "trained"),
    ]  # fmt: skip
    assert [g.section for g in rows[0].groups(zoo)] == ["width"]
    assert [g.section for g in rows[1].groups(zoo)] == ["depth_vgg"]
    assert [g.section for g in rows[2].groups(zoo)] == ["width", "width", "depth_vgg", "in_distribution"]  # not those of validation


def test_wrong_rows_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"(?s)one: found .*expected a mapping of sections.*two: families: found \['cat'\], expected some of mlp"):
        read_rows({"one": {"families": ["mlp"]}, "two": {"sections": "x", "families": ["cat", "cnn"]}})
