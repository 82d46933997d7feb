"""A network as a function of its tensors: the same function as the module, for one set of tensors and for many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import InvalidInput
from graphalign.forward import Forward, prediction
from graphalign.group import all_tensors
from tests.networks import FAMILIES, mlp, randomise
from tests.traced import build

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0, norm: Any = None) -> nn.Module:
    torch.manual_seed(seed)
    return randomise(mlp([8, 7], norm=norm), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FAMILIES)
def test_given_tensors_take_the_place_of_the_module_s(name: str) -> None:
    (one, example), (other, _) = build(name), build(name, seed=1)
    with torch.no_grad():
        found = prediction(Forward(one)(all_tensors(other), (example.kwargs or example.args, None)) if not (example.args and example.kwargs)
                           else torch.func.functional_call(one, all_tensors(other), example.args, example.kwargs))
        assert torch.allclose(found, prediction(other(*example.args, **example.kwargs)), atol=1e-5)


def test_the_module_is_left_as_it_is() -> None:
    model = network(norm=nn.BatchNorm1d).train()
    before = {n: t.clone() for n, t in all_tensors(model).items()}
    Forward(model, batch_statistics=True)({}, X)
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in all_tensors(model).items())


def test_batch_statistics_are_those_of_training() -> None:
    model = network(norm=nn.BatchNorm1d)
    found = Forward(model, batch_statistics=True)(all_tensors(model), X)
    assert not torch.allclose(found, model.eval()(X), atol=1e-3)
    assert torch.allclose(found, model.train()(X), atol=1e-6)


def test_many_networks_run_at_once() -> None:
    models = [network(seed) for seed in range(3)]
    forward = Forward(models[0])
    stacked = {n: torch.stack([all_tensors(m)[n] for m in models]) for n in all_tensors(models[0])}
    found = forward.many(lambda tensors: forward(tensors, X), stacked)
    assert torch.allclose(found, torch.stack([m(X) for m in models]), atol=1e-6)


class Branching(nn.Module):
    """Looks at its values, which cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if float(y.detach().sum()) > 0 else -y


def test_networks_that_cannot_be_vectorised_run_one_by_one() -> None:
    torch.manual_seed(0)
    models = [Branching() for _ in range(4)]
    forward = Forward(models[0])
    stacked = {n: torch.stack([all_tensors(m)[n] for m in models]).requires_grad_() for n in all_tensors(models[0])}
    found = forward.many(lambda tensors: forward(tensors, X), stacked)
    assert torch.allclose(found, torch.stack([m(X) for m in models]), atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), stacked["layer.bias"])
    assert bool((gradient != 0).all())


def test_the_prediction_is_the_logits_or_the_first_floating_tensor() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    assert prediction(x) is x
    assert prediction({"hidden": x, "logits": y}) is y
    assert prediction(SimpleNamespace(logits=y)) is y
    assert prediction((torch.zeros(2, dtype=torch.long), (y, x))) is y
    with pytest.raises(InvalidInput, match="the network returned tuple without a floating-point tensor, expected predictions"):
        prediction((1, torch.zeros(2, dtype=torch.long)))
    with pytest.raises(InvalidInput, match=r"the network returned a tensor of torch\.int64, expected predictions that have a derivative"):
        prediction(torch.zeros(2, dtype=torch.long))


def test_the_mode_of_training_does_not_reach_the_network() -> None:
    model = nn.Sequential(network(), nn.Dropout(0.5)).train()
    torch.manual_seed(0)
    assert torch.equal(Forward(model)({}, X), model.eval()(X))


def test_statistics_have_no_derivative() -> None:
    model = network(norm=nn.BatchNorm1d)
    tensors = {n: t.clone().requires_grad_() for n, t in all_tensors(model).items() if t.is_floating_point()}
    torch.autograd.backward(Forward(model)(tensors, X).sum())
    assert {n for n, t in tensors.items() if t.grad is None} == {n for n in tensors if "running" in n}


def test_batches_without_a_variance_are_refused() -> None:
    model = network(norm=nn.BatchNorm1d)
    with pytest.raises(InvalidInput, match="BatchNorm layers: found a batch with one value per channel.*pass a DataLoader with drop_last=True"):
        Forward(model, batch_statistics=True)({}, X[:1])
    assert torch.allclose(Forward(model)({}, X[:1]), model.eval()(X[:1]))
