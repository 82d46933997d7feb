"""Small networks on disk, and the command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from graphalign.cli import app
from graphalign.files import save_state

CODE = """
import torch
from torch import nn

def small(width=6):
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)]
    return nn.Sequential(*layers), torch.zeros(1, 1, 8, 8)

def shapeless():
    return small()[0]

def sums():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 5), nn.Linear(5, 3)
        def forward(self, x):
            return self.second(torch.sort(self.first(x), dim=-1).values)
    return Net(), torch.zeros(1, 64)

def fails():
    raise ValueError("no such width")

number = 3
"""


def perceptron(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"1.weight": (7, 64), "1.bias": (7,), "3.weight": (6, 7), "3.bias": (6,), "5.weight": (10, 6), "5.bias": (10,)}
    return {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def convolutional(seed: int) -> dict[str, Tensor]:
    names: dict[str, Any] = {}
    exec(CODE, names)
    network: nn.Module = names["small"]()[0]
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4 * (tensor.dim() > 1))
    return state


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two perceptrons (a, b), two convolutional networks (c, d) and their code."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        save_state(perceptron(seed), tmp_path / f"{name}.safetensors", {"note": f"network {name}"})
    for name, seed in (("c", 2), ("d", 3)):
        torch.save(convolutional(seed), tmp_path / f"{name}.pt")
    (tmp_path / "nets.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Callable[..., Result]:
    """Calls the command line with these arguments in `folder`; inputs must be as before afterwards."""

    def call(*arguments: str, code: int = 0) -> Result:
        before = {file: file.read_bytes() for file in folder.iterdir() if file.stem in "abcd" and file.is_file()}
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert not [file for file in folder.iterdir() if file.name.endswith(".tmp")]
        assert all(file.read_bytes() == content for file, content in before.items())
        return result

    return call


def content(result: Result) -> Any:
    return json.loads(result.stdout)
