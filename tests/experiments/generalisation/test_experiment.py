from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from graphalign.cli import app
from graphalign.configuration import compose, names
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation import experiment, goals
from graphalign.zoo.zoo import Zoo

SMALL = {
    "title": "Small", "aligners": {"trained": ["shipped"]}, "timing": None, "report": {"goals": True, "ratios": ["weight"], "heat_map": "weight",
    "curves": {"rows": ["width"], "columns": ["weight", "trained"]}, "sample_sizes": None},
    "protocol": {"pairs": 2, "tuning_pairs": 1, "points": 3, "test_images": 50, "statistics_images": 100},
    "rows": {"width": {"sections": ["width"], "architectures": 1}},
    "columns": {"weight": {"stages": [{"method": "weight"}]}, "trained": {"aligner": "trained", "stages": [{"method": "gnn"}]}},
}  # fmt: skip


@pytest.mark.parametrize("name", names("experiment"))
def test_configurations_can_be_run(name: str, zoo: Zoo, tmp_path: Path) -> None:
    content = compose("experiment", name)
    run, _ = experiment.read_run(content, zoo, tmp_path)
    assert run.rows
    if name.startswith("ood"):
        judged = {g.column for g in goals.GOALS} | {g.reference for g in goals.GOALS}
        assert judged <= run.columns.keys()
        assert {row.name for row in run.rows} <= set(goals.ROWS)
    report = content["report"]
    for reference in [*report["ratios"], report["heat_map"], *(report.get("curves") or {"columns": []})["columns"]]:
        assert reference in run.columns
    for entry in (report.get("sample_sizes") or {}).values():
        assert {*entry["columns"], entry["reference"]} <= run.columns.keys()
        assert entry["row"] in {row.name for row in run.rows}


def test_at_least_five_settings_of_sinkhorn_compete(zoo: Zoo, tmp_path: Path) -> None:
    run, _ = experiment.read_run(compose("experiment", "ood"), zoo, tmp_path)
    assert len(run.columns["sinkhorn"].variants) >= 5
    assert {g.reference for g in goals.SPEED_GOALS} <= run.columns.keys()


def test_the_command_writes_results_tables_and_figures(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = ["experiment", "ood", "--config", str(tmp_path / "small.yaml"), "--zoo", str(zoo.folder), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--work", str(tmp_path / "work"), "+only.columns=[weight]"])
    assert result.exit_code == 0, result.output
    assert {r["column"] for r in json.loads((tmp_path / "out" / "ood.json").read_text())["records"]} == {"weight"}
    result = CliRunner().invoke(app, [*arguments, "--work", str(tmp_path / "work"), "--report"])
    assert result.exit_code == 0, result.output
    assert {r["column"] for r in json.loads((tmp_path / "out" / "ood.json").read_text())["records"]} == {"weight"}
    result = CliRunner().invoke(app, [*arguments, "--work", str(tmp_path / "work")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "ood.json").read_text())
    assert {r["column"] for r in found["records"]} == {"weight", "trained"}
    assert found["environment"]["torch"]
    report = (tmp_path / "out" / "ood.md").read_text()
    for expected in ("# Small", "Goals: ratios of barriers", "| trained", "Loss barrier", "Area under the excess loss, unclipped"):
        assert expected in report
    assert {f.name for f in (tmp_path / "out").glob("*.png")} == {"ood_ratios.png", "ood_curves.png"}


def test_wrong_configurations_are_reported_at_once(zoo: Zoo, tmp_path: Path) -> None:
    wrong = {**SMALL, "colour": 1, "only": {"cells": []}, "report": {"aims": True}}
    with pytest.raises(InvalidInput, match=r"(?s)found the key 'colour'.*only: found 'cells'.*report: found 'aims'"):
        experiment.read_run(wrong, zoo, tmp_path)
    with pytest.raises(InvalidInput, match=r"rows.width.trained: found 'trained', expected a set of aligners: untrained"):
        experiment.read_run({**SMALL, "aligners": {}}, zoo, tmp_path)


def test_other_experiments_are_listed_and_run() -> None:
    listed = CliRunner().invoke(app, ["experiment", "--help"]).output
    for name in ("ood", "ablations", "floor", "planted", "consensus", "batch_norm", "many_models", "different_widths", "footprint"):
        assert name in listed
    shown = CliRunner().invoke(app, ["experiment", "floor", "--help"])
    assert shown.exit_code == 0
    assert "--archs" in shown.output
