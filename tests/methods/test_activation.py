"""Activation matching: planted permutations, in every family and for every similarity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import InvalidInput, align, group
from graphalign.converters.trace import trace_architecture
from graphalign.group import all_tensors
from graphalign.methods.activation import Activation
from graphalign.methods.problem import Problem
from tests.networks import FAMILIES
from tests.planted import RECOVERABLE, plant, recovered
from tests.traced import Runner, cast, other_state, traced

KINDS: list[Any] = ["correlation", "covariance", "inner_product"]


def matched(scores: dict[str, Tensor] | None, element: dict[str, Tensor]) -> Tensor:
    """Scores of the matched units of all cells."""
    assert scores is not None
    return torch.cat([scores[name].gather(1, perm[:, None]).flatten() for name, perm in element.items()])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_aligned_with_a_copy_of_itself(name: str) -> None:
    network = traced(name)
    b, element = plant(network.spec, network.state)
    found = Activation(samples=48)(Problem(network.spec, network.state, b, architecture=network.architecture))
    group.check_element(network.spec, found.permutations)
    agreement = matched(found.scores, found.permutations)
    assert float(agreement.sum()) >= float(matched(found.scores, element).sum()) - 1e-3
    assert recovered(found.permutations, element) > 0.6


@pytest.mark.parametrize("name", FAMILIES)
def test_the_function_of_the_moved_network_is_unchanged(name: str) -> None:
    network = traced(name)
    found = Activation(samples=16)(Problem(network.spec, other_state(name), network.state, architecture=network.architecture))
    state = cast(network.state, torch.float64)
    assert Runner(network).difference(group.apply_to_state(network.spec, found.permutations, state)) <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECOVERABLE)
def test_trap_similar_units_are_matched_and_not_the_most_different(name: str, kind: Any) -> None:
    """A planted random permutation shows a score that is minimised, its transpose (the inverse), and scatters for gathers."""
    network = traced(name)
    b, element = plant(network.spec, network.state, noise=0.02, seed=3)
    assert any(not torch.equal(perm, torch.argsort(perm)) for perm in element.values())
    found = Activation(kind=kind, samples=64)(Problem(network.spec, network.state, b, architecture=network.architecture))
    assert recovered(found.permutations, element) >= (0.9 if kind == "correlation" else 0.6)


def test_correlation_does_not_depend_on_the_scale_of_a_unit() -> None:
    """The units of B have other scales; their inner products and covariances follow the largest, correlation finds them all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    architecture = trace_architecture(model, torch.zeros(1, 5))
    a = all_tensors(model)
    factors = torch.logspace(-2, 2, 12)
    scaled = {n: t * factors.reshape(-1, *[1] * (t.dim() - 1)) if n.startswith("0.") else t for n, t in a.items()}
    b, element = plant(architecture.spec, scaled)
    shares = {k: recovered(Activation(kind=k)(Problem(architecture.spec, a, b, architecture=architecture)).permutations, element) for k in KINDS}
    assert shares["correlation"] == 1.0
    assert max(shares["covariance"], shares["inner_product"]) < 1.0


def test_it_looks_at_the_data() -> None:
    """On inputs that excite one half of the units, only these can be told apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model.get_parameter("0.weight")[:6, :3] = 0
        model.get_parameter("0.weight")[6:, 3:] = 0
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    x[:, 3:] = 0
    architecture = trace_architecture(model, torch.zeros(1, 6))
    b, element = plant(architecture.spec, all_tensors(model))
    problem = Problem(architecture.spec, all_tensors(model), b, architecture=architecture, data=[(x, torch.zeros(200))])
    found = Activation()(problem)
    assert found.scores is not None
    assert not found.scores["0"][:6].any()
    assert torch.equal(found.permutations["0"][6:], element["0"][6:])


def test_scores_and_objective_are_those_of_the_permutations() -> None:
    network, b = traced("mlp_3"), other_state("mlp_3")
    found = Activation()(Problem(network.spec, network.state, b, architecture=network.architecture))
    assert found.scores is not None
    total = sum(float(found.scores[n][torch.arange(len(p)), p].double().sum()) for n, p in found.permutations.items())
    assert found.objective == pytest.approx(total)
    shuffled = group.random_element(network.spec, torch.Generator().manual_seed(0))
    assert total > sum(float(found.scores[n][torch.arange(len(p)), p].sum()) for n, p in shuffled.items())


def test_it_is_deterministic_and_modifies_nothing() -> None:
    network, b = traced("resnet_basic"), other_state("resnet_basic")
    before = [t.clone() for t in (*network.state.values(), *b.values())]
    problem = Problem(network.spec, network.state, b, seed=4, architecture=network.architecture)
    first, again = (Activation(samples=32)(problem) for _ in range(2))
    assert all(torch.equal(first.permutations[n], again.permutations[n]) for n in first.permutations)
    assert all(torch.equal(x, y) for x, y in zip(before, (*network.state.values(), *b.values()), strict=True))


def test_align_runs_it_on_a_loader() -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    loader = [(torch.randn(32, 5), torch.zeros(32, dtype=torch.long)) for _ in range(2)]
    alignment = align(a, b, example_input=torch.zeros(1, 5), method="activation", data=loader, kind="covariance")
    assert alignment.method == "activation"
    x = torch.randn(16, 5)
    assert torch.allclose(alignment.apply(b)(x), b(x), atol=1e-6)


def test_what_is_missing_or_unknown_is_named() -> None:
    network = traced("mlp_2")
    with pytest.raises(InvalidInput, match="method 'activation': found no architecture, which it needs; pass modules and an example_input"):
        Activation()(Problem(network.spec, network.state, network.state))
    with pytest.raises(InvalidInput, match="activations: found kind='cosine', expected one of correlation, covariance, inner_product"):
        Activation(kind="cosine")  # type: ignore[arg-type]
