"""Checks for code that aligns networks: same function, equivariance, and slow twins that are right at a glance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.converters.export import evaluating, flatten_outputs, split_example
from graphalign.errors import InvalidInput
from graphalign.graph import NeuronGraph
from graphalign.pyg import EdgeStorage, MessagePassing

ScoreFunction = Callable[[NeuronGraph, NeuronGraph], Mapping[str, Tensor]]
LARGEST_BRUTE_FORCE = 9


def assert_same_function(model_a: nn.Module, model_b: nn.Module, example_input: Any, tolerance: float = 1e-10) -> None:
    """Returns nothing if two networks, in eval mode, have the same outputs for an input.

    Args:
        model_a: a network; its mode is restored.
        model_b: the other one.
        example_input: a tensor, a tuple of arguments or a dict of keyword arguments.
        tolerance: largest difference allowed, as a fraction of the largest output entry of `model_a` or 1 if that is less.

    Raises:
        AssertionError: the outputs differ in number, shape or by more than the tolerance, or one of them is NaN.
    """
    args, kwargs = split_example(example_input)
    with torch.no_grad(), evaluating(model_a), evaluating(model_b):
        outputs_a = flatten_outputs(model_a(*args, **kwargs))
        outputs_b = flatten_outputs(model_b(*args, **kwargs))
    shapes_a, shapes_b = ([tuple(t.shape) for t in outputs] for outputs in (outputs_a, outputs_b))
    if shapes_a != shapes_b:
        raise AssertionError(f"outputs have shapes {shapes_a} and {shapes_b}")
    for number, (a, b) in enumerate(zip(outputs_a, outputs_b, strict=True)):
        _assert_close(a.double(), b.double(), tolerance, f"output {number}")


def assert_equivariant(
    score_function: ScoreFunction, graph_a: NeuronGraph, graph_b: NeuronGraph, tolerance: float = 1e-10, seed: int = 0
) -> None:
    """Returns nothing if scores follow permutations of both networks and exchanging the networks, on every cell.

    F(gA, hB) = g F(A, B) h^T for random g and h: entry (i, j) of the left is entry (g[i], h[j]) of F(A, B). F(B, A) = F(A, B)^T.

    Args:
        score_function: from two graphs to scores (U, U) by cell, rows for the units of the first.
        graph_a: a network.
        graph_b: a network of the same architecture.
        tolerance: largest difference allowed, as a fraction of the largest score of the cell or 1 if that is less.
        seed: of g and h.

    Raises:
        AssertionError: a cell is missing, its scores have another shape, or an equation does not hold.
    """
    spec = graph_a.spec
    generator = torch.Generator().manual_seed(seed)
    g, h = group.random_element(spec, generator), group.random_element(spec, generator)
    moved = score_function(_moved(graph_a, g), _moved(graph_b, h))
    plain, swapped = score_function(graph_a, graph_b), score_function(graph_b, graph_a)
    for cell in spec.cells:
        square = (cell.units, cell.units)
        for name, scores in (("F(A, B)", plain), ("F(gA, hB)", moved), ("F(B, A)", swapped)):
            found = tuple(scores[cell.name].shape) if cell.name in scores else "nothing"
            if found != square:
                raise AssertionError(f"cell '{cell.name}': {name} gives {found}, expected scores of shape {square}")
        expected = plain[cell.name][g[cell.name]][:, h[cell.name]]
        _assert_close(expected, moved[cell.name], tolerance, f"cell '{cell.name}': F(gA, hB) and g F(A, B) h^T")
        _assert_close(plain[cell.name].T, swapped[cell.name], tolerance, f"cell '{cell.name}': F(B, A) and F(A, B)^T")


def _moved(graph: NeuronGraph, element: Mapping[str, Tensor]) -> NeuronGraph:
    return NeuronGraph(graph.architecture, group.apply_to_state(graph.spec, element, graph.tensors))


def _assert_close(expected: Tensor, found: Tensor, tolerance: float, what: str) -> None:
    if not expected.numel():
        return
    difference = float((expected - found).detach().abs().max())
    allowed = tolerance * max(1.0, float(expected.detach().abs().max()))
    if not difference <= allowed:  # a NaN fails too
        raise AssertionError(f"{what} differ by {difference:.3g}, allowed {allowed:.3g}")


def brute_force_assignment(scores: Tensor) -> Tensor:
    """The permutation with the largest sum of scores[i, perm[i]], by trying all; the first in lexicographic order of equals.

    Args:
        scores: (n, n), n at most 9.

    Returns:
        LongTensor (n,).

    Raises:
        InvalidInput: the scores are not square or too large to try everything.
    """
    n = scores.shape[0]
    if scores.dim() != 2 or scores.shape[1] != n or n > LARGEST_BRUTE_FORCE:
        raise InvalidInput(
            f"found scores of shape {tuple(scores.shape)}, expected (n, n) with n up to {LARGEST_BRUTE_FORCE}; "
            "use graphalign.assignment for larger ones"
        )
    table = scores.tolist()
    best = max(itertools.permutations(range(n)), key=lambda perm: sum(table[i][j] for i, j in enumerate(perm)))
    return torch.tensor(best, dtype=torch.long)


class EdgeMessage(MessagePassing):  # type: ignore[misc]
    """Sends one message per weight edge of a neuron graph: the slow twin of F.linear and F.conv2d.

    Node o receives the sum over edges e = (i, o) of w_e * h_i, with h_i shifted by the kernel offset of the edge where states are
    feature maps and read at the flatten position of the edge where they are not:

        z_o(p) = sum_e w_e h_i(stride * p + offset_e + centre - padding),   z_o = sum_e w_e h_i[position_e]

    Args:
        stride: of the convolution, per dimension or the same for all.
        padding: zeros added on both sides, per dimension or the same for all.
    """

    def __init__(self, stride: int | Sequence[int] = 1, padding: int | Sequence[int] = 0) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.stride = stride
        self.padding = padding

    def forward(self, states: Tensor, edges: EdgeStorage, targets: int) -> Tensor:
        """States of the target nodes before their bias.

        Args:
            states: (N, B) for linear layers, (N, B, P) for those after a flatten, (N, B, *map) for convolutions.
            edges: `data[source, "weight", target]` of `NeuronGraph.to_hetero_data`.
            targets: number of target nodes M.

        Returns:
            (M, B) or (M, B, *map).
        """
        spatial = edges.offset.shape[1]
        if spatial:
            padding = _per_dimension(self.padding, spatial)
            states = nn.functional.pad(states, [p for n in reversed(padding) for p in (n, n)])
        elif states.dim() == 2:
            states = states[..., None]
        facts = {"weight": edges.edge_attr[:, 0], "offset": edges.offset, "position": edges.position}
        result: Tensor = self.propagate(edges.edge_index, x=(states, None), size=(states.shape[0], targets), **facts)
        return result

    def message(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_j: Tensor, weight: Tensor, offset: Tensor, position: Tensor
    ) -> Tensor:
        """One message per edge, (E, B) or (E, B, *map)."""
        if not offset.shape[1]:
            read = position[:, None, None].expand(-1, x_j.shape[1], 1)
            return weight[:, None] * x_j.gather(2, read)[..., 0]
        start = (offset - offset.amin(0)).round().long()
        stride = _per_dimension(self.stride, offset.shape[1])
        sizes = [(n - 1 - int(s)) // d + 1 for n, s, d in zip(x_j.shape[2:], start.amax(0), stride, strict=True)]
        messages = []
        for e in range(len(weight)):
            message = x_j[e]
            for d, (first, size, step) in enumerate(zip(start[e].tolist(), sizes, stride, strict=True), start=1):
                message = message.index_select(d, first + step * torch.arange(size))
            messages.append(weight[e] * message)
        return torch.stack(messages)


def _per_dimension(value: int | Sequence[int], dimensions: int) -> list[int]:
    return [value] * dimensions if isinstance(value, int) else list(value) * (dimensions // len(value))
