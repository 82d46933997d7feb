"""Networks whose narrow form is known: every unit of A is split into two that share its outgoing weights, in random order."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphalign.architecture import Architecture
from graphalign.converters.trace import trace_architecture
from graphalign.group import all_tensors
from graphalign.methods.transport import weight_axes
from graphalign.spec import Cell
from graphalign.transport_plan import TransportPlan

from .networks import BasicBlock, Bottleneck, InPlaceResidual, ResNet, densenet, mlp, randomise
from .networks_attention import FusedBlock, GatedMLP


def cnn(times: int) -> nn.Sequential:
    """Two convolutions with a norm, a pooling, a flatten over 2x2 positions and a hidden layer; 6, 8 and 5 units, times as many."""
    first, second, hidden = 6 * times, 8 * times, 5 * times
    return nn.Sequential(
        nn.Conv2d(3, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * second, hidden), nn.ReLU(), nn.Linear(hidden, 4),
    )  # fmt: skip


def transposed(times: int) -> nn.Sequential:
    """A grouped transposed convolution between two ordinary ones."""
    return nn.Sequential(
        nn.Conv2d(3, 6 * times, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(6 * times, 4 * times, 2, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(4 * times, 3, 3),
    )  # fmt: skip


class Beside(nn.Module):
    """Reads its hidden units beside some of its inputs, which cannot move."""

    def __init__(self, hidden: int, kept: int) -> None:
        super().__init__()
        self.kept, self.first, self.head = kept, nn.Linear(5, hidden), nn.Linear(hidden + kept, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x[:, : self.kept], torch.relu(self.first(x))], 1))


class Attentive(nn.Module):
    """A pre-norm attention block between two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(8, width), FusedBlock(width, heads), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)))


class TiedHead(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.hidden = nn.Embedding(11, width), nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        return nn.functional.linear(x + torch.relu(self.hidden(x)), self.token.weight)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


Family = tuple[Callable[[int], nn.Module], Callable[[], Tensor]]


def _vectors() -> Tensor:
    return torch.randn(2, 5)


def _images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def _sequences() -> Tensor:
    return torch.randn(2, 5, 8)


WIDTHS: dict[str, Family] = {
    "mlp": (lambda k: mlp([8 * k, 7 * k]), _vectors),
    "mlp_batch_norm": (lambda k: mlp([8 * k, 7 * k], norm=nn.BatchNorm1d), _vectors),
    "mlp_layer_norm": (lambda k: mlp([8 * k, 7 * k], norm=nn.LayerNorm), _vectors),
    "inputs_beside": (lambda k: Beside(6 * k, 2), _vectors),
    "cnn_flatten": (cnn, _images),
    "residual": (lambda k: InPlaceResidual(7 * k), _vectors),
    "resnet": (lambda k: ResNet(BasicBlock, (2, 2), 6 * k), _images),
    "resnet_group_norm": (lambda k: ResNet(BasicBlock, (1, 1), 6 * k, norm=_group_norm), _images),
    "resnext": (lambda k: ResNet(Bottleneck, (1, 1), 6 * k, groups=3), _images),
    "resnext_more_groups": (lambda k: ResNet(Bottleneck, (1, 1), 6 * k, groups=3 * k), _images),
    "grouped_transposed": (transposed, _images),
    "densenet": (lambda k: densenet(3 * k), _images),
    "gated": (lambda k: GatedMLP("glu", hidden=7 * k), _sequences),
    "more_heads": (lambda k: Attentive(8 * k, 2 * k), _sequences),
}
"""Families by the factor of their hidden widths, and an example input."""


@dataclass(frozen=True)
class Widened:
    """A narrow network and a wide one that computes the same.

    Attributes:
        narrow: A.
        wide: B.
        example: an input, float64.
        architectures: of both.
        plan: the plan that made B of A.
    """

    narrow: nn.Module
    wide: nn.Module
    example: Tensor
    architectures: tuple[Architecture, Architecture]
    plan: TransportPlan

    @property
    def states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return all_tensors(self.narrow), all_tensors(self.wide)

    def outputs(self, module: nn.Module) -> Tensor:
        with torch.no_grad():
            return module(self.example)


def pair(family: Family, seed: int = 0) -> tuple[nn.Module, nn.Module, Tensor]:
    """Independent networks of widths 1 and 2 in float64, in eval mode, and an input."""
    torch.manual_seed(seed)
    networks: list[Any] = [randomise(family[0](k), torch.Generator().manual_seed(seed + k)).eval().double() for k in (1, 2)]
    example = family[1]()
    return networks[0], networks[1], example.double() if example.is_floating_point() else example


def widened(family: Family, seed: int = 0) -> Widened:
    """A network and itself with every unit split into two."""
    narrow, wide, example = pair(family, seed)
    architectures = trace_architecture(narrow, example), trace_architecture(wide, example)
    generator = torch.Generator().manual_seed(seed)
    narrow_spec, wide_spec = (architecture.spec for architecture in architectures)
    partners = {w.name: n for w, n in zip(wide_spec.cells, narrow_spec.cells, strict=True)}
    plans: dict[str, Tensor] = {}
    for cells in wide_spec.groups.values():
        blocks = torch.arange(cells[0].blocks)
        if cells[0].blocks > partners[cells[0].name].blocks:
            blocks = torch.randperm(len(blocks), generator=generator) % partners[cells[0].name].blocks
        plans.update({cell.name: _split(cell, partners[cell.name], blocks, generator) for cell in cells})
    contracted, produced = weight_axes(architectures[1])
    plan = TransportPlan(wide_spec, narrow_spec, plans, tuple(contracted), tuple(produced), template=wide)
    return Widened(narrow, plan.apply(narrow), example, architectures, plan)


def _split(wide: Cell, narrow: Cell, blocks: Tensor, generator: torch.Generator) -> Tensor:
    """Which unit of the narrow cell each of the wide one copies, in random order; (wide units, narrow units), 0 or 1.

    Args:
        wide: the cell.
        narrow: its partner.
        blocks: block of the narrow cell that each of the wide one copies.
        generator: orders the units inside blocks that are wider.
    """
    order = [torch.randperm(wide.size, generator=generator) if wide.size > narrow.size else torch.arange(wide.size) for _ in blocks]
    source = blocks[:, None] * narrow.size + torch.stack(order) % narrow.size
    return torch.nn.functional.one_hot(source.flatten(), narrow.units).double()


def batches(example: Tensor, count: int, seed: int = 0) -> list[Tensor]:
    """Two batches of random inputs like an example, of `count` and of half as many, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *example.shape[1:], generator=generator, dtype=torch.float64) for n in (count, count // 2)]
