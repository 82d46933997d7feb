"""What an alignment achieves: distance of the weights, correlation of the activations, and rows shared with another alignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphalign import group
from graphalign.activations import correlations
from graphalign.alignment import Alignment
from graphalign.comparison import Change, Comparison
from graphalign.evaluation import Loader
from graphalign.files import load_state
from graphalign.pairwise import Network, prepare_pair, weights_of
from graphalign.spec_format import require_equal
from graphalign.tensors import is_weight


def distance(a: Network, b: Network, alignment: Alignment) -> Comparison:
    """Euclidean distances between the parameters of A and of B, before and after B is brought into the order of A.

    |A - B| per tensor and over all of them, in float64. Running statistics and integer buffers do not count, tied weights count
    once. Weight matching lowers this distance little (Ito et al. 2024, arXiv 2402.04051), so it says little about a barrier.

    Args:
        a: module, state dict, or path of a .safetensors or .pt file.
        b: the same, its units as they are.
        alignment: of B to A.

    Raises:
        SpecMismatch: a network does not have the tensors of the alignment's spec.
        CorruptFile: a file cannot be read safely.
    """
    squares = {
        name: [float(torch.linalg.vector_norm((x - y).abs()).square()) for y in pair]
        for name, x, *pair in parameters_of(a, b, alignment)
    }
    parts = {name: Change(*(s**0.5 for s in pair)) for name, pair in squares.items()}
    before, after = (sum(pair[i] for pair in squares.values()) ** 0.5 for i in range(2))
    return Comparison("L2 distance", before, after, parts)


def parameters_of(a: Network, b: Network, alignment: Alignment) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """The parameters of A, of B and of the aligned B by state-dict key, each once, in float64 (complex128 if complex).

    Raises:
        SpecMismatch, CorruptFile: as `distance`.
    """
    spec = alignment.spec
    states = [weights_of(load_state(n) if isinstance(n, (str, Path)) else n, name) for n, name in ((a, "A"), (b, "B"))]
    for state, name in zip(states, "AB", strict=True):
        group.check_state(spec, state, f"network {name}")
    aligned = alignment.apply(states[1])
    for name in spec.shapes:
        if name in spec.buffers or not all(name in state and is_weight(state[name]) for state in states):
            continue
        first = states[0][name]
        wide = torch.promote_types(first.dtype, torch.float64)
        yield name, first.to(wide), states[1][name].to(first.device, wide), aligned[name].to(first.device, wide)


@dataclass(frozen=True, repr=False)
class RowAgreement:
    """How far two alignments of the same networks agree.

    Attributes:
        total: share of all units that both bring to the same slot, in [0, 1].
        cells: the same by cell.
    """

    total: float
    cells: Mapping[str, float]

    def __repr__(self) -> str:
        return f"RowAgreement({self.total:.1%} of all rows; {', '.join(f'{n} {share:.1%}' for n, share in self.cells.items())})"

    def _repr_html_(self) -> str:
        rows = {**self.cells, "total": self.total}
        body = "".join(f"<tr><th>{escape(name)}</th><td>{share:.1%}</td></tr>" for name, share in rows.items())
        return f"<table><caption>rows that agree</caption>{body}</table>"


def agreement(first: Alignment, second: Alignment) -> RowAgreement:
    """Share of rows of the permutation matrices that two alignments of the same networks have in common.

    A row is a slot of A; it agrees if both alignments bring the same unit of B there. Against the identity (method "naive") this
    is the share of units that stay where they are; two random alignments agree on about 1 / U of the rows of a cell.

    Raises:
        SpecMismatch: the two belong to different architectures.
    """
    require_equal(first.spec, second.spec, "the first alignment", "the second")
    same = {name: (perm == second.permutations[name]) for name, perm in first.permutations.items()}
    total = sum(int(rows.sum()) for rows in same.values()) / sum(len(rows) for rows in same.values())
    return RowAgreement(total, {name: float(rows.double().mean()) for name, rows in same.items()})


def activation_correlation(
    a: Network, b: Network, alignment: Alignment, loader: Loader | None = None, *, example_input: Any = None,
    fixed: tuple[str, ...] = (), seed: int = 0,
) -> Comparison:  # fmt: skip
    """Mean Pearson correlation of the activations of matched units, in [-1, 1], before and after B is aligned.

    Every example, position and token is a sample (see `graphalign.activations.scores`). Units that never react count as 0. Parts
    are cells, the total is the mean over all units.

    Args:
        a: module, state dict or path, as in `graphalign.align`.
        b: the same, its units as they are.
        alignment: of B to A.
        loader: batches of inputs or of (inputs, labels); random inputs if None.
        example_input: an input of the modules.
        fixed: what was passed to `align`.
        seed: of random inputs.

    Raises:
        SpecMismatch: the alignment belongs to another architecture than the networks.
        InvalidInput, UnsupportedNetwork, CorruptFile: as `align` and `graphalign.activations.scores`.
    """
    pair = prepare_pair(a, b, example_input, fixed)
    require_equal(pair.spec, alignment.spec, "the networks", "the alignment")
    found = correlations(pair.architecture, pair.a, pair.b, loader, seed=seed)
    rows = {name: torch.arange(len(perm)) for name, perm in alignment.permutations.items()}
    matched = {
        name: [found[name].cpu()[rows[name], perm].double() for perm in (rows[name], alignment.permutations[name])] for name in rows
    }
    parts = {name: Change(*(float(values.mean()) for values in pair)) for name, pair in matched.items()}
    before, after = (float(torch.cat([pair[i] for pair in matched.values()]).mean()) for i in range(2))
    return Comparison("correlation of matched activations", before, after, parts)
