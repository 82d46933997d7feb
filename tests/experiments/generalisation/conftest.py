"""A population of tiny networks of four kinds, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphalign.zoo.population import generate
from graphalign.zoo.sections import read_sections
from graphalign.zoo.zoo import Zoo

DIGITS = {"data": "digits", "epochs": 3}
SECTIONS: dict[str, Any] = {
    "width": {"split": "test", "designs": 2, "seeds": 4, "design": {"family": "mlp", "depth": 2, "width": [12, 16]}, "recipe": DIGITS},
    "depth_vgg": {
        "split": "test", "designs": 1, "seeds": 2, "recipe": {**DIGITS, "epochs": 1},
        "design": {"family": "vgg", "depth": 2, "width": 6, "convolutions": 1, "hidden_layers": 0, "pool": 1, "norm": "batch"},
    },
    "in_distribution": {
        "split": "test", "designs": 1, "seeds": 3, "design": {"family": "siren", "depth": 2, "width": 8},
        "recipe": {"data": "digits", "epochs": 20, "batch": 64, "initialisation": "siren", "signal": 0},
    },
    "validation": {"split": "validation", "designs": 1, "seeds": 2, "design": {"family": "mlp", "depth": 1, "width": 8}, "recipe": DIGITS},
}  # fmt: skip


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    folder: Path = tmp_path_factory.mktemp("zoo")
    generate(read_sections(SECTIONS), folder, device="cpu")
    return Zoo.open(folder)
