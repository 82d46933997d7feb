"""`graphalign inspect`: one table, from weights alone or with code, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import torch

from graphalign.spec_format import load_spec
from tests.commands.conftest import content


def test_a_chain_needs_no_code(run, folder):
    result = run("inspect", "a.safetensors", "--plot", "layers.svg", "--save-spec", "spec.yaml")
    assert "6 tensors (6 float32)" in result.stdout
    assert "note: network a" in result.stdout
    assert "NetworkSpec: 13 movable units in 2 cells" in result.stdout
    assert (folder / "layers.svg").read_text().startswith("<?xml")
    assert [cell.units for cell in load_spec(folder / "spec.yaml").cells] == [7, 6]
    assert "written: layers.svg" in result.stderr
    again = run("inspect", "a.safetensors", "--spec", "spec.yaml", "--json")
    assert content(again)["spec"]["cells"] == content(run("inspect", "a.safetensors", "--json"))["spec"]["cells"]


def test_code_is_named(run):
    result = run("inspect", "c.pt", "--arch", "nets.py:small")
    assert "0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 5.weight[1] 1.running_mean[0] and 1 more" in result.stdout


def test_tensors_are_listed_whatever_they_belong_to(run, folder):
    torch.save({"x": torch.ones(2, 3, dtype=torch.int8)}, folder / "odd.pt")
    assert content(run("inspect", "odd.pt", "--tensors", "--json"))["shapes"] == {"x": {"dtype": "int8", "shape": [2, 3]}}
    assert "int8" in run("inspect", "odd.pt", "--tensors").stdout


def test_names_cannot_command_a_terminal(run, folder):
    torch.save({"\x1b[2Jx\u202e": torch.ones(2)}, folder / "odd.pt")
    shown = run("inspect", "odd.pt", "--tensors").stdout
    assert "\x1b" not in shown
    assert "\\x1b[2Jx\\u202e" in shown


def test_operators_without_a_rule_are_named(run, folder):
    torch.save({"first.weight": torch.ones(5, 64), "first.bias": torch.ones(5), "second.weight": torch.ones(3, 5), "second.bias": torch.ones(3)}, folder / "e.pt")
    assert "aten.sort" in run("inspect", "e.pt", "--arch", "nets.py:sums", code=1).stderr


def test_pictures_and_specs_are_of_what_may_move(run):
    for option, name, expected in (("--plot", "x.bmp", ".png, .svg, .pdf"), ("--save-spec", "x.toml", ".yaml, .yml, .json")):
        assert f"{option}: {name} ends in '{Path(name).suffix}', expected {expected}" in run("inspect", "a.safetensors", option, name, code=1).stderr
        assert "leave one out" in " ".join(run("inspect", "a.safetensors", "--tensors", option, name, code=2).stderr.replace("│", "").split())


def test_what_cannot_be_inspected(run, folder):
    assert "a.txt does not exist" in run("inspect", "a.txt", code=1).stderr
    wrong = {
        "nets.py:large": "found no 'large' in nets.py, expected one of small, shapeless, sums, fails",
        "nets.py:fails": "nets.py:fails raised ValueError: no such width",
        "nets.py:number": "returned int, expected a torch.nn.Module",
        "nets.py:small(width=x)": "expected numbers, texts and lists such as (width=64",
        "nets.py:small(width=8)": "does not have the tensors of the module",
        "nowhere:small": "importing nowhere raised ModuleNotFoundError",
        "none.py:small": "found no file none.py",
        "nets.py:shapeless": "found code and no input of it; pass its shape",
    }
    for arch, message in wrong.items():
        result = run("inspect", "c.pt", "--arch", arch, code=1)
        assert message in result.stderr, arch
        assert result.stderr.startswith("error: ")
        assert result.stdout == ""
    assert "expected a shape such as 1x3x32x32" in run("inspect", "c.pt", "--arch", "nets.py:shapeless", "--input", "axb", code=1).stderr
    run("inspect", "c.pt", "--arch", "nets.py:shapeless", "--input", "1x1x8x8")
