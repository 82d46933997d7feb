"""Balanced scales: same function, unique, idempotent, compatible with permutations, whatever the factors were before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.canonical import canonicalise, rescale
from graphalign.converters.trace import trace
from graphalign.errors import InvalidInput
from graphalign.spec import NetworkSpec
from graphalign.testing import assert_same_function

from .networks import FAMILIES, randomise

NAMES = (
    "mlp_3", "mlp_6_no_bias", "mlp_leaky_relu", "cnn_flatten", "cnn_global_pool_bn", "vgg_11", "vgg_11_bn", "resnet_basic",
    "resnet_bottleneck", "densenet", "unet_transposed", "encoder_layer_norm_first_relu", "gpt", "mobilenet_hardswish",
    "shared_linear",
)  # fmt: skip


class PlainResidual(nn.Module):
    """Residual stream without norms, read by a layer that writes into it: one weight carries a cell on both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loop, self.last = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(h + torch.relu(self.loop(h)))


class TwoReaders(nn.Module):
    """A normalised map that a convolution and a pooled head both read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.next = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head, self.side = nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.conv(x)))
        return self.side(h.mean((2, 3))) + self.head(torch.relu(self.next(h)).mean((2, 3)))


def case(name: str) -> tuple[nn.Module, Any, NetworkSpec]:
    torch.manual_seed(0)
    if name == "plain_residual":
        model, args, kwargs = PlainResidual(), (torch.randn(4, 5),), {}
    elif name == "two_readers":
        model, args, kwargs = TwoReaders(), (torch.randn(2, 3, 8, 8),), {}
    else:
        model, args, kwargs = FAMILIES[name]()
    model = randomise(model, torch.Generator().manual_seed(1)).double().eval()
    assert not kwargs
    example = tuple(a.double() if a.is_floating_point() else a for a in args)
    return model, example, trace(model, example)


def loaded(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in group.all_tensors(result).items():
            tensor.copy_(tensors[name])
    return result


def random_factors(spec: NetworkSpec, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(spec.by_name[r.cell].units, generator=generator, dtype=torch.float64).exp() for r in spec.rescalings)


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance * max(1.0, float(tensor.double().abs().max())))


@pytest.mark.parametrize("name", [*NAMES, "plain_residual", "two_readers"])
def test_the_balanced_network_is_the_same_function_and_the_same_for_all_factors(name: str) -> None:
    model, example, spec = case(name)
    assert spec.rescalings
    tensors = group.all_tensors(model)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    balanced, scales = canonicalise(spec, tensors)
    assert_same_tensors(tensors, before, 0.0)
    assert any(float((s - 1).abs().max()) > 1e-3 for s in scales)
    assert_same_function(model, loaded(model, balanced), example, 1e-12)

    again, ones = canonicalise(spec, balanced)
    assert_same_tensors(again, balanced)
    assert all(torch.allclose(s, torch.ones_like(s), rtol=0, atol=1e-12) for s in ones)

    scaled = rescale(spec, tensors, random_factors(spec, 5))
    assert_same_function(model, loaded(model, scaled), example, 1e-11)
    assert_same_tensors(canonicalise(spec, scaled)[0], balanced)


@pytest.mark.parametrize("name", [*NAMES, "plain_residual"])
def test_it_commutes_with_permutations(name: str) -> None:
    model, _, spec = case(name)
    tensors = group.all_tensors(model)
    element = group.random_element(spec, torch.Generator().manual_seed(4))
    balanced, scales = canonicalise(spec, tensors)
    moved, moved_scales = canonicalise(spec, group.apply_to_state(spec, element, tensors))
    assert_same_tensors(moved, group.apply_to_state(spec, element, balanced))
    for rescaling, found, expected in zip(spec.rescalings, moved_scales, scales, strict=True):
        torch.testing.assert_close(found, expected[element[rescaling.cell]], rtol=1e-11, atol=0)


def test_every_unit_of_a_balanced_mlp_has_equal_norms_in_and_out() -> None:
    model, _, spec = case("mlp_3")
    balanced, _ = canonicalise(spec, group.all_tensors(model))
    for i in (0, 2, 4):
        incoming = torch.cat([balanced[f"{i}.weight"], balanced[f"{i}.bias"][:, None]], dim=1).norm(dim=1)
        torch.testing.assert_close(incoming, balanced[f"{i + 2}.weight"].norm(dim=0), rtol=1e-12, atol=0)


def test_one_cell_may_have_several_rescalings() -> None:
    _, _, spec = case("encoder_layer_norm_first_relu")
    cells = [r.cell for r in spec.rescalings]
    assert len(cells) > len(set(cells))


def test_dead_units_are_left_alone() -> None:
    model, example, spec = case("mlp_2")
    tensors = {name: tensor.clone() for name, tensor in group.all_tensors(model).items()}
    tensors["0.weight"][1], tensors["0.bias"][1], tensors["4.weight"][:, 2] = 0, 0, 0
    balanced, scales = canonicalise(spec, tensors)
    assert (float(scales[0][1]), float(scales[1][2])) == (1.0, 1.0)
    assert all(bool(torch.isfinite(t).all()) for t in balanced.values())
    assert_same_function(loaded(model, tensors), loaded(model, balanced), example, 1e-12)


def test_types_and_aliases_are_kept() -> None:
    model, _, spec = case("mlp_2")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in group.all_tensors(model).items()}
    balanced, _ = canonicalise(spec, half)
    assert {t.dtype for t in balanced.values()} == {torch.bfloat16}


def test_bad_factors_and_weights_are_refused() -> None:
    model, _, spec = case("mlp_2")
    tensors = group.all_tensors(model)
    with pytest.raises(InvalidInput, match="1 tensors of factors, expected one for each of the 2 rescalings"):
        rescale(spec, tensors, random_factors(spec, 0)[:1])
    first, second = random_factors(spec, 0)
    pattern = r"(?s)cell '0': factors of shape \(7,\), expected \(8,\).*cell '2': factors that are not positive"
    with pytest.raises(InvalidInput, match=pattern):
        rescale(spec, tensors, (first[:7], -second))
    with pytest.raises(InvalidInput, match=r"'0.weight'.*NaN"):
        canonicalise(spec, {**tensors, "0.weight": torch.full((8, 5), float("inf"), dtype=torch.float64)})
