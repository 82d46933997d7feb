"""Alignments in the form of Git Re-Basin: takes along axes do what `apply` does, and nothing is lost on the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.axis_permutations import AxisPermutations, from_axis_permutations, to_axis_permutations
from graphalign.errors import InvalidInput

from .traced import traced

NAMES = ("mlp_3", "cnn_flatten", "resnet_basic", "densenet", "encoder_layer_relu")


def alignment_of(name: str, seed: int = 0) -> Alignment:
    spec = traced(name).spec
    return Alignment(spec, group.random_element(spec, torch.Generator().manual_seed(seed)), "mine")


@pytest.mark.parametrize("name", NAMES)
def test_takes_along_axes_are_the_alignment(name: str) -> None:
    alignment = alignment_of(name)
    found = to_axis_permutations(alignment)
    state = traced(name).state
    applied = alignment.apply(state)
    assert found.axes_to_perm.keys() == alignment.spec.shapes.keys()
    for tensor, names in found.axes_to_perm.items():
        moved = state[tensor].numpy()
        assert len(names) == moved.ndim
        for axis, permutation in enumerate(names):
            moved = moved if permutation is None else np.take(moved, found.permutations[permutation], axis)
        np.testing.assert_array_equal(moved, applied[tensor].numpy())


@pytest.mark.parametrize("name", NAMES)
def test_the_way_back_gives_the_same_alignment(name: str) -> None:
    alignment = alignment_of(name)
    found = to_axis_permutations(alignment)
    for axes in (found.axes_to_perm, None):
        again = from_axis_permutations(alignment.spec, found.permutations, axes)
        assert again.method == "git-re-basin"
        assert group.same(again.permutations, alignment.permutations)


def test_names_of_others_are_read_by_their_axes() -> None:
    """The permutation spec of an MLP as Git Re-Basin writes it, with names in another order and lists for arrays."""
    alignment = alignment_of("mlp_2")
    (first, one), (second, two) = alignment.permutations.items()
    axes = {"0.weight": ("P_bg1", None), "0.bias": ("P_bg1",), "2.weight": ("P_bg0", "P_bg1"), "2.bias": ("P_bg0",), "4.weight": (None, "P_bg0"), "4.bias": (None,)}
    again = from_axis_permutations(alignment.spec, {"P_bg0": two.tolist(), "P_bg1": one.numpy()}, axes)
    assert torch.equal(again.permutations[first], one)
    assert torch.equal(again.permutations[second], two)
    assert to_axis_permutations(alignment).perm_to_axes["P_0"] == [("0.weight", 0), ("0.bias", 0), ("2.weight", 1)]


def test_a_flatten_has_an_array_of_its_own() -> None:
    alignment = alignment_of("cnn_flatten")
    found = to_axis_permutations(alignment)
    cells = len(alignment.spec.cells)
    assert list(found.permutations) == [f"P_{i}" for i in range(cells + 1)]
    (place,) = found.perm_to_axes[f"P_{cells}"]
    assert len(found.permutations[f"P_{cells}"]) == alignment.spec.shapes[place[0]][place[1]]


def changed(change: Callable[[dict[str, Any], dict[str, Any]], None], name: str = "mlp_2") -> Callable[[], Alignment]:
    found = to_axis_permutations(alignment_of(name))
    permutations, axes = dict(found.permutations), dict(found.axes_to_perm)
    change(permutations, axes)
    return lambda: from_axis_permutations(traced(name).spec, permutations, axes or None)


BAD: dict[str, tuple[Callable[[], Callable[[], Any]], str]] = {
    "a grouped convolution": (lambda: lambda: to_axis_permutations(alignment_of("resnext")), "found grouped convolutions"),
    "no such permutation": (lambda: changed(lambda p, a: p.pop("P_1")), r"(?s)names 'P_1', which is not among.*no axis of cell '2' has a name"),
    "no such tensor": (lambda: changed(lambda p, a: a.update(x=("P_0",))), "'x' is no tensor of the spec"),
    "an axis that may not move": (
        lambda: changed(lambda p, a: (p.update(Q=np.array([1, 0, 2])), a.update({"4.bias": ("Q",)}))), "axis 0 of '4.bias' may not move, and 'Q'",
    ),
    "another length": (lambda: changed(lambda p, a: p.update(P_0=np.arange(5))), "'P_0' has 5 entries, axis 0 of '0.weight' has 8"),
    "a contradiction": (
        lambda: changed(lambda p, a: (p.update(Q=np.roll(p["P_0"], 1)), a.update({"0.bias": ("Q",)}))), "'Q' on axis 0 of '0.bias' is not what",
    ),
    "no permutation": (lambda: changed(lambda p, a: p.update(P_0=np.zeros(8, int))), "cell '0'"),
    "numbers": (lambda: changed(lambda p, a: p.update(P_0=np.ones(8))), "'P_0' has dtype torch.float64 and shape"),
    "names alone, one missing": (lambda: changed(lambda p, a: (p.pop("P_1"), a.clear())), "found P_0, expected P_1 for '2' too"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_alignment_is_refused(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(InvalidInput, match=message):
        call()()


def test_the_record_is_plain() -> None:
    record = AxisPermutations({"P_0": np.arange(2)}, {"w": (None, "P_0")})
    assert record.perm_to_axes == {"P_0": [("w", 1)]}
