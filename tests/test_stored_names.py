"""Models of transformers whose files have other names than their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign.checkpoints import read_checkpoint
from graphalign.errors import SpecMismatch
from graphalign.files import load_state, save_state
from graphalign.merged_files import checked_change, merge_files
from graphalign.opened import open_networks
from graphalign.recipes import Recipe
from graphalign.stored_names import stored_names

transformers = pytest.importorskip("transformers")


def vision(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    return transformers.ViTForImageClassification(config)


def language(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=20, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config)


def written(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)  # type: ignore[operator]
    return load_state(folder / "model.safetensors")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    with torch.random.fork_rng(devices=[]):
        for seed, name in enumerate("ab"):
            written(vision(seed), tmp_path / name)
    return [tmp_path / "a", tmp_path / "b"]


def test_names_in_files_lead_to_the_tensors_of_the_code(folders: list[Path]) -> None:
    model = transformers.ViTForImageClassification.from_pretrained(folders[0])
    state = load_state(folders[0] / "model.safetensors")
    names = stored_names(model, state)
    assert all(torch.equal(state[names.get(key, key)], tensor) for key, tensor in model.state_dict().items())
    assert stored_names(model, model.state_dict()) == {}
    assert stored_names(nn.Linear(2, 2), ["w"]) == {}


def test_other_libraries_save_by_a_method_of_this_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Published(nn.Linear):
        def save_pretrained(self, folder: str) -> None:
            raise NotImplementedError

    assert stored_names(Published(2, 2), ["x"]) == {}
    monkeypatch.setattr("graphalign.stored_names.find_spec", lambda name: None)
    monkeypatch.setattr("graphalign.stored_names.import_module", lambda name: pytest.fail("not installed"))
    assert stored_names(Published(2, 2), ["x"]) == {}
    assert stored_names(Published(2, 2), ["fc.weight", "fc.bias"]) == {"weight": "fc.weight", "bias": "fc.bias"}


@pytest.mark.parametrize("change", ["head", "no head", "gamma"])
def test_older_files_and_files_with_another_head(change: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model = vision(0)
    state = written(model, tmp_path)
    if change == "head":
        model = model.vit
    elif change == "no head":
        state = {key.removeprefix("vit."): tensor for key, tensor in state.items()}
    else:
        state = {key.replace("layernorm.weight", "layernorm.gamma").replace("layernorm.bias", "layernorm.beta"): t for key, t in state.items()}
        assert "vit.layernorm.gamma" in state
    names = stored_names(model, state)
    assert names
    assert all(torch.equal(state[names.get(key, key)], tensor) for key, tensor in model.state_dict().items())


def test_what_is_written_has_the_names_that_were_read(folders: list[Path], tmp_path: Path) -> None:
    opened = open_networks(folders)
    found = opened.align(method="weight")
    assert found.moved > 0
    assert checked_change(opened, 1, found).equal
    opened.write_aligned(found, tmp_path / "out")
    assert list(load_state(tmp_path / "out" / "model.safetensors")) == list(load_state(folders[1] / "model.safetensors"))
    before, after = (transformers.ViTForImageClassification.from_pretrained(f).eval() for f in (folders[1], tmp_path / "out"))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(before(x).logits, after(x).logits)
    assert not torch.equal(before.vit.layers[0].mlp.fc1.weight, after.vit.layers[0].mlp.fc1.weight)


def test_files_of_two_namings_are_merged_into_that_of_the_base(folders: list[Path], tmp_path: Path) -> None:
    model = transformers.ViTForImageClassification.from_pretrained(folders[1])
    state = {**model.state_dict(), "vit.unused": torch.ones(3)}
    save_state(state, folders[1] / "model.safetensors", force=True)
    for base, expected in ((0, load_state(folders[0] / "model.safetensors")), (1, model.state_dict())):
        merge_files(Recipe((str(folders[0]), str(folders[1])), (0.5, 0.5), base), tmp_path / f"out{base}")
        assert load_state(tmp_path / f"out{base}" / "model.safetensors").keys() == expected.keys()
        assert read_checkpoint(tmp_path / f"out{base}").folder
        assert (tmp_path / f"out{base}" / "config.json").is_file()


def test_norms_in_single_precision_pass_the_check(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        for seed, name in enumerate("ab"):
            written(language(seed), tmp_path / name)
    opened = open_networks([tmp_path / "a", tmp_path / "b"])
    change = checked_change(opened, 1, opened.align(method="weight"))
    assert change.equal
    assert change.scale > 1e-3


def test_names_that_mean_nothing_are_listed(folders: list[Path]) -> None:
    save_state({"x": torch.ones(3)}, folders[0] / "model.safetensors", force=True)
    with pytest.raises(SpecMismatch, match=r"(?s)'vit.embeddings.cls_token' is missing.*and \d+ more.*the module does not have: x\n"):
        open_networks(folders).problem()
