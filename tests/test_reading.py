"""Networks are traced together only if they run the same code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import reading, save_state
from graphalign.reading import Reader
from tests.networks import FAMILIES
from tests.traced import build

X = torch.zeros(1, 4)


class Body(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu, **attributes: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)
        self.act = act
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))  # type: ignore[no-any-return]


def hooked() -> Body:
    body = Body()
    body.first.register_forward_hook(lambda module, args, out: 2 * out)
    return body


def with_method() -> Body:
    body = Body()
    body.forward = partial(Body.forward, body)  # type: ignore[method-assign]
    return body


SAME: list[tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = [
    (Body, Body), (lambda: Body(sizes=[1, {"k": 2.0}]), lambda: Body(sizes=[1, {"k": 2.0}])), (lambda: Body(torch.relu), lambda: Body(torch.relu)),
    (Body, lambda: Body().train()),
]  # fmt: skip
OTHER: list[tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = [
    (Body, lambda: Body(torch.tanh)), (lambda: Body(slope=1.0), lambda: Body(slope=2.0)), (lambda: Body(n=1), lambda: Body(n=True)),
    (lambda: nn.Sequential(nn.Linear(4, 5), nn.ELU(0.1)), lambda: nn.Sequential(nn.Linear(4, 5), nn.ELU(0.2))),
    (hooked, hooked), (with_method, with_method), (lambda: Body(scale=torch.ones(1)), lambda: Body(scale=torch.ones(1))),
    (lambda: Body(lambda x: x.relu()), lambda: Body(lambda x: x.relu())),
]  # fmt: skip


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "trace_architecture", lambda *_, **__: object())


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(("first", "second"), SAME)
def test_one_code_is_traced_once(first: Callable[[], nn.Module], second: Callable[[], nn.Module]) -> None:
    reader = Reader()
    assert reader.architecture(first(), X, ()) is reader.architecture(second(), X, ())


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(("first", "second"), OTHER)
def test_other_code_is_traced_again(first: Callable[[], nn.Module], second: Callable[[], nn.Module]) -> None:
    reader = Reader()
    networks = first(), second()
    found = [reader.architecture(network, X, ()) for network in networks]
    assert found[0] is not found[1]
    assert reader.architecture(networks[0], X, ()) is found[0]
    assert reader.architecture(networks[0], X, ("aten.relu",)) is not found[0]
    assert reader.architecture(networks[0], torch.zeros(2, 4), ()) is not found[0]


def test_tied_weights_are_other_weights() -> None:
    def chain(shared: bool) -> nn.Module:
        layers = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
        if shared:
            layers[2].weight = layers[0].weight
        return layers

    reader = Reader()
    assert reader._signature(chain(True)) == reader._signature(chain(True))
    assert reader._signature(chain(True)) != reader._signature(chain(False))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"weight_norm"}))  # parametrised modules have a class each
def test_two_networks_of_a_family_are_one_code(name: str) -> None:
    reader = Reader()
    first, second = (reader._signature(build(name, seed=seed)[0]) for seed in range(2))
    assert first == second


def test_files_that_do_not_fit_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for file in files:
        save_state(Body().state_dict(), file)
    reader = Reader()
    held = reader.load(files[0])
    assert reader.load(str(files[0])) is held
    monkeypatch.setattr(reading, "HELD", 1)
    weights = reader.weights(held, "A")
    for file in files[1:]:
        reader.load(file)
    again = reader.load(files[0])
    assert again is not held
    assert reader.weights(again, "A") is not weights
    assert len(reader._files) == 2
    assert not any(value is weights or value is held for value in (*reader._kept.values(), *reader._found.values()))
