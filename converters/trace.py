"""From any `nn.Module` and an example input to its spec: interprets the exported graph on unit ids."""

from __future__ import annotations

import dataclasses
import io
import logging
import operator
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from graphalign.architecture import Architecture, Layer, WeightBlock
from graphalign.errors import InvalidInput, Offence, UnsupportedNetwork
from graphalign.spec import NetworkSpec

from . import rules_contraction, rules_entrywise, rules_reduction, rules_structural
from .domain import Act, Const, Nodes, Weight, collapse
from .rules import RULES, canonical_name, fix_all, opaque
from .solve import solve
from .weights import base_axis, parameter

_LOADED = (rules_contraction, rules_entrywise, rules_reduction, rules_structural)  # importing them fills the registry

REMEDY = (
    "pass fixed=[operator or module path] to keep everything that reaches it in place, or teach graphalign the operator with "
    "graphalign.converters.register_rule"
)


@dataclass(frozen=True)
class Message:
    """A weight that carries messages from units to units, as one graph step uses it.

    Attributes:
        step: name of the graph step.
        op: "linear", "conv" or "embedding".
        weight: the weight.
        source: node id (or negative colour) of each input index, shape (I,).
        target: node id of each output index, shape (O,).
        in_dim: dimension of the weight that reads the source.
        out_dim: dimension of the weight that makes the target.
        geometry: stride, padding, dilation, groups and transposed of a convolution.
    """

    step: str
    op: str
    weight: Weight
    source: Tensor
    target: Tensor
    in_dim: int
    out_dim: int
    geometry: dict[str, Any]


class Inputs:
    """An example input with positional and keyword arguments: `Inputs(x, mask=m)` stands for the call `model(x, mask=m)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


def split_example(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of an example input: a tensor, a tuple of arguments, a dict of keyword arguments, or `Inputs`."""
    if isinstance(example_input, Inputs):
        return example_input.args, dict(example_input.kwargs)
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, (tuple, list)):
        return tuple(example_input), {}
    return (example_input,), {}


def flatten_outputs(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output in order: tensors, tuples, dicts, dataclasses; caches are skipped."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in flatten_outputs(value)]
    if isinstance(output, (tuple, list)):
        return [t for value in output for t in flatten_outputs(value)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [t for f in dataclasses.fields(output) for t in flatten_outputs(getattr(output, f.name))]
    return []


class FlatOutputs(nn.Module):
    """A network whose output is the flat tuple of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The network's floating-point and other tensors in order."""
        return tuple(flatten_outputs(self.model(*args, **kwargs)))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; the mode of every submodule is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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
        raise UnsupportedNetwork(f"{type(model).__name__} has no parameters, so there is nothing to align")
    args, kwargs = split_example(example_input)
    program = _export(model, args, kwargs)
    tracer = _Tracer(model, program, frozenset(fixed))
    tracer.run()
    if tracer.offences:
        raise UnsupportedNetwork(
            f"{type(model).__name__} uses {len(tracer.offences)} operation(s) that graphalign has no rule for:",
            tracer.offences,
            REMEDY,
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


def _architecture(tracer: _Tracer, spec: NetworkSpec, node_units: Mapping[int, tuple[str, int]]) -> Architecture:
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


def _layers(tracer: _Tracer, cells: Callable[[Any], tuple[str, ...]]) -> Iterator[Layer]:
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
            if node.target is operator.getitem or name in rules_structural.MOVES - {"aten.cat", "aten.stack"}:
                sources[node.name] = incoming
                continue
            shape = value.shape if isinstance(value, Act) else ()
            yield Layer(node.name, name.removeprefix("aten."), _module_path(node), shape, incoming, cells(value))
            sources[node.name] = (node.name,)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    with evaluating(model), torch.no_grad(), _quiet():
        try:
            program = torch.export.export(FlatOutputs(model), args, kwargs, strict=False)
        except Exception as failure:  # noqa: BLE001 (the network's own code runs here)
            _explain(model, args, kwargs, failure)
        if any(_writes_to_a_view(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
        return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own reports off the terminal; failures are explained by `_explain`."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _explain(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], failure: Exception) -> NoReturn:
    """Raises the clear error behind a failed export."""
    name = type(model).__name__
    try:
        model(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 (the network's own code runs here)
        shapes = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in (*args, *kwargs.values())]
        raise InvalidInput(
            f"{name} does not run on the example input of shape(s) {shapes}: {str(error).strip() or type(error).__name__}. "
            "Pass an input with which a plain call of the model succeeds (tuple for several arguments, dict for keywords)."
        ) from None
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    first = lines[0] if lines else type(failure).__name__
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if not _is_machinery(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} `{frames[-1].line}`" if frames else ""
    if "data-dependent" in str(failure).lower() or "DataDependent" in type(failure).__name__:
        raise UnsupportedNetwork(
            f"{name} branches on the values of its data{where}, so it has no fixed graph ({first})",
            remedy="replace the Python branch by torch.where, or align the submodules that do not branch",
        ) from None
    raise UnsupportedNetwork(
        f"torch.export cannot export {name}{where}: {first}",
        remedy="make the network exportable, or align the submodules that are",
    ) from None


def _is_machinery(path: str) -> bool:
    """Whether a source file belongs to torch or to graphalign rather than to the network."""
    roots = (os.path.dirname(torch.__file__), os.path.dirname(os.path.abspath(__file__)))
    return path.startswith(roots) or path.startswith("<")


def _writes_to_a_view(node: fx.Node) -> bool:
    """In-place operators whose effect reaches other names than their own result."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return False
    target = node.args[0] if node.args else None
    if not isinstance(target, fx.Node):
        return False
    if target.op == "placeholder":
        return True
    aliases = isinstance(target.target, torch._ops.OpOverload) and any(r.alias_info for r in target.target._schema.returns)
    inplace = isinstance(target.target, torch._ops.OpOverload) and target.target._schema.is_mutable
    return len(target.users) > 1 or (aliases and not inplace)


class _Tracer:
    """Interprets a graph; implements the `Context` that rules see."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, fixed: frozenset[str]) -> None:
        self.nodes = Nodes()
        self.program = program
        self.fixed = fixed
        self.offences: list[Offence] = []
        self.messages: list[Message] = []
        self.reads: dict[str, Tensor] = {}
        self.values: dict[str, Any] = {}
        self.lifted: dict[str, str] = {}
        self.constants: dict[str, Tensor] = {}
        self.origin, self.step = "", ""
        self.outputs: Any = None
        self.target: Any = None
        self._node: fx.Node | None = None
        first: dict[int, str] = {}
        self.aliases: dict[str, str] = {}
        everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, tensor in everything:
            if first.setdefault(id(tensor), name) != name:
                self.aliases[name] = first[id(tensor)]
        self._buffers = dict(model.named_buffers())
        self._persistent = set(model.state_dict(keep_vars=True))

    # -- what rules may ask --------------------------------------------------------------------------------------------
    def message(self, op: str, weight: Weight, source: Tensor, target: Tensor, dims: tuple[int, int], **geometry: Any) -> None:
        self.messages.append(Message(self.step, op, weight, source, target, *dims, geometry))

    def read(self, value: Any) -> None:
        if not isinstance(value, Act) or self._node is None:
            return
        ids = value.ids
        for argument in self._node.all_input_nodes:
            if self.values.get(argument.name) is value:
                self.reads[argument.name] = ids

    def weight_of(self, value: Any) -> Weight | None:
        if isinstance(value, Weight):
            return value
        if isinstance(value, Const) and value.name in self._persistent and value.value.is_floating_point():
            return parameter(value.name, value.value.shape)
        return None

    def unsupported(self, reason: str) -> Any:
        assert self._node is not None
        self.offences.append(Offence(str(self._node.target), self.origin, _source(self._node), reason))
        result = opaque(self)
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Act) and value.ids.dim():  # moving units, so that operators further on are reported too
                value.ids = self.nodes.new(value.shape[-1], self.origin).expand(value.shape)
        return result

    # -- interpretation ------------------------------------------------------------------------------------------------
    def run(self) -> None:
        signature = self.program.graph_signature
        inputs: dict[str, Any] = {}
        for placeholder, name in signature.inputs_to_parameters.items():
            key = self.lifted[placeholder] = self._key(name)
            inputs[placeholder] = parameter(key, self.program.state_dict[name].shape)
        for placeholder, name in signature.inputs_to_buffers.items():
            key = self.lifted[placeholder] = self._key(name)
            inputs[placeholder] = Const(
                self._buffers[key].detach() if key in self._buffers else self.program.constants[name], key
            )
        for placeholder, name in signature.inputs_to_lifted_tensor_constants.items():
            self.constants[placeholder] = self.program.constants[name].detach()
            inputs[placeholder] = Const(self.constants[placeholder])
        graph = self.program.graph_module
        for node in graph.graph.nodes:
            if node.op == "placeholder" and node.name not in inputs:
                value = node.meta.get("val")
                inputs[node.name] = Act(self.nodes.fresh_colours(tuple(value.shape))) if isinstance(value, Tensor) else value
        self._interpret(graph, inputs, self.values)

    def _key(self, name: str) -> str:
        key = name.removeprefix("model.")
        return self.aliases.get(key, key)

    def _interpret(self, graph: fx.GraphModule, inputs: Mapping[str, Any], values: dict[str, Any]) -> Any:
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node.name] = inputs[node.name]
            elif node.op == "get_attr":
                values[node.name] = _attribute(graph, str(node.target))
                if isinstance(values[node.name], Tensor):
                    values[node.name] = Const(values[node.name].detach())
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], lambda n: values[n.name])
                if graph is self.program.graph_module:
                    for result in results:
                        self._finish(result)
                return results
            else:
                values[node.name] = self._call(node, values)
        return None

    def _finish(self, result: Any) -> None:
        if isinstance(result, Act):
            self.nodes.fix(result.ids, "network output")
            self.nodes.fix_scale(result.ids)
        elif isinstance(result, Weight):
            fix_all(self, [result], "network output")

    def _call(self, node: fx.Node, values: dict[str, Any]) -> Any:
        args: Any = fx.node.map_arg(node.args, lambda n: values[n.name])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n.name])
        if node.target is operator.getitem:
            return args[0][args[1]]
        if str(node.target).split(".")[-1].startswith("wrap_with_") or "higher_order" in type(node.target).__module__:
            return self._higher_order(node, args)
        self._node, self.step, self.target = node, node.name, node.target
        self.origin = _module_path(node)
        self.outputs = node.meta.get("val")
        operands = list(_leaves([*args, *kwargs.values()]))
        if not any(isinstance(v, (Act, Weight)) for v in operands):
            return self._constant(node, args, kwargs)
        name = canonical_name(node.target)
        if self._is_fixed(name):
            fix_all(self, operands, f"kept in place by fixed= ({name})")
            return opaque(self)
        rule = RULES.get(name)
        if rule is None:
            moving = [v for v in operands if isinstance(v, Weight) or (isinstance(v, Act) and bool((v.ids >= 0).any()))]
            if not moving:
                return opaque(self)
            return self.unsupported("no rule for this operator")
        if name not in rules_structural.MOVES:
            for slot, operand in enumerate(operands):
                if isinstance(operand, Act):
                    self.nodes.touch(operand.ids, slot)
        try:
            return rule(self, *args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as failure:
            return self.unsupported(f"its rule does not cover this use ({type(failure).__name__}: {failure})")

    def _is_fixed(self, name: str) -> bool:
        paths = [self.origin] if self.origin else []
        return name in self.fixed or any(p == f or p.startswith(f + ".") for p in paths for f in self.fixed)

    def _higher_order(self, node: fx.Node, args: Sequence[Any]) -> Any:
        position = next(i for i, a in enumerate(args) if isinstance(a, fx.GraphModule))
        body, operands = args[position], args[position + 1 :]
        names = [n.name for n in body.graph.nodes if n.op == "placeholder"]
        return self._interpret(body, dict(zip(names, operands, strict=True)), {})

    def _constant(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        def real(value: Any) -> Any:
            if isinstance(value, Const):
                return value.value
            if isinstance(value, (list, tuple)):
                return type(value)(real(v) for v in value)
            return value

        options = {k: real(v) for k, v in kwargs.items()}
        with torch.no_grad():
            out = node.target(*[real(a) for a in args], **options)  # type: ignore[operator]
        if isinstance(out, Tensor):
            return Const(out)
        if isinstance(out, (list, tuple)):
            return tuple(Const(o) if isinstance(o, Tensor) else o for o in out)
        return out


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _attribute(module: nn.Module, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()] if stack else []
    return paths[-1].removeprefix("model").removeprefix(".").split("@")[0] if paths else ""


def _source(node: fx.Node) -> str:
    """File, line and code of the innermost frame that is not torch's own."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or node.stack_trace or "").splitlines()]
    frames = [(line, lines[i + 1] if i + 1 < len(lines) else "") for i, line in enumerate(lines) if line.startswith("File ")]
    own = [f for f in frames if "/torch/" not in f[0]] or frames
    if not own:
        return ""
    place, code = own[-1]
    parts = place.split(", ")
    return (
        f"{parts[0].removeprefix('File ').strip(chr(34))}:{parts[1].removeprefix('line ')} `{code}`" if len(parts) > 1 else place
    )
