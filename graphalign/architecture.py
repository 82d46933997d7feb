"""An architecture as the tracer understood it: its spec, its layers, its weight blocks and the program that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphalign.spec import NetworkSpec


@dataclass(frozen=True)
class Layer:
    """One step of the network that computes something.

    Attributes:
        step: unique name of the step.
        op: operator name without the "aten." prefix, or "input" / "output".
        module: path of the module that runs it.
        shape: shape of its result for the example input.
        inputs: steps whose results it uses (steps that only move entries are skipped).
        cells: cells whose units its result carries.
    """

    step: str
    op: str
    module: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class WeightBlock:
    """A weight tensor that carries messages from source units to target units.

    Units are numbered over all cells of the spec (`Architecture.offsets`); -1 marks a unit that may not move.

    Attributes:
        step: the step that uses the weight.
        op: "linear", "conv" or "embedding".
        tensor: state-dict key.
        source: unit at each index of the input axis, int64 (I,); empty for embeddings.
        target: unit at each index of the output axis, int64 (O,).
        in_axis: input axis of the tensor.
        out_axis: output axis of the tensor.
        geometry: stride, padding, dilation, groups and transposed of a convolution.
    """

    step: str
    op: str
    tensor: str
    source: Tensor
    target: Tensor
    in_axis: int
    out_axis: int
    geometry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """What two networks must share to be aligned.

    Attributes:
        spec: the symmetries.
        program: the exported network; its outputs are the flat tuple of the network's tensors.
        tensors: state-dict key of every lifted input of the program (parameters and buffers), by placeholder name.
        constants: values of the other lifted inputs, by placeholder name.
        layers: in graph order.
        blocks: in graph order.
        reads: for every activation that a weight or an attention product reads, the unit at each entry (shape of the
            activation, zero strides where nothing varies).
    """

    spec: NetworkSpec
    program: torch.export.ExportedProgram
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    blocks: tuple[WeightBlock, ...]
    reads: Mapping[str, Tensor]

    @property
    def offsets(self) -> dict[str, int]:
        """First global unit number of every cell."""
        offsets, total = {}, 0
        for cell in self.spec.cells:
            offsets[cell.name] = total
            total += cell.units
        return offsets
