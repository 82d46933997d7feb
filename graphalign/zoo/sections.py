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
"""Largest seed that a section may name."""
MOST_NETWORKS = 100_000
"""Of a section; what is drawn for it is held in memory."""
LONGEST = 200
"""Bytes of the name of a group: with what writing adds to it, file systems take no more than 255."""
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
    if not isinstance(content, Mapping):
        raise InvalidInput(f"sections: found {content!r:.40}, expected a mapping of sections by name")
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
        f"{second}: {design} with {recipe} and the seeds {seeds!s:.200} is in {first} too; change first_seed of one of them"
        for (first, second, design, recipe), seeds in found.items()
    ]


def _section(name: str, entry: Any, earlier: Mapping[str, Section]) -> Section:
    if not isinstance(entry, Mapping):
        raise InvalidInput(f"found {entry!r:.200}, expected a mapping with the keys {', '.join(KEYS)}")
    if problems := list(_problems(name, entry, earlier)):
        raise InvalidInput("\n".join(problems))
    key, first = f"{entry.get('seed') or 0}/{name}", entry.get("first_seed") or 0
    if "designs_of" in entry:
        members = _members_of(earlier[entry["designs_of"]], entry, key)
    else:
        known = {design.name for other in _names(entry.get("unlike")) for design, _ in earlier[other].members}
        members = _distinct(entry, key, known)
    problems = [problem for design, recipe in members for problem in misfits(design, recipe)]
    problems += [
        f"{title[:60]}...: found a name of {len(title.encode())} bytes, expected at most {LONGEST}; use fewer layers"
        for title in (f"{design.name}_{recipe.name}" for design, recipe in members) if len(title.encode()) > LONGEST
    ]  # fmt: skip
    if problems:
        raise InvalidInput("\n".join(problems))
    return Section(name, entry["split"], tuple(members), tuple(range(first, first + entry["seeds"])))


def _problems(name: Any, entry: Mapping[str, Any], earlier: Mapping[str, Section]) -> Iterator[str]:
    """What is wrong with the entries of a section, apart from its ranges."""
    yield from (f"found the key {key!r:.40}, expected some of {', '.join(KEYS)}" for key in entry if key not in KEYS)
    if not isinstance(name, str) or not name.isidentifier() or len(name.encode()) > LONGEST:
        yield f"found a name that cannot be that of a folder, expected letters, digits and _, at most {LONGEST}"
    if entry.get("split") not in SPLITS:
        yield f"split: found {entry.get('split')!r:.40}, expected one of {', '.join(SPLITS)}"
    referring, source = "designs_of" in entry, entry.get("designs_of")
    counts = (("seeds", 1, MOST_NETWORKS, False), ("designs", 1, MOST_NETWORKS, referring), ("first_seed", 0, MOST, True), ("seed", 0, MOST, True))
    wrong = [
        f"{key}: found {value!r:.40}, expected a whole number from {least} to {most}" for key, least, most, optional in counts
        if not ((value := entry.get(key)) is None and optional) and not (type(value) is int and least <= value <= most)
    ]  # fmt: skip
    yield from wrong
    all_of_them = len(earlier[source].members) if isinstance(source, str) and source in earlier else 1
    if not wrong and (asked := entry["seeds"] * (entry.get("designs") or all_of_them)) > MOST_NETWORKS:
        yield f"found {asked} networks (designs times seeds), expected at most {MOST_NETWORKS}; divide the section"
    for key in ("design", "recipe"):
        if not isinstance(entry.get(key, {}), Mapping) or (key not in entry and not referring):
            yield f"{key}: found {entry.get(key)!r:.200}, expected a mapping of its fields"
    if referring and "design" in entry:
        yield "found both design and designs_of, expected one of them"
    if referring and not isinstance(source, str):
        yield f"designs_of: found {source!r:.40}, expected the name of a section above"
    elif not isinstance(entry.get("unlike") or [], str | list | tuple):
        yield f"unlike: found {entry['unlike']!r:.40}, expected names of sections above"
    else:
        for other in [*_names(entry.get("unlike")), *_names(source)]:
            if not isinstance(other, str) or other not in earlier:
                yield f"found a reference to {other!r:.40}, expected a section above: {', '.join(earlier) or 'there is none'}"


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _members_of(other: Section, entry: Mapping[str, Any], key: str) -> list[tuple[Design, Recipe]]:
    count = entry.get("designs") or len(other.members)
    if count > len(other.members):
        raise InvalidInput(f"designs: found {count}, expected at most the {len(other.members)} of {other.name}")
    changed = entry.get("recipe", {})
    next(recipes({**other.members[0][1].to_json(), **changed}, key))  # says what is wrong with any value, drawn or not
    draw = Draws(changed, RECIPE, f"{key}/recipe")
    return [(d, replace(r, **{field: draw(field) for field in changed})) for d, r in other.members[:count]]


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


