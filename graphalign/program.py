"""Running a traced network on codes: its weights as messages, its own nonlinearities as updates.

The program is interpreted step by step, in any floating-point type and on any device, and vectorised over codes. The states of
all units that a weight reads come out, and by a vector-Jacobian product the backward states of the same units: what random
codes at the outputs become when they are sent back through the transposed weights.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphalign.architecture import Architecture
from graphalign.converted import sample_of
from graphalign.vectorising import vectorise

SKIPPED = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async")


class Program:
    """An architecture that can be run with any parameters.

    Attributes:
        architecture: what is run.
        inputs: the example inputs on the fake device, by placeholder name.
        vocabularies: for integer inputs, the number of rows of the table that they index.
        vectorised: whether codes run all at once; turned off by the first operator that cannot.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.graph = architecture.program.graph_module
        self.inputs = {
            node.name: node.meta["val"]
            for node in self.graph.graph.nodes
            if node.op == "placeholder"
            and node.name not in architecture.tensors
            and node.name not in architecture.constants
            and isinstance(node.meta.get("val"), Tensor)
        }
        self.vocabularies = self._vocabularies()
        self.vectorised = True

    def _vocabularies(self) -> dict[str, int]:
        """Number of rows of the embedding table that each integer input indexes."""
        found: dict[str, int] = {}
        origin = {name: name for name in self.inputs}
        for node in self.graph.graph.nodes:
            if node.op != "call_function":
                continue
            sources = [origin[n.name] for n in node.all_input_nodes if n.name in origin]
            if str(node.target).startswith("aten.embedding.") and len(node.args) > 1:
                index = node.args[1]
                if isinstance(index, fx.Node) and index.name in origin:
                    rows = int(node.args[0].meta["val"].shape[0])
                    found[origin[index.name]] = min(rows, found.get(origin[index.name], rows))
            value = node.meta.get("val")
            if len(sources) == len(node.all_input_nodes) == 1 and isinstance(value, Tensor) and not value.is_floating_point():
                origin[node.name] = sources[0]
        return found

    def results(self) -> list[fx.Node]:
        """The steps whose values are the outputs."""
        (output,) = (node for node in self.graph.graph.nodes if node.op == "output")
        return list(output.args[0])

    def outputs(self) -> list[Tensor]:
        """The example's outputs on the fake device (shapes and dtypes)."""
        return [node.meta["val"] for node in self.results()]

    def run(
        self, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], nudges: Mapping[str, Tensor] | None = None
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Outputs, and the activations that weights read.

        Args:
            tensors: parameters and buffers by state-dict key; floating-point ones all of one type, which is computed in.
            inputs: by placeholder name, shaped as the example.
            nudges: added to the activations read, by step (for derivatives with respect to them).
        """
        sample = sample_of(tensors)
        reads: dict[str, Tensor] = {}
        return self._interpret(self.graph, tensors, dict(inputs), Place(sample.device, sample.dtype), reads, nudges or {}), reads

    def _interpret(
        self, graph: fx.GraphModule, tensors: Mapping[str, Tensor], values: dict[str, Any], place: Place, reads: dict[str, Tensor],
        nudges: Mapping[str, Tensor],
    ) -> Any:  # fmt: skip
        remaining = {node.name: len(node.users) for node in graph.graph.nodes}
        read = self.architecture.reads if graph is self.graph else {}
        for node in graph.graph.nodes:
            for used in node.all_input_nodes:
                if used.name not in values:
                    values[used.name] = self.operand(used, tensors, place, graph)
            if node.op == "output":
                return fx.node.map_arg(node.args[0], lambda n: values[n.name])
            if node.op not in ("placeholder", "get_attr"):
                values[node.name] = self.call(node, values, place)
            elif node.name in read and node.name not in values:
                values[node.name] = self.operand(node, tensors, place, graph)
            if node.name in read:
                if node.name in nudges:
                    values[node.name] = values[node.name] + nudges[node.name]
                reads[node.name] = values[node.name]
            for used in node.all_input_nodes:
                remaining[used.name] -= 1
                if not remaining[used.name]:
                    values.pop(used.name, None)
        return None

    def operand(self, node: fx.Node, tensors: Mapping[str, Tensor], place: Place, graph: fx.GraphModule | None = None) -> Any:
        """The value of a node that is no step: a parameter or buffer, a constant, a nested graph, or None for what is left out."""
        if node.op == "get_attr":
            found = operator.attrgetter(str(node.target))(self.graph if graph is None else graph)
            return place.tensor(found) if isinstance(found, Tensor) else found
        if node.name in self.architecture.tensors:
            return tensors[self.architecture.tensors[node.name]]
        constant = self.architecture.constants.get(node.name)
        return None if constant is None else place.tensor(constant)

    def call(self, node: fx.Node, values: Mapping[str, Any], place: Place) -> Any:
        """The value of one step, from those of the steps that it uses."""
        args: Any = fx.node.map_arg(node.args, lambda n: values[n.name])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n.name])
        bodies = [i for i, a in enumerate(args) if isinstance(a, fx.GraphModule)]
        if bodies:
            body, operands = args[bodies[0]], args[bodies[0] + 1 :]
            names = [n.name for n in body.graph.nodes if n.op == "placeholder"]
            return self._interpret(body, {}, dict(zip(names, operands, strict=True)), place, {}, {})
        if any(word in str(node.target) for word in SKIPPED):
            return None
        if str(node.target).startswith("aten.scaled_dot_product_attention"):
            return attention(*place.arguments(args), **place.arguments(kwargs))
        target: Any = functional(node.target)
        return target(*place.arguments(args), **place.arguments(kwargs))


def functional(target: Any) -> Any:
    """The operator that returns what an in-place one writes; traced programs use in-place ones only where that is the same.

    A view becomes a reshape: operators in between may lay their results out in another way than they did when the program was traced.
    """
    if target is torch.ops.aten.view.default:
        return torch.ops.aten.reshape.default
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        name = target._schema.name.split("::")[1].rstrip("_")
        packet = getattr(torch.ops.aten, name, None)
        overload = getattr(packet, target._overloadname, None) if packet is not None else None
        return overload or target
    return target


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Scaled dot-product attention from elementary operators: the fused ones have no vectorised derivative."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


class Place:
    """The device and floating-point type of a run; types and devices that the trace recorded are replaced by them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def tensor(self, value: Tensor) -> Tensor:
        """A constant where and as it is computed with."""
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

    def arguments(self, values: Any) -> Any:
        """Arguments of an operator with the devices and floating-point types in them replaced."""

        def replaced(value: Any) -> Any:
            if isinstance(value, torch.dtype) and value.is_floating_point:
                return self.dtype
            return self.device if isinstance(value, torch.device) else value

        return pytree.tree_map(replaced, values)


def sweep(
    program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], cotangents: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Forward and backward states of every activation that a weight reads, for a batch of codes.

    Args:
        program: the network.
        tensors: its parameters and buffers.
        inputs: codes by input name, (C, *shape).
        cotangents: codes of the floating-point outputs, (C, *shape) each.

    Returns:
        Forward states and backward states by step, (C, *shape of the activation).
    """
    if program.vectorised:
        try:
            return _all_at_once(program, tensors, inputs, cotangents)
        except (RuntimeError, NotImplementedError):  # an operator that torch.func cannot transform
            program.vectorised = False
    return _one_by_one(program, tensors, inputs, cotangents)


def activations(program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The activations that weights read, without derivatives; (C, *shape of the activation) by step.

    Args:
        program: the network.
        tensors: its parameters and buffers.
        inputs: by input name, (C, *shape).
    """
    states: dict[str, Tensor] = _each(program, lambda example: program.run(tensors, example)[1], inputs)
    return states


def predictions(program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """The first floating-point output, without derivatives; (C, *shape of the output).

    Args:
        program: the network.
        tensors: its parameters and buffers.
        inputs: by input name, (C, *shape).
    """

    def single(example: dict[str, Tensor]) -> Tensor:
        return next(out for out in program.run(tensors, example)[0] if out.is_floating_point())

    values: Tensor = _each(program, single, inputs)
    return values


def _each(program: Program, function: Callable[[dict[str, Tensor]], Any], inputs: Mapping[str, Tensor]) -> Any:
    """A function of one code's inputs for all codes, stacked; vectorised where the network can be."""
    with torch.no_grad():
        if program.vectorised:
            try:
                return vectorise(function, dict(inputs), randomness="different")
            except (RuntimeError, NotImplementedError):  # an operator that torch.func cannot transform
                program.vectorised = False
        count = len(next(iter(inputs.values())))
        runs = [function({name: values[index] for name, values in inputs.items()}) for index in range(count)]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *runs)


def _one_by_one(
    program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], cotangents: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`sweep` by plain automatic differentiation, for operators that cannot be vectorised."""
    sample = sample_of(tensors)
    forward: dict[str, list[Tensor]] = {step: [] for step in program.architecture.reads}
    backward: dict[str, list[Tensor]] = {step: [] for step in program.architecture.reads}
    for index in range(len(next(iter(inputs.values())))):
        with torch.enable_grad():
            nudges = {
                step: torch.zeros(labels.shape, dtype=sample.dtype, device=sample.device, requires_grad=True)
                for step, labels in program.architecture.reads.items()
            }
            outputs, reads = program.run(tensors, {name: codes[index] for name, codes in inputs.items()}, nudges)
            floating = [out for out in outputs if out.is_floating_point()]
            pulled = torch.autograd.grad(floating, list(nudges.values()), [c[index] for c in cotangents], allow_unused=True)
        for (step, nudge), gradient in zip(nudges.items(), pulled, strict=True):
            forward[step].append(reads[step].detach())
            backward[step].append(torch.zeros_like(nudge).detach() if gradient is None else gradient)
    return {s: torch.stack(v) for s, v in forward.items()}, {s: torch.stack(v) for s, v in backward.items()}


def _all_at_once(
    program: Program, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], cotangents: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`sweep` vectorised over codes by `torch.func`."""
    steps = list(program.architecture.reads)
    floating = [i for i, out in enumerate(program.outputs()) if out.is_floating_point()]
    sample = sample_of(tensors)

    def single(code: dict[str, Tensor], cotangent: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        shapes = {step: program.architecture.reads[step].shape for step in steps}
        nudges = {step: torch.zeros(shape, dtype=sample.dtype, device=sample.device) for step, shape in shapes.items()}

        def forward(nudges: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            outputs, reads = program.run(tensors, code, nudges)
            return tuple(outputs[i] for i in floating), reads

        _, pull, reads = torch.func.vjp(forward, nudges, has_aux=True)  # type: ignore[misc]
        return reads, pull(tuple(cotangent))[0]

    states: tuple[dict[str, Tensor], dict[str, Tensor]] = vectorise(
        single, dict(inputs), list(cotangents), randomness="different"
    )
    return states
