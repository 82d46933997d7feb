"""Units that play the same part trade places, and others do not: by what reads them, in which order, and beside which constants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import NetworkSpec, neuron_graph, trace, verify

SAME = 1e-12
Read = Callable[[Tensor], Tensor]


class Reader(nn.Module):
    """Eight units at three tokens, and a linear layer on each of several functions of them."""

    def __init__(self, *reads: Read) -> None:
        super().__init__()
        self.layer, self.reads = nn.Linear(5, 8), reads
        with torch.no_grad():
            widths = [read(self.layer(torch.zeros(2, 3, 5))).shape[-1] for read in reads]
        self.heads = nn.ModuleList(nn.Linear(width, 1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        return torch.stack([head(read(hidden)).mean() for head, read in zip(self.heads, self.reads, strict=True)]).sum()


def checked(*reads: Read) -> NetworkSpec:
    """The spec, which keeps the function."""
    torch.manual_seed(0)
    model, x = Reader(*reads), torch.randn(2, 3, 5)
    spec = trace(model, x)
    assert verify(model, x, spec=spec, samples=10) <= SAME
    return spec


def cells(spec: NetworkSpec) -> list[tuple[int, int]]:
    """Units and blocks of every cell."""
    return [(cell.units, cell.blocks) for cell in spec.cells]


def means(hidden: Tensor) -> Tensor:
    return hidden.unflatten(-1, (4, 2)).mean(-1)


@pytest.mark.parametrize("reads", [(means,), (means, lambda h: h)], ids=["alone", "beside the units"])
def test_a_layer_that_reads_blocks_moves_with_them(reads: tuple[Read, ...]) -> None:
    assert cells(checked(*reads)) == [(8, 4), (4, 4)]


def test_a_layer_that_reads_blocks_hears_the_units_that_move_with_them() -> None:
    torch.manual_seed(0)
    graph = neuron_graph(Reader(means, lambda h: h), torch.randn(2, 3, 5))
    found = {block.tensor: block for block in graph.blocks}
    columns = graph.architecture.offsets["heads.0"] + torch.arange(4)
    assert torch.equal(found["heads.0.weight"].source, columns)
    assert torch.equal(graph.units["mean"], columns)
    assert torch.equal(found["heads.1.weight"].source, graph.architecture.offsets["layer"] + torch.arange(8))


def test_a_layer_that_reads_blocks_at_several_tokens_moves_them_together() -> None:
    spec = checked(lambda h: means(h).flatten(1))
    assert cells(spec) == [(8, 4), (4, 4)]
    (axis,) = [a for a in spec.axes if a.tensor == "heads.0.weight"]
    assert [(s.count, s.repeat) for s in axis.segments] == [(4, 1)] * 3


def half_reversed(hidden: Tensor) -> Tensor:
    return torch.cat([hidden[..., :4], hidden[..., 4:].flip(1)], -1)


def one_padded_differently(hidden: Tensor) -> Tensor:
    return torch.cat([F.pad(hidden[..., :1], (0, 0, 0, 2)), F.pad(hidden[..., 1:], (0, 0, 1, 1))], -1)


def in_another_order(hidden: Tensor) -> Tensor:
    """Every unit and its sine, side by side: the unit first for the first three, its sine first for the rest."""
    pairs = torch.stack([hidden, hidden.sin()], -1)
    return torch.cat([pairs[..., :3, :], pairs[..., 3:, :].flip(-1)], -2).flatten(-2)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (half_reversed, [(4, 1), (4, 1)]),
        (lambda h: half_reversed(h).flatten(1), [(4, 1), (4, 1)]),
        (lambda h: half_reversed(h).sin() + h, [(4, 1), (4, 1)]),
        (lambda h: one_padded_differently(h).flatten(1), [(7, 1)]),
        (in_another_order, [(3, 1), (5, 1)]),
        (lambda h: F.glu(h.roll(1, -1), -1), [(3, 1)]),
        (lambda h: torch.cat([F.glu(h.roll(1, -1), -1), h], -1), [(3, 1)]),
        (lambda h: (h.repeat(1, 1, 2) * torch.cat([h, h.sin()], -1)).roll(1, -1).flatten(1), [(7, 1)]),
    ],
)
def test_units_trade_places_only_if_all_their_entries_have_come_the_same_way_in_the_same_order(
    read: Read, expected: list[tuple[int, int]]
) -> None:
    assert cells(checked(read)) == expected


@pytest.mark.parametrize(
    "read",
    [
        lambda h: h.flip(1),
        lambda h: torch.cat([h, h.flip(1)], -1).flatten(1),
        lambda h: torch.cat([h.tanh(), h], -1).roll(8, -1),
        lambda h: torch.stack([h, h.sin()], -1).flatten(-2),
        lambda h: F.pad(h, (2, 1, 1, 0)).flatten(1),
    ],
)
def test_units_that_all_go_the_same_ways_trade_places(read: Read) -> None:
    assert cells(checked(read, lambda h: h)) == [(8, 1)]


class PaddedNorm(nn.Module):
    """Entries beside the units are zero before a norm, and differ after it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.next, self.head = nn.Linear(5, 6), nn.LayerNorm(9), nn.Linear(9, 9), nn.Linear(9, 3)
        torch.nn.init.uniform_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(F.pad(self.layer(x), (1, 2)))
        z = y - y.logsumexp(-1, keepdim=True)
        return self.head(self.next(z) * z.sigmoid())


def test_constants_beside_units_differ_once_weights_have_changed_them() -> None:
    torch.manual_seed(0)
    model, x = PaddedNorm(), torch.randn(2, 5)
    spec = trace(model, x)
    assert cells(spec) == [(6, 1)]
    assert verify(model, x, spec=spec, samples=10) <= SAME


def padded(hidden: Tensor) -> Tensor:
    """Four rows of a zero and two units."""
    return F.pad(hidden.unflatten(-1, (4, 2)), (1, 0))


@pytest.mark.parametrize(
    "read",
    [
        lambda h: padded(h).softmax(-1).flatten(-2),
        lambda h: F.layer_norm(padded(h), (3,)).flatten(-2),
        lambda h: F.group_norm(padded(h.flatten(0, 1)).flatten(1)[..., None], 4).flatten(1),
    ],
    ids=["softmax", "layer norm", "group norm"],
)
def test_constants_that_are_normalised_with_a_block_move_with_it(read: Read) -> None:
    assert cells(checked(read)) == [(8, 4), (4, 4)]
    assert cells(checked(read, lambda h: h)) == [(8, 4), (4, 4)]


class SumsBesideUnits(nn.Module):
    """Units are added to sums of other units so far, of which no two are the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other, self.next, self.head = nn.Linear(5, 6), nn.Linear(5, 9), nn.Linear(9, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        sums = torch.cat([x[..., :3], self.layer(x).cumsum(-1)], -1).amax(1)
        return self.head(self.next(sums.sin() + self.other(x[:, 0])))


def test_a_sum_of_the_units_so_far_is_another_value_at_every_unit() -> None:
    torch.manual_seed(0)
    model, x = SumsBesideUnits(), torch.randn(2, 3, 5)
    spec = trace(model, x)
    assert [cell.name for cell in spec.cells] == ["next"]
    assert verify(model, x, spec=spec, samples=10) <= SAME
