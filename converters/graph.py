"""From any `nn.Module` and an example input to its neuron graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from graphalign import group
from graphalign.graph import NeuronGraph

from .trace import trace_architecture


def neuron_graph(model: nn.Module, example_input: Any, fixed: Iterable[str] = ()) -> NeuronGraph:
    """The neuron graph of a network: its traced architecture with its parameters and buffers.

    Args:
        model: any module that `torch.export` can export; left as it was. The graph refers to its tensors, detached.
        example_input: a tensor, a tuple of arguments or a dict of keyword arguments, as for a call of the model.
        fixed: operators or module paths through which nothing may move.

    Raises:
        UnsupportedNetwork, InvalidInput: as `trace`.
        InvalidInput: a parameter is no floating-point tensor, or holds NaN or Inf.
    """
    return NeuronGraph(trace_architecture(model, example_input, fixed=fixed), group.all_tensors(model))
