"""Random designs and recipes from ranges of their fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from random import Random
from typing import Any, TypeVar

from graphalign.errors import InvalidInput
from graphalign.zoo.design import CNN, MLP, MOST_LAYERS, SIREN, VGG, Design, ResNet, Widths
from graphalign.zoo.recipe import Recipe

T = TypeVar("T")


class Draws:
    """Values of fields, drawn by their specifications, every field from a random stream of its own.

    A specification is a value (always this one), a list (dealt like a shuffled deck: no value comes again before all have
    come), or `{low, high, step}`: log-uniform between the two, whole multiples of `step` if there is one. The first n draws
    do not depend on how many follow.

    Args:
        specifications: by field; others than those of `defaults` are refused.
        defaults: specification of every field that may be given.
        seed: text, of the random streams.

    Raises:
        InvalidInput: unknown fields or specifications that make no sense, all at once.
    """

    def __init__(self, specifications: Mapping[str, Any], defaults: Mapping[str, Any], seed: str) -> None:
        problems = [
            f"found the field {k!r}, expected some of {', '.join(defaults)}" for k in specifications if k not in defaults
        ] + [
            f"{k}: found {v!r:.200}, expected a value, a list of values or {{low, high, step}} with 0 < low <= high <= {MOST:g} and a multiple "
            "of step between them" for k, v in specifications.items() if not _makes_sense(v)
        ]  # fmt: skip
        if problems:
            raise InvalidInput("\n".join(problems))
        chosen = {**defaults, **specifications}
        self.streams = {field: _stream(spec, Random(f"{seed}/{field}")) for field, spec in chosen.items()}

    def __call__(self, field: str) -> Any:
        """The next value of a field."""
        return next(self.streams[field])


def _makes_sense(specification: Any) -> bool:
    if isinstance(specification, list | tuple):
        return len(specification) > 0
    if not isinstance(specification, Mapping):
        return True
    low, high, step = (specification.get(k) for k in ("low", "high", "step"))
    if not isinstance(low, int | float) or not isinstance(high, int | float) or bool in (type(low), type(high)):
        return False
    if specification.keys() - {"low", "high", "step"}:
        return False
    return 0 < low <= high <= MOST and (step is None or (type(step) is int and step > 0 and high // step * step >= low))


def _extremes(specification: Any) -> list[Any]:
    """Every value of a list, the least and the greatest of a range, or the one value: if they are right, so is all that is drawn."""
    if isinstance(specification, list | tuple):
        return list(specification)
    if not isinstance(specification, Mapping):
        return [specification]
    low, high, step = float(specification["low"]), float(specification["high"]), specification.get("step")
    return [low, high] if step is None else [math.ceil(low / step) * step, math.floor(high / step) * step]


def _stream(specification: Any, random: Random) -> Iterator[Any]:
    if isinstance(specification, list | tuple):
        while True:
            deck = list(specification)
            random.shuffle(deck)
            yield from deck
    elif isinstance(specification, Mapping):
        low, high, step = float(specification["low"]), float(specification["high"]), specification.get("step")
        while True:
            value = math.exp(random.uniform(math.log(low), math.log(high)))
            if step is None:
                yield float(f"{value:.3g}")
            else:
                yield min(max(round(value / step), math.ceil(low / step)), math.floor(high / step)) * step
    else:
        while True:
            yield specification


def _count(draw: Draws, field: str) -> int:
    """A number of layers."""
    value = draw(field)
    if type(value) is not int or not 0 <= value <= MOST_LAYERS:
        raise InvalidInput(f"{field}: found {value!r:.40}, expected a whole number from 0 to {MOST_LAYERS}")
    return value


def _widths(draw: Draws) -> Widths:
    """Given as a list, or `depth` of them: all equal ("constant"), each drawn ("free"), or drawn and sorted ("rising")."""
    if (given := draw("widths")) is not None:
        if not isinstance(given, list | tuple):
            raise InvalidInput(f"widths: found {given!r:.40}, expected lists of widths, such as [[64, 64], [32, 16, 8]]")
        return tuple(given)
    depth, profile = _count(draw, "depth"), draw("profile")
    if profile not in PROFILES:
        raise InvalidInput(f"profile: found {profile!r:.40}, expected one of {', '.join(PROFILES)}")
    widths = (draw("width"),) * depth if profile == "constant" else tuple(draw("width") for _ in range(depth))
    return tuple(sorted(widths)) if profile == "rising" and all(type(width) is int for width in widths) else widths


def _vgg(draw: Draws) -> Design:
    widths = _widths(draw)
    stages = tuple((width,) * _count(draw, "convolutions") for width in widths)
    hidden = tuple(draw("hidden") for _ in range(_count(draw, "hidden_layers")))
    return VGG(stages, hidden, draw("pool"), draw("norm"), draw("activation"))


MOST = 1e9
"""Largest bound of a range."""
PROFILES = ("constant", "free", "rising")
WIDTHS = {"widths": None, "depth": 3, "width": 32, "profile": "constant"}
SAMPLERS: dict[str, tuple[Mapping[str, Any], Callable[[Draws], Design]]] = {
    "mlp": ({**WIDTHS, "activation": "relu"}, lambda draw: MLP(_widths(draw), draw("activation"))),
    "cnn": (
        {**WIDTHS, "hidden": 64, "kernel": 3, "activation": "relu"},
        lambda draw: CNN(_widths(draw), draw("hidden"), draw("kernel"), draw("activation")),
    ),
    "vgg": (
        {**WIDTHS, "profile": "rising", "convolutions": 1, "hidden_layers": 0, "hidden": 64, "pool": 1, "norm": "none", "activation": "relu"},
        _vgg,
    ),
    "resnet": (
        {"depth": 3, "repeats": 1, "width": 16, "stem": "plain", "activation": "relu"},
        lambda draw: ResNet(tuple(draw("repeats") for _ in range(_count(draw, "depth"))), draw("width"), draw("stem"), draw("activation")),
    ),
    "siren": ({**WIDTHS, "frequency": 30.0}, lambda draw: SIREN(_widths(draw), draw("frequency"))),
}
"""By family: what may be drawn with what it is if nothing is said, and the design of one draw.

depth counts hidden layers, or stages of one pooling each; convolutions and repeats are drawn once per stage.
"""
RECIPE: dict[str, Any] = {f.name: None if f.default is MISSING else f.default for f in fields(Recipe)}


def designs(specifications: Mapping[str, Any], seed: str) -> Iterator[Design]:
    """An endless stream of designs of a family; what may be drawn is checked first, whether or not it will be.

    Args:
        specifications: "family", and specifications of its fields, see `SAMPLERS` and `Draws`.
        seed: of the draws.

    Raises:
        InvalidInput: an unknown family or field, or a design that cannot be.
    """
    given = dict(specifications)
    family = given.pop("family", None)
    if not isinstance(family, str) or family not in SAMPLERS:
        raise InvalidInput(f"family: found {family!r:.40}, expected one of {', '.join(SAMPLERS)}")
    return _stream_of(given, *SAMPLERS[family], seed)


def recipes(specifications: Mapping[str, Any], seed: str) -> Iterator[Recipe]:
    """An endless stream of recipes, checked as `designs` are.

    Args:
        specifications: of fields of `Recipe`, see `Draws`; "data" must be among them.
        seed: of the draws.

    Raises:
        InvalidInput: an unknown field, or a recipe that cannot be.
    """
    return _stream_of(specifications, RECIPE, lambda draw: Recipe(**{field: draw(field) for field in RECIPE}), seed)


def _stream_of(given: Mapping[str, Any], defaults: Mapping[str, Any], make: Callable[[Draws], T], seed: str) -> Iterator[T]:
    draw = Draws(given, defaults, seed)
    extremes = {field: _extremes(specification) for field, specification in given.items()}
    usual = {field: values[:1] for field, values in extremes.items()}
    for field, values in extremes.items():
        for value in values:
            make(Draws({**usual, field: [value]}, defaults, seed))
    while True:
        yield make(draw)
