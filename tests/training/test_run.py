"""Training runs of seconds: where they end, that they can be stopped, and what they leave behind."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphalign.aligner import Aligner, AlignerConfig
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.training.report import report
from graphalign.training.run import train
from graphalign.training.settings import read_settings
from graphalign.training.validation import MODES, Judge
from graphalign.zoo.zoo import Zoo

TINY = {
    "steps": 4,
    "aligner": {"codes": 64, "candidates": 2, "steps": 3, "sinkhorn_iterations": 10},
    "prior": {"components": 3, "rank": 2, "dimensions": 8},
    "families": {"mlp": {"pairs": 3, "images": 64}, "siren": {"share": 0.0}, "vgg": {"pairs": 2, "images": 32}},
    "losses": {"supervised": 0.1, "alignment": 0.1, "lmc": 0.1, "distillation": 0.1, "imitation": 0.1, "unrolled": 1.0, "evolution": 0.1},
    "unrolled": {"steps": [2, 3]},
    "teacher": {"steps": 3, "images": 64, "batches": 2},
    "validation": {"every": 2, "pairs": 1, "images": 200, "inputs": 64},
    "engine": {"accelerator": "cpu"},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.`:FutureWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(zoo: Zoo, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(read_settings(TINY), zoo, folder, cache=cache, environment={"command": "test"})
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return Aligner.from_pretrained(folder).state_dict()


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(zoo, whole, cache, tmp_path):
    settings = read_settings(TINY | {"optimiser": {"schedule": "cosine"}})
    stopped = iter([True, True])

    def stop(done: int, total: int, what: str) -> None:
        if done == 3 and next(stopped, False):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, zoo, tmp_path, cache=cache, progress=stop)
    train(settings, zoo, tmp_path, progress=lambda done, total, what: None)  # without the cache: it changes nothing
    first, second = tensors_of(whole / "last"), tensors_of(tmp_path / "last")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert all(torch.equal(tensor, tensors_of(tmp_path / "best")[name]) for name, tensor in tensors_of(whole / "best").items())


def test_the_folder_of_a_run(whole):
    config = json.loads((whole / "config.json").read_text())
    assert config["settings"]["seed"] == 0
    assert config["environment"] == {"command": "test"}
    rows = rows_of(whole)
    assert {int(row["step"]) for row in rows} == {0, 1, 2, 3, 4}
    assert {"train/loss", "validation/ratio", "mlp/unrolled", "mlp/supervised", "mlp/distillation"} <= rows[0].keys()
    assert list((whole / "tensorboard").glob("events*"))
    trained = Aligner.from_pretrained(whole / "last")
    assert trained.config == AlignerConfig(**TINY["aligner"])
    assert trained.prior is not None
    moved = [n for n, p in trained.named_parameters() if not torch.equal(p, dict(Aligner().named_parameters())[n])]
    assert {"forward_weight", "temperature", "refiner.log_rate", "refiner.output"} <= set(moved)


def test_the_best_checkpoint_is_that_of_the_least_ratio(zoo, cache, tmp_path, monkeypatch):
    values = iter([1.0, 0.9, 0.5, 0.7])  # untrained, before, after two steps, after four
    monkeypatch.setattr(Judge, "barriers", lambda self, aligner, views: {mode: {"some": value} for value in [next(values)] for mode in MODES})
    kept = []
    save = Aligner.save_pretrained
    monkeypatch.setattr(Aligner, "save_pretrained", lambda self, folder: (kept.append((Path(folder).name, float(self.forward_weight.detach()))), save(self, folder)))
    outcome = train(read_settings(TINY | {"losses": {"evolution": 1.0, "unrolled": 0.0}}), zoo, tmp_path, cache=cache)
    assert outcome.step == 2
    assert outcome.best == {mode: {"some": 0.5} for mode in MODES}
    assert [name for name, _ in kept] == ["best", "last", "best", "last", "last"]
    best, last = (float(Aligner.from_pretrained(tmp_path / name).forward_weight.detach()) for name in ("best", "last"))
    assert best == kept[2][1]
    assert last == kept[4][1] != best
    text = report(outcome, tmp_path)
    assert "best checkpoint at step 2 of 4" in text
    assert str(tmp_path / "best") in text


def test_training_mends_a_wrong_start(zoo, cache, tmp_path):
    """From a refiner whose steps are far too short."""
    start = Aligner(AlignerConfig(codes=64, candidates=2, steps=5, sinkhorn_iterations=10))
    with torch.no_grad():
        start.refiner.log_rate[0] = -5.0
    start.save_pretrained(tmp_path / "start")
    content = TINY | {
        "steps": 40, "start": str(tmp_path / "start"), "aligner": None, "prior": None, "losses": {"unrolled": 0.0, "evolution": 1.0},
        "exclude": {"family": ["vgg", "siren"]}, "unrolled": {"steps": [5], "data": 1.0, "perturbation": 0.3},
        "optimiser": {"rate": 0.3, "schedule": "constant"}, "validation": TINY["validation"] | {"every": 40},
    }  # fmt: skip
    train(read_settings(content), zoo, tmp_path / "run", cache=cache)
    losses = [float(row["train/loss"]) for row in rows_of(tmp_path / "run") if row.get("train/loss")]
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.4
    assert Aligner.from_pretrained(tmp_path / "run" / "last").refiner.log_rate[0] > -4.0


def test_other_settings_are_refused(zoo, whole, cache):
    with pytest.raises(InvalidInput, match=r"(?s)holds a run with other settings:.*seed: found 0 there, and 1 now"):
        train(replace(read_settings(TINY), seed=1), zoo, whole, cache=cache)


def test_damaged_state(zoo, cache, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(CorruptFile, match=r"state.pt cannot be read .*remove the folder and train again"):
        train(read_settings(TINY), zoo, tmp_path, cache=cache)


def test_nothing_to_validate_on(zoo, cache, tmp_path):
    with pytest.raises(InvalidInput, match=r"found no validation group"):
        train(read_settings(TINY | {"exclude": {"section": ["validation_mlp"]}}), zoo, tmp_path, cache=cache)
