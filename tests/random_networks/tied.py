"""Random networks in which several values are one unit: outputs of layers that are added up, and moved about and read before or after."""

# mypy: disable-error-code="no-any-return"
# (torch's functions return Any)

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import randomise

from .grown import seeded

Move = Callable[[Tensor], Tensor]


def _moves(rng: random.Random, size: int) -> list[Move]:
    """Up to four ways of moving the entries of values (N, size), the result of which is (N, R, C)."""
    rows = rng.choice([r for r in range(1, size + 1) if size % r == 0 and r <= 8])
    shift, swapped = rng.randrange(size), rng.random() < 0.3
    order = torch.randperm(size)
    before: list[Move] = [
        lambda x: x, lambda x: x.roll(shift, -1), lambda x: x.flip(-1), lambda x: torch.cat([x[:, shift:], x[:, :shift]], -1), lambda x: x[:, order],
    ]  # fmt: skip
    after: list[Move] = [
        lambda x: x, lambda x: x.flip(1), lambda x: x.roll(1, 1), lambda x: torch.cat([x, x.sin()], 1), lambda x: F.pad(x, (1, 0)),
        lambda x: torch.cat([x[:, :1], x[:, 1:].flip(-1)], 1), lambda x: x + x.flip(1), lambda x: x.repeat_interleave(2, -1),
    ]  # fmt: skip
    return [rng.choice(before), lambda x: x.unflatten(-1, (rows, -1)), *([lambda x: x.mT] if swapped else []), rng.choice(after)]


READERS: tuple[Callable[[Reader, Tensor], Tensor], ...] = (
    lambda m, x: m.linear(x).tanh(), lambda m, x: m.linear(m.norm(x)).tanh(), lambda m, x: m.linear(x.softmax(-1)).tanh(), lambda m, x: m.linear(x.softmax(1)).tanh(),
    lambda m, x: m.wide(x.flatten(1)), lambda m, x: F.linear(x.flatten(1), torch.cat([m.wide.weight[:, 3:], m.wide.weight[:, :3]], 1)), lambda m, x: (x * m.constants).sum(-1),
    lambda m, x: x.logsumexp(-1), lambda m, x: x.amax(1), lambda m, x: (x.logsumexp(-1, keepdim=True) - x).mean(1), lambda m, x: F.glu(x, 1) if x.shape[1] % 2 == 0 else x,
    lambda m, x: x.mT @ x, lambda m, x: m.linear(x.cumsum(1)).sin(), lambda m, x: F.scaled_dot_product_attention(x, x, m.linear(x)),
    lambda m, x: F.group_norm(x, x.shape[1]) if x.shape[2] > 1 else x, lambda m, x: F.group_norm(x.flatten(1), x.shape[1]) if x.shape[2] > 1 else x, lambda m, x: m.along(x).tanh(), lambda m, x: m.across(x.mT).tanh(), lambda m, x: m.over(x[:, None]),
    lambda m, x: F.normalize(x, dim=1), lambda m, x: x.std(1) if x.shape[1] > 1 else x, lambda m, x: torch.einsum("nrc,nrd->ncd", x, x.sin()), lambda m, x: x @ x.mT, lambda m, x: x.mean(1) * x.amax(1), lambda m, x: x.cumsum(-2)[:, -1],
    lambda m, x: x.unsqueeze(2).softmax(1) * x.unsqueeze(1), lambda m, x: F.max_pool1d(x, 2, 1) if x.shape[2] > 1 else x, lambda m, x: (x.softmax(-1) * x).sum(-1), lambda m, x: m.norm(x) * m.norm(x.flip(1)),
)  # fmt: skip


class Reader(nn.Module):
    """A function of values (N, rows, columns) with its parameters."""

    def __init__(self, rng: random.Random, rows: int, columns: int) -> None:
        super().__init__()
        self.linear, self.norm, self.wide = nn.Linear(columns, 3), nn.LayerNorm(columns), nn.Linear(rows * columns, 3)
        self.along, self.across, self.over = nn.Conv1d(rows, 3, 1), nn.Conv1d(columns, 3, 1), nn.Conv2d(1, 2, 1)
        self.register_buffer("constants", torch.arange(1.0, rows + 1)[:, None])
        self.function = rng.choice(READERS)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class TiedNetwork(nn.Module):
    """Layers that are added up, in which values of theirs are moved about and read."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        count, units = rng.randint(2, 4), rng.randint(3, 6)
        self.layers = nn.ModuleList(nn.Linear(5, units) for _ in range(count))
        self.head, self.later = nn.Linear(units, 2), rng.random() < 0.5
        self.moves = _moves(rng, count * units)
        shape = self.moved(torch.zeros(1, count * units)).shape
        self.reader = Reader(rng, *shape[1:])
        with torch.no_grad():
            self.last = nn.Linear(math.prod(self.reader(torch.zeros(shape)).shape[1:]), 3)

    def moved(self, x: Tensor) -> Tensor:
        """Values side by side (N, D) as rows (N, R, C)."""
        for move in self.moves:
            x = move(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        hidden = [torch.tanh(layer(x)) for layer in self.layers]
        total = None if self.later else self.head(sum(hidden))
        read = self.last(self.reader(self.moved(torch.cat(hidden, -1))).flatten(1).sin())
        return torch.cat([read, self.head(sum(hidden)) if total is None else total], 1)


def tied_network(seed: int) -> tuple[TiedNetwork, tuple[Tensor, ...]]:
    """A random network of this kind and its example input, the same for a seed."""
    with seeded(seed):
        rng = random.Random(seed)
        inputs = (torch.randn(3, 5),)
        network = TiedNetwork(rng)
        return randomise(network, torch.Generator().manual_seed(seed)).eval(), inputs
