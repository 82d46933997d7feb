"""Which networks correspond layer by layer, and how every difference that is not a width is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphalign import SpecMismatch, trace
from graphalign.correspondence import correspond, differing_widths
from graphalign.spec import NetworkSpec
from tests.networks import cnn, densenet, mlp
from tests.widened import WIDTHS, Attentive, Beside, pair

VECTORS, IMAGES = (2, 5), (2, 3, 12, 12)


def spec_of(network: nn.Module, shape: tuple[int, ...]) -> NetworkSpec:
    return trace(network.eval(), torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", WIDTHS)
def test_cells_correspond_in_order_and_axes_by_name(name: str) -> None:
    narrow, wide, example = pair(WIDTHS[name])
    a, b = trace(narrow, example), trace(wide, example)
    found = correspond(a, b)
    assert list(found.cells.items()) == list(zip(a.by_name, b.by_name, strict=True))
    assert all(b.by_name[found.cells[cell.name]].units in (cell.units, 2 * cell.units) for cell in a.cells)
    for tensor in a.axes_of_tensor:
        for x, y in found.layouts(tensor):
            assert (x.tensor, x.axis) == (y.tensor, y.axis) == (tensor, x.axis)
            assert [found.cells[cell] for cell in x.cells] == list(y.cells)
    assert differing_widths(a, b)
    assert differing_widths(a, a) == []


def test_names_of_cells_may_contain_widths() -> None:
    narrow, wide, example = pair(WIDTHS["more_heads"])
    cells = correspond(trace(narrow, example), trace(wide, example)).cells
    assert any(a != b for a, b in cells.items())


class Twice(nn.Module):
    """Reads its hidden units once or twice."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.first, self.head = times, nn.Linear(5, 6), nn.Linear(6 * times, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([torch.relu(self.first(x))] * self.times, 1))
        return result


@pytest.mark.parametrize(
    ("a", "b", "shape", "messages"),
    [
        (
            mlp([8, 7]), mlp([8, 7, 6]), VECTORS,
            ["A has 2 cells of units (0, 2), B has 3 (0, 2, 4)", "axis 0 of '4.weight' carries movable units only in B", "'6.weight' is only in B"],
        ),
        (mlp([8]), mlp([8], bias=False), VECTORS, ["'0.bias' is only in A", "'2.bias' is only in A"]),
        (cnn((3, 3)), cnn((3, 5), padding=1), IMAGES, ["axis 2 of '2.weight' cannot move and has length 3 in A and 5 in B", "axis 3 of '2.weight'"]),
        (
            nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), VECTORS,
            ["axis 0 of '2.weight' cannot move and has length 3 in A and 4 in B", "axis 0 of '2.bias'"],
        ),
        (Twice(1), Twice(2), VECTORS, ["axis 1 of 'head.weight': every unit of 'first' appears 1 times in A and 2 times in B"]),
        (Beside(6, 1), Beside(6, 3), VECTORS, ["axis 1 of 'head.weight' has 1 indices that cannot move in A and 3 in B"]),
        (densenet(3), densenet(4)[:-1].append(nn.Linear(15, 5)), (2, 3, 8, 8), ["axis 0 of '13.weight' cannot move and has length 4 in A and 5 in B"]),
    ],
    ids=["depth", "bias", "kernel", "classes", "occurrences", "fixed", "last_layer"],
)  # fmt: skip
def test_what_does_not_correspond_is_listed_at_once(a: nn.Module, b: nn.Module, shape: tuple[int, ...], messages: list[str]) -> None:
    specs = spec_of(a, shape), spec_of(b, shape)
    with pytest.raises(SpecMismatch) as caught:
        correspond(*specs)
    text = str(caught.value)
    assert text.startswith("A and B do not correspond layer by layer:")
    assert "Pass two networks with the same layers and tensor names, of any widths" in text
    assert [m for m in messages if m not in text] == []
    assert differing_widths(*specs) == []


def test_blocks_of_a_fixed_order_keep_their_length() -> None:
    torch.manual_seed(0)
    spec = trace(Attentive(8, 2).eval(), torch.randn(2, 5, 8))
    name = next(cell.name for cell in spec.cells if cell.blocks > 1)
    rigid = replace(spec, cells=tuple(replace(cell, rigid=True) if cell.name == name else cell for cell in spec.cells))
    with pytest.raises(SpecMismatch, match="blocks of 4 units in any order and blocks of 4 units in a fixed order"):
        correspond(spec, rigid)
    apart = replace(spec, cells=tuple(replace(cell, group="") for cell in spec.cells))
    with pytest.raises(SpecMismatch, match="cells exchange their blocks together in different groups"):
        correspond(spec, apart)
