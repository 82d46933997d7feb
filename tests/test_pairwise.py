"""`align`: modules, state dicts and files in; and everything that must be refused."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphalign import Aligner, AlignerConfig, CorruptFile, InvalidInput, SpecMismatch, UnsupportedNetwork, align, group
from graphalign.files import save_state
from graphalign.methods.weight import Weight
from tests.planted import plant, recovered
from tests.traced import build, traced

METHODS = ["gnn", "weight"]


def mlp(hidden: int = 8, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 7), nn.ReLU(), nn.Linear(7, 3))


X = torch.zeros(2, 5)


def planted_mlp() -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """A, B = A with its units moved, and the permutations that bring B back."""
    a = mlp()
    network = traced("mlp_2")
    state, element = plant(network.spec, a.state_dict())
    b = mlp(seed=1)
    b.load_state_dict(state)
    return a, b, element


# -- what may come in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_modules_state_dicts_and_files_give_one_answer(method: str, tmp_path: Path) -> None:
    a, b, element = planted_mlp()
    save_state(a.state_dict(), tmp_path / "a.safetensors")
    torch.save(b.state_dict(), tmp_path / "b.pt")
    pairs: list[tuple[Any, Any, Any]] = [
        (a, b, X), (a, b.state_dict(), X), (a.state_dict(), b, X), (a.state_dict(), b.state_dict(), None),
        (tmp_path / "a.safetensors", str(tmp_path / "b.pt"), None), (a, tmp_path / "b.pt", X),
    ]  # fmt: skip
    for first, second, example in pairs:
        found = align(first, second, example_input=example, method=method)
        assert found.method == method
        assert recovered(found.permutations, element) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_an_aligned_copy_equals_the_reference(method: str) -> None:
    a, b, _ = planted_mlp()
    moved = align(a, b, example_input=X, method=method).apply(b)
    assert all(torch.equal(t, a.state_dict()[n]) for n, t in moved.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_networks_are_left_as_they_were(method: str) -> None:
    a, b, _ = planted_mlp()
    a.train()
    b.eval()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    align(a, b, example_input=X, method=method)
    assert a.training
    assert not b.training
    for model, copy in zip((a, b), before, strict=True):
        assert all(torch.equal(copy[n], t) for n, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_results_are_deterministic_for_a_seed(method: str) -> None:
    a, b = mlp(), mlp(seed=1)
    first = align(a, b, example_input=X, method=method, seed=3)
    torch.manual_seed(99)
    again = align(a, b, example_input=X, method=method, seed=3)
    assert first.seed == 3
    assert first.seconds >= 0
    assert all(torch.equal(perm, again.permutations[n]) for n, perm in first.permutations.items())


def test_an_aligner_or_its_folder_may_be_passed(tmp_path: Path) -> None:
    a, b, element = planted_mlp()
    aligner = Aligner(AlignerConfig(codes=16))
    aligner.save_pretrained(tmp_path / "aligner")
    for given in (aligner, tmp_path / "aligner", str(tmp_path / "aligner")):
        assert recovered(align(a, b, example_input=X, aligner=given).permutations, element) == 1.0


@pytest.mark.parametrize("name", ["gpt", "mixed_inputs", "weight_norm"])
def test_weights_for_a_module_may_lack_aliases_and_unsaved_buffers(name: str) -> None:
    model, example = build(name)
    network = traced(name)
    b, element = plant(network.spec, network.state)
    saved = {n: b[n] for n in model.state_dict() if n in b}
    found = align(model, saved, example_input=example, method="weight")
    assert recovered(found.permutations, element) == 1.0


def test_half_precision_networks() -> None:
    a, b, element = planted_mlp()
    for dtype in (torch.float16, torch.bfloat16):
        found = align(a.to(dtype), b.to(dtype), example_input=X.to(dtype))
        assert recovered(found.permutations, element) == 1.0


# -- what must be refused -----------------------------------------------------------------------------------------------------


def changed(**changes: Any) -> dict[str, Tensor]:
    """The state dict of an MLP with some entries replaced; None removes one. Names have _ for dots."""
    state = dict(mlp().state_dict())
    for name, value in changes.items():
        key = name[1:].replace("_", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


def with_entry(value: float) -> Tensor:
    weight = mlp().state_dict()["2.weight"].clone()
    weight[1, 2] = value
    return weight


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(h if h.sum() > 0 else -h)


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sort(self.first(x)).values)


STATE = mlp().state_dict()
BAD: dict[str, tuple[Callable[[], Mapping[str, Any]], type[Exception], str]] = {
    "another width": (lambda: {"b": mlp(9)}, SpecMismatch, r"(?s)0.*8.*9|9.*8"),
    "another width as state dicts": (lambda: {"a": STATE, "b": mlp(9).state_dict(), "example_input": None}, SpecMismatch, r"(?s)8.*9"),
    "another depth": (
        lambda: {"b": nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))}, SpecMismatch, r"(?s)4\.weight.*(missing|only)",
    ),
    "another activation": (
        lambda: {"b": nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))},
        SpecMismatch, r"(?s)relu.*tanh",
    ),
    "missing key": (
        lambda: {"b": changed(_2_bias=None)}, SpecMismatch, r"do not have the same tensors:\n  - '2\.bias' is only in A",
    ),
    "extra key": (
        lambda: {"b": changed(_9_bias=torch.zeros(3))}, SpecMismatch, r"'9\.bias' is only in B\nPass two networks of one architecture",
    ),
    "all problems at once": (
        lambda: {"b": changed(_2_bias=None, _9_bias=torch.zeros(3), _0_weight=torch.zeros(8, 4))}, SpecMismatch,
        r"(?s)'2\.bias' is only in A.*'9\.bias' is only in B.*'0\.weight' is \(8, 5\) in A and \(8, 4\) in B",
    ),
    "NaN": (
        lambda: {"b": changed(_2_weight=with_entry(torch.nan))}, InvalidInput,
        r"network B cannot be aligned:\n  - '2\.weight' has 1 NaN of 56",
    ),
    "infinity": (lambda: {"b": changed(_2_weight=with_entry(-torch.inf))}, InvalidInput, r"'2\.weight' has 1 infinite of 56 entries"),
    "NaN in A": (lambda: {"a": changed(_2_weight=with_entry(torch.nan)), "b": mlp()}, InvalidInput, r"network A cannot be aligned"),
    "empty mapping": (
        lambda: {"b": {}}, InvalidInput, r"network B: found an empty mapping, expected a torch\.nn\.Module, a state dict",
    ),
    "mapping without tensors": (lambda: {"b": {"x": 3}}, InvalidInput, r"network B: found dict, expected"),
    "number": (lambda: {"a": 3}, InvalidInput, r"network A: found int, expected"),
    "integer weights": (
        lambda: {"b": changed(_2_weight=torch.ones(7, 8, dtype=torch.int8))}, InvalidInput,
        r"'2\.weight' has dtype torch\.int8, expected a floating-point type",
    ),
    "wrong example": (
        lambda: {"example_input": torch.zeros(2, 6)}, InvalidInput,
        r"does not run on the example input of shape\(s\) \[\(2, 6\)\]: .*mat1 and mat2",
    ),
    "missing example": (lambda: {"example_input": None}, InvalidInput, r"found a module and no example_input; pass an input"),
    "no hidden unit": (
        lambda: {"a": nn.Linear(5, 3), "b": nn.Linear(5, 3)}, UnsupportedNetwork, r"Linear has no hidden unit that may move",
    ),
    "no parameters": (lambda: {"a": nn.ReLU(), "b": nn.ReLU()}, UnsupportedNetwork, r"ReLU has no parameters"),
    "control flow": (
        lambda: {"a": Branching(), "b": Branching()}, UnsupportedNetwork, r"(?s)Branching branches on the values of its data at .*torch\.where",
    ),
    "unknown operator": (
        lambda: {"a": Sorting(), "b": Sorting()}, UnsupportedNetwork, r"aten\.sort\.default in the network itself, .*test_pairwise",
    ),
    "unknown method": (lambda: {"method": "magic"}, InvalidInput, r"method: found 'magic', expected one of .*gnn.*weight"),
    "state dicts that are no chain": (
        lambda: {"a": traced("gpt").state, "b": traced("gpt").state, "example_input": None}, InvalidInput, r"(?s).+pass",
    ),
    "missing aligner": (lambda: {"aligner": "/nowhere/at/all"}, InvalidInput, r"found no config\.json and no model\.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_message(name: str) -> None:
    changes, error, message = BAD[name]
    arguments: dict[str, Any] = {"a": mlp(), "b": mlp(seed=1), "example_input": X, **changes()}
    with pytest.raises(error, match=message):
        align(arguments.pop("a"), arguments.pop("b"), **arguments)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing\.pt does not exist; pass the path of a"):
        align(mlp(), tmp_path / "nothing.pt", example_input=X)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_damaged_files_are_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"b.{ending}"
    if ending == "pt":
        torch.save(mlp().state_dict(), path)
    else:
        save_file(mlp().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptFile, match=r"b\.(safetensors is no complete|pt is damaged)"):
        align(mlp(), path, example_input=X)


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    torch.save({"0.weight": torch.zeros(2), "evil": Payload(trace)}, tmp_path / "b.pt")
    with pytest.raises(CorruptFile, match="was not loaded because that would run code"):
        align(mlp(), tmp_path / "b.pt", example_input=X)
    assert not trace.exists()
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(CorruptFile):
        align(mlp(), tmp_path / "plain.pt", example_input=X)
    assert not trace.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())  # the payload works, so its absence above means something
    assert trace.exists()


def test_output_paths_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    alignment = align(mlp(), mlp(seed=1), example_input=X, method="naive")
    with pytest.raises(InvalidInput, match=r"out\.safetensors is a folder; pass the path of a file"):
        (tmp_path / "out.safetensors").mkdir()
        alignment.save(tmp_path / "out.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written: the folder .* does not exist"):
        alignment.save(tmp_path / "file" / "out.safetensors")


def test_fixed_units_stay(tmp_path: Path) -> None:
    found = align(mlp(), mlp(seed=1), example_input=X, method="weight", fixed=("3",))
    assert list(found.permutations) == ["0"]
    group.check_element(found.spec, found.permutations)


# -- methods, their settings, and chains of them ----------------------------------------------------------------------------------


def test_settings_are_passed_by_name_or_in_an_instance() -> None:
    a, b = mlp(), mlp(seed=1)
    by_name = align(a, b, example_input=X, method="weight", restarts=4, seed=2)
    by_instance = align(a, b, example_input=X, method=Weight(restarts=4), seed=2)
    assert by_name.method == by_instance.method == "weight"
    assert all(torch.equal(perm, by_instance.permutations[n]) for n, perm in by_name.permutations.items())


def test_unknown_settings_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(InvalidInput, match=r"method 'weight': found unknown settings restart, tries; expected some of restarts"):
        align(mlp(), mlp(), example_input=X, method="weight", restart=1, tries=2)
    with pytest.raises(InvalidInput, match="method 'naive': found unknown settings restarts; it has none"):
        align(mlp(), mlp(), example_input=X, method="naive", restarts=1)
    with pytest.raises(InvalidInput, match=r"Weight: found settings \['restarts'\] beside it; put them into the solver itself"):
        align(mlp(), mlp(), example_input=X, method=Weight(), restarts=1)


def test_a_chain_keeps_what_every_method_did() -> None:
    a, b, element = planted_mlp()
    found = align(a, b, example_input=X, method="naive", refine="weight")
    assert found.method == "naive+weight"
    assert [stage.method for stage in found.history] == ["naive", "weight"]
    assert found.seconds == sum(stage.seconds for stage in found.history)
    assert found.history[0].objective is None
    assert found.history[1].objective is not None
    assert recovered(found.permutations, element) == 1.0


@pytest.mark.parametrize("init", ["naive", Weight(), "alignment", "permutations"])
def test_a_method_starts_where_it_is_told_to(init: Any) -> None:
    a, b, element = planted_mlp()
    if init in ("alignment", "permutations"):
        known = align(a, b, example_input=X, method="weight")
        init = known if init == "alignment" else known.permutations
    found = align(a, b, example_input=X, method="weight", init=init)
    assert recovered(found.permutations, element) == 1.0


def test_a_method_without_a_start_cannot_refine() -> None:
    for arguments in ({"refine": "gnn"}, {"method": "gnn", "init": "naive"}, {"method": "gnn", "init": {}}):
        with pytest.raises(InvalidInput, match=r"method 'gnn' does not start from permutations found before; let it come first, or choose one of .*weight"):
            align(mlp(), mlp(), example_input=X, **{"method": "weight", **arguments})  # type: ignore[arg-type]


def test_permutations_to_start_from_must_fit() -> None:
    with pytest.raises(InvalidInput, match="0"):
        align(mlp(), mlp(), example_input=X, method="weight", init={"0": torch.arange(7)})
