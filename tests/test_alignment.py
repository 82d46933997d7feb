"""Alignments: applied, composed, inverted, written and read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graphalign import Alignment, CorruptFile, InvalidInput, SpecMismatch, group
from graphalign.files import load_state
from graphalign.spec import Cell, NetworkSpec
from tests.traced import Runner, cast, other_state, traced


def random_alignment(name: str, seed: int = 0) -> Alignment:
    spec = traced(name).spec
    return Alignment(spec, group.random_element(spec, torch.Generator().manual_seed(seed)), "random", seed)


NAMES = ["mlp_3", "resnext", "gpt"]


@pytest.mark.parametrize("name", NAMES)
def test_applied_to_a_module_it_is_a_copy_with_the_same_function(name: str) -> None:
    network, alignment = traced(name), random_alignment(name)
    before = {n: t.clone() for n, t in network.state.items()}
    moved = alignment.apply(network.model)
    assert moved is not network.model
    assert type(moved) is type(network.model)
    assert all(torch.equal(before[n], t) for n, t in network.state.items())
    state = {n: p for n, p in moved.state_dict().items() if n in before}
    assert any(not torch.equal(before[n], t) for n, t in state.items())
    assert Runner(network).difference(cast(state, torch.float64)) <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_modules_and_state_dicts_are_moved_alike(name: str) -> None:
    network, alignment = traced(name), random_alignment(name)
    state = alignment.apply(network.model.state_dict())
    expected = alignment.apply(network.model).state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(t, expected[n]) for n, t in state.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype_device_and_gradient_flags_are_kept(dtype: torch.dtype) -> None:
    network, alignment = traced("cnn_flatten_bn"), random_alignment("cnn_flatten_bn")
    state = cast(dict(network.model.state_dict()), dtype)
    moved = alignment.apply(state)
    assert all(t.dtype == state[n].dtype and t.device == state[n].device for n, t in moved.items())
    assert moved["1.num_batches_tracked"].dtype == torch.long
    model = alignment.apply(network.model)
    assert all(p.requires_grad for p in model.parameters())
    assert {n: m.training for n, m in model.named_modules()} == {n: m.training for n, m in network.model.named_modules()}


def test_meta_tensors_move_without_data() -> None:
    network, alignment = traced("mlp_3"), random_alignment("mlp_3")
    moved = alignment.apply({n: t.to("meta") for n, t in network.state.items()})
    assert all(t.device.type == "meta" and t.shape == network.state[n].shape for n, t in moved.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_inverse_undoes_it(name: str) -> None:
    network, alignment = traced(name), random_alignment(name)
    back = alignment.inverse().apply(alignment.apply(network.state))
    assert all(torch.equal(t, network.state[n]) for n, t in back.items())
    assert alignment.compose(alignment.inverse()).moved == 0.0
    assert alignment.inverse().compose(alignment).moved == 0.0
    twice = alignment.inverse().inverse().permutations
    assert all(torch.equal(perm, alignment.permutations[n]) for n, perm in twice.items())


@pytest.mark.parametrize("name", NAMES)
def test_composition_acts_as_one_after_the_other(name: str) -> None:
    network, first, then, last = traced(name), *(random_alignment(name, seed) for seed in range(3))
    one_by_one = then.apply(first.apply(network.state))
    at_once = first.compose(then).apply(network.state)
    other_way = then.compose(first).apply(network.state)
    assert all(torch.equal(t, one_by_one[n]) for n, t in at_once.items())
    assert any(not torch.equal(t, one_by_one[n]) for n, t in other_way.items())  # random elements do not commute
    left, right = first.compose(then).compose(last), first.compose(then.compose(last))
    assert all(torch.equal(perm, right.permutations[n]) for n, perm in left.permutations.items())
    assert first.compose(then).method == "random+random"


def test_alignments_of_different_specs_do_not_compose() -> None:
    with pytest.raises(InvalidInput, match=r"permutations cannot be composed: cells \[.*\] are missing or of another size"):
        random_alignment("mlp_3").compose(random_alignment("mlp_2"))


def test_other_networks_are_refused() -> None:
    with pytest.raises(SpecMismatch, match=r"the state dict does not fit the spec:\n(?s:.)*'0\.weight' has shape \(6, 3, 3, 3\), expected \(8, 5\)"):
        random_alignment("mlp_3").apply(other_state("cnn_flatten"))
    with pytest.raises(SpecMismatch, match=r"'4\.weight' is missing, expected shape"):
        random_alignment("mlp_3").apply({n: t for n, t in other_state("mlp_3").items() if n != "4.weight"})


def test_permutations_outside_the_group_are_refused() -> None:
    spec = traced("attention").spec
    identity = group.identity(spec)
    torn = {**identity, "attention[0:8]": torch.tensor([0, 4, 1, 2, 3, 5, 6, 7])}
    with pytest.raises(InvalidInput, match=r"cell 'attention\[0:8\]': units leave their block"):
        Alignment(spec, torn)
    apart = {**identity, "attention[0:8]": torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])}
    with pytest.raises(InvalidInput, match="share their blocks but permute them differently"):
        Alignment(spec, apart)
    with pytest.raises(InvalidInput, match=r"cell 'embed' has no permutation(?s:.)*"):
        Alignment(spec, {n: p for n, p in identity.items() if n != "embed"})


def test_the_share_of_moved_units() -> None:
    spec = traced("mlp_2").spec
    assert Alignment(spec, group.identity(spec)).moved == 0.0
    element = {**group.identity(spec), "0": torch.tensor([1, 2, 0, 3, 4, 5, 6, 7])}
    assert Alignment(spec, element).moved == pytest.approx(3 / 15)
    assert repr(Alignment(spec, element, "mine")) == "Alignment(method='mine', 2 cells, 15 units, 20% moved)"
    assert "<td>0</td><td>8</td><td>3</td>" in Alignment(spec, element)._repr_html_()


def test_many_cells_are_counted_in_a_notebook() -> None:
    spec = NetworkSpec(tuple(Cell(f"c{i}", 2) for i in range(43)), (), {})
    shown = Alignment(spec, group.identity(spec))._repr_html_()
    assert shown.count("<tr>") == 41
    assert "and 3 more cells" in shown


# -- files ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "llama", "shufflenet", "tied_autoencoder"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    alignment = random_alignment(name, seed=11)
    alignment.save(tmp_path / "a.safetensors")
    loaded = Alignment.load(tmp_path / "a.safetensors")
    assert loaded.spec == alignment.spec
    assert (loaded.method, loaded.seed) == ("random", 11)
    assert loaded.permutations.keys() == alignment.permutations.keys()
    assert all(torch.equal(perm, alignment.permutations[n]) for n, perm in loaded.permutations.items())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_alignment("mlp_2").save(path)
    with pytest.raises(InvalidInput, match="exists already; pass force=True"):
        random_alignment("mlp_2", seed=1).save(path)
    random_alignment("mlp_2", seed=1).save(path, force=True)
    assert Alignment.load(path).seed == 1


def test_folders_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be written: the folder .* does not exist; create it or pass another path"):
        random_alignment("mlp_2").save(tmp_path / "missing" / "a.safetensors")
    with pytest.raises(InvalidInput, match=r"the path ends in '\.pt', expected \.safetensors"):
        random_alignment("mlp_2").save(tmp_path / "a.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InvalidInput, match="does not exist; pass the path"):
        Alignment.load(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CorruptFile, match="found format None, expected 'graphalign-alignment-1'; pass a file that Alignment.save wrote"):
        Alignment.load(path)
    torch.save({"x": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CorruptFile, match="found format None, expected 'graphalign-alignment-1'"):
        Alignment.load(tmp_path / "a.pt")


@pytest.mark.parametrize("keep", [0, 7, 100, -1], ids=["empty", "header cut", "metadata cut", "last byte missing"])
def test_truncated_files_are_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_alignment("mlp_3").save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match="is no complete safetensors file"):
        Alignment.load(path)


def rewritten(path: Path, **changes: str | None) -> None:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_state(path)
    metadata.update({k: v for k, v in changes.items() if v is not None})
    save_file(tensors, path, metadata={k: v for k, v in metadata.items() if changes.get(k, v) is not None})


@pytest.mark.parametrize(
    "changes", [{"spec": "{"}, {"spec": "{}"}, {"spec": "[]"}, {"spec": None}, {"seed": "x"}],
    ids=["no json", "empty spec", "list", "no spec", "seed"],
)  # fmt: skip
def test_damaged_metadata_is_refused(changes: dict[str, str | None], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_alignment("mlp_3").save(path)
    rewritten(path, **changes)
    with pytest.raises(CorruptFile, match="the alignment in it cannot be used .*; write it again with Alignment.save"):
        Alignment.load(path)


def test_permutations_that_do_not_fit_their_spec_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    random_alignment("mlp_2").save(path)
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_state(path)
    tensors["0"][0] = tensors["0"][1]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CorruptFile, match=r"cannot be used (?s:.)*cell '0': not a permutation of 0\.\.7"):
        Alignment.load(path)


def test_alignments_cannot_be_changed() -> None:
    alignment = random_alignment("mlp_2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        alignment.method = "other"  # type: ignore[misc]
