"""Groups of networks on disk: one file of weights and one small JSON beside it, and the manifest that collects them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import graphalign
from graphalign.errors import CorruptFile, GraphAlignError, InvalidInput
from graphalign.files import ORDER, AnyPath, atomic_write, load_state
from graphalign.zoo import design as designs
from graphalign.zoo import recipe as recipes
from graphalign.zoo.design import Design
from graphalign.zoo.networks import Shape
from graphalign.zoo.recipe import Recipe

MANIFEST = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Group:
    """Networks of one design and recipe, one per seed.

    Attributes:
        section: name of the section it belongs to.
        split: "train", "validation" or "test".
        design: the architecture.
        recipe: how they were trained.
        seeds: of the networks, in their order in the file.
        image: channels, height and width of what they were trained on.
        classes: number of classes.
        accuracies: on held-out images, one per network; empty for sine networks.
        psnr: of a signal's reconstruction in dB, one per network; empty for classifiers.
        test_images: how many the accuracies are measured on.
        sha256: of the file of weights.
        seconds: that training one network took.
        made_with: versions of graphalign and torch, and type of device.
    """

    section: str
    split: str
    design: Design
    recipe: Recipe
    seeds: tuple[int, ...]
    image: Shape = (0, 0, 0)
    classes: int = 0
    accuracies: tuple[float, ...] = ()
    psnr: tuple[float, ...] = ()
    test_images: int = 0
    sha256: str = ""
    seconds: float = 0.0
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Section, design and recipe: the path of its files without ending."""
        return f"{self.section}/{self.design.name}_{self.recipe.name}"

    @property
    def file(self) -> str:
        """Path of its weights in the folder of the population."""
        return f"{self.name}.safetensors"

    def to_json(self) -> dict[str, Any]:
        """Its fields; `group_from_json` reads them."""
        return {**asdict(self), "design": self.design.to_json(), "recipe": self.recipe.to_json(), "made_with": dict(self.made_with)}


def group_from_json(content: Mapping[str, Any]) -> Group:
    """The group that `Group.to_json` wrote.

    Raises:
        InvalidInput, KeyError, TypeError: the content is not that of a group.
    """
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    values |= {"design": designs.from_json(content["design"]), "recipe": recipes.from_json(content["recipe"])}
    return Group(**values)


def write_group(folder: Path, group: Group, states: Sequence[Mapping[str, Tensor]]) -> Group:
    """Writes the weights of a group, then its JSON; returns it with the hash of its file.

    The file holds the tensors `SEED_INDEX.KEY` and, so that equal networks give equal bytes, a single metadata entry: safetensors
    writes several in any order.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    (folder / group.section).mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}.{key}": tensor for i, state in enumerate(states) for key, tensor in state.items()}
    with atomic_write(folder / group.file, force=True) as draft:
        save_file(tensors, draft, metadata={ORDER: json.dumps(list(tensors))})
    written = Group(**{**vars(group), "sha256": _sha256(folder / group.file)})
    _write_json(folder / f"{group.name}.json", written.to_json())
    return written


def read_states(folder: Path, group: Group) -> list[dict[str, Tensor]]:
    """The state dicts of a group, one per seed; a group whose seeds are the first ones of those in the file gets the first networks.

    Raises:
        InvalidInput: the file is missing.
        CorruptFile: it is damaged or holds fewer networks.
    """
    states: list[dict[str, Tensor]] = [{} for _ in group.seeds]
    for name, tensor in load_state(folder / group.file).items():
        index, _, key = name.partition(".")
        if not index.isdecimal():
            raise CorruptFile(f"{folder / group.file}: found '{name}', expected names that start with the number of a network; generate it again")
        if int(index) < len(states):
            states[int(index)][key] = tensor
    if missing := sum(not state for state in states):
        raise CorruptFile(f"{folder / group.file}: found {len(states) - missing} networks, expected {len(states)}; generate it again")
    return states


def complete(folder: Path, group: Group) -> bool:
    """Whether the weights on disk are those the group was written with."""
    file = folder / group.file
    return file.is_file() and _sha256(file) == group.sha256


def read_groups(folder: Path) -> dict[str, Group]:
    """The groups that were finished, by name, from the JSON beside every file of weights.

    Raises:
        CorruptFile: a JSON that is none of a group.
    """
    groups = {}
    for file in sorted(folder.glob("*/*.json")):
        group = _read_group(file)
        groups[group.name] = group
    return groups


def write_manifest(folder: Path) -> None:
    """Collects the groups of a folder in manifest.json; processes that share the folder may do so at any time.

    It is written until the groups found after writing are those written: the last of several processes leaves them all.
    """
    groups: dict[str, Group] | None = None
    while groups != (found := read_groups(folder)):
        groups = found
        content = {"version": VERSION, "graphalign": graphalign.__version__, "groups": [g.to_json() for g in groups.values()]}
        _write_json(folder / MANIFEST, content)


def read_manifest(folder: AnyPath) -> tuple[Group, ...]:
    """The groups of a manifest, sorted by name.

    Raises:
        InvalidInput: there is no manifest, or one of another version.
        CorruptFile: it cannot be read.
    """
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise InvalidInput(f"{file} does not exist; generate a population there with `graphalign zoo --out {folder}`, or pass its folder")
    content = _read_json(file)
    version = content.get("version")
    if version != VERSION:
        raise InvalidInput(f"{file}: found version {version!r}, expected {VERSION}; generate the population again, or update graphalign")
    return tuple(_group(entry, file) for entry in content.get("groups", ()))


def _read_group(file: Path) -> Group:
    return _group(_read_json(file), file)


def _group(content: Any, file: Path) -> Group:
    try:
        return group_from_json(content)
    except (GraphAlignError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{file}: found an entry that is no group of networks ({error}); remove the file and generate it again") from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{file} cannot be read ({error}); remove it and run `graphalign zoo` again") from None
    if not isinstance(content, dict):
        raise CorruptFile(f"{file}: found {type(content).__name__}, expected a mapping; remove it and run `graphalign zoo` again")
    return content


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(file, force=True) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
