"""Bad weights in files that are sound as files: what is no network, and what is another network than the one beside it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from .sound import saved, some_key, state

State = dict[str, Tensor]
NAMES = (
    "\u202eweight", "0.weig\u200bht", "../../0.weight", "/etc/passwd", "..", "", ".", "0..weight", " 0.weight", "0.weight\n", "0\x00.weight", "\U0001f984.weight",
    "a" * 5000, "\x1b[2J.weight", "0.wéight", "0.we\u0301ight", "__class__.weight", "training.weight", "forward.bias", "%s%n", "{0}.weight", "_modules.weight",
)  # fmt: skip


def _not_finite(rng: random.Random, found: State) -> None:
    tensor = found[some_key(rng)].view(-1)
    for _ in range(rng.choice((1, 1, len(tensor)))):
        tensor[rng.randrange(len(tensor))] = rng.choice((float("nan"), float("inf"), -float("inf")))


def _wrong_type(rng: random.Random, found: State) -> None:
    types = (torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.int16)
    key, chosen = some_key(rng), rng.choice(types)
    for name in list(found) if rng.random() < 0.5 else [key]:
        found[name] = (10 * found[name]).to(chosen)


def _named_otherwise(rng: random.Random, found: State) -> None:
    key = some_key(rng)
    found[rng.choice(NAMES)] = found.pop(key)


def _missing(rng: random.Random, found: State) -> None:
    whole = dict(found)
    while _is_network(found):
        found |= whole
        for _ in range(rng.randint(1, 4)):
            found.pop(rng.choice(list(found)))


def _is_network(found: State) -> bool:
    """Whether these tensors of the sound network are one: layers that follow each other, with or without biases."""
    layers = [i for i in (0, 2, 4) if f"{i}.weight" in found]
    return len(layers) > 1 and layers[-1] - layers[0] == 2 * len(layers) - 2 and all(int(key[0]) in layers for key in found)


def _more(rng: random.Random, found: State) -> None:
    shape = [rng.choice((0, 1, 3, 7)) for _ in range(rng.randint(0, 6))]
    found[rng.choice((*NAMES, "6.weight", "9.running_var", "scale"))] = torch.zeros(shape)


def _other_shape(rng: random.Random, found: State) -> None:
    key = some_key(rng)
    tensor = found[key]
    found[key] = rng.choice((
        lambda: torch.cat([tensor, tensor]), lambda: tensor[:-1].clone(), lambda: tensor.unsqueeze(0), lambda: tensor[..., None, None].clone(),
        lambda: torch.zeros(0), lambda: torch.zeros(()), lambda: tensor[:0].clone(), lambda: torch.zeros(2, 2, 2, 2, 2, 2),
    ))()  # fmt: skip


def _of_several_types(rng: random.Random, found: State) -> None:
    """Of two types that no layer computes with; commands read 16 bits beside 32 as 32."""
    key = some_key(rng)
    found[key] = found[key].double()


CHANGES: tuple[Callable[[random.Random, State], None], ...] = (
    _not_finite, _wrong_type, _named_otherwise, _missing, _more, _other_shape, _of_several_types,
)  # fmt: skip


def bad_weights(rng: random.Random) -> tuple[str, bytes]:
    """The ending and the content of a sound file that holds bad weights."""
    found = state()
    change = rng.choice(CHANGES)
    change(rng, found)
    return _written(rng, found)


def _other_widths(rng: random.Random, found: State) -> None:
    units = rng.choice((2, 4, 7, 16))
    found |= {"0.weight": torch.ones(units, 4), "0.bias": torch.ones(units), "2.weight": torch.ones(5, units)}


def _without_biases(rng: random.Random, found: State) -> None:
    for layer in rng.sample((0, 2, 4), rng.randint(1, 3)):
        found.pop(f"{layer}.bias")


def _without_a_layer(rng: random.Random, found: State) -> None:
    layer = rng.choice((0, 4))
    found.pop(f"{layer}.weight")
    found.pop(f"{layer}.bias")


def _with_another_layer(rng: random.Random, found: State) -> None:
    units = rng.randint(1, 5)
    found |= {"6.weight": torch.ones(units, 3), "6.bias": torch.ones(units)}


def other_network(rng: random.Random) -> tuple[str, bytes]:
    """The ending and the content of a sound file of another network: bad for whoever reads it beside the first one."""
    found = state()
    rng.choice((_other_widths, _without_biases, _without_a_layer, _with_another_layer))(rng, found)
    return _written(rng, found)


def _written(rng: random.Random, found: State) -> tuple[str, bytes]:
    if not found or rng.random() < 0.6:
        found = {key: tensor.contiguous() for key, tensor in found.items()}
        return ".safetensors", save(found)
    return rng.choice((".pt", ".pth", ".bin")), saved(found, rng.random() < 0.3)


def _quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kinds of tensors that torch is giving up, and that old files hold
        return make()


def _contents(rng: random.Random) -> Any:
    found = state()
    key = some_key(rng)
    return rng.choice((
        lambda: [], lambda: {}, lambda: None, lambda: list(found.values()), lambda: found[key], lambda: {"state_dict": found, "model": found},
        lambda: {"state_dict": {}}, lambda: {"weights": 3, "model": None}, lambda: {1: found[key]}, lambda: {key: found[key], "epoch": 3}, lambda: {"state_dict": {"state_dict": found}},
        lambda: found | {key: found[key].to_sparse()}, lambda: found | {key: found[key].to("meta")}, lambda: found | {key: torch.zeros(1).expand(1 << 40)},
        lambda: found | {key: torch.zeros(1).expand(1 << 20, 1 << 20)}, lambda: found | {key: _quietly(lambda: torch.quantize_per_tensor(found[key], 0.1, 0, torch.qint8))}, lambda: {"optimizer": {"state": found}},
        lambda: found | {key: nn.Parameter(torch.full_like(found[key], float("nan")))}, lambda: {key: {"weight": found[key]}}, lambda: "state_dict", lambda: 10**400, lambda: {"model": [found]},
        lambda: found | {key: _quietly(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))}, lambda: {(1, 2): found[key]}, lambda: found | {key: None}, lambda: {**found, 7: found[key]},
    ))()  # fmt: skip


def bad_checkpoint(rng: random.Random) -> tuple[str, bytes]:
    """A file as torch writes it whose content is no state dict of a network."""
    return rng.choice((".pt", ".pth", ".bin")), saved(_contents(rng), rng.random() < 0.2)
