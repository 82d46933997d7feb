"""`graphalign align` and `verify`: the same function in another order, types and metadata kept, and no input or output touched by mistake."""

from __future__ import annotations

import json

import pytest
import torch

from graphalign import Alignment, load_state
from graphalign.files import read_metadata, save_state
from tests.commands.conftest import content, perceptron

ALIGN = ("align", "a.safetensors", "b.safetensors", "--method", "weight")


def test_b_is_written_in_the_order_of_a(run, folder):
    result = run(*ALIGN, "-o", "out.safetensors", "--permutations", "p.safetensors")
    found, alignment = load_state(folder / "out.safetensors"), Alignment.load(folder / "p.safetensors")
    expected = alignment.apply(perceptron(1))
    assert alignment.moved > 0
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert read_metadata(folder / "out.safetensors")["note"] == "network b"
    assert "written   out.safetensors" in result.stdout
    assert result.stderr == ""
    run("verify", "b.safetensors", "out.safetensors")
    assert "DIFFERENT function" in run("verify", "b.safetensors", "a.safetensors", code=1).stdout
    assert not content(run("verify", "b.safetensors", "a.safetensors", "--json", code=1))["same"]


def test_results_are_for_machines_too(run):
    found = content(run(*ALIGN, "--json", "-v"))
    assert sorted(found["permutations"]["1"]) == list(range(7))
    assert found["distance"]["after"] < found["distance"]["before"]
    assert found["verification"]["largest_change"] < 1e-12


def test_progress_goes_to_standard_error(run):
    result = run(*ALIGN, "--json", "--verbose")
    assert "aligning by weight" in result.stderr
    assert "aligning" not in result.stdout
    assert run(*ALIGN, "--json", "--quiet").stderr == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_are_kept(run, folder, dtype):
    state = {name: tensor.to(dtype) for name, tensor in perceptron(1).items()}
    save_state(state, folder / "half.safetensors")
    run("align", "a.safetensors", "half.safetensors", "--method", "weight", "-o", "out.pt", "--permutations", "p.safetensors")
    expected = Alignment.load(folder / "p.safetensors").apply(state)
    found = torch.load(folder / "out.pt", weights_only=True)
    assert all(found[key].dtype == dtype and torch.equal(found[key], expected[key]) for key in expected)


def test_sixteen_bits_beside_thirty_two_are_computed_as_these_and_kept(run, folder):
    state = {name: tensor.half() if name == "0.weight" else tensor for name, tensor in perceptron(1).items()}
    save_state(state, folder / "mixed.safetensors")
    run("align", "a.safetensors", "mixed.safetensors", "--method", "weight", "-o", "out.safetensors", "--permutations", "p.safetensors")
    expected, found = Alignment.load(folder / "p.safetensors").apply(state), load_state(folder / "out.safetensors")
    assert all(found[key].dtype == state[key].dtype and torch.equal(found[key], expected[key]) for key in state)


def test_folders_and_shards(run, folder):
    from graphalign.checkpoints import write_checkpoint

    files = write_checkpoint(perceptron(1), folder / "sharded", {"note": "in parts"}, shard_bytes=800)
    assert [file.name for file in files] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    run("align", "a.safetensors", "sharded", "--method", "weight", "-o", "out")
    run(*ALIGN, "-o", "single.safetensors")
    first, second = load_state(folder / "out" / "model.safetensors"), load_state(folder / "single.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert read_metadata(folder / "out" / "model.safetensors")["note"] == "in parts"
    assert "is where the input" in run("align", "a.safetensors", "sharded", "-o", "sharded", "--force", code=1).stderr


def test_code_and_data(run, folder):
    arguments = ("align", "c.pt", "d.pt", "--arch", "nets.py:small", "--method", "activation", "--align-data", "digits", "-o", "out.pt")
    run(*arguments)
    made_up = content(run(*(part for part in arguments if part not in ("--align-data", "digits", "-o", "out.pt")), "--json"))
    assert made_up["permutations"] != content(run(*arguments[:-2], "--json"))["permutations"]
    assert "same function" in run("verify", "d.pt", "out.pt", "--arch", "nets.py:small").stdout
    assert "same function" in run("verify", "d.pt", "--arch", "nets.py:small").stdout


def test_a_spec_stands_in_for_code(run, folder):
    run("inspect", "a.safetensors", "--save-spec", "spec.json")
    found = content(run(*ALIGN, "--spec", "spec.json", "-o", "out.safetensors", "--json"))
    assert found["verification"] is None
    run("verify", "b.safetensors", "out.safetensors")
    assert "found no architecture" in run("align", "a.safetensors", "b.safetensors", "--spec", "spec.json", "--json", code=1).stderr
    spec = json.loads((folder / "spec.json").read_text())
    spec["cells"][0]["size"] = 10**12
    spec["axes"][0]["segments"][0]["count"] = 10**12
    (folder / "huge.json").write_text(json.dumps(spec))
    assert "segments cover 1000000000000 indices" in run(*ALIGN, "--spec", "huge.json", "--json", code=1).stderr


def test_reports_are_written(run, folder):
    run(*ALIGN, "--report", "report.html", "--data", "digits")
    assert "<svg" in (folder / "report.html").read_text() or "base64" in (folder / "report.html").read_text()


def test_outputs_are_never_replaced_by_mistake(run, folder):
    (folder / "there.safetensors").write_text("mine")
    (folder / "link.safetensors").symlink_to(folder / "a.safetensors")
    (folder / "alias").mkdir()
    wrong = [
        (("-o", "there.safetensors"), "there.safetensors exists already; pass force=True (--force)"),
        (("-o", "b.safetensors", "--force"), "is where the input"),
        (("-o", "link.safetensors", "--force"), "is where the input"),
        (("-o", "alias/../a.safetensors", "--force"), "is where the input"),
        (("-o", "x.safetensors", "--permutations", "x.safetensors"), "is the output of --out too"),
        (("-o", "missing/x.safetensors"), "the folder of missing/x.safetensors does not exist"),
        (("--permutations", "p.txt"), "--permutations: p.txt ends in '.txt', expected .safetensors; choose another path"),
        (("-o", "x.bin"), "--out: x.bin ends in '.bin', expected .safetensors, .pt, .pth or the name of a folder"),
        (("--report", "r.pdf"), "--report: r.pdf ends in '.pdf', expected .html, .htm"),
    ]
    names = sorted(file.name for file in folder.iterdir())
    for arguments, message in wrong:
        assert message in run(*ALIGN, *arguments, code=1).stderr
        assert sorted(file.name for file in folder.iterdir()) == names
    assert (folder / "there.safetensors").read_text() == "mine"
    run(*ALIGN, "-o", "there.safetensors", "--force")
    assert list(load_state(folder / "there.safetensors")) == list(perceptron(1))


def test_failures_are_one_message(run, folder):
    torch.save({"w": perceptron(0), "f": print}, folder / "code.pt")
    save_state({**perceptron(1), "1.bias": torch.full((7,), torch.nan)}, folder / "nan.safetensors")
    wrong = [
        (("a.safetensors", "code.pt"), "was not loaded because that would run code"),
        (("a.safetensors", "nan.safetensors"), "'1.bias' has 7 NaN of 7 entries"),
        (("a.safetensors", "c.pt"), "not the same"),
        (("a.safetensors", "b.safetensors", "--method", "wieght"), "found 'wieght', expected one of"),
        (("a.safetensors", "b.safetensors", "--device", "tpu9"), "device: found 'tpu9'"),
        (("a.safetensors", "b.safetensors", "--method", "straight_through"), "found no data"),
        (("a.safetensors", "b.safetensors", "--align-data", "photos"), "data: found 'photos', expected one of digits"),
        (("a.safetensors", "b.safetensors", "--method", "weight", "--set", "turns=3"), "found unknown settings turns"),
    ]
    for arguments, message in wrong:
        result = run("align", *arguments, "--json", code=1)
        assert message in result.stderr, arguments
        assert result.stderr.startswith("error: ")
        assert result.stdout == ""


def test_wrong_usage(run):
    assert "found no output" in " ".join(run("align", "a.safetensors", "b.safetensors", code=2).stderr.replace("│", "").split())
    assert "found no --report" in run(*ALIGN, "--json", "--data", "digits", code=2).stderr
    assert "KEY=VALUE" in run(*ALIGN, "--json", "--set", "restarts", code=2).stderr
    assert "expected one of them" in run(*ALIGN, "--json", "-q", "-v", code=2).stderr
    run("align", "a.safetensors", code=2)
