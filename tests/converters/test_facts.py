"""Units that play the same part trade places, and others do not: by what reads them, in which order, and beside which constants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphalign import NetworkSpec, trace, verify

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


def test_a_layer_that_reads_blocks_at_several_tokens_moves_them_together() -> None:
    spec = checked(lambda h: means(h).flatten(1))
    assert cells(spec) == [(8, 4), (4, 4)]
    (axis,) = [a for a in spec.axes if a.tensor == "heads.0.weight"]
    assert [(s.count, s.repeat) for s in axis.segments] == [(4, 1)] * 3
