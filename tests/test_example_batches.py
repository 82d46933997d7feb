"""Inputs in every form, cut into batches of the size that a network was traced with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import InvalidInput
from graphalign.converters.trace import trace_architecture
from graphalign.example_batches import example_batches
from graphalign.program import Program


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def stacked(model: nn.Module, example: Any, loader: Any, size: int = 100) -> list[dict[str, Tensor]]:
    program = Program(trace_architecture(model, example))
    return list(example_batches(program, loader, torch.zeros(()), size))


def test_examples_are_stacked_by_the_batch_size_of_the_trace() -> None:
    x = random(13, 5)
    chunks = stacked(mlp(), torch.zeros(4, 5), [x[:3], x[3:4], x[4:13]], size=1)
    assert [len(chunk["args_0"]) for chunk in chunks] == [1, 1, 1]
    assert torch.equal(torch.cat([chunk["args_0"] for chunk in chunks]).reshape(12, 5), x[:12])  # x[12] fills no batch


def test_too_few_examples_are_repeated() -> None:
    x = random(3, 5)
    (chunk,) = stacked(mlp(), torch.zeros(4, 5), [(x, torch.zeros(3))])
    assert torch.equal(chunk["args_0"], torch.cat([x, x[:1]])[None])


def test_an_example_without_a_batch_axis() -> None:
    x = random(9, 5)
    first, second = stacked(mlp(), torch.zeros(5), [x, x[0]])
    assert torch.equal(first["args_0"], x)
    assert torch.equal(second["args_0"], x[:1])


class Masked(nn.Module):
    """Mixes tokens by a mask that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.second(F.relu(self.first(mask @ x)))  # type: ignore[no-any-return]


def test_an_input_of_the_examples_shape_belongs_to_all_examples() -> None:
    example = {"x": torch.zeros(2, 4, 5), "mask": torch.zeros(4, 4)}
    x, mask = random(7, 4, 5), random(4, 4, seed=1)
    chunks = stacked(Masked(), example, [{"mask": mask, "x": x[:5]}, {"mask": mask, "x": x[5:]}, {"mask": mask, "x": x[:2]}])
    assert torch.equal(torch.cat([c["x"] for c in chunks]).reshape(-1, 4, 5), torch.cat([x, x[:1]]))
    assert all(torch.equal(c["mask"], mask.expand(len(c["x"]), 4, 4)) for c in chunks)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x) + self.second(y)))  # type: ignore[no-any-return]


def test_several_inputs_are_a_tuple() -> None:
    x, y = random(6, 5), random(6, 4)
    (chunk,) = stacked(Two(), (torch.zeros(2, 5), torch.zeros(2, 4)), [((x, y), torch.zeros(6))])
    assert torch.equal(chunk["args_0"].reshape(6, 5), x)
    assert torch.equal(chunk["args_1"].reshape(6, 4), y)


EXAMPLE = (torch.zeros(2, 5), torch.zeros(2, 4))
WRONG: dict[str, tuple[Any, str]] = {
    "feature": ([((random(6, 7), random(6, 4)), 0)], r"input 'args_0' has shape \(6, 7\), expected \(N, 5\) or \(N, 2, 5\)"),
    "both": ([((random(6, 7), random(6, 9)), 0)], r"input 'args_0' has.*\n  - input 'args_1' has shape \(6, 9\)"),
    "counts": ([((random(6, 5), random(8, 4)), 0)], r"inputs with different numbers of examples: 'args_0' has 6, 'args_1' has 8"),
    "one batch beside more": ([((random(6, 5), random(2, 4)), 0)], r"numbers of examples: 'args_0' has 6, 'args_1' has 2"),
    "empty": ([((random(0, 5), random(0, 4)), 0)], r"input 'args_0' has no example\n  - input 'args_1' has no example"),
    "one of two": ([random(6, 5)], r"found 1 input tensor\(s\) in a batch, expected 2 as in the example input \(args_0, args_1\)"),
    "keywords": ([{"x": random(6, 5), "y": random(6, 4)}], r"found inputs by keyword, \['x', 'y'\], expected those of the example input: 2 positional"),
    "not finite": ([((random(6, 5) / 0, random(6, 4)), 0)], r"input 'args_0' holds NaN or infinity"),
    "no batch": ([], "loader: found no batch"),
    "read once": (iter([random(6, 5)]), "which can be read only once"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_do_not_fit_are_refused(case: str) -> None:
    loader, message = WRONG[case]
    with pytest.raises(InvalidInput, match=message):
        stacked(Two(), EXAMPLE, loader)


def test_keywords_must_be_those_of_the_example() -> None:
    example = {"x": torch.zeros(2, 4, 5), "mask": torch.zeros(4, 4)}
    with pytest.raises(InvalidInput, match=r"found inputs by keyword, \['x'\], expected those of the example input: \['mask', 'x'\]"):
        stacked(Masked(), example, [{"x": torch.zeros(2, 4, 5)}])
