"""Multiruns for real, as `graphalign zoo -m` and `graphalign train -m` run them: what jobs leave is what single runs leave."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra.utils import instantiate

import graphalign
from graphalign.aligner import Aligner
from graphalign.bench.settings import Report
from graphalign.bench.suites import SUITES
from graphalign.cli_bench import bench
from graphalign.cli_train import train_aligner
from graphalign.cli_zoo import zoo
from graphalign.configuration import initialised
from graphalign.errors import InvalidInput
from graphalign.experiments.results import Table, environment
from graphalign.multirun import run_jobs, swept
from graphalign.zoo.manifest import read_manifest, read_states

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
RECIPE = {"data": "digits", "images": 200, "epochs": 2}
POPULATION = {
    "folder": "nowhere", "only": None, "part": "1/1",
    "sections": {
        "train": {"split": "train", "designs": 2, "seeds": 2, "design": {"family": "mlp", "depth": 1, "width": [6, 8, 10]}, "recipe": RECIPE},
        "validation": {
            "split": "validation", "designs": 1, "seeds": 2, "first_seed": 9, "design": {"family": "mlp", "depth": 1, "width": 12}, "recipe": RECIPE,
        },
    },
}  # fmt: skip
TRAINING = {
    "seed": 0, "steps": 1, "aligner": {"codes": 64, "steps": 2, "sinkhorn_iterations": 5}, "losses": {"evolution": 1.0, "unrolled": 0.0},
    "families": {"mlp": {"pairs": 2, "images": 32}}, "unrolled": {"steps": [2]}, "optimiser": {"rate": 0.1},
    "validation": {"pairs": 1, "images": 100, "inputs": 64}, "engine": {"accelerator": "cpu"},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.`:FutureWarning")


def written(folder: Path, content: dict[str, Any]) -> str:
    file = folder / "mine.yaml"
    file.write_text(json.dumps(content))
    return str(file)


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by one process."""
    folder = tmp_path_factory.mktemp("population")
    zoo([], config=written(folder, POPULATION), out=folder / "whole", data=None, device="cpu", threads=1)
    return folder / "whole"


def told(content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool) -> str:
    if content["a"] == 13:
        raise InvalidInput("a: found 13, expected another number")
    if folder is not None:
        (folder / "result").write_text(str(content["a"]))
    return f"{content} {list(overrides)} {quiet}"


def test_one_job_gets_the_configuration_and_the_folder(tmp_path):
    said: list[str] = []
    run_jobs("zoo", written(tmp_path, {"a": 1, "b": 2}), ["b=3"], told, multirun=False, folder=tmp_path, say=said.append)
    assert said == ["{'a': 1, 'b': 3} ['b=3'] False"]
    assert (tmp_path / "result").read_text() == "1"


def test_every_combination_is_a_job_with_a_folder_of_its_own(tmp_path, capsys):
    said: list[str] = []
    run_jobs("zoo", written(tmp_path, {"a": 1, "b": 2}), ["a=5,6", "b=3"], told, multirun=True, folder=tmp_path / "o=u,t", say=said.append)
    assert [text.splitlines() for text in said] == [
        [f"a={a} b=3 -> {tmp_path}/o=u,t/{i}", f"{{'a': {a}, 'b': 3}} ['a={a}', 'b=3'] False"] for i, a in enumerate((5, 6))
    ]
    assert [(tmp_path / "o=u,t" / str(i) / "result").read_text() for i in (0, 1)] == ["5", "6"]
    assert (tmp_path / "o=u,t" / "1" / ".hydra" / "overrides.yaml").read_text() == "- a=6\n- b=3\n"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "#1 : a=6 b=3" in printed.err


def test_the_folder_of_a_multirun_is_hydras_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, {"a": 1})
    run_jobs("zoo", file, ["a=1,2"], told, multirun=True, folder=None, say=str)
    assert len(list(tmp_path.glob("multirun/*/*/1/result"))) == 1
    run_jobs("zoo", file, ["a=1,2", "hydra.sweep.dir=here", "hydra.sweep.subdir=a_${a}"], told, multirun=True, folder=None, say=str)
    assert sorted(f.parent.name for f in tmp_path.glob("here/*/result")) == ["a_1", "a_2"]


def test_an_error_of_a_job_is_that_of_the_multirun(tmp_path):
    with pytest.raises(InvalidInput, match="a: found 13"):
        run_jobs("zoo", written(tmp_path, {"a": 1}), ["a=1,13"], told, multirun=True, folder=tmp_path, say=str)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nope=1,2"], "config .*mine.yaml with nope=1,2: .*nope.*expected overrides key=value"),
        (["hydra/launcher=cluster"], "hydra/launcher=cluster: .*launchers come with pip install 'graphalign.launch.'"),
        (["a=[1"], "with a=.1: "),
    ],
)
def test_what_hydra_refuses_is_refused(tmp_path, overrides, message):
    with pytest.raises(InvalidInput, match=message):
        run_jobs("zoo", written(tmp_path, {"a": 1}), overrides, told, multirun=True, folder=tmp_path, say=str)


def test_keys_with_several_values():
    assert swept(["a.b=1,2", "part=1/2,2/2", "c=[1,2]", "d=range(1,3)", "~e", "+f=1"]) == {"a.b", "part", "d"}


def test_parts_on_several_cores_are_the_population_of_one_process(tmp_path, population, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path, POPULATION)
    zoo(["part=1/2,2/2", *JOBLIB], config=config, out=tmp_path / "parts", data=None, device="cpu", threads=1, multirun=True)
    printed = capsys.readouterr().out
    assert f"4 networks in 2 groups: {tmp_path / 'parts' / 'manifest.json'}" in printed
    assert f"2 networks in 1 groups: {tmp_path / 'parts' / 'manifest.json'}" in printed
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (population, tmp_path / "parts")]
    for manifest in manifests:
        for group in manifest["groups"]:
            del group["seconds"]
    assert manifests[0] == manifests[1]
    for group in read_manifest(population):
        for one, other in zip(read_states(population, group), read_states(tmp_path / "parts", group), strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_populations_that_differ_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["only=validation", "sections.validation.design.width=4,6"]
    zoo(overrides, config=written(tmp_path, POPULATION), out=tmp_path / "both", data=None, device="cpu", threads=1, multirun=True)
    designs = [read_manifest(tmp_path / "both" / str(i))[0].design for i in (0, 1)]
    assert [design.widths for design in designs] == [(4,), (6,)]


def test_runs_on_several_cores_end_as_single_ones(tmp_path, population):
    config = written(tmp_path, TRAINING)
    job = partial(train_aligner, config=config, zoo=population, data=None, threads=1)
    said: list[str] = []
    run_jobs("train", config, ["seed=0,1", *JOBLIB], job, multirun=True, folder=tmp_path / "runs", say=said.append)
    assert [text.partition("\n")[0] for text in said] == [f"seed={seed} -> {tmp_path}/runs/{seed}" for seed in (0, 1)]
    run_jobs("train", config, ["seed=1"], job, multirun=False, folder=tmp_path / "single", say=said.append)
    last = [Aligner.from_pretrained(tmp_path / name / "last").state_dict() for name in ("runs/0", "runs/1", "single")]
    assert all(torch.equal(tensor, last[2][key]) for key, tensor in last[1].items())
    assert any(not torch.equal(tensor, last[0][key]) for key, tensor in last[1].items())


def test_benchmarks_of_several_seeds_get_folders_of_their_own(tmp_path, capsys, monkeypatch):
    def measured(settings):
        found = {"title": "Many", "command": settings.command, "seed": settings.seed, "environment": environment()}
        return Report(found, [Table("Pairs", ["seed"], [[str(settings.seed)]])], None)

    monkeypatch.setitem(SUITES, "batch", measured)
    bench("batch", ["seed=3,4", "pairs=[2]"], out=tmp_path, quick=True, multirun=True)
    found = [json.loads((tmp_path / str(k) / "bench_batch.json").read_text()) for k in range(2)]
    assert [(results["seed"], "pairs=[2]" in results["command"]) for results in found] == [(3, True), (4, True)]
    assert capsys.readouterr().out.count("Pairs") == 2


def test_submitit_runs_jobs_as_processes_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "some_jobs.py").write_text("def told(content, overrides, folder, quiet):\n    return f'{content} {folder.name} {quiet}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(graphalign.__file__).parents[1]}")
    said: list[str] = []
    overrides = ["a=5,6", "hydra/launcher=submitit_local"]
    job = importlib.import_module("some_jobs").told
    run_jobs("zoo", written(tmp_path, {"a": 1}), overrides, job, multirun=True, folder=tmp_path / "out", say=said.append)
    assert [text.splitlines()[1] for text in said] == ["{'a': 5} 0 True", "{'a': 6} 1 True"]


def test_the_configuration_for_clusters_is_one_of_submitits_launcher():
    with initialised("train", "digits", ()) as chosen:
        overrides = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.sweep.dir=runs"]
        launcher = instantiate(hydra_compose(chosen, overrides, return_hydra_config=True).hydra.launcher)
    assert type(launcher).__name__ == "SlurmLauncher"
    expected = {"partition": "gpu", "name": "graphalign_train", "timeout_min": 240, "submitit_folder": "runs/.submitit/%j"}
    assert launcher.params.items() >= expected.items()
