"""Designs: architectures without data, one dataclass per family; what is trained is a design built for an image shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from graphalign.errors import InvalidInput
from graphalign.zoo.networks import ACTIVATIONS, Shape, cnn, mlp, resnet, siren, vgg

KERNELS = (3, 5, 7)
NORMS = ("none", "batch")
STEMS = ("plain", "imagenet")
MOST_UNITS = 1 << 16
"""Widest layer of a design."""
MOST_LAYERS = 1000
"""Of a design; a residual block counts as one."""
MOST_FREQUENCY = 1e6

Widths = tuple[int, ...]


class Design(ABC):
    """An architecture without data; frozen dataclasses of plain values."""

    family: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Short, and different for different designs."""

    @abstractmethod
    def build(self, image: Shape, classes: int) -> nn.Module:
        """A network for images (C, H, W) and a number of classes, with the weights PyTorch draws.

        Raises:
            InvalidInput: the images are too small for its poolings.
        """

    def to_json(self) -> dict[str, Any]:
        """Its family and fields; `from_json` reads them."""
        return {"family": self.family, **{k: _plain(v) for k, v in asdict(self).items()}}  # type: ignore[call-overload]


@dataclass(frozen=True)
class MLP(Design):
    """`networks.mlp`.

    Attributes:
        widths: of the hidden layers.
        activation: a key of `networks.ACTIVATIONS`.
    """

    family: ClassVar[str] = "mlp"
    widths: Widths
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check(self, {"widths": (self.widths,)}, {"activation": tuple(ACTIVATIONS)})

    @property
    def name(self) -> str:
        """`mlp-64-64-64-relu`."""
        return f"mlp-{_join(self.widths)}-{self.activation}"

    def build(self, image: Shape, classes: int) -> nn.Module:
        """As `Design.build`."""
        return mlp(self.widths, image, classes, activation=self.activation)


@dataclass(frozen=True)
class CNN(Design):
    """`networks.cnn`.

    Attributes:
        channels: of the convolutions, each followed by a 2x2 pooling.
        hidden: width of the linear layer after them.
        kernel: 3, 5 or 7.
        activation: a key of `networks.ACTIVATIONS`.
    """

    family: ClassVar[str] = "cnn"
    channels: Widths
    hidden: int = 64
    kernel: int = 3
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check(self, {"channels": (self.channels,), "hidden": ((self.hidden,),)}, {"kernel": KERNELS, "activation": tuple(ACTIVATIONS)})

    @property
    def name(self) -> str:
        """`cnn-16-32-24-h56-k3-relu`."""
        return f"cnn-{_join(self.channels)}-h{self.hidden}-k{self.kernel}-{self.activation}"

    def build(self, image: Shape, classes: int) -> nn.Module:
        """As `Design.build`."""
        _check_poolings(self, image, len(self.channels))
        return cnn(self.channels, self.hidden, image, classes, kernel=self.kernel, activation=self.activation)


@dataclass(frozen=True)
class VGG(Design):
    """`networks.vgg`.

    Attributes:
        stages: widths of the convolutions of each stage; a 2x2 pooling ends a stage.
        hidden: widths of the linear layers of the head; there may be none.
        pool: the head reads pool x pool positions.
        norm: "none" or "batch".
        activation: a key of `networks.ACTIVATIONS`.
    """

    family: ClassVar[str] = "vgg"
    stages: tuple[Widths, ...]
    hidden: Widths = ()
    pool: int = 1
    norm: str = "none"
    activation: str = "relu"

    def __post_init__(self) -> None:
        widths = {"stages": self.stages, "hidden": (self.hidden,) if self.hidden else (), "pool": ((self.pool,),)}
        _check(self, widths, {"norm": NORMS, "activation": tuple(ACTIVATIONS)})

    @property
    def name(self) -> str:
        """`vgg-16-32-48.48-64.64-h64-p2-bn-relu`."""
        stages = "-".join(_join(stage, ".") for stage in self.stages)
        hidden = f"-h{_join(self.hidden, '.')}" if self.hidden else ""
        return f"vgg-{stages}{hidden}-p{self.pool}{'-bn' * (self.norm == 'batch')}-{self.activation}"

    def build(self, image: Shape, classes: int) -> nn.Module:
        """As `Design.build`."""
        _check_poolings(self, image, len(self.stages))
        return vgg(
            self.stages, batch_norm=self.norm == "batch", hidden=self.hidden, pool=self.pool, classes=classes, channels=image[0],
            activation=self.activation,
        )  # fmt: skip


@dataclass(frozen=True)
class ResNet(Design):
    """`networks.resnet`, with BatchNorm.

    Attributes:
        repeats: residual blocks of each stage.
        width: channels of the first stage; the others double them.
        stem: "plain" (3x3) or "imagenet" (7x7 of stride 2 and a pooling).
        activation: a key of `networks.ACTIVATIONS`.
    """

    family: ClassVar[str] = "resnet"
    repeats: Widths
    width: int = 16
    stem: str = "plain"
    activation: str = "relu"
    norm: ClassVar[str] = "batch"

    def __post_init__(self) -> None:
        _check(self, {"repeats": (self.repeats,), "width": ((self.width,),)}, {"stem": STEMS, "activation": tuple(ACTIVATIONS)})
        if self.width << (len(self.repeats) - 1) > MOST_UNITS or sum(self.repeats) > MOST_LAYERS:
            raise InvalidInput(
                f"design of family resnet: found width {self.width}, which {len(self.repeats)} stages double, and {sum(self.repeats)} blocks, "
                f"expected at most {MOST_UNITS} channels and {MOST_LAYERS} blocks"
            )

    @property
    def name(self) -> str:
        """`resnet-2.2.2-w16-plain-relu`."""
        return f"resnet-{_join(self.repeats, '.')}-w{self.width}-{self.stem}-{self.activation}"

    def build(self, image: Shape, classes: int) -> nn.Module:
        """As `Design.build`."""
        return resnet(
            self.repeats, self.width, imagenet_stem=self.stem == "imagenet", classes=classes, channels=image[0],
            activation=self.activation,
        )  # fmt: skip


@dataclass(frozen=True)
class SIREN(Design):
    """`networks.siren`: its inputs are coordinates, its outputs the channels of an image.

    Attributes:
        widths: of the hidden layers.
        frequency: w0.
    """

    family: ClassVar[str] = "siren"
    widths: Widths
    frequency: float = 30.0

    def __post_init__(self) -> None:
        _check(self, {"widths": (self.widths,)}, {})
        if type(self.frequency) not in (int, float) or not 0 < self.frequency <= MOST_FREQUENCY:
            raise InvalidInput(f"siren: frequency: found {self.frequency!r:.40}, expected a number above 0, at most {MOST_FREQUENCY:g}")

    @property
    def name(self) -> str:
        """`siren-64-64-64-w30`."""
        return f"siren-{_join(self.widths)}-w{self.frequency:g}"

    def build(self, image: Shape, classes: int) -> nn.Module:
        """A network for images of any height and width; classes do not matter."""
        return siren(self.widths, image[0], frequency=self.frequency)


FAMILIES: dict[str, type[Design]] = {design.family: design for design in (MLP, CNN, VGG, ResNet, SIREN)}


def from_json(content: Mapping[str, Any]) -> Design:
    """The design that `Design.to_json` wrote.

    Raises:
        InvalidInput: an unknown family, unknown or missing fields, or values that no network has.
    """
    values = dict(content)
    family = values.pop("family", None)
    if family not in FAMILIES:
        raise InvalidInput(f"design: family: found {family!r}, expected one of {', '.join(FAMILIES)}")
    known = [f.name for f in fields(FAMILIES[family])]  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - set(known)):
        raise InvalidInput(f"design of family {family}: found the fields {unknown}, expected some of {known}")
    try:
        return FAMILIES[family](**{k: _tuples(v) for k, v in values.items()})
    except TypeError as error:
        raise InvalidInput(f"design of family {family}: {error}; expected the fields {known}") from None


def _join(widths: Widths, sign: str = "-") -> str:
    return sign.join(map(str, widths))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _check(design: Design, widths: Mapping[str, Any], choices: Mapping[str, tuple[Any, ...]]) -> None:
    problems = []
    for field, rows in widths.items():
        right = all(isinstance(row, tuple) and row and all(type(w) is int and 0 < w <= MOST_UNITS for w in row) for row in rows)
        if not right or not (rows or field == "hidden"):
            problems.append(f"{field}: found {getattr(design, field)!r:.200}, expected whole numbers from 1 to {MOST_UNITS}")
        elif sum(map(len, rows)) > MOST_LAYERS:
            problems.append(f"{field}: found {sum(map(len, rows))} layers, expected at most {MOST_LAYERS}")
    for field, allowed in choices.items():
        found = getattr(design, field)
        if found not in allowed:
            problems.append(f"{field}: found {found!r}, expected one of {', '.join(map(str, allowed))}")
    if problems:
        raise InvalidInput(f"design of family {design.family}:\n" + "\n".join(f"  - {p}" for p in problems))


def _check_poolings(design: Design, image: Shape, poolings: int) -> None:
    if min(image[1:]) >> poolings < 1:
        raise InvalidInput(
            f"{design.name}: found images of {image[1]}x{image[2]}, expected at least {1 << poolings} pixels a side for its "
            f"{poolings} poolings; use larger images or a design of fewer stages"
        )
