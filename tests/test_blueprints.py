"""Code by name: models of libraries where they are installed, folders with a configuration, and names that mean nothing."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from graphalign import blueprints
from graphalign.blueprints import blueprint, from_folder, is_transformers_folder
from graphalign.errors import InvalidInput


class Timm(types.ModuleType):
    """Stands in for timm: the two functions that are called."""

    @staticmethod
    def is_model(name: str) -> bool:
        return name == "tiny.a1"

    @staticmethod
    def create_model(name: str, pretrained: bool, num_classes: int = 1000, in_chans: int = 3, img_size: int = 2) -> nn.Module:
        assert not pretrained
        model = nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))
        model.pretrained_cfg = {"input_size": (3, 2, 2)}
        return model


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", Timm("timm"))
    monkeypatch.setattr(blueprints, "find_spec", lambda name: object() if name == "timm" else None)


@pytest.mark.usefixtures("installed")
def test_a_name_of_timm() -> None:
    found = blueprint("tiny.a1(num_classes=7)")
    assert found.module(found.example_input).shape == (1, 7)
    found = blueprint("tiny.a1(in_chans=1, img_size=5)")
    assert found.module(found.example_input).shape == (1, 1000)


@pytest.mark.usefixtures("installed")
def test_names_that_mean_nothing() -> None:
    with pytest.raises(InvalidInput, match=r"(?s)found 'tyni', expected module:factory.*timm knows no such model\n  - transformers is not installed"):
        blueprint("tyni")
    with pytest.raises(InvalidInput, match=r"timm: .*unexpected keyword argument 'depth'"):
        blueprint("tiny.a1(depth=3)")
    with pytest.raises(InvalidInput, match=r"expected arguments with their names, such as tiny.a1\(num_classes=10\)"):
        blueprint("tiny.a1(3)")


def test_building_leaves_the_global_generator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("from torch import nn\ndef make(): return nn.Linear(3, 2)\n")
    state = torch.get_rng_state()
    assert isinstance(blueprint("code.py:make").module, nn.Linear)
    assert torch.equal(torch.get_rng_state(), state)


def test_folders_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_transformers_folder(tmp_path)
    for text in ("{", "[1]", "{}", "[" * 100000):
        (tmp_path / "config.json").write_text(text)
        assert not is_transformers_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert is_transformers_folder(tmp_path)
    monkeypatch.setattr(blueprints, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="a model of transformers, which is not installed; pip install transformers, or pass arch"):
        from_folder(tmp_path)


def test_a_configuration_of_transformers_is_code_and_may_claim_no_more_than_the_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=16, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    found = from_folder(tmp_path)
    assert found.module.state_dict().keys() == model.state_dict().keys()
    assert found.module(**found.example_input).logits.shape[-1] == 20
    content = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"n_embd": 2**16}, "do not belong together"), ({"n_layer": 10**9}, "found 1000000000 layers")):
        (tmp_path / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(InvalidInput, match=f"transformers cannot build this network: .*{message}"):
            from_folder(tmp_path)
