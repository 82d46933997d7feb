"""Sections of a population: which networks belong to which split, from a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from graphalign.errors import InvalidInput
from graphalign.zoo.design import Design
from graphalign.zoo.fitting import misfits
from graphalign.zoo.recipe import Recipe
from graphalign.zoo.sampling import RECIPE, Draws, designs, recipes

SPLITS = ("train", "validation", "test")
MOST = 1 << 31
"""Largest number that a section may name."""
TRIES = 1000
"""Draws in a row that may repeat earlier ones before the ranges count as exhausted."""
KEYS = ("split", "design", "recipe", "designs", "seeds", "first_seed", "designs_of", "unlike", "seed")


@dataclass(frozen=True)
class Section:
    """Networks that serve one purpose.

    Attributes:
        name: such as "train_mlp" or "unseen_width"; a folder of the population.
        split: "train", "validation" or "test".
        members: designs with their recipes, every one trained from each of the seeds.
        seeds: of the networks.
    """

    name: str
    split: str
    members: tuple[tuple[Design, Recipe], ...]
    seeds: tuple[int, ...]


def read_sections(content: Mapping[str, Any]) -> list[Section]:
    """The sections of a configuration, in its order.

    An entry of `content` is a section by its name, with the keys
    - split: "train", "validation" or "test";
    - seeds: networks per design, with the seeds `first_seed` (0), `first_seed` + 1, ...;
    - designs: how many pairs of a design and a recipe are drawn;
    - design: `family` and ranges of its fields (`sampling.SAMPLERS`);
    - recipe: ranges of the fields of `Recipe`;
    - seed: of the draws (0); sections of different names draw differently;
    - unlike: names of sections above, whose designs are not drawn;
    - designs_of: in place of `design`, the name of a section above: its first `designs` members (all if absent) with their
      recipes, in which the fields of `recipe` are replaced. With another `first_seed` this is a split by network.

    Raises:
        InvalidInput: lists everything that is wrong, with the section it is in; also networks (design, recipe and seed) that
            belong to more than one section.
    """
    sections: dict[str, Section] = {}
    problems: list[str] = []
    for name, entry in content.items():
        try:
            sections[name] = _section(name, entry, sections)
        except InvalidInput as error:
            problems += [f"{name}: {line.strip().removeprefix('- ')}" for line in str(error).splitlines()]
    if not content:
        problems.append("found no sections, expected at least one")
    problems += overlaps([(s.name, d, r, s.seeds) for s in sections.values() for d, r in s.members])
    if problems:
        raise InvalidInput("sections of the population:\n" + "\n".join(f"  - {p}" for p in problems))
    return list(sections.values())


def overlaps(groups: list[tuple[str, Design, Recipe, tuple[int, ...]]]) -> list[str]:
    """Networks that are in more than one section, as sentences."""
    owners: dict[tuple[str, str, int], str] = {}
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for section, design, recipe, seeds in groups:
        for seed in seeds:
            owner = owners.setdefault((design.name, recipe.name, seed), section)
            if owner != section:
                found.setdefault((owner, section, design.name, recipe.name), []).append(seed)
    return [
        f"{second}: {design} with {recipe} and the seeds {seeds} is in {first} too; change first_seed of one of them"
        for (first, second, design, recipe), seeds in found.items()
    ]


def _section(name: str, entry: Any, earlier: Mapping[str, Section]) -> Section:
    if not isinstance(entry, Mapping):
        raise InvalidInput(f"found {entry!r}, expected a mapping with the keys {', '.join(KEYS)}")
    problems = [f"found the key {key!r}, expected some of {', '.join(KEYS)}" for key in entry if key not in KEYS]
    problems += [] if name.isidentifier() else ["found a name that cannot be that of a folder, expected letters, digits and _"]
    problems += [] if entry.get("split") in SPLITS else [f"split: found {entry.get('split')!r}, expected one of {', '.join(SPLITS)}"]
    referring = "designs_of" in entry
    for key, least, optional in (("seeds", 1, False), ("designs", 1, referring), ("first_seed", 0, True), ("seed", 0, True)):
        value = entry.get(key)
        if not (optional and value is None) and not (type(value) is int and least <= value <= MOST):
            problems.append(f"{key}: found {value!r:.40}, expected a whole number from {least} to {MOST}")
    for key in ("design", "recipe"):
        if not isinstance(entry.get(key, {}), Mapping) or (key not in entry and not referring):
            problems.append(f"{key}: found {entry.get(key)!r}, expected a mapping of its fields")
    problems += ["found both design and designs_of, expected one of them"] if referring and "design" in entry else []
    for other in [*_names(entry.get("unlike")), *_names(entry.get("designs_of"))]:
        if other not in earlier:
            problems.append(f"found a reference to {other!r}, expected a section above: {', '.join(earlier) or 'there is none'}")
    if problems:
        raise InvalidInput("\n".join(problems))
    key, first = f"{entry.get('seed', 0)}/{name}", entry.get("first_seed", 0)
    if referring:
        members = _members_of(earlier[entry["designs_of"]], entry, key)
    else:
        known = {design.name for other in _names(entry.get("unlike")) for design, _ in earlier[other].members}
        members = _distinct(entry, key, known)
    problems = [problem for design, recipe in members for problem in misfits(design, recipe)]
    if problems:
        raise InvalidInput("\n".join(problems))
    return Section(name, entry["split"], tuple(members), tuple(range(first, first + entry["seeds"])))


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _members_of(other: Section, entry: Mapping[str, Any], key: str) -> list[tuple[Design, Recipe]]:
    count = entry.get("designs", len(other.members))
    if count > len(other.members):
        raise InvalidInput(f"designs: found {count}, expected at most the {len(other.members)} of {other.name}")
    draw = Draws(entry.get("recipe", {}), RECIPE, f"{key}/recipe")
    return [(d, replace(r, **{field: draw(field) for field in entry.get("recipe", {})})) for d, r in other.members[:count]]


def _distinct(entry: Mapping[str, Any], key: str, known: set[str]) -> list[tuple[Design, Recipe]]:
    seen: set[tuple[str, str]] = set()

    def fresh() -> Iterator[tuple[Design, Recipe]]:
        misses = 0
        for design, recipe in zip(designs(entry["design"], f"{key}/design"), recipes(entry["recipe"], f"{key}/recipe"), strict=True):
            pair = (design.name, recipe.name)
            if pair in seen or design.name in known:
                misses += 1
                if misses > TRIES:
                    expected = f"found {len(seen)} different ones, expected {entry['designs']}"
                    raise InvalidInput(f"designs: {expected}; lower designs, widen the ranges or leave out unlike")
                continue
            misses = 0
            seen.add(pair)
            yield design, recipe

    return list(islice(fresh(), entry["designs"]))


