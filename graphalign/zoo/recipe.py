"""Recipes: on which data and how a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from graphalign.errors import InvalidInput
from graphalign.zoo.augmentation import AUGMENTATIONS
from graphalign.zoo.initialisation import INITIALISATIONS

OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")


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
            f"{field}: found {getattr(self, field)!r}, expected {expected}"
            for field, right, expected in (
                ("data", isinstance(self.data, str) and self.data, "the name of a data set"),
                ("images", self.images is None or _counts(self.images, 1), "a whole number above 0, or null for all"),
                ("epochs", _counts(self.epochs, 1), "a whole number above 0"),
                ("batch", _counts(self.batch, 1), "a whole number above 0"),
                ("rate", _is_number(self.rate) and self.rate > 0, "a number above 0"),
                ("weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "a number of at least 0"),
                ("signal", self.signal is None or _counts(self.signal, 0), "the number of a training image, or null"),
                ("optimiser", self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
                ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
                ("initialisation", self.initialisation in INITIALISATIONS, f"one of {', '.join(INITIALISATIONS)}"),
                ("augmentation", self.augmentation in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
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


def _counts(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
