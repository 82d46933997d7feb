"""What the README shows can be run, and what it points at is there."""

import re
from pathlib import Path

import torch

from graphalign.data import digits
from graphalign.demo_networks import residual

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    torch.manual_seed(0)
    data = [digits("test")[:64]]
    names = {"model_a": residual(), "model_b": residual(), "x": digits("test")[:1][0], "test_loader": data, "train_loader": data}
    assert len(blocks) == 2
    exec("\n".join(blocks), names)
    assert {p.name for p in tmp_path.iterdir()} == {"barrier.png", "alignment.safetensors", "b_aligned.safetensors"}
    difference = float(next(line for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"\d[\d.e+-]*", line)))
    assert difference <= 1e-10
    x = names["x"].double()
    aligned, original = (names[name].double().eval() for name in ("aligned_b", "model_b"))
    torch.testing.assert_close(aligned(x), original(x), rtol=0.0, atol=1e-10)


def test_links_point_at_files():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).is_file(), target


def test_ci_runs_the_test_command_of_the_readme():
    command = next(line for line in TEXT.splitlines() if ".[test]" in line)
    install, _, tests = command.partition(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install in script
    assert re.search(rf"^{re.escape(tests)}$", script, re.MULTILINE)
