"""Consensus refinement: unlabelled inputs, any start, any family, and bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import InvalidInput, UnsupportedNetwork, align, group
from graphalign.methods import Problem
from graphalign.methods.consensus import Consensus
from graphalign.methods.synthetic import synthetic_batches
from graphalign.methods.weight import Weight
from graphalign.pairwise import prepare_pair
from tests.methods.test_sinkhorn import mlp, task, trained
from tests.networks import FAMILIES
from tests.traced import Runner, cast, other_state, traced

UNLABELLED = [x for x, _ in task()]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return prepare_pair(trained(0), trained(1), torch.zeros(1, 6)).problem(data=UNLABELLED)


def disagreement(problem: Problem, element: dict[str, Tensor]) -> float:
    """KL of the midpoint network to the averaged prediction, written down once more."""
    moved = group.apply_to_state(problem.spec, element, problem.b)
    middle = {n: 0.5 * (problem.a[n] + moved[n]) for n in moved}
    assert problem.module is not None
    x = torch.cat(UNLABELLED)
    with torch.no_grad():
        logits = [torch.func.functional_call(problem.module, state, (x,)) for state in (problem.a, problem.b, middle)]
    p = 0.5 * (logits[0].softmax(1) + logits[1].softmax(1))
    return float((p * (p.log() - logits[2].log_softmax(1))).sum(1).mean())


def test_it_lowers_the_disagreement_without_labels(problem: Problem) -> None:
    for start, share in ((group.identity(problem.spec), 0.5), (Weight()(problem).permutations, 1.0)):
        found = Consensus(examples=1000)(replace(problem, start=start))
        assert found.objective is not None
        assert found.objective <= share * disagreement(problem, start) + 1e-7
        assert found.objective == pytest.approx(disagreement(problem, found.permutations), rel=1e-3)
        assert len(found.losses) == Consensus().steps


def test_it_refines_every_method_s_result() -> None:
    a, b, x = trained(0), trained(1), torch.zeros(1, 6)
    for method in ("naive", "weight", "activation", "gnn"):
        before = align(a, b, example_input=x, method=method, data=UNLABELLED, refine=())
        after = align(a, b, example_input=x, method=method, data=UNLABELLED, refine="consensus")
        problem = prepare_pair(a, b, x).problem(data=UNLABELLED)
        assert after.method == f"{method}+consensus"
        old, new = (disagreement(problem, dict(found.permutations)) for found in (before, after))
        assert new < old if method == "naive" else new <= old


def test_scores_of_the_method_before_are_used(problem: Problem) -> None:
    """Scores whose assignment is another one than `start` decide where it begins."""
    start = group.random_element(problem.spec, torch.Generator().manual_seed(5))
    sharp = {n: torch.eye(len(p))[p] + 0.01 * torch.randn(len(p), len(p), generator=torch.Generator().manual_seed(1)) for n, p in start.items()}
    given = Consensus(rate=1e-6)(replace(problem, start=group.identity(problem.spec), scores=sharp))
    assert all(torch.equal(perm, start[n]) for n, perm in given.permutations.items())
    without = Consensus(rate=1e-6)(replace(problem, start=group.identity(problem.spec)))
    assert all(torch.equal(perm, torch.arange(len(perm))) for perm in without.permutations.values())


def test_steps_do_not_depend_on_the_scale_of_the_loss() -> None:
    """Gradients are normalised: ten times larger outputs of a regression take the same way."""
    x = torch.zeros(1, 6)
    found = []
    for scale in (1.0, 10.0):
        a, b = mlp(0), mlp(1)
        with torch.no_grad():
            for network in (a, b):
                network[4].weight *= scale
                network[4].bias *= scale
        found.append(align(a, b, example_input=x, method="naive", refine="consensus", data=UNLABELLED, loss="mse"))
    assert all(torch.equal(perm, found[1].permutations[n]) for n, perm in found[0].permutations.items())
    assert found[0].history[1].losses == pytest.approx(found[1].history[1].losses, rel=1e-3)


@pytest.mark.parametrize(("loss", "outputs", "kind"), [("cross_entropy", 3, "classes"), ("mse", 3, "values"), ("cross_entropy", 1, "values")])
def test_values_and_classes_are_told_apart(loss: str, outputs: int, kind: Any) -> None:
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)) for _ in range(2))
    problem = replace(prepare_pair(a, b, torch.zeros(1, 6)).problem(data=UNLABELLED, loss=loss))
    problem = replace(problem, start=group.identity(problem.spec))
    auto, named = Consensus()(problem), Consensus(predictions=kind)(problem)
    assert auto.losses == named.losses
    other: Any = "values" if kind == "classes" else "classes"
    assert Consensus(predictions=other)(problem).losses != named.losses


class Scalar(nn.Module):
    """Predicts one number per example, without an axis of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y.squeeze(-1)


def test_predictions_without_an_axis_of_classes_are_values() -> None:
    torch.manual_seed(0)
    pair = prepare_pair(Scalar(), Scalar(), torch.zeros(2, 6))
    for data in (UNLABELLED, [x[:1] for x in UNLABELLED]):  # one number alone has no variance either
        problem = replace(pair.problem(data=data), start=group.identity(pair.spec))
        found = Consensus(examples=1000)(problem)
        assert found.losses == Consensus(examples=1000, predictions="values")(problem).losses
        assert all(torch.isfinite(torch.tensor(found.losses)))


def test_lambda_stays_near_one_half(problem: Problem) -> None:
    """Networks near A say nothing: on the same examples and almost without moving, losses change, but little."""
    start = replace(problem, start=group.identity(problem.spec))
    losses = Consensus(steps=20, rate=1e-7, confidence=0.99, examples=1000)(start).losses
    assert 0.01 < 1 - min(losses) / max(losses) < 0.5


def test_settings_of_the_start_are_used(problem: Problem) -> None:
    start = replace(problem, start=group.identity(problem.spec))
    assert Consensus(confidence=0.9)(start).losses != Consensus()(start).losses
    scored = replace(start, scores={c.name: torch.eye(c.units) for c in problem.spec.cells})
    assert Consensus(confidence=0.9)(scored).losses == Consensus()(scored).losses
    assert Consensus(spread=1.0)(scored).losses != Consensus()(scored).losses


def test_running_statistics_do_not_count() -> None:
    """All three networks normalise by the batch, so that they agree at the right permutations whatever the inputs."""
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
    pair = prepare_pair(a, b, torch.zeros(2, 6))
    shifted = {n: t + 1.0 if n.endswith("running_mean") else t for n, t in pair.a.items()}
    found = [Consensus(steps=1)(replace(p.problem(data=UNLABELLED), start=group.identity(p.spec))) for p in (pair, replace(pair, a=shifted))]
    assert found[0].losses == found[1].losses


def test_empty_scores_are_no_scores(problem: Problem) -> None:
    start = replace(problem, start=group.identity(problem.spec))
    assert Consensus()(replace(start, scores={})).losses == Consensus()(start).losses


def test_many_pairs_at_once_end_where_each_ends_alone() -> None:
    problems = []
    for k in range(3):
        problem = prepare_pair(trained(k), trained(k + 1), torch.zeros(1, 6)).problem(seed=k, data=UNLABELLED)
        problems.append(replace(problem, start=Weight()(problem).permutations))
    for alone, together in zip([Consensus()(p) for p in problems], Consensus().solve(problems), strict=True):
        assert all(torch.equal(perm, together.permutations[n]) for n, perm in alone.permutations.items())
        assert alone.losses == pytest.approx(together.losses, rel=1e-4)


def test_a_loader_s_batches_are_put_together(problem: Problem) -> None:
    """Three batches of 64 make one step's examples as 192 at once do."""
    start = replace(problem, start=group.identity(problem.spec))
    one = Consensus(examples=192)(start)
    other = Consensus(examples=192)(replace(start, data=[torch.cat(UNLABELLED)]))
    assert one.losses == pytest.approx(other.losses, rel=1e-4)


UNTRAINABLE = "mlp_in_place_residual"


def test_a_network_without_a_derivative_is_refused() -> None:
    network = traced(UNTRAINABLE)
    problem = Problem(network.spec, network.state, network.state, 0, network.architecture, network.model, [network.example.args[0]])
    with pytest.raises(UnsupportedNetwork, match="the network cannot be differentiated.*it writes in place over values that its derivative needs"):
        Consensus()(replace(problem, start=group.identity(network.spec)))


@pytest.mark.parametrize("name", ["mlp_2", "cnn_flatten", "vgg_11", "gpt", "mixed_inputs", "attention_cross"])
def test_inputs_are_made_up_where_there_are_no_data(name: str) -> None:
    network = traced(name)
    problem = Problem(network.spec, network.state, other_state(name), 0, network.architecture, network.model)
    problem = replace(problem, start=group.random_element(network.spec, torch.Generator().manual_seed(0)))
    solver = Consensus(steps=4, examples=32)
    found = solver(problem)
    group.check_element(network.spec, found.permutations)
    worse = replace(problem, start=found.permutations)
    assert found.objective is not None
    assert solver(worse).objective <= found.objective + 1e-6  # type: ignore[operator]
    assert len(found.losses) == 4
    assert found.losses == solver(problem).losses
    assert found.losses != solver(replace(problem, seed=1)).losses


def test_an_exact_copy_with_batch_norm_agrees_on_made_up_inputs() -> None:
    """Running statistics that do not fit the inputs must not tell A, B and the network between apart."""
    network = traced("cnn_flatten_bn")
    element = group.random_element(network.spec, torch.Generator().manual_seed(0))
    b = group.apply_to_state(network.spec, group.inverse(element), network.state)
    found = Consensus(steps=2)(Problem(network.spec, network.state, b, 0, network.architecture, network.model, start=element))
    assert group.same(found.permutations, element)
    assert found.objective == pytest.approx(0, abs=1e-8)


def test_made_up_inputs_have_the_shapes_of_the_example() -> None:
    for name in ("mixed_inputs", "attention_cross", "gpt", "vgg_11"):
        network = traced(name)
        (made, *_) = synthetic_batches(network.architecture, torch.zeros(()), 6, 0)
        for given, example in zip((*made.args, *made.kwargs.values()), (*network.example.args, *network.example.kwargs.values()), strict=True):
            assert given.shape[1:] == example.shape[1:] or given.shape[1:] == example.shape
            assert given.dtype == example.dtype
        assert list(made.kwargs) == list(network.example.kwargs)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != UNTRAINABLE])
def test_the_function_of_every_family_is_kept(name: str) -> None:
    network = traced(name)
    a, b = cast(network.state, torch.float64), cast(other_state(name), torch.float64)
    start = group.random_element(network.spec, torch.Generator().manual_seed(0))
    problem = Problem(network.spec, a, b, 0, network.architecture, network.model, [cast(network.example, torch.float64)], start=start)
    found = Consensus(steps=2, examples=1)(problem)
    runner = Runner(network)
    moved = group.apply_to_state(network.spec, found.permutations, runner.state)
    assert runner.difference(moved) < 1e-10
    assert found.objective is not None
    assert all(torch.isfinite(torch.tensor(found.losses)))


# -- bad input ----------------------------------------------------------------------------------------------------------------------


def test_a_missing_start_is_named() -> None:
    x = torch.zeros(1, 6)
    with pytest.raises(InvalidInput, match=r"method 'consensus': found no start, which it needs; pass init=, or name the method in refine="):
        align(mlp(0), mlp(1), example_input=x, method="consensus", data=UNLABELLED)


def test_predictions_that_are_not_finite_are_refused() -> None:
    data = [torch.full((4, 6), float("inf"))]
    with pytest.raises(InvalidInput, match="consensus: the predictions of the two networks contain NaN or infinity, expected finite ones"):
        align(mlp(0), mlp(1), example_input=torch.zeros(1, 6), method="naive", refine="consensus", data=data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictions": "logits"}, "consensus: found predictions='logits', expected one of auto, classes, values"),
        ({"spread": 0.0}, r"consensus: found spread=0\.0, expected a positive number"),
        ({"examples": 0}, "consensus: found examples=0, expected at least 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Consensus(**settings)


