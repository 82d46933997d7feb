"""The inputs of a loader in the shape in which a network was traced: a program knows one batch size only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, batches, inputs_of
from graphalign.program import Program

Shapes = Mapping[str, tuple[int, ...]]


def example_batches(program: Program, loader: Loader, sample: Tensor, size: int) -> Iterator[dict[str, Tensor]]:
    """The inputs of a loader, cut into batches of the example's size and stacked; (C, *shape) by placeholder name.

    An input has the example's shape with any number of examples on the first axis, or one axis more if the example has no batch
    axis. An input of exactly the example's shape beside others with more examples (a mask) belongs to all of them. Examples
    that do not fill a batch wait for the loader's next one. Those left at the end are dropped; if there were no others, they are
    repeated until they fill a batch.

    Args:
        program: the network.
        loader: batches, as in `graphalign.evaluation.evaluate`; labels are not used.
        sample: a tensor of the type and device of the floating-point inputs.
        size: most batches C stacked at once.

    Raises:
        InvalidInput: inputs that do not fit the example or are not finite; an empty or one-shot loader.
    """
    shapes = {name: tuple(int(n) for n in example.shape) for name, example in program.inputs.items()}
    waiting: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    given = False
    for batch in batches(sample, loader):
        tensors = _by_name(program, inputs_of(batch))
        rows = _examples(shapes, tensors, waiting)
        fixed = {name: tensor for name, tensor in tensors.items() if name not in rows}
        each = {name: 1 if tensors[name].dim() > len(shapes[name]) else shapes[name][0] for name in rows}
        if all(tensors[name].dim() == len(shapes[name]) for name in rows):
            rows = {name: torch.cat([waiting[name], new]) if name in waiting else new for name, new in rows.items()}
            waiting = {name: new[len(new) // each[name] * each[name] :] for name, new in rows.items()}
        count = min((len(new) // each[name] for name, new in rows.items()), default=1)
        for start in range(0, count, size):
            given, number = True, min(size, count - start)
            cut = {name: new[start * each[name] : (start + number) * each[name]] for name, new in rows.items()}
            yield _stacked(shapes, cut, fixed, number)
    if not given:
        full = {name: rest[torch.arange(shapes[name][0], device=rest.device) % len(rest)] for name, rest in waiting.items()}
        yield _stacked(shapes, full, fixed, 1)


def _stacked(shapes: Shapes, rows: Mapping[str, Tensor], fixed: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    moving = {name: tensor.reshape(number, *shapes[name]) for name, tensor in rows.items()}
    return {name: moving[name] if name in moving else fixed[name].expand(number, *shape) for name, shape in shapes.items()}


def _examples(shapes: Shapes, tensors: Mapping[str, Tensor], waiting: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that hold one row or more per example; all others are the same for every example.

    Raises:
        InvalidInput: lists every input of the wrong shape, and different numbers of examples.
    """
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    exact = {name for name, shape in shapes.items() if found[name] == shape}
    flat = {name for name, shape in shapes.items() if shape and len(found[name]) == len(shape) and found[name][1:] == shape[1:]}
    moving = {name for name, shape in shapes.items() if len(found[name]) > len(shape) and found[name][1:] == shape}
    problems = [
        f"input '{name}' has shape {found[name]}, expected {_expected(shape)}"
        for name, shape in shapes.items() if name not in exact | (moving or flat)
    ]  # fmt: skip
    if not moving:
        moving = flat - exact or (set(waiting) or exact) & flat
        batch_sizes = {shapes[name][0] for name in moving}
        moving |= {name for name in flat if shapes[name][0] in batch_sizes}
    problems += [f"input '{n}' has no example" for n in shapes if n in moving and not len(tensors[n])]
    problems += [f"input '{n}' holds NaN or infinity" for n, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if len({found[n][0] / (shapes[n][0] if n in flat else 1) for n in moving}) > 1:
        counts = ", ".join(f"'{name}' has {found[name][0]}" for name in shapes if name in moving)
        problems.append(f"inputs with different numbers of examples: {counts}")
    if problems:
        raise InvalidInput(
            "loader: found inputs that do not fit the example input:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nPass inputs like the example_input that the network was traced with."
        )  # fmt: skip
    return {name: tensors[name] for name in shapes if name in moving}


def _expected(shape: tuple[int, ...]) -> str:
    batched = f"({', '.join(['N', *map(str, shape[1:])])})"
    return f"{batched} or ({', '.join(['N', *map(str, shape)])})" if shape else "() or (N)"


def _by_name(program: Program, inputs: Any) -> dict[str, Tensor]:
    """The tensors of a batch's inputs by placeholder name.

    Raises:
        InvalidInput: other arguments than those of the example input.
    """
    example = program.architecture.program.example_inputs
    args, kwargs = example if example is not None else ((), {})
    if isinstance(inputs, Mapping):
        if args or inputs.keys() != kwargs.keys():
            wanted = f"{len(args)} positional argument(s) and the keywords {sorted(kwargs)}" if args else f"{sorted(kwargs)}"
            raise InvalidInput(
                f"loader: found inputs by keyword, {sorted(map(str, inputs))}, expected those of the example input: {wanted}; "
                "trace and load the network's inputs in the same form"
            )
        inputs = {name: inputs[name] for name in kwargs}
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if len(leaves) != len(program.inputs):
        raise InvalidInput(
            f"loader: found {len(leaves)} input tensor(s) in a batch, expected {len(program.inputs)} as in the example input "
            f"({', '.join(program.inputs)}); pass several inputs as a tuple, and labels as the second part of the batch"
        )
    return dict(zip(program.inputs, leaves, strict=True))
