"""Weights, biases and normalisations as the program uses them: its arguments evaluated on a network's tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphalign.architecture import Architecture, WeightBlock
from graphalign.errors import InvalidInput
from graphalign.moves import channel_axis, op_name


@dataclass(frozen=True)
class Operands:
    """What the steps of an architecture compute with, for the tensors of one network.

    Attributes:
        architecture: the traced network.
        tensors: parameters and buffers by state-dict key.
    """

    architecture: Architecture
    tensors: Mapping[str, Tensor]

    def node(self, step: str) -> fx.Node | None:
        """The graph node of a step, None for steps inside a nested graph."""
        return next((n for n in self.architecture.program.graph.nodes if n.name == step), None)

    def value(self, argument: Any) -> Any:
        """The value of an argument that depends on parameters, buffers and constants only.

        Raises:
            InvalidInput: the argument depends on the network's input.
        """
        if isinstance(argument, (list, tuple)):
            return type(argument)(self.value(a) for a in argument)
        if not isinstance(argument, fx.Node):
            return argument
        if argument.op == "placeholder":
            key = self.architecture.tensors.get(argument.name)
            if key is not None:
                return self.tensors[key]
            if argument.name in self.architecture.constants:
                return self.architecture.constants[argument.name]
        elif argument.op == "call_function":
            args = [self.value(a) for a in argument.args]
            if argument.target is operator.getitem:
                return args[0][args[1]]
            return argument.target(*args, **{k: self.value(v) for k, v in argument.kwargs.items()})  # type: ignore[operator]
        raise InvalidInput(
            f"'{argument.name}' depends on the network's input, so it is no weight; expected parameters and constants. "
            "Ask for the operands of weight blocks only."
        )

    def matrices(self, block: WeightBlock) -> Tensor:
        """The weight of a block as one matrix per kernel position, (O, I / groups, S); row o, input i, position s.

        Positions are those of the kernel in row-major order; S = 1 for linear layers and embeddings. With groups, row o
        reads input `o // (O / groups) * (I / groups) + i`. A transposed convolution is given as source to target as well.
        """
        weight = self._oriented(block)
        if block.op != "conv":
            return weight.unsqueeze(-1)
        groups = int(block.geometry.get("groups", 1))
        if block.geometry.get("transposed", False):
            flat = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
            return flat.transpose(1, 2).reshape(groups * weight.shape[1], weight.shape[0] // groups, -1)
        return weight.flatten(2)

    def _oriented(self, block: WeightBlock) -> Tensor:
        """(O, I) for linear layers and embeddings; the kernel as it is for convolutions."""
        node = self.node(block.step)
        if node is None:
            return self._stored(block)
        found = self._argument(node, block)
        return self._stored(block) if found is None else found

    def _argument(self, node: fx.Node, block: WeightBlock) -> Tensor | None:
        name, args = op_name(node), node.args
        found: Tensor | None = None
        if block.op == "conv" or name == "linear":
            found = self.value(args[1])
        elif block.op == "embedding":
            found = self.value(args[0]).T
        elif name in ("addmm", "addmv", "baddbmm"):
            found = self.value(args[2]).T
        elif name in ("matmul", "mm", "bmm", "mv") and len(args) == 2:
            left, right = (_rests_on_input(a, self.architecture) for a in args)
            if left and not right:
                found = self.value(args[1])
                found = found.T if found.dim() == 2 else found[None]
            elif right and not left:
                found = self.value(args[0])
        return found

    def _stored(self, block: WeightBlock) -> Tensor:
        """The tensor itself, output axis first."""
        tensor = self.tensors[block.tensor]
        if block.op == "conv":
            return tensor
        expected = (len(block.target), self.sources(block))
        found = tensor.movedim((block.out_axis, block.in_axis), (0, 1)).reshape(tensor.shape[block.out_axis], -1)
        if tuple(found.shape) != expected:
            raise InvalidInput(
                f"step '{block.step}' reads a part of '{block.tensor}' {tuple(tensor.shape)} in a way that has no matrix form; "
                f"expected {expected}. Write it as a linear layer of its own."
            )
        return found

    def sources(self, block: WeightBlock) -> int:
        """Number I of inputs of a block."""
        return self.architecture.spec.shapes[block.tensor][block.in_axis] if block.op == "embedding" else len(block.source)

    def bias(self, step: str) -> Tensor | None:
        """The bias that a weight step adds itself, (O,); None without one."""
        node = self.node(step)
        if node is None:
            return None
        name = op_name(node)
        position = 0 if name in ("addmm", "addmv") else 2
        if name in ("linear", "addmm", "addmv", "convolution") or name.startswith("conv"):
            argument = node.args[position] if len(node.args) > position else node.kwargs.get("bias")
            return None if argument is None else self.value(argument)
        return None

    def folded(self, block: WeightBlock) -> tuple[Tensor, Tensor | None, str | None]:
        """Weight (O, I / groups, S) and bias (O,) with the batch normalisation that follows folded in, and that step's name.

        w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta, for an eval-mode normalisation that
        is the only reader of a convolution or linear layer; otherwise weight and bias as they are and None.
        """
        weight, bias = self.matrices(block), self.bias(block.step)
        node = self.node(block.step)
        norm = None if node is None else self._following_norm(node, block)
        if norm is None:
            return weight, bias, None
        gamma, beta, mean, variance = (self.value(a) for a in norm.args[1:5])
        eps = float(norm.args[7])  # type: ignore[arg-type]
        factor = torch.rsqrt(variance.to(weight.dtype) + eps)
        if gamma is not None:
            factor = factor * gamma
        shift = (-mean if bias is None else bias - mean) * factor
        return weight * factor[:, None, None], shift if beta is None else shift + beta, norm.name

    def _following_norm(self, node: fx.Node, block: WeightBlock) -> fx.Node | None:
        if block.op not in ("linear", "conv") or len(node.users) != 1:
            return None
        norm = next(iter(node.users))
        if norm.op != "call_function" or op_name(norm) != "batch_norm" or norm.args[0] is not node or norm.args[5]:
            return None
        rank = len(node.meta["val"].shape)
        kernel_rank = len(self.architecture.spec.shapes[block.tensor])
        # batch_norm works along dimension 1, which is not the output axis of a linear layer over sequences
        if norm.args[3] is None or norm.args[4] is None or rank < 2 or channel_axis(block, rank, kernel_rank) != 1:
            return None
        return norm


def _rests_on_input(argument: Any, architecture: Architecture) -> bool:
    if not isinstance(argument, fx.Node):
        return False
    if argument.op == "placeholder":
        return argument.name not in architecture.tensors and argument.name not in architecture.constants
    return any(_rests_on_input(a, architecture) for a in argument.all_input_nodes)


def input_of_row(block: WeightBlock, outputs: int, inputs: int) -> Tensor:
    """Input index behind every entry (o, i) of `Operands.matrices`, LongTensor (O, I / groups)."""
    groups = int(block.geometry.get("groups", 1)) if block.op == "conv" else 1
    per_group = inputs // groups
    group = torch.arange(outputs) // (outputs // groups)
    return group[:, None] * per_group + torch.arange(per_group)


def kernel_offsets(block: WeightBlock, shape: Sequence[int]) -> Tensor:
    """Centred offset of every kernel position, (S, spatial dimensions), in pixels of the map the kernel slides over.

    offset = dilation * (index - (k - 1) / 2): the middle of an odd kernel is 0, an even one has half-integer offsets. Linear
    layers and embeddings have one position without dimensions, (1, 0). A transposed convolution scatters: its offsets have
    the opposite sign, so that the offset always points from the target to the source it hears.
    """
    if block.op != "conv":
        return torch.zeros(1, 0)
    kernel = list(shape[2:])
    dilation = block.geometry.get("dilation", 1)
    steps = [dilation] * len(kernel) if isinstance(dilation, int) else list(dilation) * (len(kernel) // len(dilation))
    sign = -1.0 if block.geometry.get("transposed", False) else 1.0
    axes = [sign * d * (torch.arange(k) - (k - 1) / 2) for k, d in zip(kernel, steps, strict=True)]
    return torch.stack([g.flatten() for g in torch.meshgrid(*axes, indexing="ij")], dim=1)
