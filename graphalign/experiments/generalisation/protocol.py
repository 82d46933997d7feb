"""What is the same for every column: how many pairs and images, and how the line between two networks is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from graphalign.errors import InvalidInput

LEAST = {"points": 3, "seed": 0, "statistics_images": 2}


@dataclass(frozen=True)
class Protocol:
    """Settings of a measurement.

    Attributes:
        pairs: pairs of networks per architecture; all there are, if there are fewer.
        tuning_pairs: the first of them, on which columns with several settings choose one.
        points: values of lambda on the line, both ends included.
        test_images: held-out images, or pixels of a signal: the first ones.
        statistics_images: training images from which every network of a line gets new BatchNorm statistics.
        inputs: unlabelled training images that "inputs" are.
        images: training images that "images" are.
        batch: images in a batch.
        seed: of the order of training images; methods get the number of the pair on top.
    """

    pairs: int = 8
    tuning_pairs: int = 3
    points: int = 11
    test_images: int = 2000
    statistics_images: int = 2000
    inputs: int = 256
    images: int = 5000
    batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        found = [(f.name, getattr(self, f.name), LEAST.get(f.name, 1)) for f in fields(self)]
        problems = [f"{n}={v!r}, expected a whole number of at least {least}" for n, v, least in found if type(v) is not int or v < least]
        if not problems and self.tuning_pairs > self.pairs:
            problems.append(f"tuning_pairs={self.tuning_pairs}, expected at most pairs={self.pairs}")
        if problems:
            raise InvalidInput("protocol: found " + "; ".join(problems))


def read_protocols(content: Mapping[str, Any], families: Mapping[str, Mapping[str, Any]]) -> tuple[Protocol, dict[str, Protocol]]:
    """The protocol of a configuration, and those of families that have their own.

    Args:
        content: fields of `Protocol`.
        families: fields that differ, by family.

    Raises:
        InvalidInput: unknown keys, or values out of range.
    """
    known = [f.name for f in fields(Protocol)]
    if unknown := sorted({key for found in (content, *families.values()) for key in found} - set(known)):
        raise InvalidInput(f"protocol: found {', '.join(map(repr, unknown))}, expected some of {', '.join(known)}")
    return Protocol(**content), {name: Protocol(**{**content, **changes}) for name, changes in families.items()}


def round_robin(count: int, pairs: int) -> list[tuple[int, int]]:
    """Different pairs (i, j), i < j, of `count` networks, by the circle method: no network is in two pairs of a round.

    So every network is used as often as any other, up to one for the round that is cut off (and one for the network that sits
    out where the count is odd).

    Args:
        count: of networks.
        pairs: how many; all count (count - 1) / 2 if there are no more.
    """
    circle = [*range(count), *([-1] if count % 2 else [])]
    found: list[tuple[int, int]] = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        matches = zip(circle[:half], reversed(circle[half:]), strict=True)
        found += sorted((min(m), max(m)) for m in matches if -1 not in m)
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return found[:pairs]
