"""The settings of a training run, read from plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from graphalign.aligner import AlignerConfig
from graphalign.errors import InvalidInput
from graphalign.training.objective import Losses, Unrolled
from graphalign.training.planted import Augmentation
from graphalign.training.sampling import Exclude, Limit, Share
from graphalign.training.teachers import Teacher

Part = TypeVar("Part")


BEST = "best"
"""Folder of a run in which its best aligner is."""


@dataclass(frozen=True)
class PriorSettings:
    """The prior of images; see `fit_prior`.

    Attributes:
        data: names of data sets whose training images it is fitted to; those of the training networks if None.
        components, rank, dimensions, most: see `fit_prior`.
    """

    data: tuple[str, ...] | None = None
    components: int = 64
    rank: int = 16
    dimensions: int = 256
    most: int = 30_000


@dataclass(frozen=True)
class Optimiser:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
        rate: learning rate.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        schedule: "constant", or "cosine" to 0 over all steps.
    """

    rate: float = 0.01
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise InvalidInput(f"schedule: found {self.schedule!r}, expected 'constant' or 'cosine'")


@dataclass(frozen=True)
class Validation:
    """How checkpoints are compared.

    Attributes:
        every: training steps between two validations.
        groups: most architectures, taken from the families in turns; all of them if None.
        pairs: pairs of each.
        images: held-out images.
        inputs: unlabelled training inputs of the validation with data.
    """

    every: int = 50
    groups: int | None = None
    pairs: int = 2
    images: int = 1000
    inputs: int = 256


@dataclass(frozen=True)
class Engine:
    """Arguments of `lightning_fabric.Fabric`; under torchrun the number of devices is that of its processes."""

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass(frozen=True)
class Settings:
    """Everything that determines a training run.

    Attributes:
        steps: of training.
        draws: batches of pairs of a step, whose gradients are averaged; several processes share them.
        minutes: the run ends after so many, if that is earlier; None for no such limit.
        seed: of everything random.
        start: folder of a saved aligner to start from, with its prior; None for a new one.
        aligner: what is not learned; None for that of `start`, or of a new aligner.
        prior: how its prior is fitted, None for none; that of `start` is kept.
        families: how often they are drawn and in which batches, by family of design.
        exclude: what is left out of training and validation.
        limit: how much of the population is used.
        losses: their weights.
        unrolled: the training through refinement.
        teacher: what is distilled.
        planted: the augmentations of planted pairs.
        optimiser: of the parameters.
        validation: how checkpoints are compared.
        engine: where and how it runs.
    """

    steps: int = 200
    draws: int = 1
    minutes: float | None = None
    seed: int = 0
    start: str | None = None
    aligner: AlignerConfig | None = None
    prior: PriorSettings | None = None
    families: Mapping[str, Share] = field(default_factory=dict)
    exclude: Exclude = field(default_factory=Exclude)
    limit: Limit = field(default_factory=Limit)
    losses: Losses = field(default_factory=Losses)
    unrolled: Unrolled = field(default_factory=Unrolled)
    teacher: Teacher = field(default_factory=Teacher)
    planted: Augmentation = field(default_factory=Augmentation)
    optimiser: Optimiser = field(default_factory=Optimiser)
    validation: Validation = field(default_factory=Validation)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        problems = [f"{n}: found {getattr(self, n)!r}, expected at least 1" for n in ("steps", "draws") if getattr(self, n) < 1]
        if problems:
            raise InvalidInput("; ".join(problems))


PARTS: dict[str, type[Any]] = {
    "aligner": AlignerConfig, "prior": PriorSettings, "exclude": Exclude, "limit": Limit, "losses": Losses, "unrolled": Unrolled,
    "teacher": Teacher, "planted": Augmentation, "optimiser": Optimiser, "validation": Validation, "engine": Engine,
}  # fmt: skip
OPTIONAL = ("aligner", "prior")


def read_settings(content: Mapping[str, Any]) -> Settings:
    """The settings of a configuration: a mapping with the fields of `Settings`, whose parts are mappings of their fields.

    Raises:
        InvalidInput: lists every unknown key and every value out of range.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    known = [f.name for f in fields(Settings)]
    for key, value in content.items():
        try:
            if key not in known:
                problems.append(f"found the key {key!r}, expected some of {', '.join(known)}")
            elif key == "families":
                values[key] = {name: _part(Share, entry) for name, entry in (value or {}).items() if entry is not None}
            elif key in PARTS:
                if value is not None:
                    values[key] = _part(PARTS[key], value)
                elif key not in OPTIONAL:
                    problems.append(f"{key}: found null, expected a mapping")
            else:
                values[key] = value
        except InvalidInput as error:
            problems.append(f"{key}: {error}")
    if not problems:
        try:
            return Settings(**values)
        except InvalidInput as error:
            problems.append(str(error))
    raise InvalidInput("configuration of the training:\n" + "\n".join(f"  - {p}" for p in problems))


def _part(kind: type[Part], content: Any) -> Part:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise InvalidInput(f"found {content!r}, expected a mapping of {', '.join(known)}")
    if unknown := sorted(content.keys() - known.keys()):
        raise InvalidInput(f"found {', '.join(map(repr, unknown))}, expected some of {', '.join(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    problems = [
        f"{k}: found {v!r}, expected a number" for k, v in values.items()
        if known[k].type in ("float", "int") and (not isinstance(v, int | float) or isinstance(v, bool))
    ]  # fmt: skip
    if problems:
        raise InvalidInput("; ".join(problems))
    return kind(**values)
