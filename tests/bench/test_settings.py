"""Configurations of the suites: all of them can be read, and what is wrong in one is said at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from graphalign.bench.settings import Settings, read_entries, read_settings, read_sizes
from graphalign.bench.suites import SUITES
from graphalign.configuration import names
from graphalign.errors import InvalidInput
from tests.bench.composed import composed


@dataclass(frozen=True)
class Sizes:
    count: int
    rate: float
    widths: tuple[int, ...]
    folder: Path | None


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("quick", [True, False])
def test_every_suite_reads_its_configurations(suite: str, quick: bool) -> None:
    settings = composed(suite, quick=quick)
    assert settings.repetitions >= 1
    read_sizes(import_module(f"graphalign.bench.{suite}").Sizes, settings.sizes, suite)


def test_every_configuration_belongs_to_a_suite() -> None:
    assert set(names("bench")) == {*SUITES, *(f"{suite}_quick" for suite in SUITES)}


def test_options_come_before_the_configuration_and_are_in_the_command() -> None:
    found = read_settings("x", {"repetitions": 3, "seed": 5, "size": 1}, seed=0, peers=Path("p"), options=["size=1"])
    assert (found.repetitions, found.seed, found.sizes) == (3, 0, {"size": 1})
    assert found.command == "graphalign bench x size=1 --repetitions 3 --seed 0 --peers FOLDER"
    with pytest.raises(InvalidInput, match="bench x: found repetitions=0, .*; seed=-1, expected"):
        read_settings("x", {"repetitions": 0, "seed": -1})
    assert Settings("x").sizes == {}


def test_sizes_are_read_and_frozen() -> None:
    found = read_sizes(Sizes, {"count": 2, "rate": 1, "widths": [1, 2], "folder": "a/b"}, "x")
    assert found == Sizes(2, 1, (1, 2), Path("a/b"))


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_sizes(Sizes, {"count": 0, "rate": "fast", "widths": 3, "size": 1}, "bench x")
    message = str(caught.value)
    for part in (
        "configuration of bench x:", "found the key 'size', expected some of count, rate, widths, folder", "count: found 0, expected a whole number",
        "rate: found 'fast', expected a number above 0", "widths: found 3, expected a list", "folder: found nothing, expected a path or null",
    ):  # fmt: skip
        assert part in message


def test_entries_are_named_and_there_must_be_some() -> None:
    good = {"count": 2, "rate": 1, "widths": [1], "folder": None}
    assert read_entries(Sizes, {"a": good, "b": None}, "x") == [Sizes(2, 1, (1,), None)]
    with pytest.raises(InvalidInput, match="x.b:\n.*count: found nothing"):
        read_entries(Sizes, {"a": good, "b": {"rate": 1}}, "x")
    with pytest.raises(InvalidInput, match="x: found no entries"):
        read_entries(Sizes, {}, "x")
