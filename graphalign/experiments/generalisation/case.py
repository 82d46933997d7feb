"""One architecture of a population, ready to be measured: its pairs of networks, its data, the line between two networks."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphalign import group as groups
from graphalign.connectivity import barrier
from graphalign.curve import Curve
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.protocol import Protocol, round_robin
from graphalign.methods.problem import Problem
from graphalign.pairwise import Pair, prepare_pair
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo

EVALUATED = 500
"""Images evaluated at once."""

Sees = Literal["nothing", "inputs", "images", "labels", "everything"]
"""Data of a method: none; few unlabelled inputs; many; labels of the whole training set; the whole training set without labels."""


def family_of(group: Group) -> str:
    """Family of a group's design; "vgg-bn" for a VGG with BatchNorm."""
    batch_norm = group.design.family == "vgg" and getattr(group.design, "norm", "none") == "batch"
    return "vgg-bn" if batch_norm else group.design.family


@dataclass(frozen=True)
class Case:
    """Networks of one group of a population, and what they are aligned and measured with; all of it on one device.

    Attributes:
        group: of the population.
        pairs: the networks of every pair, by their place in the group.
        problems: one per pair, without data.
        data: training images in a random order, by what a method sees of them.
        test: batches (inputs, targets) that are used for nothing but the measurement.
        statistics: training images for BatchNorm statistics; None without BatchNorm.
        points: values of lambda on a line.
        trace_seconds: that tracing the architecture took, which is part of no method.
    """

    group: Group
    pairs: Sequence[tuple[int, int]]
    problems: Sequence[Problem]
    data: Mapping[Sees, list[Any] | None]
    test: list[tuple[Tensor, Tensor]]
    statistics: list[Tensor] | None
    points: int
    trace_seconds: float

    def curve(self, pair: int, permutations: Mapping[str, Tensor]) -> Curve:
        """Loss and accuracy between A and the permuted B of a pair, on the test images."""
        problem = self.problems[pair]
        assert problem.module is not None
        a, b = (_with_weights(problem.module, state) for state in (problem.a, problem.b))
        aligned = groups.apply_to_module(problem.spec, permutations, b)
        return barrier(a, aligned, self.test, loss=problem.loss, points=self.points, reset_batch_norm=self.statistics)


def open_case(zoo: Zoo, group: Group, protocol: Protocol, *, root: str | os.PathLike[str] | None = None, device: str = "cpu") -> Case:
    """The case of a group.

    Args:
        zoo: the population.
        group: one of its groups, of at least two networks.
        protocol: how many pairs and images.
        root: of data sets that are not embedded.
        device: where everything is computed.

    Raises:
        InvalidInput: a single network; missing weights or data.
        CorruptFile: weights or data that cannot be read.
    """
    states = [{k: t.to(device) for k, t in state.items()} for state in zoo.states(group)]
    if len(states) < 2:
        raise InvalidInput(f"{group.name}: found {len(states)} network(s), expected at least 2 to align; raise `seeds` of its section")
    images = zoo.images(group, root)
    module = zoo.module(group).to(device)
    loss = "mse" if group.recipe.signal is not None else "cross_entropy"
    order = torch.randperm(len(images.x), generator=torch.Generator().manual_seed(protocol.seed))
    x, y = images.x[order].to(device), images.y[order].to(device)
    begun = time.perf_counter()
    architecture = prepare_pair(module, states[1], x[:1]).architecture
    trace_seconds = time.perf_counter() - begun
    pairs = round_robin(len(states), protocol.pairs)
    inputs = list(x.split(protocol.batch))
    test = [t[: protocol.test_images].to(device).split(EVALUATED) for t in (images.test_x, images.test_y)]
    return Case(
        group, pairs,
        [Pair(architecture, states[i], states[j], module).problem(seed=protocol.seed + k, loss=loss) for k, (i, j) in enumerate(pairs)],
        {
            "nothing": None,
            "inputs": list(x[: protocol.inputs].split(protocol.batch)),
            "images": list(x[: protocol.images].split(protocol.batch)),
            "labels": list(zip(inputs, y.split(protocol.batch), strict=True)),
            "everything": inputs,
        },
        list(zip(*test, strict=True)),
        list(x[: protocol.statistics_images].split(EVALUATED)) if _has_statistics(module) else None,
        protocol.points, trace_seconds,
    )  # fmt: skip


def _has_statistics(module: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def _with_weights(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    network = copy.deepcopy(module)
    network.load_state_dict(state)
    return network
