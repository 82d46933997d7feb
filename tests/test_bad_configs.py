"""Whatever is wrong with a spec, a merge recipe or the configuration of a population or a training: one message, nothing run, nothing written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphalign.configuration import compose
from graphalign.files import save_state
from graphalign.spec_format import load_spec, spec_from_dict
from graphalign.training.settings import read_configuration
from graphalign.zoo.plan import read_plan
from tests.damaged.configs import bad_config, population, recipe, spec, training
from tests.damaged.judge import error_of, error_of_command, faults
from tests.damaged.sound import state

FEW, MANY, PART = 60, 1200, 100


def read_population(path: Path) -> Any:
    """What the command zoo does with a configuration before it trains."""
    return read_plan(compose("zoo", str(path)))


def read_training(path: Path) -> Any:
    """What the command train does with a configuration before it opens a population."""
    return read_configuration(compose("train", str(path)))


def actions(path: Path, folder: Path) -> dict[str, Callable[[], str | None]]:
    files = [str(folder / f"{name}.safetensors") for name in "ab"]
    return {
        "spec": lambda: error_of(load_spec, path),
        "spec of a command": lambda: error_of_command(["align", *files, "--spec", str(path), "--method", "weight", "-o", str(folder / "out.safetensors"), "-q"]),
        "recipe": lambda: error_of_command(["merge", str(path), str(folder / "out"), "-q"]),
        "population": lambda: error_of(read_population, path),
        "training": lambda: error_of(read_training, path),
    }  # fmt: skip


def judge(seeds: range, folder: Path) -> Counter[str]:
    found: list[str] = []
    judged: Counter[str] = Counter()
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        for number, name in enumerate("ab"):
            save_state(state(number), place / f"{name}.safetensors")
        what, wrong, path = bad_config(seed, place)
        way = "spec of a command" if what == "spec" and seed % 2 else what
        found += [f"{seed}, {way}, {wrong}: {fault}" for fault in faults(place, actions(path, place)[way])]
        judged[way] += 1
        shutil.rmtree(place)
    assert not found, "\n".join(found)
    return judged


def test_what_is_made_bad_is_sound(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        save_state(state(number), tmp_path / f"{name}.safetensors")
    spec_from_dict(spec())
    assert len(population()["sections"]) > 1
    for name, content in (("recipe", recipe()), ("population", population()), ("training", training())):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        assert actions(path, tmp_path)[name]() is None


def test_bad_configurations_are_refused(tmp_path: Path) -> None:
    assert len(judge(range(FEW), tmp_path)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, PART))
def test_many_bad_configurations_are_refused(first: int, tmp_path: Path) -> None:
    judge(range(10_000 + first, 10_000 + first + PART), tmp_path)
