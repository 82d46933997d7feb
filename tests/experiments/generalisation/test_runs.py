from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation import runs
from graphalign.experiments.generalisation.aligners import read_sources
from graphalign.experiments.generalisation.columns import read_columns
from graphalign.experiments.generalisation.protocol import Protocol
from graphalign.experiments.generalisation.rows import read_rows
from graphalign.experiments.generalisation.runs import Run, Selection, Timing
from graphalign.experiments.generalisation.store import Store
from graphalign.zoo.zoo import Zoo

PROTOCOL = Protocol(pairs=3, tuning_pairs=2, points=3, test_images=60, statistics_images=100, inputs=20, images=50, batch=50)
COLUMNS: dict[str, Any] = {
    "naive": {"stages": [{"method": "naive"}]},
    "sinkhorn": {"stages": [{"method": "sinkhorn", "sees": "labels", "steps": 3}], "variants": {"rate": [0.001, 2.0]}},
    "trained": {"aligner": "trained", "stages": [{"method": "gnn"}]},
}
ROWS: dict[str, Any] = {"width": {"sections": ["width"]}, "depth": {"sections": ["depth_*"]}}


def run_of(zoo: Zoo, work: Path, columns: Mapping[str, Any] = COLUMNS, rows: Mapping[str, Any] = ROWS, **changes: Any) -> Run:
    sets = read_sources(changes.pop("aligners", {"trained": ["untrained", {"from": "untrained", "settings": {"rounds": 0}}]}))
    return replace(Run(zoo, read_rows(rows), read_columns(columns), sets, PROTOCOL, Store(work)), **changes)


class Steps:
    """What a run tells its progress."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.total = -1

    def __call__(self, done: int, total: int, what: str) -> None:
        self.total = total
        if not what.endswith("opening") and what != "done":
            self.measured.append(what)


def test_measurements_are_taken_once(zoo: Zoo, tmp_path: Path) -> None:
    run, steps = run_of(zoo, tmp_path), Steps()
    run.measure(Selection(columns=["naive"]), steps)
    assert steps.total == 3
    first = run.records()
    assert {(r["row"], r["family"], r["column"], r["aligner"]) for r in first} == {
        ("width", "mlp", "naive", None), ("depth", "vgg-bn", "naive", None),
    }  # fmt: skip
    again = Steps()
    run.measure(Selection(), again)
    assert again.total == 3 * 3  # Sinkhorn and two aligners in three groups
    done = Steps()
    run.measure(Selection(), done)
    assert (done.total, done.measured) == (0, [])
    records = run.records()
    assert [r for r in records if r["column"] == "naive"] == first
    assert {r["aligner"] for r in records if r["column"] == "trained"} == {"trained 1", "trained 2"}
    for record in records:
        pairs = 1 if record["family"] == "vgg-bn" else 3
        assert record["pairs"] == pairs
        assert all(len(values) == pairs for values in [*record["figures"].values(), record["seconds"]])
        assert len(record["psi"]) == PROTOCOL.points


def test_the_best_variant_of_the_first_pairs_is_used_for_all(zoo: Zoo, tmp_path: Path) -> None:
    rows = {"width": {"sections": ["width"], "architectures": 1}}
    run = run_of(zoo, tmp_path / "both", {"sinkhorn": COLUMNS["sinkhorn"]}, rows)
    run.measure(Selection())
    (record,) = run.records()
    each = {}
    for rate in (0.001, 2.0):
        column = {"sinkhorn": {**COLUMNS["sinkhorn"], "variants": {"rate": rate}}}
        alone = run_of(zoo, tmp_path / str(rate), column, rows)
        alone.measure(Selection())
        each[f"rate {rate}"] = alone.records()[0]["figures"]
    means = {name: sum(found["barrier"][:2]) / 2 for name, found in each.items()}
    assert means["rate 0.001"] != means["rate 2.0"]
    assert record["tuning"] == pytest.approx(means, abs=1e-4)
    assert record["variant"] == min(means, key=lambda name: means[name])
    for name, values in each[record["variant"]].items():
        assert record["figures"][name] == pytest.approx(values, rel=1e-4), name


def test_another_aligner_is_another_measurement(zoo: Zoo, tmp_path: Path) -> None:
    aligner = Aligner()
    columns, rows = {"trained": COLUMNS["trained"]}, {"width": {"sections": ["width"], "architectures": 1}}
    counts = []
    for scale in (1.0, 1.0, -1.0):
        with torch.no_grad():
            aligner.forward_weight.fill_(scale)
        aligner.save_pretrained(tmp_path / "aligner")
        run, steps = run_of(zoo, tmp_path / "work", columns, rows, aligners={"trained": [str(tmp_path / "aligner")]}), Steps()
        run.measure(Selection(), steps)
        counts.append(steps.total)
    assert counts == [1, 0, 1]


def test_other_settings_of_the_measurement_are_another_measurement(zoo: Zoo, tmp_path: Path) -> None:
    columns = {"naive": COLUMNS["naive"]}
    run_of(zoo, tmp_path, columns).measure(Selection())
    other = run_of(zoo, tmp_path, columns, protocol=replace(PROTOCOL, points=5))
    assert other.records() == []
    renamed = run_of(zoo, tmp_path, {"naive": {**columns["naive"], "title": "not aligned"}})
    assert len(renamed.records()) == 3


def test_a_family_may_have_its_own_protocol(zoo: Zoo, tmp_path: Path) -> None:
    run = run_of(zoo, tmp_path, protocols={"vgg-bn": replace(PROTOCOL, points=5, pairs=1, tuning_pairs=1)})
    run.measure(Selection(columns=["naive"]))
    found = {r["family"]: (len(r["psi"]), r["pairs"]) for r in run.records()}
    assert found["vgg-bn"] == (5, 1)
    assert found["mlp"] == (3, 3)


def test_seconds_of_all_columns_come_from_one_process(zoo: Zoo, tmp_path: Path) -> None:
    columns = {**COLUMNS, "long": {"timed_only": True, "stages": [{"method": "sinkhorn", "sees": "labels", "steps": 12}]}}
    run, steps = run_of(zoo, tmp_path, columns, timing=Timing(rows=("width",), budget=0.01)), Steps()
    run.measure(Selection(columns=[runs.TIMING]), steps)
    (timing,) = run.timings()
    assert (timing["row"], timing["family"], steps.total) == ("width", "mlp", 1)
    assert timing["seconds"].keys() == columns.keys()
    assert timing["seconds"]["long"] > timing["seconds"]["naive"] > 0
    assert run.records() == []


def test_what_cannot_be_measured_is_reported_at_once(zoo: Zoo, tmp_path: Path) -> None:
    run = run_of(zoo, tmp_path, aligners={"trained": [str(tmp_path / "nowhere")]})
    with pytest.raises(InvalidInput, match=r"(?s)only.rows: found 'heigth', expected some of width, depth.*only.columns: found 'x'"):
        run.measure(Selection(rows=["heigth"], columns=["x"]))
    with pytest.raises(InvalidInput, match=r"aligners.trained: found no aligner in .*nowhere, expected a folder with config.json"):
        run.measure(Selection())
    run.measure(Selection(columns=["naive"], families=["mlp"]))
    assert {r["family"] for r in run.records()} == {"mlp"}
    with pytest.raises(InvalidInput, match=r"rows: found no networks for r, expected patterns of the test sections: depth_vgg, in_distribution, width"):
        run_of(zoo, tmp_path, rows={"r": {"sections": ["nothing*"]}}).measure(Selection())
