"""`verify`: small for right specs, large for wrong ones, and without traces on the model."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from graphalign import Inputs, InvalidInput, UnsupportedNetwork, trace, verify
from tests.traced import build, traced


def test_verify_traces_if_no_spec_is_given() -> None:
    network = traced("cnn_flatten_bn")
    assert verify(network.model, network.example) == verify(network.model, network.example, spec=network.spec) <= 1e-10


def test_the_dtype_sets_the_accuracy() -> None:
    network = traced("resnet_basic")
    exact = verify(network.model, network.example, samples=5)
    single = verify(network.model, network.example, samples=5, dtype=torch.float32)
    assert exact < 1e-12 < single < 1e-4
    assert verify(network.model, network.example, samples=5, dtype=None) == single


class SinglePrecisionNorm(nn.Module):
    """A norm in float32 whatever it is given, as language models have it, and a softmax that asks for float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).float()
        hidden = (hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.softmax(self.second(hidden), -1, dtype=torch.float32)


def test_single_precision_inside_is_lifted() -> None:
    torch.manual_seed(0)
    model, x = SinglePrecisionNorm(), torch.randn(4, 6, dtype=torch.float64)
    spec = trace(model.double(), x)
    assert verify(model, x, spec=spec, samples=5) <= 1e-14 < 1e-9 < verify(model, x, spec=spec, samples=5, dtype=None)


def test_the_seed_decides_and_more_samples_find_no_less() -> None:
    network = traced("attention")
    spec = dataclasses.replace(network.spec, axes=network.spec.axes[1:], rescalings=())
    one, again, other = (verify(network.model, network.example, spec=spec, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert verify(network.model, network.example, spec=spec, samples=4) >= one > 1e-6


def test_networks_that_write_over_their_input_are_compared_on_the_same_input() -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + x.relu_().sum()

    before = x.clone()
    assert verify(Overwriting(), x, samples=3) <= 1e-12
    assert torch.equal(x, before)


def test_training_mode_is_restored_and_not_used() -> None:
    model, example = build("mlp_batch_norm")
    statistics = {n: b.clone() for n, b in model.named_buffers()}
    model.train()
    assert verify(model, example) <= 1e-10
    assert model.training
    assert all(torch.equal(statistics[n], b) for n, b in model.named_buffers())


class Partial(nn.Module):
    """Not-a-number for the first example, infinity for the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.tensor([torch.nan, torch.inf, 0.0], dtype=x.dtype)[:, None]
        return self.second(torch.relu(self.first(x))) + shift


def test_nan_and_infinity_equal_themselves() -> None:
    torch.manual_seed(0)
    assert verify(Partial(), torch.randn(3, 5)) <= 1e-10


class Root(nn.Module):
    """sqrt(W x + b), which has no value once a row of W meets the bias of another unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 4), nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[-4.0], [-3.0], [3.0], [4.0]]))
            self.first.bias.copy_(torch.tensor([5.0, 4.0, -2.0, -3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sqrt(self.first(x)))


def test_nan_on_one_side_only_is_not_overlooked() -> None:
    torch.manual_seed(0)
    model, x = Root(), torch.ones(2, 1)
    spec = trace(model, x)
    assert verify(model, x, spec=spec, samples=5) <= 1e-10
    broken = dataclasses.replace(spec, axes=tuple(a for a in spec.axes if a.tensor != "first.bias"), rescalings=())
    for seed in range(5):
        assert not verify(model, x, spec=broken, seed=seed) <= 1e-10


def test_example_arguments_of_every_form() -> None:
    network = traced("mixed_inputs")
    assert network.example.args
    assert network.example.kwargs
    assert verify(network.model, network.example) <= 1e-10
    assert verify(network.model, {"x": network.example.args[0], **network.example.kwargs}) <= 1e-10


def test_integer_inputs_are_not_cast() -> None:
    network = traced("gpt")
    assert not network.example.args[0].is_floating_point()
    assert verify(network.model, network.example) <= 1e-10


def test_refusals_are_those_of_the_tracer() -> None:
    with pytest.raises(UnsupportedNetwork, match="no hidden unit"):
        verify(nn.Linear(3, 2), torch.zeros(1, 3))
    with pytest.raises(InvalidInput, match="does not run on the example input"):
        verify(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), Inputs(torch.zeros(1, 4)))
