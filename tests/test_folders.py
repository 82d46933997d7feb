"""Folders appear complete or not at all, and shards hold what went in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphalign.checkpoints import read_checkpoint, write_checkpoint
from graphalign.errors import InvalidInput
from graphalign.folders import atomic_folder


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kinds = {"w": torch.float32, "h": torch.float16, "b": torch.bfloat16, "a": torch.float64}
    return {name: torch.randn(3, 5, generator=generator).to(kind) for name, kind in kinds.items()} | {"n": torch.tensor(3)}


@pytest.mark.parametrize("path", ["x.safetensors", "x.pt", "x"])
@pytest.mark.parametrize("shard_bytes", [50, 10**9])
def test_what_is_written_is_read_again(tmp_path: Path, path: str, shard_bytes: int) -> None:
    files = write_checkpoint(state(), tmp_path / path, {"note": "mine"}, shard_bytes=shard_bytes)
    found = read_checkpoint(tmp_path / path)
    assert list(found.state) == list(state())
    assert all(found.state[key].dtype == t.dtype and torch.equal(found.state[key], t) for key, t in state().items())
    assert found.metadata == ({} if path == "x.pt" else {"note": "mine"})
    assert {file.resolve() for file in files} == set(found.files)
    assert len(files) == (6 if path == "x" and shard_bytes == 50 else 1)
    with pytest.raises(InvalidInput, match="pass force=True"):
        write_checkpoint(state(), tmp_path / path)


def test_folders_have_no_ending_of_letters_alone(tmp_path: Path) -> None:
    for name in ("llama-3.1", "v2.0-chat", "plain"):
        assert write_checkpoint(state(), tmp_path / name) == [tmp_path / name / "model.safetensors"]
    (tmp_path / "there.txt").mkdir()
    write_checkpoint(state(), tmp_path / "there.txt")
    with pytest.raises(InvalidInput, match=r"x.ckpt ends in '.ckpt', expected .safetensors, .pt, .pth or the name of a folder"):
        write_checkpoint(state(), tmp_path / "x.ckpt")


def test_shards_of_an_earlier_result_do_not_stay(tmp_path: Path) -> None:
    write_checkpoint(state(), tmp_path / "x", shard_bytes=50)
    (tmp_path / "x" / "notes.txt").write_text("mine")
    write_checkpoint({"w": torch.ones(2)}, tmp_path / "x", force=True)
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == ["model.safetensors", "notes.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_folder_is_as_before(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("old")
    for name in ("x", "y"):
        with pytest.raises((KeyboardInterrupt, InvalidInput)), atomic_folder(tmp_path / name, force=True, stale=["old"]) as draft:
            (draft / "new").write_text("half")
            raise error
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["old"]


def test_folders_without_the_weights_that_are_meant(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"found the weights none, expected one of model.safetensors"):
        read_checkpoint(tmp_path)
    for name in ("first", "second"):
        write_checkpoint(state(), tmp_path / f"{name}.safetensors")
    with pytest.raises(InvalidInput, match="found the weights first.safetensors, second.safetensors"):
        read_checkpoint(tmp_path)
    (tmp_path / "second.safetensors").unlink()
    assert read_checkpoint(tmp_path).files == ((tmp_path / "first.safetensors").resolve(),)
    with pytest.raises(InvalidInput, match="is a file; pass the path of a folder"), atomic_folder(tmp_path / "first.safetensors", force=True):
        pass
