"""Training in several processes, started by torchrun and by Fabric itself, for real: it ends as training in one."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import graphalign
from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.training.processes import UNUSED, arguments, in_turn
from graphalign.training.run import train
from graphalign.training.settings import Engine, read_settings

CONTENT = {
    "steps": 3, "draws": 2, "aligner": {"codes": 64, "candidates": 2, "steps": 2, "sinkhorn_iterations": 5},
    "families": {"mlp": {"pairs": 2, "images": 32}, "vgg": {"pairs": 1, "images": 16}, "siren": {"share": 0.0}},
    "losses": {"supervised": 0.1, "evolution": 1.0, "unrolled": 0.0}, "unrolled": {"steps": [2]}, "optimiser": {"rate": 0.1, "schedule": "constant"},
    "validation": {"every": 1, "pairs": 1, "images": 100, "inputs": 64}, "engine": {"accelerator": "cpu", "devices": 1, "strategy": "auto"},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.`:FutureWarning")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "graphalign")
ELASTIC = {"TORCHELASTIC_RUN_ID": "some", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


def rows(folder: Path) -> dict[tuple[str, str], float]:
    """Every value by name and step, whichever part of the run wrote it."""
    return {
        (name, row["step"]): float(value)
        for file in folder.glob("metrics/*/metrics.csv") for row in csv.DictReader(file.read_text().splitlines())
        for name, value in row.items() if name != "step" and value
    }  # fmt: skip


def test_two_processes_end_as_one(zoo, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(CONTENT))

    def start(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(Path(graphalign.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        where = ["--config", str(config), "--zoo", str(zoo.folder), "--out", str(tmp_path / "two")]
        result = subprocess.run([sys.executable, *command, *where], env=environment, capture_output=True, text=True, timeout=540)
        assert result.returncode == 0, result.stderr
        return result.stdout

    first = start(*TORCHRUN, "train", "steps=1")
    assert first.count("best checkpoint at step") == 1
    second = start("-m", "graphalign", "train", "steps=2", "engine.devices=2", "engine.strategy=ddp")
    assert second.count("best checkpoint at step") == 1
    train(read_settings(CONTENT), zoo, tmp_path / "two")
    train(read_settings(CONTENT), zoo, tmp_path / "one")
    for name in ("last", "best"):
        one, two = (Aligner.from_pretrained(tmp_path / folder / name).state_dict() for folder in ("one", "two"))
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    found, expected = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert {name.partition("/")[0] for name, _ in expected} >= {"train", "validation"}
    assert found == pytest.approx(expected)


def test_draws_that_cannot_be_shared_are_refused(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_fabric.Fabric.world_size", 3)
    with pytest.raises(InvalidInput, match="draws: found 2 for 3 processes, expected a multiple of their number"):
        train(read_settings(CONTENT), zoo, tmp_path)


@pytest.mark.parametrize(
    ("engine", "world", "expected"),
    [
        (Engine("cpu"), None, {"devices": 1, "strategy": "auto"}),
        (Engine("cpu", strategy="ddp"), None, {"devices": 1, "strategy": UNUSED}),
        (Engine("cpu", 2), None, {"devices": 2, "strategy": UNUSED}),
        (Engine("cpu", 2, "fsdp"), None, {"devices": 2, "strategy": "fsdp"}),
        (Engine("cpu"), "2", {"devices": 2, "num_nodes": 1, "strategy": UNUSED}),
        (Engine("cpu"), "6", {"devices": 2, "num_nodes": 3, "strategy": UNUSED}),
    ],
)
def test_processes_of_torchrun_are_used(monkeypatch, engine, world, expected):
    for name in (*ELASTIC, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({} if world is None else {**ELASTIC, "WORLD_SIZE": world}).items():
        monkeypatch.setenv(name, value)
    assert arguments(engine) == {"accelerator": "cpu", "precision": "32-true", **expected}


def test_what_was_dealt_out_is_put_in_order_again():
    whole = list(range(7))
    assert in_turn([whole[rank::3] for rank in range(3)]) == whole
