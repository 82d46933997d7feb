"""From scores to an element of the group: linear assignment per cell, two-level where units have blocks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import lap
import numpy as np
import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.group import join_blocks
from graphalign.spec import Cell, NetworkSpec

BatchSolver = Callable[[Tensor], Tensor]
"""From costs (B, U, U) to the column of every row (B, U), of least total cost."""
_IMPORTED_IN = os.getpid()


def assign(scores: Tensor) -> Tensor:
    """The permutations that maximise the sum of scores: rows are slots (units of A), columns are units of B.

    Solved exactly by shortest augmenting paths (Jonker and Volgenant 1987) on the CPU, the problems of a batch in parallel on
    `torch.get_num_threads()` threads. Scores keep their precision, distances and potentials are float64. Where the best columns
    of all rows differ they are the answer, and nothing is solved.

    Several problems on a CUDA device (compute capability 8.0 or newer, Linux) are solved there if the package
    torch-linear-assignment is installed (the extra `cuda`), in float64; its results come from the same optimum, of several equal
    ones it may choose another. This path was tested against the solver's interface on the CPU only.

    Args:
        scores: (..., U, U), finite.

    Returns:
        LongTensor (..., U) on the CPU; entry i is the column assigned to row i.

    Raises:
        InvalidInput: scores are not square or not finite.
    """
    if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2]:
        raise InvalidInput(f"assign: found scores of shape {tuple(scores.shape)}, expected (..., U, U)")
    if not scores.numel():
        return torch.zeros(scores.shape[:-1], dtype=torch.long)
    batch = scores.detach().reshape(-1, *scores.shape[-2:])
    solver = _cuda_solver(batch.device) if batch.is_cuda and len(batch) > 1 else None
    columns = _assign_on_cpu(batch) if solver is None else _assign_by(solver, batch)
    return columns.reshape(scores.shape[:-1])


def _assign_on_cpu(scores: Tensor) -> Tensor:
    dtype = scores.dtype if scores.dtype in (torch.float32, torch.float64) else torch.float64
    values = scores.to("cpu", dtype).contiguous().numpy()
    _check_finite(float(values.min()), float(values.max()))
    best = values.argmax(-1)
    reached = np.zeros(best.shape, bool)
    np.put_along_axis(reached, best, True, -1)
    settled = reached.all(-1)  # every column is the best of some row: no sum can be larger
    if not settled.all():
        threads = torch.get_num_threads() if os.getpid() == _IMPORTED_IN else 1  # lap's workers do not survive a fork
        costs = np.negative(values[~settled] if settled.any() else values)
        _, columns = lap.lapjvr_batch(costs, return_cost=False, n_threads=threads)
        best[~settled] = np.stack(columns)
    return torch.from_numpy(best.astype(np.int64, copy=False))


def _assign_by(solver: BatchSolver, scores: Tensor) -> Tensor:
    costs = -scores.double()
    _check_finite(*(float(bound) for bound in torch.aminmax(costs)))
    return solver(costs).to("cpu", torch.long)


def _check_finite(low: float, high: float) -> None:
    """Both bounds are NaN if any entry is."""
    if not np.isfinite([low, high]).all():
        raise InvalidInput("assign: the scores contain NaN or infinity; check the weights and inputs of both networks")


@cache
def _cuda_solver(device: torch.device) -> BatchSolver | None:
    """The CUDA kernel of torch-linear-assignment where it runs; elsewhere that package itself would loop over scipy."""
    supported = sys.platform == "linux" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    if not supported or find_spec("torch_linear_assignment") is None or find_spec("triton") is None:
        return None
    solver: BatchSolver = import_module("torch_linear_assignment").batch_linear_assignment
    return solver


def assign_group(cells: tuple[Cell, ...], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permutations of the cells of one group, whose blocks trade places together.

    For every pair of blocks the units inside are assigned first, in each cell; the sum of the values over the cells is the
    score of the pair, and the blocks are assigned by it: O(B^2 n^3 + B^3).

    Args:
        cells: the cells of the group, B blocks each.
        scores: (U, U) scores by cell name; of cells without blocks (..., U, U).

    Returns:
        LongTensor (U,) by cell name; of cells without blocks (..., U).
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
    """The element of the spec's group that maximises the scores of every cell; see `assign_group`.

    Args:
        spec: what may move.
        scores: by cell, (U, U), or (P, U, U) of P pairs.

    Returns:
        LongTensor (U,) or (P, U) by cell.
    """
    found: dict[str, Tensor] = {}
    for cells in spec.groups.values():
        own = {cell.name: scores[cell.name] for cell in cells}
        if cells[0].blocks == 1 or own[cells[0].name].dim() == 2:
            found.update(assign_group(cells, own))
        else:
            each = [assign_group(cells, dict(zip(own, parts, strict=True))) for parts in zip(*own.values(), strict=True)]
            found.update({name: torch.stack([element[name] for element in each]) for name in own})
    return {cell.name: found[cell.name] for cell in spec.cells}
