"""One function for the entries of a stack all at once, by `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def vectorise(function: Callable[..., Any], *stacked: Any, randomness: str = "same") -> Any:
    """`function` for every entry of the first axis of all arguments, stacked.

    Attention is computed from elementary operators, because the fused ones cannot be vectorised. Other operators without a
    batching rule run one entry at a time: slower, not wrong.

    Raises:
        RuntimeError, NotImplementedError, ValueError: an operator that cannot be vectorised at all.
    """
    with _no_fallback_warnings(), sdpa_kernel(SDPBackend.MATH):
        return torch.func.vmap(function, randomness=randomness)(*stacked)


@contextmanager
def _no_fallback_warnings() -> Iterator[None]:
    """The speed of operators without a batching rule is not the user's concern; nor is the fast path of attention, which is one."""
    switch = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", None)
    state = getattr(torch._C._functorch, "_is_vmap_fallback_warning_enabled", lambda: True)()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    if switch:
        switch(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if switch:
            switch(state)
