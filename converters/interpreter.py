"""The interpreter: runs an exported program on unit ids, rule by rule."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from graphalign.errors import Offence

from . import rules_contraction, rules_convolution, rules_entrywise, rules_reduction, rules_structural
from .domain import Act, Const, Weight, tighten
from .facts import Nodes
from .routes import routes, state_routes
from .rules import RULES, Rule, canonical_name, fix_all, ids_of, opaque
from .weights import parameter

_LOADED = (
    rules_contraction,
    rules_convolution,
    rules_entrywise,
    rules_reduction,
    rules_structural,
)  # importing them fills the registry


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


class _StopTracing(Exception):
    """Nothing that follows can be interpreted; the reason is among the offences."""


class Interpreter:
    """Interprets a graph; implements the `Context` that rules see."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, fixed: frozenset[str]) -> None:
        self.nodes = Nodes()
        self.program = program
        self.fixed = fixed
        self.fixed_found: set[str] = set()
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
        """Records a weight in use; see `Context`."""
        self.messages.append(Message(self.step, op, weight, source, target, *dims, geometry))

    def read(self, value: Any) -> None:
        """Records that an activation is read; see `Context`."""
        if not isinstance(value, Act) or self._node is None:
            return
        ids = value.ids
        for argument in self._node.all_input_nodes:
            if self.values.get(argument.name) is value:
                self.reads[argument.name] = ids

    def weight_of(self, value: Any) -> Weight | None:
        """The value as a weight; see `Context`."""
        if isinstance(value, Weight):
            return value
        if isinstance(value, Const) and value.name in self._persistent and value.value.is_floating_point():
            return parameter(value.name, value.value.shape)
        return None

    def used(self, output: int) -> bool:
        """Whether anything reads that output of the operator; see `Context`."""
        readers = self._node.users if self._node is not None else ()
        return any(reader.target is not operator.getitem or (reader.args[1] == output and bool(reader.users)) for reader in readers)

    def unsupported(self, reason: str) -> Any:
        """Records an offence; see `Context`."""
        assert self._node is not None
        self.offences.append(Offence(str(self._node.target), self.origin, _source(self._node), reason))
        result = opaque(self)
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Act) and value.ids.dim():  # moving units, so that operators further on are reported too
                value.ids = self.nodes.new(value.shape[-1], self.origin).expand(value.shape)
        return result

    # -- interpretation ------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Interprets the whole program; facts, messages, reads and offences are attributes afterwards."""
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
        try:
            self._interpret(graph, inputs, self.values)
        except _StopTracing:
            return

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
        self.origin = module_path(node)
        self.outputs = node.meta.get("val")
        operands = list(_leaves([*args, *kwargs.values()]))
        if any(isinstance(n, torch.SymInt) for out in _leaves([self.outputs]) if isinstance(out, Tensor) for n in out.shape):
            self._of_unknown_size(node)
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
        only_moves = name in rules_structural.MOVES and not (
            name in rules_structural.PICKS and any(isinstance(v, Act) for v in operands[1:])
        )
        if not only_moves:
            for slot, operand in enumerate(operands):
                if isinstance(operand, Act):
                    self.nodes.touch(operand.ids, slot)
                    state_routes(self.nodes, operand)
                for axis in operand.axes if isinstance(operand, Weight) else ():
                    if axis is not None:  # weights put together of others may be used in another order than they are kept
                        self.nodes.keep_order(axis)
        try:
            result = rule(self, *args, **kwargs)
            if only_moves:
                self._carry_routes(rule, args, kwargs, result)
            else:
                changed_one_by_one = any(self.weight_of(v) for v in operands)
                for value in _leaves([result]):
                    if isinstance(value, Act):
                        value.ids = self.nodes.renew_colours(value.ids, changed_one_by_one)
            return result
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as failure:
            return self.unsupported(f"its rule does not cover this use ({type(failure).__name__}: {failure})")

    def _carry_routes(self, rule: Rule, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Moves the routes of the operands of a structural operator as it has moved their ids."""
        new = [value for value in _leaves([result]) if isinstance(value, Act) and value.routes is None]
        if not new:
            return

        def moved(kind: int) -> list[Tensor]:
            def route(value: Any) -> Any:
                if isinstance(value, (list, tuple)):
                    return [route(v) for v in value]
                if isinstance(value, Weight):
                    value = Act(ids_of(self, value))
                return Act(routes(self.nodes, value)[kind]) if isinstance(value, Act) else value

            out = rule(self, *(route(a) for a in args), **{k: route(v) for k, v in kwargs.items()})
            return [tighten(value.ids) for value in _leaves([out]) if isinstance(value, Act)]

        for value, version, position in zip(new, moved(0), moved(1), strict=True):
            value.routes = (version, position)

    def _of_unknown_size(self, node: fx.Node) -> NoReturn:
        """Records that the size of a result depends on data, and ends the run: what follows has no shapes either."""
        self.offences.append(Offence(str(node.target), self.origin, _source(node), "the size of its result depends on the data"))
        raise _StopTracing

    def _is_fixed(self, name: str) -> bool:
        found = {f for f in self.fixed if f == name or self.origin == f or self.origin.startswith(f + ".")}
        self.fixed_found |= found
        return bool(found)

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


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that runs a step, empty for the network itself."""
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
