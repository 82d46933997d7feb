"""Every loss against its formula, written out slowly."""

from __future__ import annotations

import math

import pytest
import torch

from graphalign import group
from graphalign.forward import Forward
from graphalign.methods.descent import Pairs
from graphalign.training.losses import alignment_loss, assignment_loss, relative, weighted
from graphalign.training.unrolled import hard_permutations, mixed


def test_assignment_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.randn(2, 4, 4, generator=generator, dtype=torch.float64), "b": torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)}
    perms = {n: torch.stack([torch.randperm(s.shape[1], generator=generator) for _ in range(2)]) for n, s in scores.items()}
    cells = []
    for name, s in scores.items():
        values = []
        for pair in range(2):
            for i, j in enumerate(perms[name][pair].tolist()):
                row = s[pair, i, j] - math.log(sum(math.exp(v) for v in s[pair, i].tolist()))
                column = s[pair, i, j] - math.log(sum(math.exp(v) for v in s[pair, :, j].tolist()))
                values.append(-(float(row) + float(column)) / 2)
        cells.append(sum(values) / len(values))
    assert float(assignment_loss(scores, perms)) == pytest.approx(sum(cells) / 2)


def test_assignment_loss_is_least_at_the_permutation():
    perm = torch.tensor([[2, 0, 1]])
    right = {"a": 20 * torch.eye(3)[perm]}
    assert float(assignment_loss(right, {"a": perm})) < 1e-6
    assert float(assignment_loss(right, {"a": torch.argsort(perm, -1)})) > 10


def test_alignment_loss_by_hand(mlp):
    pairs = Pairs.of([mlp.problem(0, 1), mlp.problem(2, 1)])
    spec = pairs.spec
    expected = 0.0
    for pair in range(2):
        for name in {layout.tensor for layout in spec.axes}:
            difference = (pairs.a[name][pair] - pairs.b[name][pair]).flatten().tolist()
            expected += sum(d * d for d in difference) / len(difference) / 2
    assert float(alignment_loss(spec, pairs.a, pairs.b)) == pytest.approx(expected, rel=1e-5)


def test_alignment_loss_vanishes_for_the_same_network(mlp):
    pairs = Pairs.of([mlp.problem(0, 0)])
    assert float(alignment_loss(pairs.spec, pairs.a, pairs.b)) == 0


def test_hard_mixtures_are_permuted_networks_with_soft_derivatives(mlp):
    pairs = Pairs.of([mlp.problem(0, 1), mlp.problem(1, 2)])
    generator = torch.Generator().manual_seed(0)
    scores = {c.name: torch.randn(2, c.units, c.units, generator=generator).requires_grad_() for c in pairs.spec.cells}
    hard, soft = (mixed(pairs, scores, 20, hard=h) for h in (True, False))
    elements = hard_permutations(pairs.spec, scores)
    for pair in range(2):
        moved = group.apply_to_state(pairs.spec, {n: e[pair] for n, e in elements.items()}, {n: t[pair] for n, t in pairs.b.items()})
        for name in pairs.b:
            torch.testing.assert_close(hard[name][pair], moved[name], rtol=1e-4, atol=1e-6)
    first = next(n for n in pairs.b if n.endswith("bias"))  # linear in the permutation: both derivatives are the same
    of_hard, of_soft = (torch.autograd.grad(m[first].square().sum() if m is None else (m[first] * torch.arange(m[first].shape[1])).sum(),
                                            list(scores.values()), allow_unused=True)[0] for m in (hard, soft))  # fmt: skip
    torch.testing.assert_close(of_hard, of_soft, rtol=1e-3, atol=1e-6)
    assert float(of_soft.abs().max()) > 0


def test_sharpness_makes_soft_mixtures_hard(mlp):
    pairs = Pairs.of([mlp.problem(0, 1)])
    scores = {c.name: 3 * torch.randn(1, c.units, c.units, generator=torch.Generator().manual_seed(0)) for c in pairs.spec.cells}
    name = max(pairs.b, key=lambda n: pairs.b[n].numel())
    hard = mixed(pairs, scores, 50, hard=True)[name]
    far, near = (float((mixed(pairs, scores, 50, hard=False, sharpness=s)[name] - hard).norm()) for s in (1.0, 8.0))
    assert near < 0.5 * far


def test_relative_counts_every_pair_the_same():
    assert float(relative(torch.tensor([2.0, 0.1]), torch.tensor([4.0, 0.1]))) == pytest.approx(0.75)
    reference = torch.tensor([4.0], requires_grad=True)
    assert not relative(torch.tensor([2.0]), reference).requires_grad


def test_weights_of_the_losses():
    values = {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}
    assert float(weighted(values, {"a": 0.5, "b": 0.0, "c": 1.0})) == 1.0
    with pytest.raises(KeyError, match="none of"):
        weighted(values, {"c": 1.0})


def test_forward_of_a_case_fits_its_images(mlp):
    x, y = mlp.batch(7, torch.Generator().manual_seed(0))
    assert len(torch.unique(torch.cat([x.flatten(1), y[:, None]], 1), dim=0)) == 7
    assert Forward(mlp.module)(dict(mlp.states[0]), x).shape == (7, 10)
