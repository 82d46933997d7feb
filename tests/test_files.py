"""Weights on disk: exact round trips, no half-written or silently replaced file, and no code run from a checkpoint."""

from __future__ import annotations

import json
import pickle
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphalign import files
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import atomic_write, check_weights, load_state, save_state
from graphalign.pickled import WRAPPERS

State = dict[str, Tensor]


def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(3, 4, generator=generator),
        "z.bias": torch.randn(3, generator=generator).to(torch.bfloat16),
        "a.weight": torch.randn(2, 3, generator=generator, dtype=torch.float64),
        "a.num_batches_tracked": torch.tensor(7),
        "empty": torch.empty(0, 3),
    }


def assert_equal(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def test_safetensors_round_trip_keeps_order_and_dtype(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "a.safetensors", metadata={"note": "hello"})
    assert_equal(load_state(tmp_path / "a.safetensors"), state())
    assert_equal(load_state(str(tmp_path / "a.safetensors")), state())
    assert sorted(load_file(tmp_path / "a.safetensors")) == sorted(state())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_safetensors_of_others(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    found = load_state(tmp_path / "a.safetensors")
    assert_equal({key: found[key] for key in state()}, state())


def test_metadata_is_stored(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "a.safetensors", metadata={"note": "hello"})
    header = (tmp_path / "a.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["note"] == "hello"


def test_shared_and_strided_tensors_are_stored_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    shared = {"a": base, "b": base, "transposed": base.T, "row": base[1], "parameter": nn.Parameter(base)}
    save_state(shared, tmp_path / "a.safetensors")
    found = load_state(tmp_path / "a.safetensors")
    assert all(torch.equal(found[k], shared[k]) for k in shared)
    assert shared["transposed"].data_ptr() == base.data_ptr()


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_state(state(), path)
    with pytest.raises(InvalidInput, match="a.safetensors exists already; pass force=True"):
        save_state({"x": torch.ones(1)}, path)
    assert_equal(load_state(path), state())
    save_state({"x": torch.ones(1)}, path, force=True)
    assert list(load_state(path)) == ["x"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_state(state(), tmp_path / "a.safetensors")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.safetensors")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("content", "name", "metadata", "message"),
    [
        ({}, "a.safetensors", None, "the state dict is empty"),
        ({"x": torch.ones(1)}, "a.pt", None, "the path ends in '.pt', expected .safetensors"),
        ({"x": 3}, "a.safetensors", None, "'x': found int, expected a dense tensor"),
        ({"x": torch.ones(2, 2).to_sparse()}, "a.safetensors", None, "'x': found Tensor, expected a dense tensor"),
        ({"x": torch.ones(1)}, "a.safetensors", {"n": 3}, "metadata 'n': found int, expected text"),
        ({"x": torch.ones(1)}, "absent/a.safetensors", None, "the folder .*absent does not exist; create it"),
    ],
)
def test_what_cannot_be_written(content: Any, name: str, metadata: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        save_state(content, tmp_path / name, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InvalidInput, match="a.safetensors is a folder; pass the path of a file"):
        save_state(state(), tmp_path / "a.safetensors", force=True)
    with pytest.raises(InvalidInput, match="a.safetensors is a folder; pass the path of a"):
        load_state(tmp_path / "a.safetensors")


@pytest.mark.parametrize("failure", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_failed_writes_leave_the_old_file_and_nothing_else(failure: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_state(state(), path)

    def fail(tensors: State, target: Path, metadata: dict[str, str]) -> None:
        Path(target).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(InvalidInput, match=f"a.safetensors cannot be written: {failure.strerror}; check the folder's permissions"):
        save_state({"x": torch.ones(1)}, path, force=True)
    monkeypatch.undo()
    assert_equal(load_state(path), state())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_atomic_write_keeps_the_old_file_when_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, force=True) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# -- torch.save ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_checkpoints_are_unwrapped(wrapper: str | None, ending: str, tmp_path: Path) -> None:
    content: Any = state() if wrapper is None else {"epoch": 3, "optimizer": {"lr": 0.1}, wrapper: OrderedDict(state())}
    torch.save(content, tmp_path / f"a.{ending}")
    assert_equal(load_state(tmp_path / f"a.{ending}"), state())


def test_parameters_come_back_detached(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save({"weight": model.weight, "bias": model.bias}, tmp_path / "a.pt")
    found = load_state(tmp_path / "a.pt")
    assert not any(t.requires_grad for t in found.values())
    assert torch.equal(found["weight"], model.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}}, r"several state dicts: \['state_dict', 'model'\]"),
        ({"ema": {"w": torch.ones(1)}, "step": 3}, r"'step': int \(tensors under \['ema'\]\), expected a dict of tensors"),
        ({"w": torch.ones(1), "step": 3}, "found a dict with 'w': Tensor, 'step': int, expected a dict of tensors"),
        ({}, "found a dict with no entries"),
        ([torch.ones(1)], "found list, expected a dict of tensors"),
        (torch.ones(1), "found Tensor, expected a dict of tensors"),
        ({"state_dict": {}}, "found a dict with 'state_dict': dict"),
    ],
)
def test_checkpoints_in_which_the_state_cannot_be_told(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match=f"a.pt.*{message}"):
        load_state(tmp_path / "a.pt")


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_checkpoints_is_not_run(legacy: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"w": torch.ones(1), "trap": Trap(sprung)}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("a.pt", "b.bin"):
        with pytest.raises(CorruptFile, match=r"(?s)holds Python objects besides tensors.*would run code.*torch.save\(model.state_dict\(\), path\)"):
            load_state(tmp_path / name)
    assert not sprung.exists()
    pickle.loads((tmp_path / "b.bin").read_bytes())
    assert sprung.exists()


def test_pickled_modules_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match="holds Python objects besides tensors"):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files(name: str, part: float, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pt")
    save_state(state(), tmp_path / "a.safetensors")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(part * len(content))])
    with pytest.raises(CorruptFile, match=rf"{name} is (no|damaged).*[Cc]opy or download it again"):
        load_state(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("content", [b"<html>404</html>" * 20, b"\x80\x02" + bytes(range(256)), bytes(64)])
def test_files_of_something_else(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=name):
        load_state(tmp_path / name)


def test_unknown_endings_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"a.onnx: unknown ending '.onnx', expected .safetensors"):
        load_state(tmp_path / "a.onnx")
    with pytest.raises(InvalidInput, match="none.pt does not exist"):
        load_state(tmp_path / "none.pt")


# -- shards --------------------------------------------------------------------------------------------------------------


def shards(folder: Path, **changes: str) -> Path:
    """Two shards with their index, whose weight map is changed as told."""
    parts = {"one.safetensors": ["z.weight", "z.bias"], "two.safetensors": ["a.weight", "a.num_batches_tracked", "empty"]}
    tensors = state()
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / name)
    weight_map = {key: name for name, keys in parts.items() for key in keys} | {k.replace("__", "."): v for k, v in changes.items()}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_sharded_states(tmp_path: Path) -> None:
    assert_equal(load_state(shards(tmp_path)), state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": "three.safetensors"}, "shard 'three.safetensors' is missing"),
        ({"more": "../one.safetensors"}, "shard '../one.safetensors' is not the name of a .safetensors file beside the index"),
        ({"more": "one.bin"}, "shard 'one.bin' is not the name of a .safetensors file"),
        ({"more": "one.safetensors"}, "'more' is not in shard 'one.safetensors'"),
        ({"z__bias": "two.safetensors"}, "(?s)'z.bias' is not in shard 'two.safetensors'.*shard 'one.safetensors' holds 'z.bias', which the index"),
    ],
)
def test_shards_that_do_not_fit_their_index(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=message):
        load_state(shards(tmp_path, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON: "), ("[]", "has no 'weight_map'"), ("{}", "has no 'weight_map'"), ('{"weight_map": {"a": 3}}', "has no 'weight_map'")],
)
def test_broken_indices(content: str, message: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(CorruptFile, match=f"index.json {message}"):
        load_state(index)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    index = shards(tmp_path)
    (tmp_path / "two.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes()[:-3])
    with pytest.raises(CorruptFile, match="two.safetensors is no complete safetensors file"):
        load_state(index)


# -- check_weights -------------------------------------------------------------------------------------------------------


def test_sound_weights_pass() -> None:
    check_weights(state(), "a")
    check_weights({"position_ids": torch.arange(4), "mask": torch.ones(2, dtype=torch.bool), "w": torch.ones(2).to(torch.float8_e4m3fn)}, "a")


def test_every_bad_tensor_is_listed() -> None:
    bad = {
        "nan.weight": torch.tensor([1.0, torch.nan, torch.nan]),
        "inf.bias": torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=torch.float16),
        "good": torch.ones(3),
        "quantised.weight": torch.ones(2, dtype=torch.int8),
        "attention.weight_hh": torch.ones(2, dtype=torch.int32),
        "sparse": torch.ones(2, 2).to_sparse(),
        "meta": torch.ones(2, device="meta"),
    }
    with pytest.raises(InvalidInput) as caught:
        check_weights(bad, "model_b")
    text = str(caught.value)
    assert text.startswith("model_b cannot be aligned:")
    for line in (
        "'nan.weight' has 2 NaN of 3 entries",
        "'inf.bias' has 1 NaN and 2 infinite of 3 entries",
        "'quantised.weight' has dtype torch.int8, expected a floating-point type",
        "'attention.weight_hh' has dtype torch.int32",
        "'sparse' is no dense tensor with values",
        "'meta' is no dense tensor with values",
    ):
        assert f"  - {line}" in text
    assert "'good'" not in text


def test_an_empty_state_is_refused() -> None:
    with pytest.raises(InvalidInput, match="model_a is empty: there are no tensors; pass the state dict of a trained network"):
        check_weights({}, "model_a")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are listed on Linux only")
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_tensors_are_mapped_from_files_and_not_read(name: str, tmp_path: Path) -> None:
    state = {"weight": torch.randn(64, 64), "bias": torch.randn(64)}
    path = tmp_path / name
    save_state(state, path) if name.endswith("safetensors") else torch.save(state, path)
    before = path.read_bytes()
    found = load_state(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    found["weight"] += 1
    assert path.read_bytes() == before, "what is written stays in memory"


def test_checkpoints_of_old_versions_are_read_whole(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_state(tmp_path / "old.pt")["weight"].tolist() == [1.0, 1.0, 1.0]


def test_non_finite_entries_are_counted_over_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphalign.files.FINITE_PART", 2)
    weight = torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), float("nan"), -float("inf")]])
    with pytest.raises(InvalidInput, match="'weight' has 2 NaN and 2 infinite of 6 entries"):
        check_weights({"weight": weight.T})
