"""What the descents minimise: distances of weights, disagreement of predictions, and how batches become steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax

from graphalign.forward import Forward
from graphalign.methods.descent import Pairs
from graphalign.methods.objectives import Disagreement, WeightDistance, class_axis, read_examples
from graphalign.pairwise import prepare_pair

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
HALF = torch.full((1,), 0.5)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def pair(count: int) -> Pairs:
    found = prepare_pair(network(0), network(1), torch.zeros(2, 6)).problem()
    return Pairs.of([found] * count)


def test_weight_distance_is_the_mean_over_parameters_without_running_statistics() -> None:
    pairs = pair(2)
    distance = WeightDistance(pairs.spec)
    names = [n for n in pairs.a if "running" not in n and n in pairs.spec.axes_of_tensor]
    entries = torch.cat([(pairs.a[n] - pairs.b[n]).flatten(1) for n in names], 1)
    assert torch.allclose(distance(pairs.a, pairs.b, HALF, 0), entries.square().mean(1))
    far = {n: t + 100.0 if "running" in n else t for n, t in pairs.b.items()}
    assert torch.equal(distance(pairs.a, far, HALF, 0), distance(pairs.a, pairs.b, HALF, 0))


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_trap_disagreement_is_that_with_both_networks_as_they_are(kind: Any) -> None:
    """KL(p, q), not KL(q, p), p the mean of the probabilities of A and B with their own running statistics."""
    pairs = pair(1)
    module = network(0).eval()
    networks = Forward(module)
    disagreement = Disagreement(Forward(module, batch_statistics=True), networks, pairs.a, pairs.b, [[X[:8], X[8:]]], kind)
    (found,) = disagreement(pairs.a, pairs.b, torch.full((1,), 0.25), 0)

    def single(side: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: t[0] for n, t in side.items()}

    middle = {n: 0.25 * t[0] + 0.75 * pairs.b[n][0] for n, t in pairs.a.items()}
    parts = []
    for x in (X[:8], X[8:]):
        outputs = [networks(single(side), x) for side in (pairs.a, pairs.b)]
        between = Forward(module, batch_statistics=True)(middle, x)
        if kind == "classes":
            p = 0.5 * (softmax(outputs[0], 1) + softmax(outputs[1], 1))
            parts.append((p * (p.log() - log_softmax(between, 1))).sum(1).mean())
        else:
            target = 0.5 * (outputs[0] + outputs[1])
            parts.append((between - target).square().mean() / target.var())
    assert float(found) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)


def test_classes_are_the_last_axis_of_tokens_and_the_second_of_images() -> None:
    found = {shape: torch.zeros(shape).shape[class_axis(torch.zeros(shape))] for shape in ((2, 7), (2, 5, 7), (2, 7, 4, 3), (2, 7, 4, 3, 3))}
    assert set(found.values()) == {7}


def test_batches_become_steps() -> None:
    """Whole batches are put together until there are enough; a rest is left out unless nothing else is there."""
    sample = torch.zeros(())
    loader = [torch.full((4, 2), float(k)) for k in range(7)]

    def steps(most: int, each: int) -> list[list[float]]:
        return [[float(part.mean()) for part in parts] for parts in read_examples(sample, loader, most, each)]

    assert steps(10, 8) == [[0, 1], [2, 3], [4, 5]]
    assert steps(10, 9) == [[0, 1, 2], [3, 4, 5]]
    assert steps(2, 4) == [[0], [1]]
    assert steps(10, 100) == [[0, 1, 2, 3, 4, 5, 6]]
    assert read_examples(torch.zeros((), dtype=torch.float64), loader, 1, 1)[0][0].dtype == torch.float64
