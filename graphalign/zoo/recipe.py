"""Recipes: on which data and how a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from graphalign.data import IMAGES
from graphalign.errors import InvalidInput
from graphalign.zoo.augmentation import AUGMENTATIONS
from graphalign.zoo.initialisation import INITIALISATIONS

OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
MOST_IMAGES = 1 << 31
MOST_EPOCHS = 1_000_000
MOST_RATE = 1e6
"""Largest learning rate and weight decay."""


@dataclass(frozen=True)
class Recipe:
    """How networks are trained.

    Attributes:
        data: name of a data set of `graphalign.data`.
        images: the first so many training images are used; all of them if None. Of no meaning for sine networks.
        epochs: passes over them.
        batch: images (pixels for sine networks) per step; the images left over in an epoch are dropped.
        optimiser: "adam", "adamw" (decoupled weight decay) or "sgd" (Nesterov momentum 0.9).
        rate: learning rate.
        weight_decay: coefficient of the optimiser.
        schedule: "constant", or "cosine" to 0 over all steps.
        initialisation: a key of `initialisation.INITIALISATIONS`.
        augmentation: a key of `augmentation.AUGMENTATIONS`.
        signal: sine networks represent this training image; None for classifiers.
    """

    data: str
    images: int | None = None
    epochs: int = 3
    batch: int = 100
    optimiser: str = "adam"
    rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    initialisation: str = "he"
    augmentation: str = "none"
    signal: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{field}: found {getattr(self, field)!r:.60}, expected {expected}"
            for field, right, expected in (
                ("data", isinstance(self.data, str) and self.data in IMAGES, f"one of {', '.join(IMAGES)}"),
                ("images", self.images is None or _counts(self.images, 1, MOST_IMAGES), f"a whole number from 1 to {MOST_IMAGES}, or null for all"),
                ("epochs", _counts(self.epochs, 1, MOST_EPOCHS), f"a whole number from 1 to {MOST_EPOCHS}"),
                ("batch", _counts(self.batch, 1, MOST_IMAGES), f"a whole number from 1 to {MOST_IMAGES}"),
                ("rate", _measures(self.rate) and self.rate > 0, f"a number above 0, at most {MOST_RATE:g}"),
                ("weight_decay", _measures(self.weight_decay), f"a number from 0 to {MOST_RATE:g}"),
                ("signal", self.signal is None or _counts(self.signal, 0, MOST_IMAGES), f"the number of a training image, at most {MOST_IMAGES}, or null"),
                ("optimiser", self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
                ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
                ("initialisation", self.initialisation in tuple(INITIALISATIONS), f"one of {', '.join(INITIALISATIONS)}"),
                ("augmentation", self.augmentation in tuple(AUGMENTATIONS), f"one of {', '.join(AUGMENTATIONS)}"),
            )
            if not right
        ]
        if problems:
            raise InvalidInput("recipe:\n" + "\n".join(f"  - {p}" for p in problems))

    @property
    def name(self) -> str:
        """`fashion_mnist-60000x3-b100-adam-1e-03-he`, and what differs from the defaults; different for different recipes."""
        parts = [self.data, f"{self.images or 'all'}x{self.epochs}", f"b{self.batch}", self.optimiser, f"{self.rate:g}", self.initialisation]
        parts += [f"wd{self.weight_decay:g}"] if self.weight_decay else []
        parts += [self.schedule] if self.schedule != "constant" else []
        parts += [self.augmentation] if self.augmentation != "none" else []
        parts += [f"image{self.signal}"] if self.signal is not None else []
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Its fields; `from_json` reads them."""
        return asdict(self)


def from_json(content: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_json` wrote.

    Raises:
        InvalidInput: unknown or missing fields, or values outside their range.
    """
    known = [f.name for f in fields(Recipe)]
    if unknown := sorted(content.keys() - set(known)):
        raise InvalidInput(f"recipe: found the fields {unknown}, expected some of {known}")
    if "data" not in content:
        raise InvalidInput("recipe: found no field data, expected the name of a data set; add it")
    return Recipe(**content)


def _counts(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _measures(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MOST_RATE
