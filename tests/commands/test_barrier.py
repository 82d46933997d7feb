"""`graphalign barrier`, `compare` and `methods`: tables of measurements, as text and as JSON."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphalign import list_methods
from graphalign.files import save_state
from tests.commands.conftest import content

LINE = ("barrier", "c.pt", "d.pt", "--arch", "nets.py:small", "--points", "3")


def test_curves_before_and_after(run, folder):
    run("align", "c.pt", "d.pt", "--arch", "nets.py:small", "--method", "weight", "--permutations", "p.safetensors", "-o", "d2.pt")
    shown = run(*LINE, "--data", "digits", "--permutations", "p.safetensors", "--plot", "curve.png")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "as they are" in shown.stdout
    found = content(run(*LINE, "--data", "digits", "--method", "weight", "--json"))
    alone = content(run("barrier", "c.pt", "d2.pt", *LINE[3:], "--data", "digits", "--json"))
    assert list(found) == ["as they are", "aligned by weight"]
    assert alone["as they are"]["losses"] == pytest.approx(found["aligned by weight"]["losses"], rel=1e-4)
    assert found["as they are"]["losses"][1] != pytest.approx(found["aligned by weight"]["losses"][1], rel=1e-3)
    run(*LINE, "--data", "digits", "--reset-batch-norm", "digits", "--plot", "curve.png", "--force")
    seen = content(run(*LINE, "--data", "digits", "--method", "activation", "--align-data", "digits", "--json"))
    made_up = content(run(*LINE, "--data", "digits", "--method", "activation", "--json"))
    assert seen["aligned by activation"]["losses"] != made_up["aligned by activation"]["losses"]


def test_data_of_the_user(run, folder):
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    save_state({"inputs": x, "targets": y}, folder / "data.safetensors")
    np.savez(folder / "data.npz", inputs=x.numpy(), targets=y.numpy())
    (folder / "loaders.py").write_text("import torch\ndef ten():\n    return [(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))]\n")
    first, second = (content(run(*LINE, "--data", name, "--json")) for name in ("data.safetensors", "data.npz"))
    assert first == second
    run(*LINE, "--data", "loaders.py:ten")


def test_data_that_cannot_be_used(run, folder):
    save_state({"x": torch.ones(3)}, folder / "x.safetensors")
    save_state({"inputs": torch.ones(3, 1, 8, 8), "targets": torch.ones(2)}, folder / "short.safetensors")
    np.savez(folder / "pickled.npz", inputs=np.array([{}], dtype=object))
    np.savez_compressed(folder / "bomb.npz", inputs=np.zeros((10000, 1, 8, 8), dtype=np.float64))
    (folder / "loaders.py").write_text("def none():\n    return 3\n")
    wrong = {
        "x.safetensors": "found ['x'], expected 'inputs'",
        "short.safetensors": "expected as many targets as inputs",
        "pickled.npz": "cannot be read as an .npz file of plain arrays",
        "bomb.npz": "more than 64 times the file",
        "loaders.py:none": "returned int, expected a loader",
        "gone.npz": "found no file gone.npz",
        "digits:validation": "importing digits raised ModuleNotFoundError",
    }
    for name, message in wrong.items():
        assert message in run(*LINE, "--data", name, code=1).stderr, name


def test_weights_alone_run_only_where_they_say_enough(run, folder):
    assert "barrier" in run("barrier", "a.safetensors", "b.safetensors", "--data", "digits", "--points", "3").stdout
    torch.save({"0.weight": torch.ones(4, 1, 3, 3), "3.weight": torch.ones(10, 64)}, folder / "e.pt")
    refused = run("barrier", "e.pt", "e.pt", "--data", "digits", code=1).stderr
    assert "weights alone do not say where a convolutional network pools; say with arch= (--arch)" in refused


def test_wrong_usage(run):
    run(*LINE, code=2)
    run(*LINE, "--data", "digits", "--method", "weight", "--permutations", "p.safetensors", code=2)
    run(*LINE, "--data", "digits", "--points", "2", code=2)
    assert "found no --method" in run(*LINE, "--data", "digits", "--align-data", "digits", code=2).stderr
    assert "--plot: x.bmp ends in '.bmp', expected .png, .svg, .pdf" in run(*LINE, "--data", "digits", "--plot", "x.bmp", code=1).stderr


def test_all_methods_on_one_pair(run):
    result = run("compare", "a.safetensors", "b.safetensors", "--method", "naive", "--method", "weight", "--method", "consensus", "--method", "straight_through")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["method", "seconds", "moved", "distance"]
    assert lines[2].startswith("naive")
    assert "gnn+consensus" in result.stdout
    assert "straight_through: method 'straight_through': found no data" in result.stdout
    found = content(run("compare", "a.safetensors", "b.safetensors", "--method", "weight", "--data", "digits", "--points", "3", "--json"))
    assert found["methods"][0]["curve"]["barrier"] >= 0
    for seen in ((), ("--data", "digits")):  # methods never see what is measured
        run("compare", "a.safetensors", "b.safetensors", "--method", "straight_through", *seen, code=1)
    run("compare", "a.safetensors", "b.safetensors", "--method", "straight_through", "--align-data", "digits")
    assert "found wieght" in run("compare", "a.safetensors", "b.safetensors", "--method", "wieght", code=1).stderr


def test_methods_are_listed(run):
    listed = run("methods").stdout
    assert all(name in listed for name in list_methods())
    assert list(content(run("methods", "--json"))["methods"]) == list_methods()
    assert "restarts" in run("methods", "weight").stdout
    assert "expected one of activation" in run("methods", "wieght", code=1).stderr
