"""A population of tiny networks of two families to train on, made once."""

from __future__ import annotations

from typing import Any

import pytest

from graphalign.training.cases import Case, Cases
from graphalign.zoo.population import generate
from graphalign.zoo.sections import read_sections
from graphalign.zoo.zoo import Zoo

DIGITS = {"data": "digits", "epochs": 4}
MLP = {"family": "mlp", "depth": 2, "width": [10, 12, 16]}
SECTIONS: dict[str, Any] = {
    "train_mlp": {"split": "train", "designs": 3, "seeds": 3, "design": MLP, "recipe": DIGITS},
    "train_vgg": {
        "split": "train", "designs": 1, "seeds": 2, "recipe": {**DIGITS, "epochs": 1},
        "design": {"family": "vgg", "depth": 2, "width": 6, "convolutions": 1, "hidden_layers": 0, "pool": 1, "norm": "batch"},
    },
    "train_siren": {
        "split": "train", "designs": 1, "seeds": 2, "design": {"family": "siren", "depth": 2, "width": 8},
        "recipe": {"data": "digits", "epochs": 20, "batch": 64, "initialisation": "siren", "signal": 0},
    },
    "validation_mlp": {
        "split": "validation", "designs": 1, "seeds": 2, "first_seed": 50, "recipe": DIGITS,
        "design": {"family": "mlp", "depth": 2, "width": 14},
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder = tmp_path_factory.mktemp("zoo")
    generate(read_sections(SECTIONS), folder, device="cpu")
    return Zoo.open(folder)


@pytest.fixture(scope="session")
def cases(zoo: Zoo) -> Cases:
    return Cases(zoo)


@pytest.fixture(scope="session")
def mlp(zoo: Zoo, cases: Cases) -> Case:
    return cases[zoo.select(section="train_mlp")[0]]


@pytest.fixture(scope="session")
def vgg(zoo: Zoo, cases: Cases) -> Case:
    return cases[zoo.select(section="train_vgg")[0]]
