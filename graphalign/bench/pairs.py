"""Pairs whose alignment is known, and how much of it an implementation has found, read from the weights it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.bench.networks import build
from graphalign.converters.trace import trace
from graphalign.experiments.planted import planted, randomise
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors, unit_rows


@dataclass(frozen=True)
class Pair:
    """B is A with noise on its weights and its units shuffled.

    Attributes:
        kind: of network, see `graphalign.bench.networks`.
        sizes: arguments of that kind.
        network: the architecture; its weights do not matter.
        inputs: some inputs of it, float64.
        spec: what may move.
        a: state dict of A.
        b: state dict of B.
        right: B before its units were shuffled: what a perfect alignment returns.
    """

    kind: str
    sizes: Sequence[int]
    network: nn.Module
    inputs: Tensor
    spec: NetworkSpec
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    right: Mapping[str, Tensor]

    def recovered(self, moved: Mapping[str, Tensor]) -> float:
        """Share of units that are in their slots in every weight and bias they have.

        The entries of a unit are compared in sorted order, bit by bit: their own order belongs to the units of other cells.
        """
        names = matched_tensors(self.spec)
        found = total = 0
        for cell in self.spec.cells:
            same = torch.ones(cell.units, dtype=torch.bool)
            for layout in self.spec.axes_of_cell[cell.name]:
                if layout.tensor in names:
                    own, expected = (unit_rows(layout, state[layout.tensor], cell).sort(1).values for state in (moved, self.right))
                    same &= (own == expected).all(1)
            found, total = found + int(same.sum()), total + cell.units
        return found / total

    def change_of_function(self, moved: Mapping[str, Tensor]) -> float:
        """Largest difference between the outputs of B and of B as it was returned, in float64."""
        outputs = []
        with torch.no_grad():
            for state in (self.b, moved):
                self.network.load_state_dict(dict(state))
                outputs.append(self.network.double()(self.inputs))
                self.network.float()
        return float((outputs[0] - outputs[1]).abs().max())


def make_pair(kind: str, sizes: Sequence[int], noise: float, seed: int) -> Pair:
    """A pair of a seed; biases, scales and running statistics of A are random.

    Args:
        kind: see `graphalign.bench.networks`.
        sizes: arguments of that kind.
        noise: on the weights of B, in standard deviations of each parameter tensor.
        seed: of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, example = build(kind, sizes)
    randomise(network, generator)
    spec = trace(network, example)
    a = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    b, shuffle = planted(spec, a, noise, generator)
    right = group.apply_to_state(spec, group.inverse(shuffle), b)
    inputs = torch.randn(16, *example.shape[1:], generator=generator, dtype=torch.float64)
    return Pair(kind, tuple(sizes), network, inputs, spec, a, b, right)
