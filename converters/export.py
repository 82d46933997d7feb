"""Exporting a network: its example input, its flat outputs, its program, and clear errors where that fails."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from graphalign.errors import InvalidInput, UnsupportedNetwork
from graphalign.inputs import Inputs


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


def export_program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """The exported network, in eval mode, without in-place operators whose effect reaches further than their result.

    Raises:
        InvalidInput: the network does not run on the example input.
        UnsupportedNetwork: it runs and cannot be exported.
    """
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
