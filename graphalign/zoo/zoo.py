"""Reading a population."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from graphalign.zoo.images import Images, read_images
from graphalign.zoo.manifest import Group, read_manifest, read_states
from graphalign.zoo.population import images_of


@dataclass(frozen=True)
class Zoo:
    """A population on disk.

    Attributes:
        folder: where it is.
        groups: networks of one design and recipe each, sorted by name.
    """

    folder: Path
    groups: tuple[Group, ...]
    _sets: dict[str, Images] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Zoo:
        """The population of a folder; reads its manifest alone.

        Raises:
            InvalidInput: there is no manifest, or one of another version.
            CorruptFile: it cannot be read.
        """
        return cls(Path(folder), read_manifest(folder))

    def select(
        self, *, split: str | None = None, section: str | None = None, family: str | None = None, data: str | None = None,
    ) -> list[Group]:  # fmt: skip
        """The groups for which everything given is so.

        Args:
            split: "train", "validation" or "test".
            section: name of a section.
            family: of the design.
            data: name of the recipe's data set.
        """
        wanted = (split, section, family, data)
        return [
            g for g in self.groups
            if all(w in (None, f) for w, f in zip(wanted, (g.split, g.section, g.design.family, g.recipe.data), strict=True))
        ]  # fmt: skip

    def states(self, group: Group) -> list[dict[str, Tensor]]:
        """The state dicts of a group, one per seed.

        Raises:
            InvalidInput: the file is missing.
            CorruptFile: it is damaged or holds other networks.
        """
        return read_states(self.folder, group)

    def module(self, group: Group) -> nn.Module:
        """The network of a group's first seed, in eval mode.

        Raises:
            InvalidInput, CorruptFile: as `states`.
        """
        network = group.design.build(group.image, group.classes)
        network.load_state_dict(self.states(group)[0])
        return network.eval()

    def images(self, group: Group, root: str | os.PathLike[str] | None = None) -> Images:
        """What the networks of a group were trained on and are measured with; every data set is read once.

        Args:
            group: one of `groups`.
            root: of the data sets that are not embedded, see `graphalign.data`.

        Raises:
            InvalidInput, CorruptFile: as `graphalign.data.images`.
        """
        if group.recipe.data not in self._sets:
            self._sets[group.recipe.data] = read_images(group.recipe.data, root)
        return images_of(group.recipe, self._sets[group.recipe.data])
