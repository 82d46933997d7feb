"""The table of methods: what it promises, every method keeps."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch

import graphalign
from graphalign import Aligner, AlignerConfig, InvalidInput, group
from graphalign.methods import METHODS, Problem, Solver, list_methods
from graphalign.methods.gnn import GNN
from graphalign.methods.naive import Naive
from graphalign.methods.sinkhorn import Sinkhorn
from tests.networks import FAMILIES
from tests.traced import Runner, cast, other_state, traced


def test_methods_are_listed_by_name() -> None:
    assert graphalign.list_methods() == list_methods() == sorted(METHODS)
    assert {"gnn", "naive", "weight"} <= METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_does_and_where_it_is_from(name: str) -> None:
    method = METHODS[name]
    assert method.description
    assert method.source
    assert inspect.getdoc(method.settings)
    assert dataclasses.is_dataclass(method.settings)
    assert list(inspect.signature(method.settings()).parameters) == ["problem"]


@pytest.mark.parametrize("name", ["gnn", "naive", "weight"])
def test_every_method_returns_an_element_of_the_group(name: str) -> None:
    network = traced("attention")
    problem = Problem(network.spec, network.state, other_state("attention"), architecture=network.architecture)
    found = METHODS[name].settings()(problem).permutations
    group.check_element(network.spec, found)
    assert all(perm.device.type == "cpu" for perm in found.values())


def test_naive_moves_nothing() -> None:
    network = traced("mlp_2")
    found = METHODS["naive"].settings()(Problem(network.spec, network.state, other_state("mlp_2"))).permutations
    assert all(torch.equal(perm, torch.arange(len(perm))) for perm in found.values())


def test_a_method_that_needs_an_architecture_says_so() -> None:
    network = traced("mlp_2")
    assert METHODS["gnn"].needs == ("architecture",)
    with pytest.raises(InvalidInput, match="method 'gnn': found no architecture, which it needs; pass modules and an example_input"):
        METHODS["gnn"].settings()(Problem(network.spec, network.state, network.state))


SOLVERS: dict[str, Solver] = {
    "naive": Naive(),
    "gnn": GNN(Aligner(AlignerConfig(codes=4))),
    "sinkhorn": Sinkhorn("l2", steps=2, iterations=5),
}
"""Methods whose own tests do not go through all families."""


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", SOLVERS)
def test_moved_networks_compute_what_they_computed(method: str, name: str) -> None:
    network = traced(name)
    a, b = cast(other_state(name), torch.float64), cast(network.state, torch.float64)
    found = SOLVERS[method](Problem(network.spec, a, b, 0, network.architecture, network.model))
    runner = Runner(network)
    assert runner.difference(group.apply_to_state(network.spec, found.permutations, runner.state)) <= 1e-10
