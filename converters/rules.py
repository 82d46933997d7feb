"""The registry of operator rules: ATen operator name -> what the operator does to unit ids.

A rule is called as `rule(ctx, *args, **kwargs)` with the operator's own arguments, tensors replaced by `Act`, `Const` or
`Weight`, and returns the abstract value of the result. Names are without overload and without the trailing underscore of
in-place variants: "aten.add" stands for aten.add.Tensor, aten.add_.Tensor and aten.add.Scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .domain import Act, Const, Weight, colours_of, varies
from .facts import Nodes
from .weights import fix_scale, promote

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


class Context(Protocol):
    """What a rule may ask of the tracer.

    Attributes:
        nodes: where facts about units are stated.
        origin: path of the module being run; names new units.
        step: name of the graph node being interpreted.
        target: the operator.
        outputs: the real results on the fake device (shapes and dtypes), a tensor or a tuple of tensors.
    """

    nodes: Nodes
    origin: str
    step: str
    target: Any
    outputs: Any

    def message(self, op: str, weight: Weight, source: Tensor, target: Tensor, dims: tuple[int, int], **geometry: Any) -> None:
        """Records that a weight carries messages from units `source` (I,) to units `target` (O,) along (in, out) `dims`."""
        ...

    def read(self, value: Any) -> None:
        """Records that the units of an activation are read here by a contraction."""
        ...

    def weight_of(self, value: Any) -> Weight | None:
        """The value as a weight: a parameter, or a buffer that is a state-dict entry."""
        ...

    def used(self, output: int) -> bool:
        """Whether anything reads that output of an operator with several outputs."""
        ...

    def unsupported(self, reason: str) -> Any:
        """Records an offence; everything that reaches this operator is fixed and tracing goes on."""
        ...


def canonical_name(target: object) -> str:
    """Registry key of an operator: packet name without overload and in-place underscore."""
    name = str(target)
    parts = name.split(".")
    packet = ".".join(parts[:2]) if len(parts) > 1 else name
    return packet[:-1] if packet.endswith("_") and not packet.endswith("__") else packet


def register_rule(*operators: object) -> Callable[[Rule], Rule]:
    """Registers a rule for one or more operators, replacing what was there.

    Args:
        operators: ATen operators (torch.ops.aten.erf, torch.ops.aten.erf.default) or their names ("aten.erf").

    Example:
        >>> from graphalign.converters import register_rule, elementwise
        >>> _ = register_rule("mylib.swish7")(elementwise("swish7"))
    """

    def store(rule: Rule) -> Rule:
        for operator in operators:
            RULES[canonical_name(operator)] = rule
        return rule

    return store


def ids_of(ctx: Context, value: Any) -> Tensor:
    """Unit ids of any operand: activations as they are, constants and numbers as colours, weights promoted."""
    if isinstance(value, Act):
        return value.ids
    if isinstance(value, Const):
        return colours_of(value.value)
    if isinstance(value, Weight):
        return promote(ctx.nodes, value)
    return colours_of(torch.as_tensor(value if value is not None else 0.0))


def output_shape(ctx: Context, index: int | None = None) -> tuple[int, ...]:
    """Shape of the operator's real result."""
    out = ctx.outputs if index is None else ctx.outputs[index]
    return tuple(int(n) for n in out.shape)


def opaque(ctx: Context) -> Any:
    """A result that no permutation moves, of the operator's real shape."""
    if isinstance(ctx.outputs, (tuple, list)):
        return tuple(None if o is None else Act(ctx.nodes.fresh_colours(tuple(o.shape))) for o in ctx.outputs)
    return Act(ctx.nodes.fresh_colours(output_shape(ctx))) if isinstance(ctx.outputs, Tensor) else ctx.outputs


def fix_all(ctx: Context, values: Sequence[Any], reason: str) -> None:
    """Nothing that reaches this operator may move."""
    from .weights import all_axes

    for value in values:
        if isinstance(value, Act):
            ctx.nodes.fix(value.ids, reason)
        elif isinstance(value, Weight):
            fix_scale(ctx.nodes, value)
            for ids in all_axes(ctx.nodes, value):
                ctx.nodes.fix(ids, reason)
        elif isinstance(value, (list, tuple)):
            fix_all(ctx, value, reason)


def along_positions(ctx: Context, ids: Tensor, dims: Sequence[int], *weights: Any) -> bool:
    """Whether `dims` hold positions (tokens), and the units lie along others: then no permutation moves a weight along `dims`.

    The weights that do run along `dims` are kept in place: another use of them might have units there.
    """
    others = [d for d in range(ids.dim()) if d not in dims]
    if not varies(ids, others):
        return False
    tight = ctx.nodes.canonical(ids)
    if not bool((tight >= 0).all()) or varies(tight, dims) or not varies(tight, others):
        return False
    fix_all(ctx, [w for value in weights if (w := ctx.weight_of(value)) is not None], "is also used along positions")
    return True


def elementwise(name: str, *, homogeneous: bool = False, odd: bool = False) -> Rule:
    """Rule of an entrywise function of one tensor.

    Args:
        name: the activation's name in the spec.
        homogeneous: f(s x) = s f(x) for s > 0 (ReLU).
        odd: f(-x) = -f(x) (tanh, sine).
    """

    def rule(ctx: Context, x: Any, *_: Any, **__: Any) -> Any:
        if isinstance(x, Weight):
            fix_scale(ctx.nodes, x)
            return x
        ids = ids_of(ctx, x)
        if name:
            ctx.nodes.mark(ids, name)
        if not homogeneous:
            ctx.nodes.scale_fixed.append(ctx.nodes._nodes(ids))
        if not odd:
            ctx.nodes.fix_sign(ids)
        return Act(ids)

    return rule
