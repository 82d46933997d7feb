"""One quick run of the demonstration by the command line, and everything it leaves behind."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graphalign
from graphalign.data import digits
from graphalign.demo import QUICK, STEPS
from graphalign.demo_networks import NETWORKS
from graphalign.demo_report import LABELS
from tests.test_cli import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    return folder, run("demo", "--quick", "--seed", "3", "--out", str(folder))


@pytest.fixture(scope="module")
def results(demo):
    return json.loads((demo[0] / "results.json").read_text())


def network(folder, name, which):
    module = NETWORKS[name][1]()
    module.load_state_dict(load_file(folder / name / f"{which}.safetensors"))
    return module.eval()


def test_ends_well_and_shows_progress_apart_from_the_results(demo):
    _, result = demo
    assert result.returncode == 0, result.stderr
    assert f"{STEPS}/{STEPS}" in result.stderr
    assert f"{STEPS}/{STEPS}" not in result.stdout


def test_writes_exactly_what_it_says(demo):
    folder, result = demo
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    files = ("a", "b", "b_aligned", "merged", "alignment")
    expected = {f"{name}/{file}.safetensors" for name in NETWORKS for file in files} | {f"{name}/layers.png" for name in NETWORKS}
    assert written == expected | {"results.json", "interpolation.png"}
    for word in ("interpolation.png", "results.json", "layers.png", "b_aligned.safetensors", "merged.safetensors", *NETWORKS):
        assert word in result.stdout
    assert str(folder) in result.stdout.replace("\n", "")


def test_table_holds_the_figures_of_the_results_file(demo, results):
    lines = demo[1].stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines if "─" in line or any(label in line for label in LABELS.values()))
    for name, (title, _) in NETWORKS.items():
        start = next(i for i, line in enumerate(lines) if title in line)
        for line, (method, label) in zip(lines[start : start + len(LABELS)], LABELS.items(), strict=True):
            figures = results["networks"][name]["methods"][method]
            assert label in line
            assert f"{figures['barrier']:.3f}" in line
            assert f"{100 * figures['midpoint_accuracy']:.1f}" in line


def test_results_say_how_they_came_about(results):
    assert results["seed"] == 3
    assert results["settings"]["epochs"] == QUICK.epochs
    assert results["versions"]["torch"] == torch.__version__
    assert results["versions"]["graphalign"] == graphalign.__version__
    for entry in results["networks"].values():
        assert entry["methods"].keys() == LABELS.keys()
        for figures in entry["methods"].values():
            assert len(figures["lambdas"]) == len(figures["losses"]) == QUICK.points
            excess = np.array(figures["losses"]) - np.interp(figures["lambdas"], [0, 1], [figures["loss_b"], figures["loss_a"]])
            assert figures["barrier"] == pytest.approx(excess.max(), abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_aligned_network_computes_what_b_computes(demo, name):
    folder, _ = demo
    b, aligned = network(folder, name, "b").double(), network(folder, name, "b_aligned").double()
    x = digits("test")[:20][0].double()
    assert not torch.equal(next(iter(b.parameters())), next(iter(aligned.parameters())))
    torch.testing.assert_close(aligned(x), b(x), rtol=0.0, atol=1e-10)
    again = graphalign.Alignment.load(folder / name / "alignment.safetensors").apply(copy.deepcopy(b))
    assert all(torch.equal(v, aligned.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_network_is_the_average_with_statistics_of_its_own(demo, results, name):
    folder, _ = demo
    a, aligned, merged = (network(folder, name, which) for which in ("a", "b_aligned", "merged"))
    state_a, state_b = a.state_dict(), aligned.state_dict()
    for key, value in merged.state_dict().items():
        if "running" not in key and value.is_floating_point():
            torch.testing.assert_close(value, (state_a[key] + state_b[key]) / 2)
        elif "running" in key:
            assert not torch.allclose(value, (state_a[key] + state_b[key]) / 2, rtol=1e-3)
    x, y = digits("test").tensors
    accuracy = (merged(x).argmax(1) == y).double().mean().item()
    assert accuracy == pytest.approx(results["networks"][name]["methods"]["gnn"]["midpoint_accuracy"], abs=0.01)


def test_networks_learn_and_alignment_lowers_the_barrier(results):
    for name, entry in results["networks"].items():
        methods = entry["methods"]
        assert methods["gnn"]["accuracy_a"] > 0.35, name
        assert methods["gnn"]["barrier"] < methods["naive"]["barrier"], name


def test_figures_are_not_empty(demo):
    from PIL import Image

    folder, _ = demo
    for path in (folder / "interpolation.png", *folder.glob("*/layers.png")):
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            colours = picture.convert("RGB").getcolors(1 << 20)
            assert colours is None or len(colours) > 50
