"""How far the singular directions of two networks' weights agree: what weight matching aligns."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphalign.alignment import Alignment
from graphalign.comparison import Change, Comparison
from graphalign.errors import InvalidInput
from graphalign.measures import parameters_of
from graphalign.pairwise import Network
from graphalign.spec import NetworkSpec


def singular_vector_alignment(a: Network, b: Network, alignment: Alignment, *, threshold: float | None = None) -> Comparison:
    """Share of the singular directions of A's weights that B's weights share, before and after B is aligned.

    With A = sum_i s_i u_i v_i' and B = sum_j t_j x_j y_j', permutations change the singular vectors of a weight but not its singular
    values, and the distance that weight matching lowers depends on them through sum_ij s_i t_j (u_i . x_j)(v_i . y_j) (Ito,
    Yamada and Kumagai 2024, arXiv 2402.04051). By default directions count by their singular values:

        sum_ij s_i t_j (u_i . x_j)(v_i . y_j) / sum_i s_i t_i = <A, B> / sum_i s_i t_i

    in [-1, 1] by von Neumann's trace inequality, and 1 if and only if the two weights have the same singular vectors in the same
    order. With a threshold all directions count the same of which the singular value is at least `threshold` times the largest,
    p of them in A and q in B:

        sum_(i <= p, j <= q) (u_i . x_j)(v_i . y_j) / max(p, q)

    again in [-1, 1]. Over the whole network numerators and denominators are summed.

    Kernels (O, I, *kernel) are read as matrices (O, I * positions), transposed ones as (I, O * positions); a convolution in groups
    as one matrix per group, that is as the block-diagonal matrix it is. Vectors have no directions to share and do not
    count; a weight that is zero in one network has NaN and does not count either.

    Args:
        a: module, state dict, or path of a .safetensors or .pt file.
        b: the same, its units as they are.
        alignment: of B to A.
        threshold: in [0, 1]; None weighs directions by their singular values.

    Raises:
        InvalidInput: a threshold outside [0, 1], or no weight of two or more dimensions that is not zero.
        SpecMismatch: a network does not have the tensors of the alignment's spec.
        CorruptFile: a file cannot be read safely.
    """
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise InvalidInput(f"singular_vector_alignment: found threshold={threshold}, expected a number in [0, 1], or None")
    parts: dict[str, Change] = {}
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for name, first, *others in _matrices(a, b, alignment):
        pairs = [_overlap(first, other, threshold) for other in others]
        parts[name] = Change(*(shared / possible if possible else float("nan") for shared, possible in pairs))
        sums += torch.tensor(pairs, dtype=torch.float64)
    if not bool((sums[:, 1] > 0).all()):
        raise InvalidInput(
            "singular_vector_alignment: found no weight of two or more dimensions that is non-zero in both networks; pass trained ones"
        )
    before, after = (float(shared / possible) for shared, possible in sums)
    name = "singular directions shared, " + ("by singular value" if threshold is None else f"those above {threshold:g} of the largest")
    return Comparison(name, before, after, parts)


def _matrices(a: Network, b: Network, alignment: Alignment) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """The weights of A, B and the aligned B as matrices (groups, rows, columns)."""
    for name, *tensors in parameters_of(a, b, alignment):
        if tensors[0].dim() >= 2 and tensors[0].numel():
            groups = _groups(alignment.spec, name)
            first, second, aligned = (t.reshape(groups, t.shape[0] // groups, -1) for t in tensors)
            yield name, first, second, aligned


def _groups(spec: NetworkSpec, name: str) -> int:
    return max((layout.groups for layout in spec.axes_of_tensor.get(name, ())), default=1)


def _overlap(a: Tensor, b: Tensor, threshold: float | None) -> tuple[float, float]:
    """Numerator and denominator; the latter is 0 where a weight is zero."""
    if threshold is None:
        values = [torch.linalg.svdvals(m).flatten().sort(descending=True).values for m in (a, b)]
        return float((a.conj() * b).sum().real), float((values[0] * values[1]).sum())
    (first, p), (second, q) = (_leading(m, threshold) for m in (a, b))
    return float((first.conj() * second).sum().real), float(max(p, q) if p and q else 0)


def _leading(matrix: Tensor, threshold: float) -> tuple[Tensor, int]:
    """The sum of u v' over the singular directions above a share of the largest singular value, and their number."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = (s >= threshold * s.max()) & (s > torch.finfo(s.dtype).eps * max(matrix.shape[-2:]) * s.max())
    return (u * kept[..., None, :].to(u.dtype)) @ v, int(kept.sum())
