"""One small network per operator: which units may move, and that moving them keeps the function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign import UnsupportedNetwork, trace, verify
from graphalign.converters.rules import canonical_name
from tests.networks_unusual import Refused

Function = Callable[[Tensor], Tensor]
LEVELS = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 3.0])
ALL = [(6, 1)]

# Functions of (2, 5 tokens, 6 units) between two linear layers -> (units in a block, blocks) of the movable cells.
MOVES: dict[str, tuple[Function, list[tuple[int, int]]]] = {
    "relu": (torch.relu, ALL),
    "abs": (torch.abs, ALL),
    "clamp": (lambda h: h.clamp(-1, 1), ALL),
    "power": (lambda h: h.pow(2), ALL),
    "square by itself": (lambda h: h * h, ALL),
    "where": (lambda h: torch.where(h > 0, h, 0.1 * h), ALL),
    "lerp": (lambda h: torch.lerp(h, h.relu(), 0.3), ALL),
    "addcmul": (lambda h: torch.addcmul(h, h, h.relu()), ALL),
    "prelu with a constant slope": (lambda h: F.prelu(h, torch.tensor([0.1], dtype=h.dtype)), ALL),
    "dropout": (lambda h: F.dropout(h, 0.5, training=False), ALL),
    "softmax over units": (lambda h: h.softmax(-1), ALL),
    "softmax over tokens": (lambda h: h.softmax(1), ALL),
    "mean over tokens": (lambda h: h.mean(1), ALL),
    "sum over units": (lambda h: h + h.sum(-1, keepdim=True), ALL),
    "maximum over units": (lambda h: h * h.amax(-1, keepdim=True), ALL),
    "median over units": (lambda h: h - h.median(-1, keepdim=True).values, ALL),
    "deviation over units": (lambda h: h / (h.std(-1, keepdim=True) + 1), ALL),
    "variance and mean": (lambda h: h - torch.var_mean(h, -1, keepdim=True)[1], ALL),
    "logsumexp over units": (lambda h: h - h.logsumexp(-1, keepdim=True), ALL),
    "norm over units": (lambda h: F.normalize(h, dim=-1), ALL),
    "cumulative sum over tokens": (lambda h: h.cumsum(1), ALL),
    "products of tokens": (lambda h: torch.einsum("btd,bsd->bts", h, h) @ h, ALL),
    "windows of tokens": (lambda h: h.unfold(1, 2, 1).mean(-1), ALL),
    "reversed": (lambda h: h[..., [5, 4, 3, 2, 1, 0]], ALL),
    "constants of three values": (lambda h: h * LEVELS.to(h), [(2, 1), (3, 1)]),  # and a unit alone
    "added to its mirror image": (lambda h: h + h.flip(-1), [(3, 1)]),
    "one half times the other": (lambda h: torch.cat([h[..., :3] * h[..., 3:]] * 2, -1), [(3, 1)]),
    "one half gates the other": (lambda h: torch.cat([h[..., :3].sigmoid() * h[..., 3:], h[..., :3]], -1), [(3, 1)]),
    "sum of halves": (lambda h: torch.cat([sum(h.chunk(2, -1), torch.zeros((), dtype=h.dtype))] * 2, -1), [(3, 1)]),
    "half repeated": (lambda h: h[..., :3].repeat(1, 1, 2), [(3, 1), (3, 1)]),  # the second three are never read
    "shifted with zeros": (lambda h: F.pad(h[..., :-1], (1, 0)), [(5, 1)]),
    "means of two blocks": (lambda h: h - h.view(*h.shape[:-1], 2, 3).mean(-1, keepdim=True).expand(-1, -1, 2, 3).reshape(h.shape), [(3, 2)]),
    "variance of tokens, mean alone": (lambda h: torch.var_mean(h, 1, keepdim=True)[1], ALL),
    "place of the largest token": (lambda h: h.max(1, keepdim=True).indices.to(h), ALL),
    "place of the largest of a window": (lambda h: F.max_pool1d(h.mT, 2, return_indices=True)[1].mT.to(h), ALL),
    "tokens picked by another unit": (lambda h: h.gather(1, (h[:, :1].flip(-1) > 0).long()), [(3, 1)]),
    "mirrored at the border": (lambda h: F.pad(h, (1, 0), mode="reflect")[..., :6], [(4, 1)]),
    "interleaved": (lambda h: h + h.view(*h.shape[:-1], 2, 3).transpose(2, 3).reshape(h.shape), [(2, 1)]),  # units 0 and 5 stay apart
}

# Functions that let no unit move -> what the message says of the first layer.
STAYS: dict[str, tuple[Function, str]] = {
    "added to its neighbour": (lambda h: h + h.roll(1, -1), "no other unit plays the same part"),
    "cumulative sum over units": (lambda h: h.cumsum(-1), "is summed cumulatively across units"),
    "cumulative product over units": (lambda h: h.cumprod(-1), "is summed cumulatively across units"),
    "ranked units": (lambda h: h.topk(6, -1).values, "is ranked"),
    "place of the largest": (lambda h: h * (h.argmax(-1, keepdim=True) == 0), "is ranked"),
    "constant matrix": (lambda h: h @ torch.arange(36.0).reshape(6, 6).to(h), "is mixed by a matrix"),
    "mean of windows of units": (lambda h: h.unfold(-1, 3, 1).mean(-1).repeat(1, 1, 2)[..., :6], "is reduced over sets of units that overlap"),
    "times the place of the largest": (lambda h: h * h.max(-1, keepdim=True).indices, "is ranked"),
    "times the place of the median": (lambda h: h + h.median(-1, keepdim=True).indices, "is ranked"),
    "rows picked by units": (lambda h: F.embedding((h > 0).long(), torch.arange(4.0).reshape(2, 2).to(h)).cumsum(-2).sum(-1), "picks rows by their numbers"),
    "tokens picked by units": (lambda h: h[:, (h[0, 0] > 0).long()].tanh().cumsum(1).sum(1, keepdim=True), "picks entries by their numbers"),
    "windows of units": (lambda h: F.avg_pool1d(h, 3, 1, 1), "no other unit plays the same part"),
    "filtered by a computed kernel": (
        lambda h: F.conv1d(h, (h[0] @ h[0].T)[..., None].expand(-1, -1, 3), padding=1), "is a convolution with a computed kernel",
    ),
    "products of units": (lambda h: h @ (h.mT @ h).triu(), "no other unit plays the same part"),
}


def network(function: Function) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Refused(function), torch.randn(2, 5, 8)


@pytest.mark.parametrize("name", MOVES)
def test_units_move_and_keep_the_function(name: str) -> None:
    function, cells = MOVES[name]
    model, x = network(function)
    spec = trace(model, x)
    assert sorted((c.size, c.blocks) for c in spec.cells) == sorted(cells)
    assert verify(model, x, spec=spec, samples=20) <= 1e-10


@pytest.mark.parametrize("name", STAYS)
def test_units_stay_where_order_matters(name: str) -> None:
    function, reason = STAYS[name]
    model, x = network(function)
    with pytest.raises(UnsupportedNetwork, match=rf"no hidden unit that may move \(first: \d units, {reason}"):
        trace(model, x)


@pytest.mark.parametrize("name", STAYS)
def test_moving_them_would_change_the_function(name: str) -> None:
    """The refusals above are needed: a random order of the units changes the output."""
    model, x = network(STAYS[name][0])
    model.double()
    assert isinstance(model, Refused)
    order = torch.tensor([3, 0, 4, 5, 1, 2])
    with torch.no_grad():
        before = model(x.double())
        for tensor, axis in ((model.first.weight, 0), (model.first.bias, 0), (model.second.weight, 1)):
            tensor.copy_(tensor.index_select(axis, order))
        assert float((model(x.double()) - before).abs().max()) > 1e-6


@pytest.mark.parametrize(
    ("operator", "name"),
    [(torch.ops.aten.add.Tensor, "aten.add"), (torch.ops.aten.add_.Scalar, "aten.add"), (torch.ops.aten.relu_.default, "aten.relu"),
     (torch.ops.aten.sort, "aten.sort"), ("aten.erf", "aten.erf"), (torch.ops.aten.__and__.Tensor, "aten.__and__")],
    ids=str,
)  # fmt: skip
def test_in_place_variants_and_overloads_share_a_rule(operator: object, name: str) -> None:
    assert canonical_name(operator) == name


def test_in_place_and_functional_variants_give_one_spec() -> None:
    in_place, x = network(lambda h: h.clone().mul_(2.0).relu_().add_(1.0))
    functional, _ = network(lambda h: torch.relu(h * 2.0) + 1.0)
    assert trace(in_place, x) == trace(functional, x)
