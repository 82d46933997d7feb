"""Aligning two networks: modules, state dicts or checkpoint files in, an `Alignment` out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment, Stage
from graphalign.architecture import Architecture
from graphalign.converters.chain import chain_network
from graphalign.converters.trace import trace_architecture
from graphalign.correspondence import differing_widths
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.evaluation import Loader, Loss
from graphalign.methods import METHODS, Problem, Solver, configure, list_methods
from graphalign.methods.registry import name_of
from graphalign.methods.transport import Transport
from graphalign.reading import Network, Reader, weights_of
from graphalign.skeleton import materialised
from graphalign.spec import NetworkSpec
from graphalign.transport_plan import TransportPlan

Start = str | Solver | Alignment | Mapping[str, Tensor]
"""A method that runs first, or permutations that are known already."""
ANY_WIDTHS = 'Pass two networks of one architecture, or use method="transport", which fuses the same layers in different widths.'


@overload
def align(
    a: Network, b: Network, *, method: Literal["transport"] | Transport, example_input: Any = None, data: Loader | None = None,
    seed: int = 0, fixed: tuple[str, ...] = (), **options: Any,
) -> TransportPlan: ...  # fmt: skip
@overload
def align(
    a: Network, b: Network, *, example_input: Any = None, method: str | Solver = "gnn", data: Loader | None = None,
    loss: Loss = "cross_entropy", init: Start | None = None, refine: str | Solver | Sequence[str | Solver] = (), seed: int = 0,
    fixed: tuple[str, ...] = (), module: nn.Module | None = None, **options: Any,
) -> Alignment: ...  # fmt: skip
def align(
    a: Network, b: Network, *, example_input: Any = None, method: str | Solver = "gnn", data: Loader | None = None,
    loss: Loss = "cross_entropy", init: Start | None = None, refine: str | Solver | Sequence[str | Solver] = (), seed: int = 0,
    fixed: tuple[str, ...] = (), module: nn.Module | None = None, **options: Any,
) -> Alignment | TransportPlan:  # fmt: skip
    """The permutations that bring the units of B into the order of A; by method "transport" a plan between any widths.

    Args:
        a: the reference: a module, a state dict, or the path of a .safetensors or .pt file.
        b: the network to be permuted later by `Alignment.apply`, of the same architecture; for method "transport", which returns a
            `TransportPlan`, of the same layers in any widths. Neither is modified.
        example_input: an input of the modules (tensor, tuple of arguments or dict of keyword arguments). If exactly one of the
            two networks is a module, the other one is read as weights for it. State dicts alone need none if they are plain
            chains (MLP, CNN, VGG).
        method: one of `list_methods()`, or an instance of its settings, such as `Weight(restarts=3)`.
        data: batches of inputs or of (inputs, labels), for the methods that look at activations, predictions or losses.
        loss: what labels are judged by: "cross_entropy", "mse" or a callable of (outputs, batch).
        init: where `method` starts: another method (by name or instance), an `Alignment`, or permutations by cell.
        refine: methods that start, one after the other, from what was found before them.
        seed: of everything random; results are deterministic for a seed.
        fixed: operators or module paths through which nothing may move (see `trace`).
        module: the network that two state dicts or files are weights of, where they are no plain chains. Its own weights are not used,
            so it may be on the meta device; then files are mapped, and no more of them is in memory than is worked on.
        **options: settings of `method`, when it is given by name: the fields of its class.

    Raises:
        InvalidInput: an unknown method or setting, a method that cannot start from another's result, missing data, labels or
            example input, weights that are not finite or not floating point.
        SpecMismatch: the two networks differ in architecture or shapes; widths alone may differ for method "transport".
        UnsupportedNetwork: the network has no neuron graph.
        CorruptFile: a file cannot be read safely.
    """
    return align_read(
        Reader(), a, b, example_input=example_input, method=method, data=data, loss=loss, init=init, refine=refine, seed=seed, fixed=fixed,
        module=module, options=options,
    )  # fmt: skip


def align_read(
    reader: Reader, a: Network, b: Network, *, example_input: Any, method: str | Solver, data: Loader | None, loss: Loss, init: Start | None,
    refine: str | Solver | Sequence[str | Solver], seed: int, fixed: tuple[str, ...], module: nn.Module | None = None,
    options: dict[str, Any] | None = None,
) -> Alignment | TransportPlan:  # fmt: skip
    """The result of `align`, for several calls that share networks or architectures: what the reader knows is not read or traced again."""
    solver = configure(method, options)
    refine = [refine] if isinstance(refine, str) or callable(refine) else list(refine)
    solvers = [solver, *map(configure, refine)]
    if isinstance(solvers[0], Transport):
        if init is not None or refine:
            raise InvalidInput(
                "method 'transport' returns a plan between any widths, which has no init and no refine; for permutations of equal widths, "
                "pass init='transport' to the method that refines them"
            )
        if module is not None:
            raise InvalidInput("method 'transport': found module=, expected the two networks as modules: their widths may differ")
        return _transport(reader, solvers[0], a, b, example_input, data, seed, fixed)
    start = None
    if isinstance(init, (Alignment, Mapping)):
        start = dict(init.permutations if isinstance(init, Alignment) else init)
    elif init is not None:
        solvers.insert(0, configure(init))
    check_order(solvers, started=start is not None)
    pair = prepare_pair(a, b, example_input, fixed, module, reader)
    if start is not None:
        group.check_element(pair.spec, start)
    return run_stages(solvers, pair.problem(seed=seed, data=data, loss=loss, start=start))


def run_stages(solvers: Sequence[Solver], problem: Problem) -> Alignment:
    """The alignment that solvers find one after the other, each from the result of the one before."""
    history: list[Stage] = []
    for solver in solvers:
        begun = time.perf_counter()
        solution = solver(problem)
        seconds = time.perf_counter() - begun
        history.append(Stage(name_of(solver), seconds, solution.objective, solution.losses))
        problem = replace(problem, start=solution.permutations, scores=solution.scores)
    return alignment_of(problem, history)


def alignment_of(solved: Problem, history: Sequence[Stage]) -> Alignment:
    """The alignment of a problem whose `start` is the solution, by the stages that led there."""
    assert solved.start is not None
    return Alignment(
        solved.spec, solved.start, "+".join(stage.method for stage in history), solved.seed,
        sum(stage.seconds for stage in history), tuple(history),
    )  # fmt: skip


def check_order(solvers: Sequence[Solver], *, started: bool = False) -> None:
    """Returns nothing if every solver but the first can start from what was found before; the first too if there are permutations.

    Raises:
        InvalidInput: one cannot.
    """
    for solver in solvers if started else solvers[1:]:
        _check_starts(solver)


def _check_starts(solver: Solver) -> None:
    name = name_of(solver)
    if name in METHODS and not METHODS[name].starts:
        able = ", ".join(n for n in list_methods() if METHODS[n].starts)
        raise InvalidInput(
            f"method '{name}' does not start from permutations found before; let it come first, or choose one of {able} after it"
        )


@dataclass(frozen=True)
class Pair:
    """Two networks that have been read and checked.

    Attributes:
        architecture: what they share.
        a: parameters and buffers of A by state-dict key.
        b: those of B.
        module: the network in eval mode, to be called with other tensors.
    """

    architecture: Architecture
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    module: nn.Module

    @property
    def spec(self) -> NetworkSpec:
        """What may move."""
        return self.architecture.spec

    def problem(
        self, *, seed: int = 0, data: Loader | None = None, loss: Loss = "cross_entropy", start: Mapping[str, Tensor] | None = None
    ) -> Problem:
        """The problem of aligning B to A."""
        return Problem(self.spec, self.a, self.b, seed, self.architecture, self.module, data, loss, start)


def prepare_pair(
    a: Network, b: Network, example_input: Any, fixed: tuple[str, ...] = (), module: nn.Module | None = None,
    reader: Reader | None = None,
) -> Pair:  # fmt: skip
    """The shared architecture of two networks, and their checked weights; what the reader knows already is not read again.

    Raises:
        As `align`.
    """
    reader = Reader() if reader is None else reader
    networks, states = _read(a, b, reader)
    modules = [network for network in networks if isinstance(network, nn.Module)]
    if module is not None:
        if modules:
            raise InvalidInput("align: found module= beside a network that is a module itself; expected two state dicts or files, or leave it out")
        modules, example_input = [reader.filled(module, states[0])], materialised(example_input)
        states = [reader.completed(state, modules[0]) for state in states]
    if modules:
        _check_example(example_input)
        architectures = [reader.architecture(module, example_input, fixed) for module in modules]
    else:
        chains = [reader.chain(state) for state in states]
        architectures = [reader.architecture(m, x if example_input is None else example_input, fixed) for m, x in chains]
        modules = [chains[0][0]]
    spec = architectures[0].spec
    if widths := differing_widths(spec, architectures[-1].spec):
        raise SpecMismatch(
            "A and B have the same layers in different widths, which no permutation brings together:\n"
            + "\n".join(f"  - {line}" for line in widths) + f"\n{ANY_WIDTHS}"
        )  # fmt: skip
    reader.compare(spec, architectures[-1].spec)
    _check_keys(states[0], states[1], spec.aliases)
    for state, name in zip(states, "AB", strict=True):
        reader.check(spec, state, name)
    return Pair(architectures[0], states[0], states[1], reader.view(modules[0]))


def _read(a: Network, b: Network, reader: Reader) -> tuple[list[Any], list[dict[str, Tensor]]]:
    """Modules or state dicts of two networks, and their tensors."""
    networks = [reader.load(x) for x in (a, b)]
    states = [reader.weights(network, name) for network, name in zip(networks, "AB", strict=True)]
    modules = [network for network in networks if isinstance(network, nn.Module)]
    if len(modules) == 1:
        states = [reader.completed(state, modules[0]) for state in states]
    return networks, states


def _check_example(example_input: Any) -> None:
    if example_input is None:
        raise InvalidInput("align: found a module and no example_input; pass an input with which the module can be called")


def _transport(
    reader: Reader, settings: Transport, a: Network, b: Network, example_input: Any, data: Loader | None, seed: int, fixed: tuple[str, ...]
) -> TransportPlan:
    """The plan between two networks of any widths, each with an architecture of its own."""
    networks, states = _read(a, b, reader)
    modules: list[nn.Module | None] = []
    architectures = []
    for network, other, state, name in zip(networks, reversed(networks), states, "AB", strict=True):
        fitting = [m for m in (network, other) if isinstance(m, nn.Module) and _fits(m, state)]
        modules.append(fitting[0] if fitting else None)
        if fitting:
            _check_example(example_input)
            module, example = fitting[0], example_input
        else:
            module, example = chain_network(state)
            if example_input is not None and not isinstance(other, nn.Module):  # else it is an input of the other network
                example = example_input
        architectures.append(trace_architecture(module, example, fixed=fixed))
        reader.check(architectures[-1].spec, state, name)
    return settings.plan((architectures[0], architectures[1]), states[0], states[1], data, seed, modules[0])


def _fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(name in state and state[name].shape == tensor.shape for name, tensor in group.all_tensors(module).items())


def _check_keys(a: Mapping[str, Tensor], b: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    only_a, only_b = sorted(a.keys() - b.keys() - aliases.keys()), sorted(b.keys() - a.keys() - aliases.keys())
    shapes = [f"'{k}' is {tuple(a[k].shape)} in A and {tuple(b[k].shape)} in B" for k in a if k in b and a[k].shape != b[k].shape]
    problems = [f"'{k}' is only in A" for k in only_a] + [f"'{k}' is only in B" for k in only_b] + shapes
    if problems:
        remedy = "Pass two networks of one architecture." if len(problems) > len(shapes) else ANY_WIDTHS
        raise SpecMismatch(
            "the two networks do not have the same tensors:\n" + "\n".join(f"  - {p}" for p in problems) + f"\n{remedy}"
        )


__all__ = ["Network", "Pair", "align", "alignment_of", "check_order", "prepare_pair", "run_stages", "weights_of"]
