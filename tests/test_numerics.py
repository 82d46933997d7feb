"""`align` on half-precision networks, and with PyTorch's deterministic algorithms."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphalign import Aligner, AlignerConfig, Alignment, align
from tests.planted import plant, recovered
from tests.traced import cast, other_state, traced

SMALL = Aligner(AlignerConfig(codes=64, steps=2, sinkhorn_iterations=5))
"""With steps, so that derivatives of the networks are taken."""
METHODS: dict[str, dict[str, Any]] = {
    "gnn": {"aligner": SMALL}, "activation": {}, "weight": {}, "sinkhorn": {"steps": 3}, "straight_through": {"steps": 2},
}  # fmt: skip
FAMILIES = ["cnn_flatten_bn", "encoder_layer_relu"]


def batches(name: str, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of inputs and labels."""
    (example,) = traced(name).example.args
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 16, *example.shape[1:], generator=generator).to(dtype)
    labels = traced(name).model(example).shape[1:]
    return [(x, torch.randint(labels[-1], (16, *labels[:-1]), generator=generator)) for x in inputs]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("data", [False, True], ids=["codes", "data"])
def test_half_precision_networks_are_aligned_and_keep_their_type(name: str, dtype: torch.dtype, data: bool) -> None:
    network = traced(name)
    a = copy.deepcopy(network.model).to(dtype)
    state, element = plant(network.spec, a.state_dict())
    loader = batches(name, dtype) if data else None
    found = align(a, state, example_input=cast(network.example, dtype), data=loader, aligner=SMALL)
    assert recovered(found.permutations, element) == 1.0
    moved = found.apply(state)
    assert {key: tensor.dtype for key, tensor in moved.items()} == {key: tensor.dtype for key, tensor in a.state_dict().items()}
    assert all(torch.equal(tensor, moved[key]) for key, tensor in a.state_dict().items())


@pytest.fixture
def deterministic() -> Iterator[None]:
    """As a user asks for it; uninitialised memory is then filled with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def found_by(method: str) -> Alignment:
    network = traced("cnn_flatten_bn")
    data = batches("cnn_flatten_bn", torch.float32)
    return align(
        network.model, other_state("cnn_flatten_bn"), example_input=network.example, method=method, data=data, **METHODS[method]
    )


@pytest.fixture(scope="module")
def free() -> dict[str, Alignment]:
    return {method: found_by(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_deterministic_algorithms_are_enough_for_every_method(method: str, free: dict[str, Alignment], deterministic: None) -> None:
    assert torch.utils.deterministic.fill_uninitialized_memory
    first, second = found_by(method), found_by(method)
    for name, perm in first.permutations.items():
        assert torch.equal(perm, second.permutations[name])
        assert torch.equal(perm, free[method].permutations[name])
