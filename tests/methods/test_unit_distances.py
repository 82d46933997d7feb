"""Distances between units: inner products of weights and of activations, and what follows from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphalign.correspondence import correspond
from graphalign.methods.unit_distances import activation_products, products
from tests.traced import cast, other_state, traced
from tests.widened import batches


def test_a_residual_stream_is_compared_wherever_it_is_read() -> None:
    """Twice by the branch and once, after a ReLU, by the head: the sum of the three means over samples."""
    network = traced("mlp_in_place_residual")
    a, b = (cast(state, torch.float64) for state in (network.state, dict(other_state("mlp_in_place_residual"))))
    data = batches(torch.zeros(2, 5), 20)
    found = activation_products(correspond(network.spec, network.spec), (network.architecture,) * 2, a, b, data)
    reads = [stream_of(state, torch.cat(data)) for state in (a, b)]
    stream = next(cell.name for cell in network.spec.cells if "stem.weight" in {axis.tensor for axis in network.spec.axes_of_cell[cell.name]})
    expected = sum((x.T @ y / 30 for x, y in zip(*reads, strict=True)), torch.zeros(7, 7, dtype=torch.float64))
    assert torch.allclose(found[stream].inner, expected)
    assert torch.allclose(found[stream].squares_a[:, 0], sum(x.square().mean(0) for x in reads[0]) + torch.zeros(7))


def stream_of(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    def linear(name: str, h: Tensor) -> Tensor:
        return h @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    stream = [linear("stem", x)]
    for _ in range(2):
        stream.append(stream[-1] + linear("second", torch.relu(linear("first", stream[-1]))))
    return [*stream[:2], torch.relu(stream[2])]


def test_products_are_converted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 30, generator=generator), torch.randn(6, 30, generator=generator)
    whole = products(x, y)
    monkeypatch.setattr("graphalign.methods.unit_distances.PART", 42)
    assert torch.allclose(products(x, y).inner, whole.inner)
    assert torch.allclose(whole.distances("euclidean", False), torch.cdist(x.double(), y.double()))
    unit = torch.nn.functional.normalize(x.double()), torch.nn.functional.normalize(y.double())
    assert torch.allclose(whole.distances("squared", True), torch.cdist(*unit).square())
    assert torch.allclose(whole.distances("cosine", False), 1 - unit[0] @ unit[1].T)
