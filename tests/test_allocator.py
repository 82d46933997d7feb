"""What has been freed goes back to the system."""

from __future__ import annotations

import platform

import pytest
import torch

from graphalign import allocator
from graphalign.experiments.footprint import resident

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_blocks_go_back_though_one_behind_them_is_in_use() -> None:
    torch.empty(31 * MIB, dtype=torch.uint8)  # from now on blocks of up to this size come from the heap
    blocks = [torch.ones(MIB, dtype=torch.uint8) for _ in range(128)]
    last = blocks.pop()
    blocks.clear()
    before = resident("VmRSS")
    allocator.give_back()
    assert before - resident("VmRSS") > 64 * MIB
    assert bool(last.all())


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_library", lambda: None)
    allocator.give_back()
