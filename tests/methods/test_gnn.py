"""The learned method: what it sees, how many steps it takes, and that steps help."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from graphalign import Aligner, AlignerConfig, InvalidInput, group
from graphalign.methods import gnn
from graphalign.methods.gnn import GNN, code_examples
from graphalign.methods.problem import Problem
from graphalign.pairwise import prepare_pair
from graphalign.spec import NetworkSpec
from tests.traced import other_state, traced

ALIGNER = Aligner(AlignerConfig(codes=64, candidates=4))
INPUTS = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def problem() -> Problem:
    return prepare_pair(network(0), network(1), torch.zeros(1, 6)).problem()


def test_steps_never_raise_the_disagreement(problem: Problem) -> None:
    """The objective is that of the hard permutations, the start's among them, on the same inputs."""
    values = [GNN(ALIGNER, steps=steps)(problem).objective for steps in (1, 8)]
    assert values[0] is not None
    assert values[1] is not None
    assert values[1] < values[0]


def test_without_steps_the_scores_decide(problem: Problem) -> None:
    found = GNN(ALIGNER, steps=0)(problem)
    assert found.objective is None
    assert found.losses == ()
    with torch.no_grad():
        expected = ALIGNER.permutations(problem.architecture, problem.a, problem.b)  # type: ignore[arg-type]
    assert group.same(found.permutations, expected)


def test_the_user_s_inputs_replace_the_codes(problem: Problem) -> None:
    given = replace(problem, data=[INPUTS])
    assert GNN(ALIGNER)(given).losses != GNN(ALIGNER)(problem).losses
    assert GNN(ALIGNER)(given).losses != GNN(ALIGNER)(replace(problem, data=[-INPUTS])).losses
    parts = GNN(ALIGNER)(replace(given, data=list(INPUTS.split(100)))).losses
    assert GNN(ALIGNER)(given).losses[:3] == pytest.approx(parts[:3], rel=1e-3)


def test_no_more_inputs_are_read_than_asked_for(problem: Problem) -> None:
    few, more = ([INPUTS[:100], torch.full((100, 6), torch.nan)][:n] for n in (1, 2))
    settings = GNN(ALIGNER, examples=100)
    assert settings(replace(problem, data=more)).losses == settings(replace(problem, data=few)).losses


def mixing(spec: NetworkSpec) -> int:
    """Multiplications of all weights by a matrix for every axis that moves."""
    return sum(math.prod(spec.shapes[x.tensor]) * sum(spec.by_name[s.cell].units for s in x.segments if s.cell is not None) for x in spec.axes)


def test_large_networks_take_fewer_steps_unless_told(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(GNN(ALIGNER)(problem).losses) == ALIGNER.config.steps
    assert problem.architecture is not None
    codes = ALIGNER.codes(problem.architecture, problem.a, problem.b)
    cost = gnn.step_cost(problem.architecture, codes)
    assert cost == 4 * 64 * gnn.forward_cost(problem.architecture) + 3 * mixing(problem.spec)
    monkeypatch.setattr(gnn, "REFINE_BUDGET", 3.5 * cost)
    assert len(GNN(ALIGNER)(problem).losses) == 3
    assert len(GNN(ALIGNER, steps=5)(problem).losses) == 5
    assert len(GNN(ALIGNER)(replace(problem, data=[INPUTS])).losses) == ALIGNER.config.steps


def test_a_step_sees_as_many_codes_as_the_budget_allows(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem.architecture is not None
    codes = ALIGNER.codes(problem.architecture, problem.a, problem.b)
    assert sum(len(part.args[0]) for part in code_examples(problem.architecture, codes)) == 64
    monkeypatch.setattr(gnn, "FEWEST_EXAMPLES", 8)
    monkeypatch.setattr(gnn, "STEP_BUDGET", 20 * gnn.forward_cost(problem.architecture))
    assert sum(len(part.args[0]) for part in code_examples(problem.architecture, codes)) == 20


def test_networks_without_a_derivative_get_the_scores_permutations() -> None:
    name = "mlp_in_place_residual"
    found = traced(name)
    given = Problem(found.spec, found.state, other_state(name), 0, found.architecture, found.model)
    assert group.same(GNN(ALIGNER)(given).permutations, GNN(ALIGNER, steps=0)(given).permutations)


def test_tokens_alone_are_not_refined_without_data() -> None:
    found = traced("gpt")
    given = Problem(found.spec, found.state, other_state("gpt"), 0, found.architecture, found.model)
    assert GNN(ALIGNER)(given).losses == ()


def test_the_objective_is_the_disagreement_on_the_codes(problem: Problem) -> None:
    """Written out: KL of the mean prediction to that of the network at the midpoint."""
    assert problem.architecture is not None
    assert problem.module is not None
    found = GNN(ALIGNER, steps=3)(problem)
    (part,) = code_examples(problem.architecture, ALIGNER.codes(problem.architecture, problem.a, problem.b))
    moved = group.apply_to_state(problem.spec, found.permutations, problem.b)

    def predict(state: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return torch.func.functional_call(problem.module, state, part.args).log_softmax(-1)  # type: ignore[arg-type]

    target = 0.5 * (predict(dict(problem.a)).exp() + predict(moved).exp())
    middle = predict({n: 0.5 * (problem.a[n] + moved[n]) for n in moved})
    assert found.objective == pytest.approx(float((target * (target.log() - middle)).sum(1).mean()), rel=1e-4)


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidInput, match="gnn: found steps=-1, expected at least 0; examples=0, expected at least 1"):
        GNN(steps=-1, examples=0)
    with pytest.raises(InvalidInput, match="aligner: found candidates=0, expected at least 1; made_up=2, expected a number from 0 to 1"):
        AlignerConfig(candidates=0, made_up=2)
