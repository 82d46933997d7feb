"""Which entries of a network's input are one node: those that some weight reads at the same index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from graphalign.architecture import Architecture, WeightBlock
from graphalign.moves import move, read_axis, result_shapes
from graphalign.numbering import along, carried, numbered, tighten


def input_nodes(architecture: Architecture, node: fx.Node) -> Tensor:
    """Node of each entry of an input, numbered from 0; shape of the input, zero strides where nothing varies.

    A convolution makes one node per channel, a linear layer one per feature, a linear layer after a flatten one per pixel.
    An input that no weight reads has one node per index of its last axis.
    """
    (shape,) = result_shapes(node)
    blocks = {block.step: block for block in architecture.blocks}
    steps = {layer.step for layer in architecture.layers}
    count = int(np.prod(shape)) if shape else 1
    everything = torch.arange(count).reshape(shape)
    values: dict[str, Any] = {node.name: everything}
    joined: list[Tensor] = []
    for later in architecture.program.graph.nodes:
        known = next((v for n in later.all_input_nodes if (v := values.get(n.name)) is not None), None)
        if later.op == "call_function" and known is not None:
            joined += _follow(architecture, later, known, values, blocks, later.name in steps)
    if not joined:
        joined = [everything.reshape(-1, shape[-1] if shape else 1).T]
    pairs = torch.cat([torch.stack([j[:, :1].expand_as(j).flatten(), j.flatten()]) for j in joined], dim=1).numpy()
    links = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
    _, label = connected_components(links, directed=False)
    _, number = numbered([torch.from_numpy(label.astype(np.int64))])
    return tighten(number.reshape(shape))


def _follow(
    architecture: Architecture, node: fx.Node, ids: Any, values: dict[str, Any], blocks: Mapping[str, WeightBlock], is_layer: bool
) -> list[Tensor]:
    """Entries that this step reads as one, a row each; `values` gets the entries behind its result."""
    block = blocks.get(node.name)
    if block is not None:
        if not isinstance(ids, Tensor) or block.op == "embedding":
            return []
        kernel_rank = len(architecture.spec.shapes[block.tensor])
        return [along(ids, read_axis(block, ids, kernel_rank), len(block.source))]
    if not is_layer:
        values[node.name] = move(node, {**{n.name: None for n in node.all_input_nodes}, **values})
        return []
    if not isinstance(ids, Tensor):
        return []
    shape = result_shapes(node)[0]
    result = carried(ids, shape)
    values[node.name] = result[..., 0].expand(shape)
    return [result.reshape(-1, result.shape[-1])]
