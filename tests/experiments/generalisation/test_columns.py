from __future__ import annotations

from typing import Any

import pytest
import torch

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.case import open_case
from graphalign.experiments.generalisation.columns import Chain, read_columns
from graphalign.experiments.generalisation.protocol import Protocol
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.sinkhorn import Sinkhorn
from graphalign.zoo.zoo import Zoo

PROTOCOL = Protocol(pairs=2, tuning_pairs=1, points=3, test_images=50, batch=64)


def test_variants_are_all_combinations_and_lists() -> None:
    sinkhorn = {"stages": [{"method": "sinkhorn", "sees": "labels", "steps": 3}]}
    grid = read_columns({"s": {**sinkhorn, "variants": {"objective": ["random", "midpoint"], "rate": [0.1, 0.2]}}})["s"]
    assert [(v["objective"], v["rate"]) for v in grid.variants] == [("random", 0.1), ("random", 0.2), ("midpoint", 0.1), ("midpoint", 0.2)]
    listed = read_columns({"s": {**sinkhorn, "variants": [{"rate": [0.1, 0.2]}, {"rate": 1.0, "objective": "l2"}]}})["s"]
    assert listed.variants == ({"rate": 0.1}, {"rate": 0.2}, {"rate": 1.0, "objective": "l2"})
    assert grid.chain(grid.variants[3], None).links == ((Sinkhorn("midpoint", steps=3, rate=0.2), "labels"),)


def test_a_chain_hands_on_results_and_data(zoo: Zoo) -> None:
    case = open_case(zoo, zoo.select(section="width")[0], PROTOCOL)
    seen: list[tuple[Any, Any]] = []

    def first(problem: Problem) -> Solution:
        seen.append((problem.data, problem.start))
        return Solution({c.name: torch.arange(c.units).roll(1) for c in problem.spec.cells}, {"some": torch.ones(1)})

    def second(problem: Problem) -> Solution:
        seen.append((problem.data, problem.start))
        assert problem.scores == {"some": torch.ones(1)}
        assert problem.start is not None
        return Solution({name: perm.roll(1) for name, perm in problem.start.items()})

    solutions, seconds = Chain(((first, "nothing"), (second, "labels")))(case.problems, case.data)
    assert [data for data, _ in seen] == [None, None, case.data["labels"], case.data["labels"]]
    assert all(torch.equal(p, torch.arange(len(p)).roll(2)) for s in solutions for p in s.permutations.values())
    assert seconds > 0


def test_pairs_together_are_the_pairs_one_by_one(zoo: Zoo) -> None:
    case = open_case(zoo, zoo.select(section="width")[0], PROTOCOL)
    column = read_columns({"s": {"stages": [{"method": "sinkhorn", "sees": "labels", "steps": 4, "rate": 1.0}]}})["s"]
    together, _ = column.chain({}, None)(case.problems, case.data)
    alone = [column.chain({}, None)([p], case.data)[0][0] for p in case.problems]
    assert all(torch.equal(x.permutations[n], y.permutations[n]) for x, y in zip(together, alone, strict=True) for n in x.permutations)


def test_the_aligner_goes_to_the_learned_method_alone() -> None:
    column = read_columns({"t": {"aligner": "trained", "stages": [{"method": "gnn"}, {"method": "sinkhorn", "sees": "labels"}]}})["t"]
    aligner = Aligner()
    (gnn, _), (sinkhorn, _) = column.chain({"rate": 0.5}, aligner).links
    assert gnn.aligner is aligner
    assert sinkhorn == Sinkhorn(rate=0.5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"stages": [{"method": "wait"}]}, r"c: method: found 'wait', expected one of"),
        ({"stages": [{"method": "weight", "sees": "much"}]}, r"expected a method and sees, one of nothing, inputs, images, labels"),
        ({"stages": [{"method": "sinkhorn", "speed": 1}]}, r"method 'sinkhorn': found unknown settings speed"),
        ({"stages": [{"method": "gnn"}]}, r"gnn without an aligner, expected both or neither"),
        ({"stages": [{"method": "weight"}], "aligner": "trained"}, r"found an aligner without the method gnn"),
        ({"stages": []}, r"expected a mapping of stages"),
        ({"stages": [{"method": "weight"}], "colour": 1}, r"expected a mapping of stages and, if needed, aligner, timed_only"),
    ],
)
def test_wrong_columns(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_columns({"c": entry})


def test_no_columns() -> None:
    with pytest.raises(InvalidInput, match="found none, expected at least one"):
        read_columns({"left_out": None})
