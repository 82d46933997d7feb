"""From any `nn.Module` and an example input to its spec: interprets the exported graph on unit ids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphalign.architecture import Architecture, Layer, WeightBlock
from graphalign.errors import InvalidInput, UnsupportedNetwork
from graphalign.spec import NetworkSpec

from .domain import Act, collapse
from .export import export_program, split_example
from .interpreter import Interpreter, module_path
from .rules import canonical_name
from .rules_structural import MOVES
from .solve import solve
from .weights import base_axis

REMEDY = (
    "pass fixed=[operator or module path] to keep everything that reaches it in place, or teach graphalign the operator with "
    "graphalign.converters.register_rule"
)


def trace(model: nn.Module, example_input: Any, *, fixed: Iterable[str] = ()) -> NetworkSpec:
    """The symmetries of a network: which units may move, and every parameter and buffer axis they move.

    Args:
        model: any module that `torch.export` can export. It is run on fake tensors only and left as it was.
        example_input: a tensor, a tuple of arguments, a dict of keyword arguments, or `Inputs` with both.
        fixed: operators ("aten.sort") or module paths ("encoder.router") through which nothing may move.

    Raises:
        UnsupportedNetwork: an operator has no rule (all of them are listed), the network cannot be exported (for instance
            its control flow depends on data), or it has no unit that may move.
        InvalidInput: the network does not run on the example input.
    """
    return trace_architecture(model, example_input, fixed=fixed).spec


def trace_architecture(model: nn.Module, example_input: Any, *, fixed: Iterable[str] = ()) -> Architecture:
    """As `trace`, with the program, layers and weight blocks that neuron graphs are built from."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(
            f"trace: found {type(model).__name__}, expected a torch.nn.Module; for a state dict see converters.chain_spec"
        )
    if not any(True for _ in model.parameters()):
        raise UnsupportedNetwork(
            f"{type(model).__name__} has no parameters, so there is nothing to align", remedy="pass a network with weights"
        )
    args, kwargs = split_example(example_input)
    program = export_program(model, args, kwargs)
    tracer = Interpreter(model, program, frozenset(fixed))
    tracer.run()
    if tracer.offences:
        raise UnsupportedNetwork(
            f"{type(model).__name__} uses {len(tracer.offences)} operation(s) that graphalign has no rule for:",
            tracer.offences,
            REMEDY,
        )
    unknown = sorted(set(tracer.fixed) - tracer.fixed_found)
    if unknown:
        raise InvalidInput(
            f"trace: found fixed={unknown}, which names no operator or module that this network runs; expected operators such as "
            "'aten.sort' or module paths as in named_modules()"
        )
    shapes = {name: tuple(t.shape) for name, t in _named(model).items()}
    spec, node_units = solve(tracer.nodes, shapes, tracer.aliases, tuple(dict(model.named_buffers())))
    if not spec.cells:
        reasons = "; ".join(f"{f.name}: {f.count} units, {f.reason}" for f in spec.fixed) or "no layer has more than one unit"
        raise UnsupportedNetwork(
            f"{type(model).__name__} has no hidden unit that may move ({reasons})",
            remedy="align networks with at least one hidden layer",
        )
    return _architecture(tracer, spec, node_units)


def _architecture(tracer: Interpreter, spec: NetworkSpec, node_units: Mapping[int, tuple[str, int]]) -> Architecture:
    offsets: dict[str, int] = {}
    for cell in spec.cells:
        offsets[cell.name] = sum(c.units for c in spec.cells[: len(offsets)])
    unit_of = torch.full((tracer.nodes.count + 1,), -1)
    for node, (name, unit) in node_units.items():
        unit_of[node] = offsets[name] + unit
    cell_of_unit = [cell.name for cell in spec.cells for _ in range(cell.units)]

    def units(ids: Tensor) -> Tensor:
        (core,), shape = collapse(ids)
        return unit_of[core.clamp(min=-1)].expand(shape)

    def cells(value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, tuple) else (value,)
        found = [sorted(set(collapse(units(v.ids))[0][0].flatten().tolist())) for v in values if isinstance(v, Act)]
        return tuple(dict.fromkeys(cell_of_unit[u] for part in found for u in part if u >= 0))

    blocks = []
    for message in tracer.messages:
        found = [base_axis(message.weight, [d]) for d in (message.in_dim, message.out_dim)]
        if message.weight.name and all(f is not None for f in found):
            (in_axis, _), (out_axis, _) = found  # type: ignore[misc]
            blocks.append(
                WeightBlock(
                    message.step,
                    message.op,
                    message.weight.name,
                    units(message.source).clone(),
                    units(message.target).clone(),
                    in_axis,
                    out_axis,
                    message.geometry,
                )
            )
    return Architecture(
        spec,
        tracer.program,
        tracer.lifted,
        tracer.constants,
        tuple(_layers(tracer, cells)),
        tuple(blocks),
        {step: units(ids) for step, ids in tracer.reads.items()},
    )


def _layers(tracer: Interpreter, cells: Callable[[Any], tuple[str, ...]]) -> Iterator[Layer]:
    """Steps that compute on activations; steps that only move entries are bridged."""
    sources: dict[str, tuple[str, ...]] = {}
    for node in tracer.program.graph.nodes:
        value = tracer.values.get(node.name)
        incoming = tuple(dict.fromkeys(s for n in node.all_input_nodes for s in sources.get(n.name, ())))
        if node.op == "placeholder":
            if node.name in tracer.lifted or node.name in tracer.constants or not isinstance(value, Act):
                continue
            yield Layer(node.name, "input", "", value.shape, (), ())
            sources[node.name] = (node.name,)
        elif node.op == "output":
            yield Layer(node.name, "output", "", (), incoming, ())
        elif incoming or (node.op == "call_function" and canonical_name(node.target) == "aten.embedding"):
            name = canonical_name(node.target)
            if node.target is operator.getitem or name in MOVES - {"aten.cat", "aten.stack"}:
                sources[node.name] = incoming
                continue
            shape = value.shape if isinstance(value, Act) else ()
            yield Layer(node.name, name.removeprefix("aten."), module_path(node), shape, incoming, cells(value))
            sources[node.name] = (node.name,)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
