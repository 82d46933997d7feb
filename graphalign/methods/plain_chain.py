"""Whether a traced network is a plain chain, convolutions or linear layers one after another, and the tensors of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphalign.architecture import Architecture, Layer, WeightBlock
from graphalign.errors import Offence, UnsupportedNetwork
from graphalign.spec import AxisLayout, NetworkSpec

ENTRYWISE = frozenset(
    (
        "relu", "leaky_relu", "gelu", "silu", "mish", "elu", "celu", "selu", "softplus", "sigmoid", "log_sigmoid", "tanh", "relu6",
        "hardtanh", "hardswish", "hardsigmoid", "softshrink", "hardshrink", "sin", "erf",
    )
)  # fmt: skip
POOLS = tuple(f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3))
HARMLESS = ENTRYWISE | {*POOLS, "mean", "input", "output"}
"""Steps that treat every unit alone, so that their result does not depend on how many units there are."""
SUMMARY = "matched averaging needs a plain chain of convolutions and linear layers, but this network has:"
REMEDY = (
    "merge networks of one width with graphalign.align and average them, or pass networks without norms, skip connections and "
    "shared weights"
)


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        weight: state-dict key.
        bias: state-dict key, or None.
        in_axis: input axis of the weight.
        out_axis: output axis of the weight.
        source: cell of the inputs, or None where they may not move.
        target: cell of the outputs, or None where they may not move.
        repeat: consecutive indices of the input axis that belong to one input (positions after a flatten).
    """

    weight: str
    bias: str | None
    in_axis: int
    out_axis: int
    source: str | None
    target: str | None
    repeat: int

    def matrix(self, state: Mapping[str, Tensor]) -> Tensor:
        """The weight as (outputs, inputs, entries per pair), float64 on the CPU."""
        weight = state[self.weight].detach().to("cpu", torch.float64).movedim((self.out_axis, self.in_axis), (0, 1))
        return weight.reshape(weight.shape[0], weight.shape[1] // self.repeat, -1)

    def weight_of(self, matrix: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """The inverse of `matrix` for a kernel of the shape given; () for a linear layer."""
        shaped = matrix.reshape(matrix.shape[0], matrix.shape[1] * self.repeat, *kernel)
        return shaped.movedim((0, 1), (self.out_axis, self.in_axis)).contiguous()

    def kernel(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of a weight of this shape that are neither inputs nor outputs."""
        return tuple(n for axis, n in enumerate(shape) if axis not in (self.in_axis, self.out_axis))


def plain_chain(architecture: Architecture) -> tuple[Link, ...]:
    """The layers of a plain chain in order.

    Every step has one predecessor; steps between the layers act on each unit alone (activations and pooling); every cell is
    made by one layer and read by the next one; every parameter is the weight or bias of one layer.

    Raises:
        UnsupportedNetwork: the network is something else; lists everything that is not in a plain chain.
    """
    offences = [*_step_offences(architecture), *_weight_offences(architecture)]
    if not offences:
        links = tuple(_links(architecture))
        used = {key for link in links for key in (link.weight, link.bias)}
        rest = [n for n in architecture.spec.shapes if n not in used]
        offences += [Offence("parameter", n.rpartition(".")[0], "", f"'{n}' is no weight or bias of a layer") for n in rest]
    if offences:
        raise UnsupportedNetwork(SUMMARY, offences, REMEDY)
    return links


def chain_steps(architecture: Architecture) -> tuple[str, ...]:
    """What a chain runs, step by step: operators with their constants (strides, kernel sizes, slopes), without its widths."""
    nodes = {node.name: node for node in architecture.program.graph_module.graph.nodes}
    steps = []
    for layer in architecture.layers:
        if layer.op not in ("input", "output"):
            constants = [a for a in nodes[layer.step].args if not isinstance(a, fx.Node) and a is not None]
            steps.append(f"{layer.op}{tuple(constants)}" if constants else layer.op)
    return tuple(steps)


def _step_offences(architecture: Architecture) -> Iterator[Offence]:
    weighted = {block.step for block in architecture.blocks}
    cells: dict[str, tuple[str, ...]] = {}
    before: Layer | None = None
    for layer in architecture.layers:
        cells[layer.step] = layer.cells
        if layer.op == "input":
            if before is not None:
                yield Offence("input", layer.module, "", f"'{layer.step}' is a second input")
        elif before is not None and layer.inputs != (before.step,):
            yield Offence(layer.op, layer.module, "", f"reads {' and '.join(layer.inputs) or 'no step'}, not only the step before it")
        elif layer.step not in weighted and (layer.op == "linear" or layer.op.startswith("conv")):
            yield Offence(layer.op, layer.module, "", "its weight is computed from several parameters, or shared by positions")
        elif layer.step not in weighted and layer.op not in HARMLESS:
            yield Offence(layer.op, layer.module, "", "is no convolution, linear layer, activation or pooling")
        elif layer.step not in weighted and layer.op != "output" and layer.cells != cells[layer.inputs[0]]:
            yield Offence(layer.op, layer.module, "", "mixes units")
        before = layer


def _weight_offences(architecture: Architecture) -> Iterator[Offence]:
    spec = architecture.spec
    modules = {layer.step: (layer.op, layer.module) for layer in architecture.layers}
    uses = Counter(block.tensor for block in architecture.blocks)
    for block in architecture.blocks:
        op, module = modules[block.step]
        weight = _operand(architecture, block, 1)
        if weight != block.tensor:
            yield Offence(op, module, "", f"its weight is computed from '{block.tensor}'")
        elif uses[block.tensor] > 1 or block.tensor in spec.aliases.values():
            yield Offence(op, module, "", f"shares its weight '{block.tensor}' with another layer")
        elif block.geometry.get("groups", 1) != 1:
            yield Offence(op, module, "", f"convolves in {block.geometry['groups']} groups")
        elif not all(_is_whole(spec, layout) for layout in spec.axes_of_tensor.get(block.tensor, ())):
            yield Offence(op, module, "", "reads several cells, or the positions of its inputs before their channels")


def _is_whole(spec: NetworkSpec, layout: AxisLayout) -> bool:
    """Whether an axis holds all units of one ordinary cell in order."""
    if len(layout.segments) != 1 or (name := layout.segments[0].cell) is None:
        return False
    cell, segment = spec.by_name[name], layout.segments[0]
    return cell.blocks == 1 and len(spec.groups[cell.group or cell.name]) == 1 and segment.count == cell.units


def _links(architecture: Architecture) -> Iterator[Link]:
    spec = architecture.spec
    for block in architecture.blocks:
        ends = {layout.axis: layout.segments[0] for layout in spec.axes_of_tensor.get(block.tensor, ())}
        source, target = ends.get(block.in_axis), ends.get(block.out_axis)
        yield Link(
            block.tensor, _operand(architecture, block, 2), block.in_axis, block.out_axis, source.cell if source else None,
            target.cell if target else None, source.repeat if source else 1,
        )  # fmt: skip


def _operand(architecture: Architecture, block: WeightBlock, place: int) -> str | None:
    """State-dict key of an operand of the step of a weight block; None if there is none or it is computed."""
    for node in architecture.program.graph_module.graph.nodes:
        if node.name == block.step and len(node.args) > place and isinstance(operand := node.args[place], fx.Node):
            return architecture.tensors.get(operand.name)
    return None
