"""Files that are written tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from graphalign import InvalidInput, load_state
from graphalign.streamed import TYPES, save_streamed

STATE = {
    "n": torch.tensor(3), "half": torch.arange(3).bfloat16(), "flag": torch.tensor([True, False]), "wide": torch.randn(2, 3).double(),
    "moved": torch.arange(6.0).reshape(2, 3).T, "none": torch.empty(0, 4), "small": torch.arange(5, dtype=torch.uint8),
}  # fmt: skip


def test_any_reader_finds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_streamed(STATE, STATE.__getitem__, path, {"note": "text"})
    for found in (load_file(path), load_state(path)):
        assert {k: t.dtype for k, t in found.items()} == {k: t.dtype for k, t in STATE.items()}
        assert all(torch.equal(found[key], tensor) for key, tensor in STATE.items())
    assert list(load_state(path)) == list(STATE), "in the order of the keys, not in that of the data"
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata()["note"] == "text"


@pytest.mark.parametrize("dtype", TYPES)
def test_all_types_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([0.0, 1.0, 1.0]).to(dtype)
    save_streamed({"x": tensor}, {"x": tensor}.__getitem__, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")["x"]
    assert found.dtype == dtype
    assert torch.equal(found.float(), tensor.float())


def test_tensors_are_asked_for_one_at_a_time_and_once(tmp_path: Path) -> None:
    asked = []

    def produce(key: str) -> Tensor:
        asked.append(key)
        return torch.full((2,), float(len(asked)))

    save_streamed({"a": torch.empty(2, device="meta"), "b": torch.empty(2, device="meta")}, produce, tmp_path / "x.safetensors")
    assert asked == ["a", "b"]
    assert load_file(tmp_path / "x.safetensors")["b"].tolist() == [2.0, 2.0]


def test_data_are_aligned_to_their_type(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_streamed(STATE, STATE.__getitem__, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for key, tensor in STATE.items():
        assert (8 + length + header[key]["data_offsets"][0]) % tensor.element_size() == 0, key


def test_failures_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InvalidInput, match=r"'a' turned out as torch.float32 \(3,\), expected torch.float32 \(2,\)"):
        save_streamed({"a": torch.zeros(2)}, lambda _: torch.zeros(3), path)
    with pytest.raises(InvalidInput, match=r"'c' has dtype torch.complex64, expected one of"):
        save_streamed({"c": torch.zeros(2, dtype=torch.complex64)}, lambda _: torch.zeros(2), path)
    with pytest.raises(InvalidInput, match="ends in 'pt', expected .safetensors"):
        save_streamed({"a": torch.zeros(2)}, lambda _: torch.zeros(2), tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []
    save_streamed({"a": torch.zeros(2)}, lambda _: torch.zeros(2), path)
    with pytest.raises(InvalidInput, match="exists already; pass force=True"):
        save_streamed({"a": torch.ones(2)}, lambda _: torch.ones(2), path)
    save_streamed({"a": torch.ones(2)}, lambda _: torch.ones(2), path, force=True)
    assert load_file(path)["a"].tolist() == [1.0, 1.0]
