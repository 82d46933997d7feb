"""Narrower types are lifted; bits that are read as another type are not."""

from __future__ import annotations

import torch

from graphalign.double_precision import InDouble


def test_narrower_types_become_double() -> None:
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    with torch.no_grad(), InDouble():
        assert all(torch.equal(y, x) for y in (x.float(), x.to(torch.bfloat16), x.half(), x.type(torch.float32)))
        assert torch.softmax(x, 0, dtype=torch.float32).dtype == x.sum(dtype=torch.float32).dtype == torch.float64
    assert x.float().dtype == torch.float32


def test_everything_else_stays() -> None:
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    with torch.no_grad(), InDouble():
        assert x.to(torch.int64).dtype == torch.int64
        assert x.to(torch.complex64).dtype == torch.complex64
        assert x.view(torch.float32).shape == (6,)
