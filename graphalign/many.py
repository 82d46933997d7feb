"""Aligning many pairs in one call: each network is read and traced once, and pairs of one architecture are solved together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from graphalign.alignment import Alignment, Stage
from graphalign.architecture import Architecture
from graphalign.errors import GraphAlignError, InvalidInput, UnsupportedNetwork
from graphalign.evaluation import Loader, Loss
from graphalign.methods import Problem, Solver, configure
from graphalign.methods.batches import Batches, batch_size
from graphalign.methods.problem import Solution
from graphalign.methods.registry import name_of
from graphalign.methods.transport import Transport
from graphalign.pairwise import Pair, alignment_of, check_order, prepare_pair
from graphalign.reading import Network, Reader

Progress = Callable[[int, int, str], None]
"""Told the pairs done, the pairs in all, and what is going on."""
MEMORY = 1 << 29
"""Bytes for what is computed of the pairs that are solved together, the networks themselves apart."""
SHOWN = 20
"""Most pairs that an error shows."""


def align_many(
    pairs: Sequence[tuple[Network, Network]], *, example_input: Any = None, method: str | Solver = "gnn", data: Loader | None = None,
    loss: Loss = "cross_entropy", init: str | Solver | None = None, refine: str | Solver | Sequence[str | Solver] = (), seed: int = 0,
    fixed: tuple[str, ...] = (), module: nn.Module | None = None, memory: int = MEMORY,
    progress: Progress = lambda done, total, what: None, **options: Any,
) -> list[Alignment]:  # fmt: skip
    """The alignments of many pairs, in their order: those that `align` finds for each of them alone with the same seed.

    The permutations are equal except where rounding decides: sums are taken in another order, and where two permutations are as good as
    each other to the last digits (twin or dead units, few codes, many steps), either may be found. Objectives and losses are equal up to
    rounding, and `seconds` is the time of the pairs that were solved together divided by their number. With `device` "cpu" and one
    number of threads the same call gives the same result.

    Networks that occur in several pairs (the same object or path) are read, checked and asked for their opinion of the codes once;
    networks of one code and one set of sizes are traced once (see `graphalign.reading.Reader`). Pairs of one architecture are solved
    together by the methods "gnn", "consensus" and "sinkhorn", as many as `memory` allows; others one by one. Architectures may be mixed.

    Args:
        pairs: the reference A and the network B of every pair, given as in `align`. They must not change until the call returns.
        example_input: as in `align`, for all modules.
        method: as in `align`, "transport" apart.
        data: as in `align`, for all pairs.
        loss: as in `align`.
        init: the method by which `method` starts.
        refine: as in `align`.
        seed: of everything random, for every pair.
        fixed: as in `align`.
        module: as in `align`, for all pairs of state dicts or files.
        memory: bytes for what is computed of the pairs that are solved together, from which their number follows; the networks
            and at most 1 GiB of checkpoint files come on top.
        progress: told the pairs done, the pairs in all, and what is going on.
        **options: settings of `method`, when it is given by name.

    Raises:
        InvalidInput: no pairs, or as `align`.
        SpecMismatch, UnsupportedNetwork, CorruptFile: as `align`. Before anything is solved all pairs are checked. The message names the
            pair; of several bad pairs it names all, and the type is that of the first.
    """
    solvers = [configure(method, options), *map(configure, [refine] if isinstance(refine, str) or callable(refine) else refine)]
    solvers = solvers if init is None else [configure(init), *solvers]
    if any(isinstance(solver, Transport) for solver in solvers[:1]):
        raise InvalidInput("align_many: found method 'transport', which returns plans between any widths; call align for each pair")
    check_order(solvers)
    if not pairs:
        raise InvalidInput("align_many: found no pairs, expected at least one")
    if memory < 1:
        raise InvalidInput(f"align_many: found memory={memory!r}, expected a positive number of bytes")
    reader, held = Reader(), dict[int, Pair]()

    def prepare(index: int) -> Pair:
        if index in held:
            return held.pop(index)
        pair = prepare_pair(*pairs[index], example_input, fixed, module, reader)
        if not any(isinstance(network, str | os.PathLike) for network in pairs[index]):  # their tensors are there anyway
            held[index] = pair
        return pair

    found: dict[int, Alignment] = {}
    for architecture, indices in _groups(len(pairs), prepare, progress):
        batches = [Batches(solver) for solver in solvers]
        most = batch_size(architecture, memory)
        for start in range(0, len(indices), most):
            progress(len(found), len(pairs), "aligning")
            chunk = indices[start : start + most]
            problems = [prepare(index).problem(seed=seed, data=data, loss=loss) for index in chunk]
            found.update(zip(chunk, _aligned(chunk, problems, batches), strict=True))
    progress(len(pairs), len(pairs), "done")
    return [found[index] for index in range(len(pairs))]


def align_to(reference: Network, networks: Sequence[Network], **settings: Any) -> list[Alignment]:
    """The alignments of networks to one reference, in their order: `align_many` of (reference, network); it takes the same settings."""
    return align_many([(reference, network) for network in networks], **settings)


def align_all(networks: Sequence[Network], **settings: Any) -> dict[tuple[int, int], Alignment]:
    """The alignments of all n (n - 1) / 2 pairs of networks, by their places (i, j) with i < j: that of (j, i) is the inverse.

    Args:
        networks: at least two.
        **settings: those of `align_many`.

    Raises:
        InvalidInput: fewer than two networks, or as `align_many`.
    """
    places = list(combinations(range(len(networks)), 2))
    if not places:
        raise InvalidInput(f"align_all: found {len(networks)} networks, expected at least two")
    return dict(zip(places, align_many([(networks[i], networks[j]) for i, j in places], **settings), strict=True))


def _groups(count: int, prepare: Callable[[int], Pair], progress: Progress) -> list[tuple[Architecture, list[int]]]:
    """The pairs that can be solved together, and their architecture; all pairs are checked."""
    groups: dict[Hashable, tuple[Architecture, list[int]]] = {}
    failures: list[tuple[int, GraphAlignError]] = []
    for index in range(count):
        progress(0, count, f"checking pair {index}")
        try:
            pair = prepare(index)
        except GraphAlignError as error:
            failures.append((index, error))
            continue
        key = (id(pair.architecture), _kind(pair.a), _kind(pair.b))
        groups.setdefault(key, (pair.architecture, []))[1].append(index)
    if failures:
        raise _named(failures)
    return list(groups.values())


def _kind(state: Mapping[str, Tensor]) -> Hashable:
    """Types, devices and the values of integer tensors, which networks solved together share; counters do not count."""
    types = frozenset((t.dtype == torch.float64, t.device) for t in state.values() if t.is_floating_point())
    whole = {n: t for n, t in state.items() if not t.is_floating_point() and t.dim()}
    return types, tuple((name, t.dtype, t.cpu().contiguous().numpy().tobytes()) for name, t in whole.items())


def _aligned(indices: Sequence[int], problems: Sequence[Problem], batches: Sequence[Batches]) -> list[Alignment]:
    histories: list[list[Stage]] = [[] for _ in problems]
    for batch in batches:
        begun = time.perf_counter()
        solutions = _solutions(batch, indices, problems)
        seconds = (time.perf_counter() - begun) / len(problems)
        for history, solution in zip(histories, solutions, strict=True):
            history.append(Stage(name_of(batch.solver), seconds, solution.objective, solution.losses))
        problems = [replace(p, start=s.permutations, scores=s.scores) for p, s in zip(problems, solutions, strict=True)]
    return [alignment_of(problem, history) for problem, history in zip(problems, histories, strict=True)]


def _solutions(batch: Batches, indices: Sequence[int], problems: Sequence[Problem]) -> list[Solution]:
    try:
        return batch(problems)
    except GraphAlignError as error:
        if len(problems) == 1:
            raise _named([(indices[0], error)]) from None
    return [_solutions(batch, [index], [problem])[0] for index, problem in zip(indices, problems, strict=True)]


def _named(failures: Sequence[tuple[int, GraphAlignError]]) -> GraphAlignError:
    """One error for several pairs, of the type of the first."""
    first = failures[0][1]
    shown = "\n".join(f"pair {index}: {error}" for index, error in failures[:SHOWN])
    more = f"\nand {len(failures) - SHOWN} more pairs" if len(failures) > SHOWN else ""
    message = f"align_many: {len(failures)} of the pairs cannot be aligned\n{shown}{more}"
    return UnsupportedNetwork(message, first.offences) if isinstance(first, UnsupportedNetwork) else type(first)(message)
