"""Whatever is wrong with a file: one message, nothing run, nothing changed, nothing written, no more memory than its size calls for."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

import graphalign
from graphalign.files import save_state
from tests.damaged.files import KINDS, MAY_BE_SOUND, SOUND_ALONE, bad_file
from tests.damaged.judge import error_of, error_of_command, faults
from tests.damaged.sound import state

FEW, MANY, PART = 150, 5600, 400


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    save_state(state(0), path)
    assert error_of(graphalign.align, path, path, method="weight") is None
    for number in range(8):  # what commands import when they run for the first time is not the memory of a file
        assert error_of_command(command(number, path, path.with_name("none.pt"), path.parent)) is not None
        place = tmp_path_factory.mktemp("written")
        assert error_of_command(command(number, path, path, place)) is None
    return path


def command(number: int, good: Path, bad: Path, folder: Path, *, pairs: bool = False) -> list[str]:
    """One of the commands that read networks, or pairs of them, with the bad file first or second."""
    pair = [str(good), str(bad)][:: 1 if number % 2 else -1]
    names = ("align", "merge", "compare") if pairs else ("align", "merge", "inspect", "compare")
    name = names[number // 2 % len(names)]
    written = {"align": ["--method", "weight", "-o", str(folder / "out.safetensors")], "merge": ["--method", "weight", "-o", str(folder / "out")]}
    return [name, *(pair if name != "inspect" else [str(bad)]), *written.get(name, []), "-q"]


def judge(seeds: range, good: Path, folder: Path, *, commands: bool) -> Counter[str]:
    """How many bad files of each kind were judged; those that turn out to be sound are left out."""
    found: list[str] = []
    judged: Counter[str] = Counter()
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        kind, path = bad_file(seed, place)
        if commands:
            arguments = command(seed, good, path, place, pairs=kind in SOUND_ALONE)
            wrong = faults(place, lambda arguments=arguments: error_of_command(arguments))
        else:
            wrong = faults(place, lambda path=path: error_of(graphalign.align, good, path, method="weight"))
        if kind in MAY_BE_SOUND and wrong and wrong[0] == "succeeded":
            found += [f"{seed}, {kind}: {fault}" for fault in wrong if fault.startswith("took")]
            continue
        judged[kind] += 1
        found += [f"{seed}, {kind}, {path.name[:60]}: {fault}" for fault in wrong]
        shutil.rmtree(place)
    assert not found, "\n".join(found)
    return judged


def test_bad_files_are_refused(good: Path, tmp_path: Path) -> None:
    assert judge(range(FEW), good, tmp_path, commands=False).keys() == set(KINDS)


def test_commands_refuse_bad_files(good: Path, tmp_path: Path) -> None:
    assert judge(range(FEW, FEW + 24), good, tmp_path, commands=True).total() > 18


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, PART))
def test_many_bad_files_are_refused(first: int, good: Path, tmp_path: Path) -> None:
    assert judge(range(10_000 + first, 10_000 + first + PART), good, tmp_path, commands=False).total() >= 0.9 * PART


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, PART))
def test_commands_refuse_many_bad_files(first: int, good: Path, tmp_path: Path) -> None:
    assert judge(range(10_000 + first, 10_000 + first + PART), good, tmp_path, commands=True).total() >= 0.9 * PART
