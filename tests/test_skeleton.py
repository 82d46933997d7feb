"""Modules that are code alone get their tensors from state dicts and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphalign import Alignment, Inputs, InvalidInput, SpecMismatch, align, group, save_state, trace
from graphalign.skeleton import materialised, with_tensors
from tests.traced import build, traced


class Net(nn.Module):
    """A residual block, so that no plain chain is recognised, with tied ends and a buffer that state dicts leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 6)
        self.tied = self.inside
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("offset", torch.ones(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x + self.offset)))
        result: Tensor = self.last(torch.relu(h + self.tied(torch.relu(self.inside(h)))))
        return result


@pytest.fixture
def hollow() -> nn.Module:
    module = Net().to("meta")
    module.offset = torch.ones(6)
    return module


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A network, and the same with its units shuffled."""
    torch.manual_seed(0)
    module = Net().eval()
    spec = trace(module, torch.zeros(2, 6))
    state = module.state_dict()
    save_state(state, tmp_path / "a.safetensors")
    moved = group.apply_to_state(spec, group.random_element(spec, torch.Generator().manual_seed(1)), state)
    torch.save(moved, tmp_path / "b.pt")
    return tmp_path / "a.safetensors", tmp_path / "b.pt"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_files_are_aligned_by_a_module_of_the_meta_device(device: str, hollow: nn.Module, files: tuple[Path, Path], tmp_path: Path) -> None:
    alignment = align(*files, module=hollow, example_input=torch.zeros(2, 6, device=device))
    alignment.apply_to_file(files[1], tmp_path / "c.safetensors")
    first, moved = (torch.load(f, weights_only=True) if f.suffix == ".pt" else _load(f) for f in (files[0], tmp_path / "c.safetensors"))
    assert first.keys() == moved.keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in first.items())
    assert alignment.moved > 0.5
    assert next(hollow.parameters()).is_meta, "the module is left as it was"


def _load(path: Path) -> dict[str, Tensor]:
    from graphalign import load_state

    return load_state(path)


def test_the_result_is_that_of_modules(hollow: nn.Module, files: tuple[Path, Path]) -> None:
    states = [_load(file) for file in files]
    modules = [Net().eval() for _ in files]
    for module, state in zip(modules, states, strict=True):
        module.load_state_dict(state)
    expected = align(*modules, example_input=torch.zeros(2, 6))
    found = align(*states, module=hollow, example_input=torch.zeros(2, 6))
    assert group.same(expected.permutations, found.permutations)
    assert expected.spec == found.spec


def test_ties_and_memory_are_kept(hollow: nn.Module) -> None:
    state = Net().state_dict()
    state.pop("tied.weight")
    filled = with_tensors(hollow, state, "A")
    assert filled.tied.weight is filled.inside.weight
    assert filled.inside.weight.data_ptr() == state["inside.weight"].data_ptr()
    assert not filled.training
    assert hollow.training


def test_everything_that_is_wrong_is_said_at_once(hollow: nn.Module) -> None:
    state = Net().state_dict()
    del state["first.weight"], state["norm.running_mean"]
    state["last.bias"] = torch.zeros(7)
    with pytest.raises(SpecMismatch) as raised:
        with_tensors(hollow, state, "network A")
    message = str(raised.value)
    assert "network A does not have the tensors of the module" in message
    assert "'first.weight' is missing, expected shape (16, 6)" in message
    assert "'norm.running_mean' is missing" in message
    assert "'last.bias' has shape (7,), expected (6,)" in message
    assert "module does not have: other.weight" not in message
    with pytest.raises(SpecMismatch, match=r"(?s)and 3 more\n  - tensors that the module does not have: other.weight\nPass the module that wrote them"):
        with_tensors(nn.Sequential(*(nn.Linear(2, 2) for _ in range(12))), {"0.weight": torch.zeros(2, 2), "other.weight": torch.ones(2)}, "A")
    with pytest.raises(InvalidInput, match=r"no values of the buffers \['offset'\], which are on the meta device"):
        with_tensors(Net().to("meta"), Net().state_dict(), "A")


def test_a_module_beside_a_module_is_refused(hollow: nn.Module) -> None:
    with pytest.raises(InvalidInput, match="found module= beside a network that is a module itself"):
        align(Net(), Net().state_dict(), module=hollow, example_input=torch.zeros(2, 6))
    with pytest.raises(InvalidInput, match=r"method 'transport': found module="):
        align(Net().state_dict(), Net().state_dict(), module=hollow, example_input=torch.zeros(2, 6), method="transport")
    with pytest.raises(InvalidInput, match="found a module and no example_input"):
        align(Net().state_dict(), Net().state_dict(), module=hollow)


def test_example_inputs_of_the_meta_device_become_zeros() -> None:
    found = materialised(Inputs(torch.ones(2, device="meta"), [torch.ones(1)], mask=torch.ones(3, dtype=torch.bool, device="meta")))
    assert found.args[0].tolist() == [0.0, 0.0]
    assert found.args[1][0].tolist() == [1.0]
    assert found.kwargs["mask"].tolist() == [False] * 3
    assert materialised({"x": torch.ones(1, device="meta")})["x"].device.type == "cpu"


def test_applying_to_a_file_is_applying_to_its_state(tmp_path: Path) -> None:
    network = traced("gpt")
    model, _ = build("gpt", seed=1)
    alignment = Alignment(network.spec, group.random_element(network.spec, torch.Generator().manual_seed(0)), "naive")
    state = {**model.state_dict(), "extra": torch.arange(3)}
    torch.save({"state_dict": state}, tmp_path / "b.pt")
    alignment.apply_to_file(tmp_path / "b.pt", tmp_path / "moved.safetensors")
    expected, found = alignment.apply(state), _load(tmp_path / "moved.safetensors")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(InvalidInput, match="exists already"):
        alignment.apply_to_file(tmp_path / "b.pt", tmp_path / "moved.safetensors")
    torch.save({k: v for k, v in state.items() if "norm" not in k and "ln" not in k}, tmp_path / "less.pt")
    with pytest.raises(SpecMismatch, match=r"less.pt does not fit the spec"):
        alignment.apply_to_file(tmp_path / "less.pt", tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
