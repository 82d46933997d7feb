"""Networks grown operation by operation: every operation of the tables that fits a value may follow it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..networks import randomise
from .layers import Function
from .operations import OPERATIONS, SOURCES, Operation

LARGEST = 700
"""Entries per example above which a value is not made."""


@dataclass(frozen=True)
class Step:
    """One operation of a network: which earlier values it takes (inputs come first), and what it is, for messages."""

    name: str
    inputs: tuple[int, ...]


class RandomNetwork(nn.Module):
    """A directed acyclic graph of modules; every value that nothing reads goes through a head of its own into the output."""

    def __init__(self, modules: Sequence[nn.Module], steps: Sequence[Step], heads: Sequence[nn.Module], read: Sequence[int]) -> None:
        super().__init__()
        self.operations, self.heads = nn.ModuleList(modules), nn.ModuleList(heads)
        self.steps, self.read = tuple(steps), tuple(read)

    def forward(self, *inputs: Tensor) -> Tensor:
        values = list(inputs)
        for module, step in zip(self.operations, self.steps, strict=True):
            values.append(module(*(values[i] for i in step.inputs)))
        outputs = [head(values[i]) for head, i in zip(self.heads, self.read, strict=True)]
        return torch.stack(outputs).sum(0)

    def __str__(self) -> str:
        return "; ".join(f"{step.name}{step.inputs}" for step in self.steps)


class Growth:
    """A network in the making: its values on the example input, and the operations that made them.

    Attributes:
        rng: every choice.
        values: of the example input, in the order in which they are made.
        modules: by step.
        steps: what they are and which values they take.
    """

    def __init__(self, rng: random.Random, inputs: Sequence[Tensor]) -> None:
        self.rng = rng
        self.inputs = tuple(inputs)
        self.values = [value.clone() for value in inputs]
        self.modules: list[nn.Module] = []
        self.steps: list[Step] = []

    def pick(self, fits: Callable[[Tensor], bool]) -> int | None:
        """The place of a value, the latest ones rather than the first ones."""
        places = [i for i, value in enumerate(self.values) if fits(value)]
        return places[-1 - min(int(self.rng.expovariate(0.7)), len(places) - 1)] if places else None

    def add(self, name: str, module: nn.Module, *inputs: int) -> bool:
        """Whether the module has been added: it runs on these values, and makes nothing too large and nothing that is no number."""
        try:
            with torch.no_grad():
                value = module.eval()(*(self.values[i].clone() for i in inputs))
        except (RuntimeError, ValueError, UserWarning):  # sizes that the operation does not take
            return False
        if not bool(torch.isfinite(value).all()):  # NaN stays NaN whatever moves, and would hide every change
            return False
        if value.dim() not in (2, 3, 4) or value[0].numel() > LARGEST or 0 in value.shape or value.shape[0] != self.values[0].shape[0]:
            return False
        self.values.append(value)
        self.modules.append(module)
        self.steps.append(Step(name, inputs))
        return True

    def grow(self, operation: Operation) -> bool:
        """Whether the operation fits some value; then it has been added."""
        place = self.pick(lambda v: v.is_floating_point() and v.dim() in operation.ranks)
        made = None if place is None else operation.make(self, place)
        return made is not None and self.add(operation.name, made[0], *made[1])

    def network(self) -> tuple[RandomNetwork, tuple[Tensor, ...]]:
        """The network and its example input, in eval mode, with no parameter or statistic left constant."""
        used = {i for step in self.steps for i in step.inputs}
        read = [i for i in range(len(self.inputs), len(self.values)) if i not in used]
        heads = [self._head(self.values[i]) for i in read]
        network = RandomNetwork(self.modules, self.steps, heads, read)
        return randomise(network, torch.Generator().manual_seed(self.rng.randrange(2**31))).eval(), self.inputs  # type: ignore[return-value]

    def _head(self, value: Tensor) -> nn.Module:
        flat = nn.Flatten() if value.dim() == 2 or self.rng.random() < 0.5 else None
        if flat is None:
            over = (1,) if value.dim() == 3 else (2, 3)
            flat = Function(f"mean over {over}", lambda x: x.mean(over))
        with torch.no_grad():
            width = flat(value).shape[1]
        return nn.Sequential(flat, nn.Linear(width, 3))


def random_network(seed: int, steps: int | None = None) -> tuple[RandomNetwork, tuple[Tensor, ...]]:
    """A random network of 3 to 12 operations and its example input, the same for a seed.

    The first operation is always a layer with units of its own, so that most networks have something to move.
    """
    with seeded(seed):
        growth = started(random.Random(seed))
        extend(growth, growth.rng.randint(3, 12) if steps is None else steps)
        return growth.network()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator, from which modules draw their parameters, seeded inside and untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def started(rng: random.Random) -> Growth:
    """A network of one layer, from vectors, tokens, images or words."""
    inputs, module = rng.choice(SOURCES)(rng)
    growth = Growth(rng, inputs)
    growth.add("first layer", module, 0)
    return growth


def extend(growth: Growth, steps: int) -> None:
    """Adds random operations until there are that many."""
    for _ in range(20 * steps):
        if len(growth.steps) >= steps:
            return
        growth.grow(growth.rng.choice(OPERATIONS))
