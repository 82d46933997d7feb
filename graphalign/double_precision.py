"""Everything in float64: what a network converts to a narrower type inside is kept in float64 too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class InDouble(TorchDispatchMode):
    """A context in which an operator that is asked for a narrower floating-point type gives float64.

    Many networks compute their norms and softmaxes in float32 whatever type they are given. Rounding there is larger than the effect of
    a small mistake; in float64 the two can be told apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.overloadpacket is torch.ops.aten.view and func._overloadname == "dtype":  # the same bits read as another type
            return func(*args, **(kwargs or {}))
        run: Callable[..., Any] = func
        return run(*map(_widened, args), **{key: _widened(value) for key, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value
