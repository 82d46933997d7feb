"""What a suite of benchmarks is told and what it gives back. Loads no torch: the command line reads it for its help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graphalign.errors import InvalidInput

if TYPE_CHECKING:
    from graphalign.experiments.results import Table

Sizes = TypeVar("Sizes")
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number of at least 1", lambda v: type(v) is int and v >= 1),
    "float": ("a number above 0", lambda v: type(v) in (int, float) and v > 0),
    "bool": ("true or false", lambda v: type(v) is bool),
    "str": ("a text", lambda v: isinstance(v, str)),
    "Path | None": ("a path or null", lambda v: v is None or isinstance(v, str)),
    "tuple": ("a list with at least one entry", lambda v: isinstance(v, Sequence) and not isinstance(v, str) and len(v) > 0),
    "Mapping": ("a mapping", lambda v: isinstance(v, Mapping)),
}
"""What a field of sizes may hold, by its type or what that type begins with."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        suite: its name.
        sizes: what the configuration says besides; each suite reads it by `read_sizes`.
        repetitions: warm runs of every measurement, at least 1.
        seed: of networks, shuffles and everything random in the methods.
        peers: folder with other implementations, see `graphalign.bench.peers`; None to measure ours alone.
        options: words of the command line that chose the configuration.
    """

    suite: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    repetitions: int = 7
    seed: int = 11000
    peers: Path | None = None
    options: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that measures the same."""
        words = ["graphalign bench", self.suite, *self.options, "--repetitions", str(self.repetitions), "--seed", str(self.seed)]
        return " ".join([*words, *(["--peers FOLDER"] if self.peers is not None else [])])


def read_settings(
    suite: str, content: Mapping[str, Any], *, repetitions: int | None = None, seed: int | None = None, peers: Path | None = None,
    options: Sequence[str] = (),
) -> Settings:  # fmt: skip
    """The settings of a configuration.

    Args:
        suite: its name.
        content: `repetitions`, `seed` and the sizes of the suite.
        repetitions: in the place of those of the configuration, if given.
        seed: in the place of that of the configuration, if given.
        peers: see `Settings`.
        options: see `Settings`.

    Raises:
        InvalidInput: a number of repetitions or a seed that is none.
    """
    sizes = dict(content)
    runs, own_seed = sizes.pop("repetitions", Settings.repetitions), sizes.pop("seed", Settings.seed)
    runs, own_seed = runs if repetitions is None else repetitions, own_seed if seed is None else seed
    problems = [f"repetitions={runs!r}, expected a whole number of at least 1"] if type(runs) is not int or runs < 1 else []
    problems += [f"seed={own_seed!r}, expected a whole number of at least 0"] if type(own_seed) is not int or own_seed < 0 else []
    if problems:
        raise InvalidInput(f"configuration of bench {suite}: found {'; '.join(problems)}")
    return Settings(suite, sizes, runs, own_seed, peers, tuple(options))


def read_sizes(kind: type[Sizes], content: Mapping[str, Any], where: str) -> Sizes:
    """An object of a dataclass from a mapping of its fields: lists become tuples, mappings stay as they are.

    Raises:
        InvalidInput: lists the keys that are missing or unknown, and values of another type.
    """
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    problems = [f"found the key {key!r}, expected some of {', '.join(known)}" for key in content if key not in known]
    values: dict[str, Any] = {}
    for name, annotation in known.items():
        expected, fits = EXPECTED[annotation if annotation in EXPECTED else annotation.partition("[")[0]]
        if name not in content:
            problems.append(f"{name}: found nothing, expected {expected}")
        elif not fits(content[name]):
            problems.append(f"{name}: found {content[name]!r}, expected {expected}")
        else:
            values[name] = Path(content[name]) if annotation.startswith("Path") and content[name] is not None else _frozen(content[name])
    if problems:
        raise InvalidInput(f"configuration of {where}:\n" + "\n".join(f"  - {p}" for p in problems))
    return kind(**values)


def read_entries(kind: type[Sizes], content: Mapping[str, Any], where: str) -> list[Sizes]:
    """The entries of a mapping of mappings, each read by `read_sizes`; those that are null are left out.

    Raises:
        InvalidInput: lists the problems of all entries.
    """
    found, problems = [], []
    for name, entry in content.items():
        if entry is None:  # an entry that a configuration built on another one leaves out
            continue
        try:
            found.append(read_sizes(kind, entry if isinstance(entry, Mapping) else {}, f"{where}.{name}"))
        except InvalidInput as error:
            problems.append(str(error))
    if problems or not found:
        raise InvalidInput("\n".join(problems) or f"configuration of {where}: found no entries, expected at least one")
    return found


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Report:
    """What a suite measured.

    Attributes:
        results: the contents of the results file, as `graphalign.experiments.results.publish` takes them.
        tables: generated from the results.
        draw: writes a figure of the results to a path; None without one.
    """

    results: Mapping[str, Any]
    tables: Sequence[Table]
    draw: Callable[[Path], None] | None = None


Suite = Callable[[Settings], Report]
