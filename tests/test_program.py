"""Running a traced program equals running the module, and its backward states equal automatic differentiation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import Inputs
from graphalign.converters.export import flatten_outputs
from graphalign.converters.trace import trace_architecture
from graphalign.group import all_tensors
from graphalign.program import Program, attention, functional, sweep
from tests.networks import FAMILIES
from tests.traced import Runner, cast, traced


def arguments(program: Program, example: Inputs) -> dict[str, Tensor]:
    values = [*example.args, *example.kwargs.values()]
    return dict(zip(program.inputs, values, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_float32_trace_runs_in_float64_like_the_module(name: str) -> None:
    network, runner = traced(name), Runner(traced(name))
    program = Program(network.architecture)
    with torch.no_grad():
        found, reads = program.run(runner.state, arguments(program, runner.example))
    assert len(found) == len(runner.expected)
    for ours, theirs in zip(found, runner.expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)
    assert reads.keys() == network.architecture.reads.keys()
    assert all(reads[step].shape == labels.shape for step, labels in network.architecture.reads.items())


@pytest.mark.parametrize("name", ["cnn_flatten_bn", "mlp_in_place_residual", "resnet_bottleneck", "attention", "gpt", "llama", "siren"])
def test_float32_equals_the_module(name: str) -> None:
    network = traced(name)
    program = Program(network.architecture)
    with torch.no_grad():
        expected = flatten_outputs(network.model(*network.example.args, **network.example.kwargs))
        found, _ = program.run(network.state, arguments(program, network.example))
    assert all(a.dtype == torch.float32 and torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_other_weights_give_the_other_network() -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval() for _ in range(2))
    nn.init.constant_(second.get_buffer("1.running_mean"), 0.7)
    x = torch.randn(2, 5)
    program = Program(trace_architecture(first, x))
    (found,), _ = program.run(all_tensors(second), arguments(program, Inputs(x)))
    assert torch.allclose(found, second(x), atol=1e-6)
    assert not torch.allclose(found, first(x), atol=1e-3)


def test_vocabularies_are_the_rows_of_the_embedding() -> None:
    (vocabulary,) = Program(traced("gpt").architecture).vocabularies.values()
    assert vocabulary == 11
    assert Program(traced("mlp_2").architecture).vocabularies == {}


def test_outputs_are_those_of_the_example() -> None:
    assert [tuple(t.shape) for t in Program(traced("dict_output").architecture).outputs()] == [(2, 5, 3), (2, 5, 2)]


def test_running_modifies_neither_weights_nor_inputs() -> None:
    for name in ("mlp_in_place_residual", "resnet_bottleneck", "vgg_11_bn"):
        network = traced(name)
        program = Program(network.architecture)
        inputs = {k: v.clone() for k, v in arguments(program, network.example).items()}
        state = {k: v.clone() for k, v in network.state.items()}
        sweep(program, state, {k: v[None] for k, v in inputs.items()}, [torch.ones(1, *o.shape) for o in program.outputs()])
        assert all(torch.equal(v, network.state[k]) for k, v in state.items())
        assert all(torch.equal(v, arguments(program, network.example)[k]) for k, v in inputs.items())


# -- backward states ------------------------------------------------------------------------------------------------------------


def test_states_of_an_mlp_equal_a_derivation_by_hand() -> None:
    """Backward: W3^T c, then the ReLU's mask, then W2^T, and so on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    architecture = trace_architecture(model, torch.zeros(2, 5, dtype=torch.float64))
    program = Program(architecture)
    (name,) = program.inputs
    codes, cotangents = torch.randn(6, 2, 5, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    forward, backward = sweep(program, all_tensors(model), {name: codes}, [cotangents])
    w1, b1, w2, b2, w3, _ = (p.detach() for p in model.parameters())
    z1 = codes @ w1.T + b1
    z2 = z1.relu() @ w2.T + b2
    back2 = cotangents @ w3
    back1 = (back2 * (z2 > 0)) @ w2
    back0 = (back1 * (z1 > 0)) @ w1
    states: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {(6, 2, 5): (codes, back0), (6, 2, 8): (z1.relu(), back1), (6, 2, 7): (z2.relu(), back2)}
    assert len(forward) == 3
    for step, state in forward.items():
        expected_forward, expected_backward = states[tuple(state.shape)]
        assert torch.allclose(state, expected_forward, atol=1e-12)
        assert torch.allclose(backward[step], expected_backward, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["cnn_flatten_bn", "resnet_basic", "attention", "attention_weights", "llama", "gpt", "glu", "dict_output"]
)
def test_vectorised_sweeps_equal_one_code_at_a_time(name: str) -> None:
    network = traced(name)
    program, state = Program(network.architecture), cast(network.state, torch.float64)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        k: torch.randn(3, *v.shape, generator=generator, dtype=torch.float64) if v.is_floating_point()
        else torch.randint(11, (3, *v.shape), generator=generator)
        for k, v in program.inputs.items()
    }  # fmt: skip
    cotangents = [torch.randn(3, *o.shape, generator=generator, dtype=torch.float64) for o in program.outputs()]
    fast = sweep(program, state, inputs, cotangents)
    assert program.vectorised
    program.vectorised = False
    slow = sweep(program, state, inputs, cotangents)
    for a, b in zip(fast, slow, strict=True):
        assert a.keys() == b.keys() == network.architecture.reads.keys()
        assert all(torch.allclose(a[step], b[step], atol=1e-10) for step in a)


@pytest.mark.parametrize(("causal", "masked"), [(False, None), (False, "bool"), (False, "float"), (True, None)])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_from_elementary_operators(causal: bool, masked: str | None, grouped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 6, generator=generator)
    key, value = (torch.randn(2, 2 if grouped else 4, 5, 6, generator=generator) for _ in range(2))
    mask = torch.rand(5, 5, generator=generator) < 0.7
    mask.fill_diagonal_(True)
    attn_mask = {None: None, "bool": mask, "float": torch.randn(5, 5, generator=generator)}[masked]
    options: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": causal, "scale": 0.3, "enable_gqa": grouped}
    expected = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    assert torch.allclose(attention(query, key, value, **options), expected, atol=1e-6)


def test_in_place_operators_have_a_functional_twin() -> None:
    assert functional(torch.ops.aten.relu_.default) is torch.ops.aten.relu.default
    assert functional(torch.ops.aten.add_.Tensor) is torch.ops.aten.add.Tensor
    assert functional(torch.ops.aten.linear.default) is torch.ops.aten.linear.default
