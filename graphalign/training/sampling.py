"""Which networks are trained on, and how pairs are drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from graphalign.errors import InvalidInput
from graphalign.zoo.manifest import Group


@dataclass(frozen=True)
class Exclude:
    """What is left out: groups of whose design or recipe one of these is true.

    Attributes:
        family: families of designs.
        data: data sets.
        section: sections of the population.
        activation: activations.
        optimiser: optimisers of the recipes.
    """

    family: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    section: tuple[str, ...] = ()
    activation: tuple[str, ...] = ()
    optimiser: tuple[str, ...] = ()

    def allows(self, group: Group) -> bool:
        """Whether a group is used."""
        found = {
            "family": group.design.family, "data": group.recipe.data, "section": group.section,
            "activation": getattr(group.design, "activation", ""), "optimiser": group.recipe.optimiser,
        }  # fmt: skip
        return not any(found[name] in getattr(self, name) for name in found)


@dataclass(frozen=True)
class Limit:
    """How much of a population is trained on.

    Attributes:
        designs: most groups, taken from the families in turns; all of them if None.
        networks: most networks in all of them, as many from each group, at least two; all of them if None.
    """

    designs: int | None = None
    networks: int | None = None

    def __post_init__(self) -> None:
        least = {"designs": 1, "networks": 2}
        problems = [f"{n}={v!r}, expected at least {least[n]}" for n, v in vars(self).items() if v is not None and v < least[n]]
        if problems:
            raise InvalidInput("found " + "; ".join(problems))


@dataclass(frozen=True)
class Share:
    """How a family is trained on.

    Attributes:
        share: relative frequency of its batches.
        pairs: pairs of a batch.
        images: inputs of the inner steps and of the outer loss.
    """

    share: float = 1.0
    pairs: int = 4
    images: int = 128

    def __post_init__(self) -> None:
        problems = [f"share={self.share!r}, expected at least 0"] if self.share < 0 else []
        problems += [f"{n}={getattr(self, n)!r}, expected at least 1" for n in ("pairs", "images") if getattr(self, n) < 1]
        if problems:
            raise InvalidInput("found " + "; ".join(problems))


def in_turns(groups: Sequence[Group], count: int | None, seed: int) -> list[Group]:
    """At most `count` groups in a random order, taken from the families in turns."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    ranks: dict[str, int] = {}
    keyed = []
    for i in order:
        family = groups[i].design.family
        ranks[family] = ranks.get(family, 0) + 1
        keyed.append((ranks[family], i))
    return [groups[i] for _, i in sorted(keyed, key=lambda pair: pair[0])][:count]


def select(groups: Sequence[Group], exclude: Exclude, limit: Limit, seed: int) -> list[Group]:
    """The groups to train on, each with the seeds of the networks that are used.

    Raises:
        InvalidInput: there are none with two networks.
    """
    found = in_turns([g for g in groups if exclude.allows(g) and len(g.seeds) >= 2], limit.designs, seed)
    if limit.networks is not None:
        found = found[: limit.networks // 2]
        each = limit.networks // max(len(found), 1)
        found = [replace(g, seeds=g.seeds[:each]) for g in found]
    if not found:
        raise InvalidInput("training: found no group of two networks or more, expected some; change exclude=, limit= or the population")
    return found


@dataclass(frozen=True)
class Draw:
    """What one step trains on.

    Attributes:
        group: of the population.
        pairs: the networks of every pair, by their place in the group.
        share: of the family.
        generator: of everything random in the step.
    """

    group: Group
    pairs: tuple[tuple[int, int], ...]
    share: Share
    generator: torch.Generator


class Sampler:
    """Draws a group, by the shares of the families, and pairs of two different networks of it in either order.

    What is drawn depends on the seed, the step and the number of the draw alone, so that a run can go on anywhere and on any number
    of processes.

    Args:
        groups: to draw from.
        families: shares by family of design; those not named count as `Share()`.
        seed: of the draws.
    """

    def __init__(self, groups: Sequence[Group], families: Mapping[str, Share], seed: int) -> None:
        self.seed = seed
        self.by_family: dict[str, list[Group]] = {}
        for group in groups:
            self.by_family.setdefault(group.design.family, []).append(group)
        self.shares = {name: families.get(name, Share()) for name in sorted(self.by_family)}
        if not any(share.share for share in self.shares.values()):
            raise InvalidInput(f"families: found a share of 0 for all of {', '.join(self.shares)}, expected one above 0")

    def draw(self, step: int, index: int = 0) -> Draw:
        """One of the draws of a step."""
        number = int(np.random.SeedSequence([self.seed, step, index]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(number)
        names = list(self.shares)
        weights = torch.tensor([self.shares[name].share for name in names], dtype=torch.float64)
        name = names[int(torch.multinomial(weights, 1, generator=generator))]
        members = self.by_family[name]
        group = members[int(torch.randint(len(members), (1,), generator=generator))]
        count = len(group.seeds)
        ordered = [(i, j) for i in range(count) for j in range(count) if i != j]
        chosen = torch.randperm(len(ordered), generator=generator)[: self.shares[name].pairs].tolist()
        return Draw(group, tuple(ordered[i] for i in chosen), self.shares[name], generator)
