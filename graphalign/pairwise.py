"""Aligning two networks: modules, state dicts or checkpoint files in, an `Alignment` out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graphalign import group
from graphalign.aligner import Aligner
from graphalign.alignment import Alignment
from graphalign.architecture import Architecture
from graphalign.converters.chain import chain_network
from graphalign.converters.trace import trace_architecture
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.files import check_weights, load_state
from graphalign.methods import METHODS, Problem
from graphalign.spec_format import require_equal

Network = nn.Module | Mapping[str, Tensor] | str | Path


def align(
    a: Network, b: Network, *, example_input: Any = None, method: str = "gnn", seed: int = 0, aligner: Aligner | str | Path | None = None,
    restarts: int = 0, fixed: tuple[str, ...] = (),
) -> Alignment:  # fmt: skip
    """The permutations that bring the units of B into the order of A.

    Args:
        a: the reference: a module, a state dict, or the path of a .safetensors or .pt file.
        b: the network to be permuted later by `Alignment.apply`, of the same architecture. Neither is modified.
        example_input: an input of the modules (tensor, tuple of arguments or dict of keyword arguments). If exactly one of the
            two networks is a module, the other one is read as weights for it. State dicts alone need none if they are plain
            chains (MLP, CNN, VGG).
        method: one of `list_methods()`.
        seed: of everything random; results are deterministic for a seed.
        aligner: for method "gnn": an `Aligner`, or the folder of a saved one; the default aligner if None.
        restarts: for method "weight": random starting points besides the two standard ones.
        fixed: operators or module paths through which nothing may move (see `trace`).

    Raises:
        InvalidInput: unknown method, weights that are not finite or not floating point, missing example input.
        SpecMismatch: the two networks differ in architecture or shapes.
        UnsupportedNetwork: the network has no neuron graph.
        CorruptFile: a file cannot be read safely.
    """
    if method not in METHODS:
        raise InvalidInput(f"align: found method {method!r}, expected one of {', '.join(METHODS)}")
    if isinstance(aligner, (str, Path)):
        aligner = Aligner.from_pretrained(aligner)
    architecture, state_a, state_b = prepare_pair(a, b, example_input, fixed)
    problem = Problem(architecture.spec, state_a, state_b, seed, architecture, aligner, restarts)
    start = time.perf_counter()
    permutations = METHODS[method].run(problem)
    return Alignment(architecture.spec, permutations, method, seed, time.perf_counter() - start)


def prepare_pair(
    a: Network, b: Network, example_input: Any, fixed: tuple[str, ...] = ()
) -> tuple[Architecture, dict[str, Tensor], dict[str, Tensor]]:
    """The shared architecture of two networks, and their checked weights.

    Raises:
        As `align`.
    """
    networks = [load_state(x) if isinstance(x, (str, Path)) else x for x in (a, b)]
    states = [weights_of(network, name) for network, name in zip(networks, "AB", strict=True)]
    modules = [network for network in networks if isinstance(network, nn.Module)]
    if len(modules) == 1:  # buffers that state dicts leave out belong to the code, not to the weights
        unsaved = group.all_tensors(modules[0]).keys() - modules[0].state_dict().keys()
        states = [{**{n: t for n, t in group.all_tensors(modules[0]).items() if n in unsaved}, **state} for state in states]
    if modules:
        if example_input is None:
            raise InvalidInput("align: found a module and no example_input; pass an input with which the module can be called")
        architectures = [trace_architecture(module, example_input, fixed=fixed) for module in modules]
    else:
        chains = [chain_network(state) for state in states]
        architectures = [trace_architecture(m, x if example_input is None else example_input, fixed=fixed) for m, x in chains]
    require_equal(architectures[0].spec, architectures[-1].spec)
    spec = architectures[0].spec
    _check_keys(states[0], states[1], spec.aliases)
    for state, name in zip(states, "AB", strict=True):
        group.check_state(spec, state, f"network {name}")
        check_weights({n: t for n, t in state.items() if n in spec.shapes}, f"network {name}")
    return architectures[0], states[0], states[1]


def weights_of(network: Any, name: str) -> dict[str, Tensor]:
    """Parameters and buffers of a module, or a state dict as it is.

    Raises:
        InvalidInput: neither a module nor a mapping of names to tensors.
    """
    if isinstance(network, nn.Module):
        return group.all_tensors(network)
    if isinstance(network, Mapping) and network and all(isinstance(v, Tensor) for v in network.values()):
        return {str(k): v.detach() for k, v in network.items()}
    found = "an empty mapping" if isinstance(network, Mapping) and not network else type(network).__name__
    raise InvalidInput(
        f"network {name}: found {found}, expected a torch.nn.Module, a state dict of tensors, or a checkpoint path"
    )


def _check_keys(a: Mapping[str, Tensor], b: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    only_a, only_b = sorted(a.keys() - b.keys() - aliases.keys()), sorted(b.keys() - a.keys() - aliases.keys())
    shapes = [f"'{k}' is {tuple(a[k].shape)} in A and {tuple(b[k].shape)} in B" for k in a if k in b and a[k].shape != b[k].shape]
    problems = [f"'{k}' is only in A" for k in only_a] + [f"'{k}' is only in B" for k in only_b] + shapes
    if problems:
        raise SpecMismatch(
            "the two networks do not have the same tensors:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nPass two networks of one architecture."
        )  # fmt: skip


__all__ = ["Network", "align", "prepare_pair"]
