"""Inputs of a network from a line of text, with random values."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphalign.errors import InvalidInput
from graphalign.inputs import Inputs

TENSOR = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?:@(?P<below>\d+))?")
LARGEST = 1 << 28
"""Most entries of an input."""


def example_of(text: str, seed: int = 0) -> Any:
    """The input that a text describes: normal floats, or whole numbers.

    Args:
        text: "1x3x32x32" for floats of that shape, "1x16@1000" for whole numbers from 0 to 999; several with commas are several
            arguments, "pixels=1x3x32x32" is one by keyword.
        seed: of the values.

    Returns:
        A tensor, a tuple of tensors, or `Inputs`.

    Raises:
        InvalidInput: another text, or a shape that is too large.
    """
    generator = torch.Generator().manual_seed(seed)
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for part in text.split(","):
        match = TENSOR.fullmatch(part.strip())
        sizes = [int(n) for n in match["shape"].split("x")] if match and len(part) < 200 else []
        entries = 1
        for n in sizes:
            entries *= n
        if match is None or not 0 < entries <= LARGEST or (match["below"] and not 0 < int(match["below"]) < 2**62):
            raise InvalidInput(
                f"input: found {part.strip()[:80]!r}, expected a shape such as 1x3x32x32, or 1x16@1000 for whole numbers below 1000, with at "
                f"most {LARGEST} entries"
            )
        value = torch.randint(int(match["below"]), sizes, generator=generator) if match["below"] else torch.randn(sizes, generator=generator)
        if match["name"]:
            named[match["name"]] = value
        else:
            positional.append(value)
    if named:
        return Inputs(*positional, **named)
    return positional[0] if len(positional) == 1 else tuple(positional)


def randomised(example_input: Any, seed: int = 0) -> Any:
    """An example input with normal values in place of those of its floating-point tensors; others stay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator).to(value.device, value.dtype)

    return mapped(example_input, draw)


def mapped(example_input: Any, change: Any) -> Any:
    """An example input with every leaf replaced by what `change` makes of it."""
    if isinstance(example_input, Inputs):
        return Inputs(*mapped(example_input.args, change), **mapped(dict(example_input.kwargs), change))
    return pytree.tree_map(change, example_input)
