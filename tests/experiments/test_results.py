from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from graphalign.errors import InvalidInput
from graphalign.experiments.results import Table, environment, publish

TABLE = Table("Things", ["name", "n", "share"], [["first", "3", "0.5"], ["other one", "12", "1.25"]], ["A note."])
RESULTS = {"title": "All things", "command": "python -m x", "seed": 3, "rows": [1, 2]}


def test_table_is_markdown() -> None:
    lines = str(TABLE).splitlines()
    assert lines[0] == "Things"
    assert lines[2:6] == [
        "| name      |  n | share |",
        "| :-------- | -: | ----: |",
        "| first     |  3 |   0.5 |",
        "| other one | 12 |  1.25 |",
    ]
    assert lines[-1] == "A note."


def test_publish_writes_results_and_tables(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "results"
    for _ in range(2):  # the second run replaces the first
        publish(folder, "things", {**RESULTS, "environment": environment()}, [TABLE])
    assert sorted(p.name for p in folder.iterdir()) == ["things.json", "things.md"]
    written = json.loads((folder / "things.json").read_text())
    assert written["rows"] == [1, 2]
    text = (folder / "things.md").read_text()
    assert text.startswith("# All things\n\nGenerated from `things.json` by `python -m x`: seed 3, ")
    assert str(TABLE) in text


def test_environment_names_versions_and_no_machine() -> None:
    found = environment()
    assert set(found) == {"python", "torch", "graphalign", "revision", "machine", "cores", "threads"}
    assert found["cores"] == os.cpu_count()
    text = json.dumps(found)
    assert platform.node() not in text or not platform.node()
    assert os.sep + "home" not in text
    assert str(Path.cwd()) not in text


def test_publish_reports_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises((InvalidInput, OSError)):
        publish(tmp_path / "results", "things", {**RESULTS, "environment": environment()}, [TABLE])
