"""From scores to an element of the group: linear assignment per cell, two-level where units have blocks."""

from __future__ import annotations

from collections.abc import Mapping

import lap
import numpy as np
import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.group import join_blocks
from graphalign.spec import Cell, NetworkSpec


def assign(scores: Tensor) -> Tensor:
    """The permutations that maximise the sum of scores: rows are slots (units of A), columns are units of B.

    Solved exactly (Jonker and Volgenant 1987) on the CPU in float64, the problems of a batch in parallel.

    Args:
        scores: (..., U, U), finite.

    Returns:
        LongTensor (..., U) on the CPU; entry i is the column assigned to row i.

    Raises:
        InvalidInput: scores are not square or not finite.
    """
    if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2]:
        raise InvalidInput(f"assign: found scores of shape {tuple(scores.shape)}, expected (..., U, U)")
    costs = -scores.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(costs).all():
        raise InvalidInput("assign: the scores contain NaN or infinity; check the weights and inputs of both networks")
    units = costs.shape[-1]
    if units == 1 or not costs.size:
        return torch.zeros(scores.shape[:-1], dtype=torch.long)
    flat = np.ascontiguousarray(costs.reshape(-1, units, units))
    _, _, chosen = lap.lapjvx_batch(flat, n_threads=torch.get_num_threads())
    columns = np.stack(chosen).astype(np.int64)
    return torch.from_numpy(columns.reshape(*scores.shape[:-1]))


def assign_group(cells: tuple[Cell, ...], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permutations of the cells of one group, whose blocks trade places together.

    For every pair of blocks the units inside are assigned first, in each cell; the sum of the values over the cells is the
    score of the pair, and the blocks are assigned by it: O(B^2 n^3 + B^3).

    Args:
        cells: the cells of the group, B blocks each.
        scores: (U, U) scores by cell name.

    Returns:
        LongTensor (U,) by cell name.
    """
    blocks = cells[0].blocks
    if blocks == 1:
        return {cell.name: assign(scores[cell.name]) for cell in cells}
    values = torch.zeros(blocks, blocks, dtype=torch.float64)
    inner: dict[str, Tensor] = {}
    for cell in cells:
        n = cell.size
        pairs = scores[cell.name].detach().to("cpu", torch.float64).reshape(blocks, n, blocks, n).transpose(1, 2)
        choice = torch.arange(n).expand(blocks, blocks, n) if cell.rigid or n == 1 else assign(pairs)
        inner[cell.name] = choice
        values += pairs.gather(3, choice.unsqueeze(-1)).sum((2, 3))
    outer = assign(values)
    rows = torch.arange(blocks)
    return {cell.name: join_blocks(outer, inner[cell.name][rows, outer]) for cell in cells}


def assign_spec(spec: NetworkSpec, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The element of the spec's group that maximises the scores of every cell; see `assign_group`."""
    found: dict[str, Tensor] = {}
    for cells in spec.groups.values():
        found.update(assign_group(cells, scores))
    return {cell.name: found[cell.name] for cell in spec.cells}
