"""What plans do to single tensors."""

from __future__ import annotations

import pytest
import torch

from graphalign.transport_maps import join_groups, split_groups


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("rows_are_inputs", [True, False])
def test_weights_of_grouped_convolutions_are_split_and_joined(axis: int, rows_are_inputs: bool) -> None:
    weight = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    inputs = 0 if rows_are_inputs else axis
    split = split_groups(weight, axis, 3, inputs)
    assert split.shape == ((3, weight.shape[axis], 2, 5 - weight.shape[axis]) if rows_are_inputs else (3, 2, weight.shape[axis], 5 - weight.shape[axis]))
    assert torch.equal(join_groups(split, axis, tuple(weight.shape), inputs), weight)
