"""Inputs made up for a network, where there are no data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphalign.architecture import Architecture
from graphalign.encoder import chunk_sizes, code_count, random_inputs
from graphalign.inputs import Inputs
from graphalign.program import Program


def synthetic_batches(architecture: Architecture, sample: Tensor, examples: int, seed: int) -> list[Inputs]:
    """Batches of made-up inputs: smooth noise and dead leaves for images, Gaussian vectors, uniform tokens (see `codes`).

    An input of the example's shape (B, ...) with B examples becomes one of (C B, ...). Large networks get fewer examples, as many as
    the encoder has codes for them.

    Args:
        architecture: the traced network.
        sample: a tensor of the type and device of the inputs.
        examples: number of examples wanted.
        seed: of the inputs.
    """
    program = Program(architecture)
    generator = torch.Generator().manual_seed(seed)
    count = min(examples, code_count(architecture))
    sizes = chunk_sizes(architecture, count)
    return [call_arguments(program, random_inputs(program, size, sample, generator)) for size in sizes]


def call_arguments(program: Program, values: Mapping[str, Tensor]) -> Inputs:
    """The inputs of a call: the examples of all codes on the first axis; of a vector without batch axis, one example to a row.

    Args:
        program: the network.
        values: codes by placeholder name, (C, *shape).
    """
    exported = program.architecture.program
    merged = {name: value.flatten(0, 1) if program.inputs[name].dim() > 1 else value for name, value in values.items()}
    leaves = [merged.get(leaf, leaf) if isinstance(leaf, str) else leaf for leaf in exported.graph_signature.user_inputs]
    args, kwargs = pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    return Inputs(*args, **kwargs)
