"""The settings of a training run, read from plain dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from graphalign.aligner import AlignerConfig
from graphalign.errors import InvalidInput
from graphalign.training.fields import misfits, read_fields
from graphalign.training.objective import Losses, Unrolled
from graphalign.training.planted import Augmentation
from graphalign.training.sampling import Exclude, Limit, Share
from graphalign.training.teachers import Teacher
from graphalign.zoo.design import FAMILIES

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

    def __post_init__(self) -> None:
        _check_counts(self)


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
        problems = [f"{n}: found {v!r}, expected a number above 0" for n, v in (("rate", self.rate), ("clip", self.clip)) if not v > 0]
        problems += [f"weight_decay: found {self.weight_decay!r}, expected a number of at least 0"] if not self.weight_decay >= 0 else []
        if self.schedule not in ("constant", "cosine"):
            problems.append(f"schedule: found {self.schedule!r}, expected 'constant' or 'cosine'")
        if problems:
            raise InvalidInput("; ".join(problems))


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

    def __post_init__(self) -> None:
        _check_counts(self)


@dataclass(frozen=True)
class Engine:
    """Arguments of `lightning_fabric.Fabric`; under torchrun the number of devices is that of its processes."""

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|-1|[1-9][0-9]{0,3}|[0-9]+(,[0-9]+)+", str(self.devices)):
            raise InvalidInput(f"devices: found {self.devices!r:.40}, expected how many, their numbers ('0,1'), -1 for all, or 'auto'")


@dataclass(frozen=True)
class Folders:
    """Where a run finds networks and leaves what it makes.

    Attributes:
        zoo: folder of the population.
        population: name of the configuration by which the population is generated if it is missing; None for none.
        out: folder of the run.
        cache: folder of what is computed once per pair, shared by runs; None for one beside the run.
    """

    zoo: str | None = None
    population: str | None = None
    out: str | None = None
    cache: str | None = None


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
        problems += [f"seed: found {self.seed}, expected at least 0"] if self.seed < 0 else []
        problems += [f"minutes: found {self.minutes}, expected a number above 0, or null"] if self.minutes is not None and not self.minutes > 0 else []
        if problems:
            raise InvalidInput("; ".join(problems))


def _check_counts(settings: PriorSettings | Validation) -> None:
    problems = [f"{n}: found {v!r}, expected at least 1" for n, v in vars(settings).items() if isinstance(v, int) and v < 1]
    if problems:
        raise InvalidInput("; ".join(problems))


PARTS: dict[str, type[Any]] = {
    "aligner": AlignerConfig, "prior": PriorSettings, "exclude": Exclude, "limit": Limit, "losses": Losses, "unrolled": Unrolled,
    "teacher": Teacher, "planted": Augmentation, "optimiser": Optimiser, "validation": Validation, "engine": Engine,
}  # fmt: skip
OPTIONAL = ("aligner", "prior")


def read_configuration(content: Mapping[str, Any]) -> tuple[Folders, Settings]:
    """The folders and the settings of a configuration: a mapping with the fields of `Folders` and of `Settings`.

    Raises:
        InvalidInput: see `read_settings`.
    """
    own = {f.name for f in fields(Folders)}
    folders = read_fields(Folders, {key: value for key, value in content.items() if key in own})
    return folders, read_settings({key: value for key, value in content.items() if key not in own})


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
                values[key] = _families(value or {})
            elif key in PARTS:
                if value is not None:
                    values[key] = read_fields(PARTS[key], value)
                elif key not in OPTIONAL:
                    problems.append(f"{key}: found null, expected a mapping")
            else:
                problems += misfits(Settings, {key: value})
                values[key] = value
        except InvalidInput as error:
            problems.append(f"{key}: {error}")
    if not problems:
        try:
            return Settings(**values)
        except InvalidInput as error:
            problems.append(str(error))
    raise InvalidInput("configuration of the training:\n" + "\n".join(f"  - {p}" for p in problems))


def _families(content: Any) -> dict[str, Share]:
    if not isinstance(content, Mapping):
        raise InvalidInput(f"found {content!r:.60}, expected a mapping of families of designs")
    if unknown := [name for name in content if name not in FAMILIES]:
        raise InvalidInput(f"found {', '.join(map(repr, unknown)):.80}, expected some of {', '.join(FAMILIES)}")
    return {name: read_fields(Share, entry) for name, entry in content.items() if entry is not None}
