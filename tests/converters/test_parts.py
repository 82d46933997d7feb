"""Units of which several values are one trade places only if each of these values plays the same part in all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import NetworkSpec, UnsupportedNetwork, trace, verify

SAME = 1e-12
Value = Callable[["Tied", Tensor], Tensor]


class Tied(nn.Module):
    """Layers whose outputs are added up, so that unit i of all of them is one unit, and a value of theirs side by side."""

    def __init__(self, layers: int, units: int, value: Value, *, added_first: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, units) for _ in range(layers))
        self.norm, self.next, self.wide = nn.LayerNorm(7), nn.Linear(7, 3), nn.Linear(14, 3)
        self.head, self.value, self.added_first = nn.Linear(units, 2), value, added_first

    def forward(self, x: Tensor) -> Tensor:
        hidden = [torch.tanh(layer(x)) for layer in self.layers]
        if self.added_first:
            total = self.head(sum(hidden))
            return torch.cat([total, self.value(self, torch.cat(hidden, -1)).flatten(1)], 1)
        other = self.value(self, torch.cat(hidden, -1)).flatten(1)
        return torch.cat([other, self.head(sum(hidden))], 1)


def cells(layers: int, units: int, value: Value, added_first: bool) -> dict[str, int]:
    """Units of the cells of the layers that are added up, in a spec that keeps the function."""
    torch.manual_seed(0)
    model, x = Tied(layers, units, value, added_first=added_first), torch.randn(3, 5)
    nn.init.uniform_(model.norm.weight)
    spec: NetworkSpec = trace(model, x)
    assert verify(model, x, spec=spec, samples=10) <= SAME
    return {cell.name: cell.units for cell in spec.cells if cell.name.startswith("layers")}


def in_rows(value: Value, roll: int) -> Value:
    """A value of two rows of seven: those of the two layers, or after a roll three or four units of one and then of the other."""
    return lambda m, both: value(m, both.roll(roll, -1).unflatten(-1, (2, 7)))


TOGETHER, APART = {"layers.0": 7}, {"layers.0[0:4]": 4, "layers.0[4:7]": 3}


@pytest.mark.parametrize("added_first", [True, False])
@pytest.mark.parametrize(("roll", "expected"), [(0, TOGETHER), (7, TOGETHER), (3, APART)])
@pytest.mark.parametrize(
    "value",
    [
        lambda m, rows: m.next(rows).tanh(),
        lambda m, rows: m.next(m.norm(rows)).tanh(),
        lambda m, rows: m.next(rows.softmax(-1)).tanh(),
        lambda m, rows: m.wide(rows.flatten(-2)),
        lambda m, rows: (rows * torch.tensor([[1.0], [2.0]])).sum(-1),
    ],
    ids=["linear", "normalised", "softmax", "in a row", "times constants"],
)
def test_values_stand_in_the_same_order_for_all_units_that_trade_places(
    value: Value, roll: int, expected: dict[str, int], added_first: bool
) -> None:
    assert cells(2, 7, in_rows(value, roll), added_first) == expected


@pytest.mark.parametrize("reduce", [lambda rows: rows.logsumexp(-1), lambda rows: rows.amax(-1), lambda rows: rows.softmax(-1).square().sum(-1)])
def test_values_are_reduced_in_the_same_rows_for_all_units_that_trade_places(reduce: Callable[[Tensor], Tensor]) -> None:
    assert cells(3, 4, lambda m, all_three: reduce(all_three.unflatten(-1, (2, 6))), added_first=False) == {"layers.0[0:2]": 2, "layers.0[2:4]": 2}


def test_values_in_the_same_order_may_be_in_other_rows() -> None:
    order = [0, 4, 2, 1, 6, 10, 3, 7, 8, 11, 5, 9]  # units 0 and 1 of the layers in the rows 0, 0, 1 and 0, 1, 1
    with pytest.raises(UnsupportedNetwork, match="layers.0: 4 units, no other unit plays the same part"):
        cells(3, 4, lambda m, all_three: all_three[:, order].unflatten(-1, (2, 6)).logsumexp(-1), added_first=False)


def weights_in_another_order(model: Tied, both: Tensor) -> Tensor:
    return F.linear(both, torch.cat([model.wide.weight[:, 3:], model.wide.weight[:, :3]], 1))


@pytest.mark.parametrize("added_first", [True, False])
def test_values_meet_weights_in_the_same_order_for_all_units_that_trade_places(added_first: bool) -> None:
    assert cells(2, 7, weights_in_another_order, added_first) == APART


@pytest.mark.parametrize("added_first", [True, False])
def test_values_are_reduced_in_the_same_columns_for_all_units_that_trade_places(added_first: bool) -> None:
    order = [3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2]  # columns 0 and 2 hold the same units, of other layers: 3, 1, 5 and 5, 3, 1
    with pytest.raises(UnsupportedNetwork, match="layers.0: 6 units, no other unit plays the same part"):
        cells(2, 6, lambda m, both: both[:, order].unflatten(-1, (3, 4)).amax(1), added_first)
