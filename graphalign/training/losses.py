"""What aligners are trained to lower, one function per loss; all take pairs stacked on the first axis and return their mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from graphalign.methods.descent import Tensors
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors


def assignment_loss(scores: Tensors, permutations: Tensors) -> Tensor:
    """Cross-entropy of the rows and of the columns of scores to a permutation, mean over units, cells and both.

    -1/2U sum_i [log softmax(X_i.)_pi(i) + log softmax(X_.pi(i))_i]. With the permutation of a planted pair this is the supervised loss
    of DEEP-ALIGN (Navon et al. 2023, arXiv 2310.13397) on both axes; with that of a teacher it distils hard solutions.

    Args:
        scores: logits by cell, (P, U, U).
        permutations: by cell, (P, U): entry i is the unit of B that belongs to slot i of A.
    """
    total = []
    for name, logits in scores.items():
        target = permutations[name].to(logits.device)
        rows = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        columns = F.cross_entropy(logits.mT.flatten(0, 1), torch.argsort(target, -1).flatten())
        total.append(0.5 * (rows + columns))
    return torch.stack(total).mean()


def alignment_loss(spec: NetworkSpec, a: Tensors, moved: Tensors) -> Tensor:
    """Mean squared difference of the parameters of A and of the softly permuted B, summed over tensors, mean over pairs.

    Of every tensor the mean over its entries counts (Navon et al. 2023, arXiv 2310.13397).

    Args:
        spec: what may move.
        a: tensors (P, ...).
        moved: those of B with its units mixed.
    """
    return torch.stack([(a[n] - moved[n]).square().mean() for n in matched_tensors(spec) if n in a]).sum()


def relative(values: Tensor, reference: Tensor) -> Tensor:
    """Mean over pairs of values (P,) over reference values (P,), so that every architecture counts the same.

    What is minimised is then a mean of ratios, as the aligners are compared by.
    """
    return (values / reference.detach().clamp(min=1e-3)).mean()


def weighted(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum of losses times their weights; losses without a weight count nothing.

    Raises:
        KeyError: no loss has a weight.
    """
    parts = [weights[name] * value for name, value in values.items() if weights.get(name)]
    if not parts:
        raise KeyError(f"none of {sorted(values)} has a weight")
    return torch.stack(parts).sum()
