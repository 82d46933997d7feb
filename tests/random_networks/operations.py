"""The operations that random networks are grown from: which values they fit, and how they are made for one of them.

An operation gets the network in the making and the place of a value, and returns a module and the places of all values that it
takes, or None where it does not fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import (
    Affine,
    Attention,
    ChannelGate,
    ClassToken,
    Function,
    Gated,
    Multihead,
    Over,
    Residual,
    RootMeanSquare,
    Transposed,
)

if TYPE_CHECKING:
    from .grown import Growth

Made = tuple[nn.Module, tuple[int, ...]] | None
Maker = Callable[["Growth", int], Made]


@dataclass(frozen=True)
class Operation:
    """One kind of step.

    Attributes:
        name: for messages.
        ranks: numbers of dimensions of the values that it fits: 2 vectors, 3 tokens, 4 images.
        make: the module and the values that it takes.
    """

    name: str
    ranks: tuple[int, ...]
    make: Maker


OPERATIONS: list[Operation] = []
ALL, FLAT, TOKENS, IMAGES = (2, 3, 4), (2, 3), (3,), (4,)


def operation(name: str, ranks: tuple[int, ...], times: int = 1) -> Callable[[Maker], Maker]:
    """Adds a maker to the table, several times if it is to be chosen more often."""

    def store(make: Maker) -> Maker:
        OPERATIONS.extend([Operation(name, ranks, make)] * times)
        return make

    return store


def unary(name: str, function: Callable[[Tensor], Tensor], ranks: tuple[int, ...] = ALL) -> None:
    """Adds a function of one value to the table."""
    OPERATIONS.append(Operation(name, ranks, lambda g, i: (Function(name, function), (i,))))


def width(rng: random.Random) -> int:
    """A small number of units, often one with divisors."""
    return rng.choice((4, 5, 6, 6, 8, 8, 9, 12))


def divisor(rng: random.Random, *numbers: int) -> int:
    """A random common divisor."""
    return rng.choice([d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)])


# -- inputs and first layers -------------------------------------------------------------------------------------------------


def _vectors(rng: random.Random) -> tuple[tuple[Tensor, ...], nn.Module]:
    return (torch.randn(3, 5),), nn.Linear(5, width(rng), bias=rng.random() < 0.8)


def _tokens(rng: random.Random) -> tuple[tuple[Tensor, ...], nn.Module]:
    return (torch.randn(2, rng.randint(2, 5), 4),), nn.Linear(4, width(rng))


def _images(rng: random.Random) -> tuple[tuple[Tensor, ...], nn.Module]:
    return (torch.randn(2, 3, 6, 6),), nn.Conv2d(3, width(rng), rng.choice((1, 3)), padding=rng.choice((0, 1)))


def _words(rng: random.Random) -> tuple[tuple[Tensor, ...], nn.Module]:
    return (torch.randint(7, (2, rng.randint(2, 5))),), nn.Embedding(7, width(rng))


def _vectors_beside(rng: random.Random) -> tuple[tuple[Tensor, ...], nn.Module]:
    return (torch.randn(3, 5), torch.randn(3, 4)), nn.Linear(5, width(rng))


SOURCES: tuple[Callable[[random.Random], tuple[tuple[Tensor, ...], nn.Module]], ...] = (_vectors, _tokens, _images, _words, _vectors_beside)

# -- entrywise ---------------------------------------------------------------------------------------------------------------

for _name, _function in {
    "relu": F.relu, "relu, in place": lambda x: x.relu_(), "tanh": torch.tanh, "gelu": F.gelu, "sigmoid": torch.sigmoid, "silu": F.silu, "elu": F.elu,
    "leaky relu": F.leaky_relu, "softplus": F.softplus, "hardswish": F.hardswish, "abs": torch.abs, "sine": torch.sin,
    "clamp": lambda x: x.clamp(-1, 1), "scaled": lambda x: 0.5 * x, "shifted": lambda x: x + 0.5, "negated": torch.neg,
    "threshold": lambda x: F.threshold(x, 0.1, 0.7), "where": lambda x: torch.where(x > 0, x, 0.1 * x), "softshrink": lambda x: F.softshrink(x, 0.1),
    "its own square root": lambda x: (x * x + 1).sqrt(), "dropout": lambda x: F.dropout(x, 0.5, False), "hardtanh": F.hardtanh,
}.items():  # fmt: skip
    unary(_name, _function)

# -- what reads every unit of a value ----------------------------------------------------------------------------------------

for _name, _function in {
    "softmax": lambda x: x.softmax(-1), "normalised": lambda x: F.normalize(x, dim=-1, eps=1e-2), "minus mean": lambda x: x - x.mean(-1, keepdim=True),
    "minus maximum": lambda x: x - x.amax(-1, keepdim=True), "logsumexp": lambda x: x - x.logsumexp(-1, keepdim=True),
    "flipped": lambda x: x.flip(-1), "plus its mirror image": lambda x: x + x.flip(-1), "rolled": lambda x: x.roll(1, -1), "twice": lambda x: torch.cat([x, x], -1),
    "first half": lambda x: x[..., : (x.shape[-1] + 1) // 2], "every second": lambda x: x[..., ::2], "last alone": lambda x: x[..., -1:],
    "mean of units, kept": lambda x: x.mean(-1, keepdim=True), "cumulative sum over units": lambda x: x.cumsum(-1), "neighbours": lambda x: x[..., 1:] * x[..., :-1].tanh(),
    "padded with zeros": lambda x: F.pad(x, (1, 2)), "glu": lambda x: F.glu(x, -1) if x.shape[-1] % 2 == 0 else x.tanh(), "ranked": lambda x: x.topk(min(3, x.shape[-1]), -1).values,
    "times a ramp": lambda x: x * torch.linspace(0.5, 1, x.shape[-1], dtype=x.dtype), "variance": lambda x: x / (x.var(-1, keepdim=True) + 1),
}.items():  # fmt: skip
    unary(_name, _function, FLAT)

for _name, _function in {
    "cumulative sum of tokens": lambda x: x.cumsum(1), "tokens in reverse": lambda x: x.flip(1), "softmax over tokens": lambda x: x.softmax(1),
    "mean token": lambda x: x.mean(1), "largest of tokens": lambda x: x.amax(1), "first token": lambda x: x[:, 0], "all tokens in a row": lambda x: x.flatten(1),
    "transposed": lambda x: x.transpose(1, 2), "products of tokens": lambda x: torch.einsum("btd,bsd->bts", x, x).tanh() @ x,
    "gram matrix": lambda x: (x.mT @ x).tanh(), "as a picture": lambda x: x.unsqueeze(1), "tokens as channels": lambda x: x.unsqueeze(-1),
}.items():  # fmt: skip
    unary(_name, _function, TOKENS)

for _name, _function in {
    "global mean": lambda x: x.mean((2, 3)), "global maximum": lambda x: x.amax((2, 3)), "all positions in a row": lambda x: x.flatten(1),
    "positions as tokens": lambda x: x.flatten(2).transpose(1, 2), "channels as tokens": lambda x: x.flatten(2), "max pool": lambda x: F.max_pool2d(x, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 2), "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, (1, 2)),
    "enlarged": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), "resized": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"),
    "zero border": lambda x: F.pad(x, (1, 1, 0, 1)), "mirrored border": lambda x: F.pad(x, (1, 0, 1, 0), mode="replicate"), "cropped": lambda x: x[:, :, 1:, : x.shape[3] - 1],
    "mirrored": lambda x: x.flip(3), "softmax over channels": lambda x: x.softmax(1), "dropout of channels": lambda x: F.dropout2d(x, 0.5, False),
    "instance norm": F.instance_norm, "turned": lambda x: x.rot90(1, (2, 3)), "local response": lambda x: x / (1 + x.square().mean(1, keepdim=True)),
}.items():  # fmt: skip
    unary(_name, _function, IMAGES)


@operation("pixel shuffle", IMAGES)
def _pixel_shuffle(g: Growth, i: int) -> Made:
    return (nn.PixelShuffle(2), (i,)) if g.values[i].shape[1] % 4 == 0 else None


@operation("channel shuffle", IMAGES)
def _channel_shuffle(g: Growth, i: int) -> Made:
    return nn.ChannelShuffle(divisor(g.rng, g.values[i].shape[1])), (i,)


@operation("a part of the units", ALL)
def _part(g: Growth, i: int) -> Made:
    axis = 1 if g.values[i].dim() == 4 else -1
    parts = divisor(g.rng, g.values[i].shape[axis])
    which = g.rng.randrange(parts)
    return Function(f"part {which} of {parts}", lambda x: x.chunk(parts, axis)[which]), (i,)


@operation("blocks reduced", FLAT)
def _blocks(g: Growth, i: int) -> Made:
    blocks = divisor(g.rng, g.values[i].shape[-1])
    how = g.rng.choice(("mean", "interleave", "subtract"))

    def function(x: Tensor) -> Tensor:
        y = x.unflatten(-1, (blocks, -1))
        if how == "mean":
            return y.mean(-1)
        return y.transpose(-1, -2).flatten(-2) if how == "interleave" else (y - y.mean(-1, keepdim=True)).flatten(-2)

    return Function(f"{blocks} blocks, {how}", function), (i,)


@operation("vector as an image", (2,))
def _as_image(g: Growth, i: int) -> Made:
    units = g.values[i].shape[1]
    side = g.rng.choice((1, 2))
    return (nn.Unflatten(1, (units // side, 1, side)), (i,)) if units % side == 0 else None


@operation("vector as tokens", (2,))
def _as_tokens(g: Growth, i: int) -> Made:
    return nn.Unflatten(1, (divisor(g.rng, g.values[i].shape[1]), -1)), (i,)


# -- layers ------------------------------------------------------------------------------------------------------------------


@operation("linear", FLAT, 10)
def _linear(g: Growth, i: int) -> Made:
    return nn.Linear(g.values[i].shape[-1], width(g.rng), bias=g.rng.random() < 0.8), (i,)


@operation("linear layer of before", FLAT, 3)
def _again(g: Growth, i: int) -> Made:
    fits = [m for m in g.modules if isinstance(m, nn.Linear) and m.in_features == g.values[i].shape[-1]]
    return (g.rng.choice(fits), (i,)) if fits else None


@operation("linear layer transposed", FLAT, 3)
def _transposed(g: Growth, i: int) -> Made:
    fits = [m for m in g.modules if isinstance(m, nn.Linear) and m.out_features == g.values[i].shape[-1]]
    return (Transposed(g.rng.choice(fits)), (i,)) if fits else None


@operation("linear over tokens", TOKENS)
def _mixer(g: Growth, i: int) -> Made:
    return Over(nn.Linear(g.values[i].shape[1], g.rng.randint(2, 5))), (i,)


@operation("norm", FLAT, 3)
def _norm(g: Growth, i: int) -> Made:
    units = g.values[i].shape[-1]
    return g.rng.choice((nn.LayerNorm, nn.LayerNorm, RootMeanSquare, nn.RMSNorm))(units), (i,)


@operation("batch norm", ALL, 3)
def _batch_norm(g: Growth, i: int) -> Made:
    rank, affine = g.values[i].dim(), g.rng.random() < 0.8
    if rank == 3:
        return Over(nn.BatchNorm1d(g.values[i].shape[2], affine=affine)), (i,)
    return (nn.BatchNorm1d if rank == 2 else nn.BatchNorm2d)(g.values[i].shape[1], affine=affine), (i,)


@operation("group norm", ALL, 2)
def _group_norm(g: Growth, i: int) -> Made:
    channels = g.values[i].shape[1]
    return nn.GroupNorm(divisor(g.rng, channels), channels, affine=g.rng.random() < 0.8), (i,)


@operation("norm over channels", IMAGES)
def _channel_norm(g: Growth, i: int) -> Made:
    return Over(nn.LayerNorm(g.values[i].shape[1]), (0, 2, 3, 1), (0, 3, 1, 2)), (i,)


@operation("parameters entry by entry", ALL, 2)
def _affine(g: Growth, i: int) -> Made:
    value = g.values[i]
    kept = g.rng.choice(([-1], list(range(1, value.dim())), [1], []))
    shape = tuple(n if d in kept or d - value.dim() in kept else 1 for d, n in enumerate(value.shape))
    return Affine(shape, g.rng.choice(("mul", "add", "both"))), (i,)


@operation("prelu", ALL)
def _prelu(g: Growth, i: int) -> Made:
    return nn.PReLU(g.rng.choice((1, g.values[i].shape[1]))), (i,)


@operation("gated layer", FLAT, 2)
def _gated(g: Growth, i: int) -> Made:
    return Residual(Gated(g.values[i].shape[-1], width(g.rng), g.rng.choice((F.silu, F.gelu, torch.sigmoid))), g.rng.random() < 0.5), (i,)


@operation("convolution", IMAGES, 10)
def _conv(g: Growth, i: int) -> Made:
    channels, side = g.values[i].shape[1], min(g.values[i].shape[2:])
    kernel = g.rng.choice([k for k in (1, 2, 3) if k <= side])
    groups = g.rng.choice((1, 1, divisor(g.rng, channels), channels))
    layer = nn.Conv2d if g.rng.random() < 0.8 else nn.ConvTranspose2d
    padding = g.rng.randrange(kernel)
    mode = {"padding_mode": g.rng.choice(("zeros", "zeros", "reflect", "circular"))} if layer is nn.Conv2d and padding < side else {}
    out = groups * max(1, width(g.rng) // groups)
    return layer(channels, out, kernel, stride=g.rng.choice((1, 1, 2)), padding=padding, groups=groups, bias=g.rng.random() < 0.7, **mode), (i,)  # type: ignore[arg-type]


@operation("convolution over tokens", TOKENS, 2)
def _conv1d(g: Growth, i: int) -> Made:
    return Over(nn.Conv1d(g.values[i].shape[2], width(g.rng), 2, padding=1)), (i,)


@operation("residual block", IMAGES, 3)
def _residual(g: Growth, i: int) -> Made:
    channels, hidden = g.values[i].shape[1], width(g.rng)
    body = nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1),
    )  # fmt: skip
    return Residual(body, g.rng.random() < 0.5), (i,)


@operation("channel gate", IMAGES)
def _gate(g: Growth, i: int) -> Made:
    return ChannelGate(g.values[i].shape[1], 4), (i,)


@operation("weight-normed layer", (2,))
def _weight_norm(g: Growth, i: int) -> Made:
    return nn.utils.parametrizations.weight_norm(nn.Linear(g.values[i].shape[1], width(g.rng))), (i,)


@operation("attention", TOKENS, 3)
def _attention(g: Growth, i: int) -> Made:
    units = g.values[i].shape[2]
    memory = g.pick(lambda v: v.dim() == 3) if g.rng.random() < 0.3 else None
    heads, how = g.rng.choice((1, 2, 3)), g.rng.choice(("sdpa", "einsum", "matmul"))
    features = units if memory is None else g.values[memory].shape[2]
    made = Attention(units, features, heads, g.rng.choice((2, 3)), how, memory is None and g.rng.random() < 0.5, memory is None and g.rng.random() < 0.3)
    return made, (i,) if memory is None else (i, memory)


@operation("multi-head attention", TOKENS, 2)
def _multihead(g: Growth, i: int) -> Made:
    units = g.values[i].shape[2]
    made = Multihead(units, divisor(g.rng, units), g.rng.random() < 0.3)
    return made if g.rng.random() < 0.3 else Residual(made, g.rng.random() < 0.3), (i,)


@operation("class token", TOKENS)
def _class_token(g: Growth, i: int) -> Made:
    return ClassToken(g.values[i].shape[2]), (i,)


# -- several values ----------------------------------------------------------------------------------------------------------


@operation("sum", ALL, 8)
def _sum(g: Growth, i: int) -> Made:
    other = g.pick(lambda v: v.shape == g.values[i].shape and v.is_floating_point())
    return None if other in (None, i) and g.rng.random() < 0.9 else (Function("sum", torch.add), (i, i if other is None else other))


@operation("product", ALL, 3)
def _product(g: Growth, i: int) -> Made:
    other = g.pick(lambda v: v.shape == g.values[i].shape and v.is_floating_point())
    return None if other is None else (Function("gate", lambda x, y: x * torch.sigmoid(y)), (i, other))


@operation("largest of two", ALL)
def _largest(g: Growth, i: int) -> Made:
    other = g.pick(lambda v: v.shape == g.values[i].shape and v.is_floating_point())
    return None if other is None else (Function("largest of two", torch.maximum), (i, other))


@operation("concatenation", ALL, 5)
def _cat(g: Growth, i: int) -> Made:
    value = g.values[i]
    axis = g.rng.choice(range(1, value.dim()))
    rest = [n for d, n in enumerate(value.shape) if d != axis]
    other = g.pick(lambda v: v.dim() == value.dim() and v.is_floating_point() and [n for d, n in enumerate(v.shape) if d != axis] == rest)
    return None if other is None else (Function(f"joined along {axis}", lambda x, y: torch.cat([x, y], axis)), (i, other))


@operation("vector at every token or position", (2,), 2)
def _broadcast(g: Growth, i: int) -> Made:
    units, batch = g.values[i].shape[1], g.values[i].shape[0]
    other = g.pick(lambda v: v.shape[0] == batch and ((v.dim() == 3 and v.shape[2] == units) or (v.dim() == 4 and v.shape[1] == units)))
    if other is None:
        return None
    images, times = g.values[other].dim() == 4, g.rng.random() < 0.5
    function = lambda x, y: (y * x if times else y + x)  # noqa: E731 (of the vector made to fit, and the rest)
    return Function("broadcast", lambda x, y: function(x[:, :, None, None] if images else x[:, None], y)), (i, other)
