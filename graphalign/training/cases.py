"""Groups of a population, ready to draw pairs from."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from graphalign import group as groups
from graphalign.architecture import Architecture
from graphalign.connectivity import barrier
from graphalign.converters.trace import trace_architecture
from graphalign.encoder import forward_cost
from graphalign.evaluation import Loss
from graphalign.methods.problem import Problem
from graphalign.zoo.images import Images
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo

Batch = tuple[Tensor, Tensor]
POINTS = 5
"""Values of lambda at which a validation looks for the barrier."""


@dataclass(frozen=True)
class Case:
    """The networks of one group and their data, on one device.

    Attributes:
        group: of the population.
        architecture: shared by the networks.
        module: one of them.
        states: tensors of the networks by state-dict key.
        images: what they learned, and held-out images.
    """

    group: Group
    architecture: Architecture
    module: nn.Module
    states: Sequence[Mapping[str, Tensor]]
    images: Images

    @property
    def signal(self) -> bool:
        """Whether the outputs are values of a signal, not logits of classes."""
        return self.group.recipe.signal is not None

    @property
    def loss(self) -> Loss:
        """What the networks are judged by."""
        return "mse" if self.signal else "cross_entropy"

    @cached_property
    def cost(self) -> float:
        """Multiplications of one input's way through a network."""
        return forward_cost(self.architecture)

    def problem(self, a: int, b: int, seed: int = 0) -> Problem:
        """Two networks to align, by their place in the group."""
        return Problem(self.architecture.spec, self.states[a], self.states[b], seed, self.architecture, self.module, loss=self.loss)

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """Training inputs and targets drawn without repetition, `count` of them or all there are."""
        chosen = torch.randperm(len(self.images.x), generator=generator)[:count].to(self.images.x.device)
        return self.images.x[chosen], self.images.y[chosen]

    def barrier(self, problem: Problem, permutations: Mapping[str, Tensor], most: int) -> float:
        """Loss barrier between A and the permuted B on held-out images, with the statistics of every network of the line.

        Args:
            problem: of `problem`.
            permutations: of B's units, by cell.
            most: images that are used, both held-out ones and those of BatchNorm statistics.
        """
        a, b = (_with_weights(self.module, state) for state in (problem.a, problem.b))
        aligned = groups.apply_to_module(problem.spec, permutations, b)
        test = [(self.images.test_x[:most], self.images.test_y[:most])]
        statistics = list(self.images.x[:most].split(256)) if getattr(self.group.design, "norm", "none") == "batch" else None
        return barrier(a, aligned, test, loss=self.loss, points=POINTS, reset_batch_norm=statistics).barrier


def _with_weights(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    network = copy.deepcopy(module)
    network.load_state_dict(dict(state))
    return network


@dataclass
class Cases:
    """The cases of a population, each opened when it is asked for.

    Attributes:
        zoo: the population.
        root: of data sets that are not embedded.
        device: of weights and images.
    """

    zoo: Zoo
    root: str | os.PathLike[str] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _opened: dict[str, Case] = field(default_factory=dict, repr=False)
    _placed: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __getitem__(self, group: Group) -> Case:
        """The case of a group.

        Raises:
            InvalidInput, CorruptFile: missing or damaged weights or data.
        """
        if group.name not in self._opened:
            images = self.zoo.images(group, self.root)
            x, y = (self._place(t)[: len(t)] for t in (images.x, images.y))
            placed = Images(x, y, self._place(images.test_x), self._place(images.test_y), images.shape, images.classes)
            states = [{name: t.to(self.device) for name, t in state.items()} for state in self.zoo.states(group)]
            module = self.zoo.module(group).to(self.device)
            self._opened[group.name] = Case(group, trace_architecture(module, placed.x[:1]), module, states, placed)
        return self._opened[group.name]

    def _place(self, tensor: Tensor) -> Tensor:
        """A tensor on the device; subsets of one data set share a copy."""
        if tensor.device == self.device:
            return tensor
        whole = tensor.untyped_storage().data_ptr()
        known = self._placed.get(whole)
        if known is None or len(known) < len(tensor):
            self._placed[whole] = known = tensor.to(self.device)
        return known[: len(tensor)]
