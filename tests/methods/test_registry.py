"""The table of methods: what it promises, every method keeps."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch

import graphalign
from graphalign import InvalidInput, group
from graphalign.methods import METHODS, Problem, list_methods
from tests.traced import other_state, traced


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
