"""Inputs of a network with positional and keyword arguments."""

from __future__ import annotations

from typing import Any


class Inputs:
    """Inputs with positional and keyword arguments: `Inputs(x, mask=m)` stands for the call `model(x, mask=m)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
