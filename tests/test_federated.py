from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphalign
from graphalign import group
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.federated import federated_average
from graphalign.merging import merge

from .networks import FunctionalMLP, mlp
from .traced import build, cast, traced

State = dict[str, Tensor]


def clients(name: str = "mlp_3", count: int = 3) -> list[nn.Module]:
    return [build(name, seed)[0].double() for seed in range(count)]


def states(name: str = "mlp_3", count: int = 3) -> list[State]:
    return [dict(client.state_dict()) for client in clients(name, count)]


def scrambled(network: nn.Module, name: str, seed: int) -> nn.Module:
    """The network with its units in another order."""
    spec = traced(name).spec
    return group.apply_to_module(spec, group.random_element(spec, torch.Generator().manual_seed(seed)), network)


def assert_states(a: State, b: State, tolerance: float = 1e-12) -> None:
    assert list(a) == list(b)
    for key, tensor in a.items():
        torch.testing.assert_close(tensor, b[key], rtol=tolerance, atol=tolerance)


def test_plain_averaging_weighs_by_examples() -> None:
    found = federated_average(states(), [100, 300, 600], align=None)
    for key, tensor in found.items():
        expected = sum(w * state[key] for w, state in zip((0.1, 0.3, 0.6), states(), strict=True))
        torch.testing.assert_close(tensor, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("reference", [0, "universe"])
def test_trap_clients_in_other_orders_are_aligned_first(reference: int | str) -> None:
    model = clients()[0]
    sent = [model, scrambled(model, "mlp_3", 1), scrambled(model, "mlp_3", 2)]
    found = federated_average([c.state_dict() for c in sent], [5, 3, 2], reference=reference)
    assert_states(found, dict(model.state_dict()))
    plain = federated_average(sent, [5, 3, 2], align=None)
    assert not torch.allclose(plain["0.weight"], found["0.weight"], atol=0.1)


def test_it_is_merge_with_counts_as_weights() -> None:
    found = federated_average(states(), [2, 1, 1], align="universe", reference=1)
    assert_states(found, merge(states(), method="universe", reference=1, weights=[0.5, 0.25, 0.25]))


def test_a_global_network_gives_the_order_and_takes_no_part() -> None:
    server = clients()[0]
    sent = [scrambled(server, "mlp_3", 1), scrambled(server, "mlp_3", 2)]
    with torch.no_grad():
        for client in sent:
            client[0].bias.add_(1.0)
    for reference in (server, dict(server.state_dict())):
        found = federated_average(sent, [1, 3], reference=reference, example_input=cast(traced("mlp_3").example, torch.float64))
        torch.testing.assert_close(found["0.weight"], server[0].weight.detach())
        torch.testing.assert_close(found["0.bias"], server[0].bias.detach() + 1.0)


def test_a_model_says_what_state_dicts_are_weights_for() -> None:
    torch.manual_seed(0)
    model, server = FunctionalMLP().double(), FunctionalMLP().double()
    spec = graphalign.trace(model, torch.zeros(2, 5, dtype=torch.float64))
    moved = group.apply_to_module(spec, group.random_element(spec, torch.Generator().manual_seed(1)), server)
    x = torch.zeros(2, 5, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = federated_average([server.state_dict(), moved.state_dict()], [1, 1], model=model, example_input=x)
    assert_states(found, dict(server.state_dict()))
    assert_states(dict(model.state_dict()), before, 0.0)
    assert_states(federated_average([server.state_dict()], [7], model=model, example_input=x, reference="universe"), dict(server.state_dict()))


def test_counters_are_those_of_the_reference_and_statistics_are_averaged() -> None:
    sent = states("mlp_batch_norm", 2)
    for i, state in enumerate(sent):
        state["1.num_batches_tracked"] = torch.tensor(10 * (i + 1))
    found = federated_average(sent, [1, 3], align=None, reference=1)
    assert int(found["1.num_batches_tracked"]) == 20
    torch.testing.assert_close(found["1.running_var"], 0.25 * sent[0]["1.running_var"] + 0.75 * sent[1]["1.running_var"])


def test_clients_may_keep_their_batch_norms() -> None:
    sent = clients("mlp_batch_norm", 2)
    found = federated_average(sent, [1, 3], align=None, batch_norm="keep")
    assert list(found) == ["0.weight", "0.bias", "3.weight", "3.bias", "6.weight", "6.bias"]
    own = {k: v.clone() for k, v in sent[0].state_dict().items()}
    sent[0].load_state_dict(found, strict=False)
    assert torch.equal(sent[0][1].weight, own["1.weight"])
    assert torch.equal(sent[0][0].weight, found["0.weight"])


def test_inputs_stay_as_they_are() -> None:
    sent = clients()
    found = federated_average(sent, [1, 1, 1], align=None)
    for tensor in found.values():
        tensor.zero_()
    assert all(torch.equal(c.state_dict()[k], v) for c, s in zip(sent, states(), strict=True) for k, v in s.items())


BAD: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "one client instead of a list": (lambda: {"states": mlp([8])}, InvalidInput, "found one Sequential, expected a list"),
    "no clients": (lambda: {"states": [], "samples": []}, InvalidInput, "found no clients, expected at least one"),
    "lengths that differ": (lambda: {"samples": [1, 2, 3]}, InvalidInput, "found 3 numbers of examples for 2 clients"),
    "no examples": (
        lambda: {"samples": [0, -2]}, InvalidInput, "found 0 examples of client 0, .*; found -2 examples of client 1, expected a positive",
    ),
    "counts that are not finite": (lambda: {"samples": [1.0, float("nan")]}, InvalidInput, "found nan examples of client 1"),
    "an unknown treatment of BatchNorm": (lambda: {"batch_norm": "drop"}, InvalidInput, "batch_norm='drop', expected 'average' or 'keep'"),
    "own norms in another order": (lambda: {"batch_norm": "keep"}, InvalidInput, "batch_norm='keep' needs align=None"),
    "other shapes": (
        lambda: {"states": [mlp([8]).state_dict(), mlp([9]).state_dict()]}, SpecMismatch, r"'0.weight' is \(8, 5\) in network 0 and \(9, 5\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    change, error, message = BAD[case]
    arguments = {"states": [mlp([8]).state_dict(), mlp([8]).state_dict()], "samples": [1, 2], **change()}
    with pytest.raises(error, match=message):
        federated_average(arguments.pop("states"), arguments.pop("samples"), **arguments)


def test_it_is_exported() -> None:
    assert graphalign.federated_average is federated_average
