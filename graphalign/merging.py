"""Merging n networks into one: their units are brought into one order, their weights averaged, their statistics mended."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, overload

from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.averaging import average, averaging_weights
from graphalign.batch_norm import reset_statistics
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss
from graphalign.files import check_weights, load_state
from graphalign.matched import matched_average
from graphalign.methods.matched_averaging import MatchedAveraging
from graphalign.methods.registry import Solver, configure, name_of
from graphalign.methods.universe import Universe
from graphalign.pairwise import Network, Start, align_read, prepare_pair, weights_of
from graphalign.reading import Reader
from graphalign.repairing import repair as repair_statistics
from graphalign.tensors import copy_into, require_same_tensors, tensors_for

Module = TypeVar("Module", bound=nn.Module)
State = Mapping[str, Tensor]
NAIVE, GIVEN, UNIVERSE, TRANSPORT, NEW_WIDTHS = "naive", "given", "universe", "transport", "matched_averaging"
"""Kinds of methods that are not pairwise searches for permutations."""


class Order(Protocol):
    """How to bring the units of a network into the order of another: an `Alignment` or a `TransportPlan`."""

    def apply(self, network: State) -> dict[str, Tensor]:
        """Weights with their units in that order."""


Method = str | Solver | Sequence[Order] | None


@overload
def merge(models: Sequence[Module], **options: Any) -> Module: ...
@overload
def merge(models: Sequence[State | str | Path], **options: Any) -> dict[str, Tensor]: ...
@overload
def merge(models: Sequence[Network], **options: Any) -> nn.Module | dict[str, Tensor]: ...
def merge(
    models: Sequence[Any], *, example_input: Any = None, method: Method = "gnn", reference: int | str = 0,
    weights: Sequence[float] | None = None, data: Loader | None = None, loss: Loss = "cross_entropy", init: Start | None = None,
    refine: str | Solver | Sequence[str | Solver] = (), repair: Loader | None = None, closed_form: bool = False,
    reset_batch_norm: Loader | None = None, seed: int = 0, fixed: tuple[str, ...] = (), **options: Any,
) -> Any:  # fmt: skip
    """One network from several: theta = sum_i w_i pi_i(theta_i), with the units of every network in the order of one of them.

    Floating-point tensors are averaged, running statistics among them, and cast back to their dtype; counters and other integer
    tensors are those of the reference. Tied weights stay tied. One model alone gives a copy of it. Inputs are never modified.

    Args:
        models: modules, state dicts, or paths of .safetensors or .pt files, one at least. State dicts beside modules are weights
            for the first module; alone they must be plain chains (MLP, CNN, VGG) unless nothing is to be aligned.
        example_input: an input of the modules (tensor, tuple of arguments or dict of keyword arguments).
        method: how units are brought into one order:
            - a name or an instance of settings, as in `align`: every network to the reference;
            - "universe": all networks at once, consistently (see `graphalign.methods.universe.universe`);
            - "transport": as a pairwise method; widths may differ, the result has those of the reference;
            - "matched_averaging": a network of new widths (see `graphalign.matched.matched_average`);
            - one `Alignment` (or `TransportPlan`) for every model but the reference, in their order;
            - None or "naive": the networks are aligned already.
        reference: number of the model whose order the result is in; or "universe": the pairwise alignments to model 0 by
            `method` are the start of a search that raises the agreement of the weights of all pairs of networks. The result is
            in the order of model 0.
        weights: a finite number per model, of sum 1; equal ones if None. They are not normalised: see `federated_average` for
            counts. A model of weight 0 is left out, but may be the reference.
        data: of the method, as in `align`.
        loss: of the method, as in `align`.
        init: of the method, as in `align`.
        refine: methods that start from the result of `method`, as in `align`.
        repair: batches of training data on which the merged network gets the activation statistics of its parents (REPAIR, see
            `graphalign.repair`), its BatchNorms among them.
        closed_form: REPAIR without running the merged network.
        reset_batch_norm: batches of training data on which BatchNorm statistics are estimated again, after `repair`. A merged
            network with BatchNorm needs this or `repair`: averaged statistics are not those of its activations.
        seed: of everything random.
        fixed: operators or module paths through which nothing may move (see `trace`).
        **options: settings of `method`, when it is given by name.

    Returns:
        A module if there is one among the models: a copy of the reference (of the first module, if the reference is none), with
        its dtype, device and mode (eval mode after `repair` or `reset_batch_norm`). Otherwise a state dict with the keys of the
        reference.

    Raises:
        InvalidInput: no models, weights or arguments that cannot be used, weights of networks that are not finite, and
            everything that `align` refuses.
        SpecMismatch: the networks differ in architecture; lists all differences of all networks.
        UnsupportedNetwork: a network has no neuron graph.
        CorruptFile: a file cannot be read safely.
    """
    networks = _read(models)
    kind = _kind(method, refine)
    shares, wrong = [1.0 / len(networks)] * len(networks), []
    try:
        shares = averaging_weights(weights, len(networks))
    except InvalidInput as error:
        wrong.append(str(error))
    settings = {"init": init, "refine": refine, "options": options}
    wrong += _problems(networks, kind, method, reference, shares, settings, repair, closed_form, reset_batch_norm)
    if wrong:
        raise InvalidInput("merge:\n" + "\n".join(f"  - {problem}" for problem in wrong))
    if len(networks) == 1:
        return _copy(networks[0])
    if kind == NEW_WIDTHS:
        averaging = method if isinstance(method, MatchedAveraging) else MatchedAveraging(**options)
        found = matched_average(networks, example_input=example_input, samples=shares, settings=averaging, seed=seed)
        return found.module() if _modules(networks) else dict(found.state)

    first = reference if isinstance(reference, int) else 0
    part = [first, *(i for i, share in enumerate(shares) if share and i != first)]
    template = next(iter(_modules([networks[first], *networks])), None)
    states = [weights_of(n, str(i)) if template is None else tensors_for(template, n) for i, n in enumerate(networks)]
    _check_states(states, any_widths=kind == TRANSPORT)
    anchor = states[first] if template is None else _filled(template, states[first], f"network {first}")
    members, placed, shares = [anchor, *(networks[i] for i in part[1:])], [states[i] for i in part], [shares[i] for i in part]
    if len(part) == 1:
        kind = NAIVE
    if kind == GIVEN:
        orders: list[Any] = list(cast(Sequence[Order], method))
        orders.insert(first, None)
        placed[1:] = [orders[i].apply(states[i]) for i in part[1:]]
    reader = Reader()
    if kind == UNIVERSE:
        solver = cast(Universe, configure(cast("str | Universe", method), options))
        placed = _through_universe(reader, members, placed, solver, None, example_input, fixed, seed)
    elif kind not in (NAIVE, GIVEN):
        orders = [
            align_read(reader, anchor, other, example_input=example_input, method=cast("str | Solver", method), data=data, loss=loss,
                       init=init, refine=refine, seed=seed, fixed=fixed, options=options)
            for other in members[1:]
        ]  # fmt: skip
        if reference == UNIVERSE:
            placed = _through_universe(reader, members, placed, Universe(), orders, example_input, fixed, seed)
        else:
            placed[1:] = [order.apply(state) for order, state in zip(orders, placed[1:], strict=True)]

    averaged = average(placed, shares)
    if not isinstance(anchor, nn.Module):
        return averaged
    copy_into(anchor, averaged)
    if repair is not None:
        kept = [i for i, share in enumerate(shares) if share]
        parents, shares = [placed[i] for i in kept], [shares[i] for i in kept]
        anchor = repair_statistics(anchor, parents, repair, weights=shares, closed_form=closed_form)
    return anchor if reset_batch_norm is None else reset_statistics(anchor, reset_batch_norm)


def _read(models: Any) -> list[nn.Module | State]:
    if isinstance(models, (nn.Module, Mapping, str, Path)):
        raise InvalidInput(f"merge: found one {type(models).__name__}, expected a list of networks; put it into one")
    networks = [load_state(model) if isinstance(model, (str, Path)) else model for model in models]
    if not networks:
        raise InvalidInput("merge: found no networks, expected at least one")
    for i, network in enumerate(networks):
        weights_of(network, str(i))
    return networks


def _modules(networks: Sequence[Any]) -> list[nn.Module]:
    return [network for network in networks if isinstance(network, nn.Module)]


def _copy(network: nn.Module | State) -> nn.Module | dict[str, Tensor]:
    if isinstance(network, nn.Module):
        return copy.deepcopy(network)
    return average([weights_of(network, "0")], [1.0])


def _kind(method: Any, refine: Any) -> str:
    """The kind of a method that is treated in a way of its own, or "" for one that `align` runs."""
    if isinstance(method, MatchedAveraging):
        return NEW_WIDTHS
    if isinstance(method, Sequence) and not isinstance(method, str):
        return GIVEN
    name = NAIVE if method is None else method if isinstance(method, str) else name_of(method)
    if name == NAIVE and method is not None and refine:
        return ""
    return name if name in (NAIVE, UNIVERSE, TRANSPORT, NEW_WIDTHS) else ""


def _problems(
    networks: Sequence[Any], kind: str, method: Method, reference: int | str, shares: Sequence[float], settings: Mapping[str, Any],
    repair: Loader | None, closed_form: bool, reset_batch_norm: Loader | None,
) -> Iterator[str]:  # fmt: skip
    """Arguments that do not fit together."""
    count = len(networks)
    if min(shares) < 0 and (repair is not None or kind == NEW_WIDTHS):
        yield f"weights: found {list(shares)}, expected none negative with repair= or method 'matched_averaging'"
    if reference != UNIVERSE and not (isinstance(reference, int) and 0 <= reference < count):
        yield f"reference: found {reference!r}, expected the number of a model, 0 to {count - 1}, or 'universe'"
    if reference == UNIVERSE and kind in (NAIVE, GIVEN, TRANSPORT, NEW_WIDTHS):
        yield "reference: found 'universe', which starts from what a method finds; pass a method of permutations, or a number"
    if kind == GIVEN and (found := len(cast(Sequence[Order], method))) != count - 1:
        yield f"method: found {found} alignments for {count} models, expected one for each but the reference"
    allowed = {NAIVE: (), GIVEN: (), UNIVERSE: ("options",), TRANSPORT: ("options",), NEW_WIDTHS: ("options",)}
    unused = [name for name, value in settings.items() if value and name not in allowed.get(kind, settings)]
    if unused:
        yield f"{', '.join(unused)}: nothing uses this with method {method if isinstance(method, str) else kind!r}; leave it out"
    if closed_form and repair is None:
        yield "closed_form: it is a way of repair=, which is missing; pass a loader"
    statistics = [name for name, loader in (("repair", repair), ("reset_batch_norm", reset_batch_norm)) if loader is not None]
    if statistics and kind == NEW_WIDTHS:
        yield f"{', '.join(statistics)}: not with method 'matched_averaging', whose result has other units than its parents"
    if statistics and not _modules(networks):
        yield f"{', '.join(statistics)}: found state dicts alone, expected a module among the models: the network has to be run"


def _check_states(states: Sequence[State], any_widths: bool) -> None:
    """Refuses networks that cannot be averaged; names every tensor of every network that is wrong."""
    if not any_widths:
        require_same_tensors(
            {f"network {i}": state for i, state in enumerate(states)},
            "Pass networks of one architecture; for other widths use method='transport' or 'matched_averaging'.",
        )
    problems = []
    for i, state in enumerate(states):
        try:
            check_weights(state, f"network {i}")
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))


def _filled(template: nn.Module, state: State, name: str) -> nn.Module:
    """A copy of a module with the weights of a network, its own or those of a state dict."""
    remedy = f"Pass {name}, the reference, as a module."
    require_same_tensors({name: state, "the first module": tensors_for(template, template)}, remedy)
    module = copy.deepcopy(template)
    copy_into(module, state)
    return module


def _through_universe(
    reader: Reader, members: Sequence[nn.Module | State], states: Sequence[State], solver: Universe, orders: Sequence[Alignment] | None,
    example_input: Any, fixed: tuple[str, ...], seed: int,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """All networks in the order of the first, by permutations that agree with each other.

    Args:
        reader: of the networks.
        members: the networks.
        states: their tensors.
        solver: finds the permutations.
        orders: alignments of all but the first to start from, or None.
        example_input: as in `merge`.
        fixed: as in `merge`.
        seed: as in `merge`.
    """
    specs = [prepare_pair(members[0], member, example_input, fixed, reader=reader).spec for member in members[1:]]
    start = None if orders is None else [group.identity(specs[0]), *(order.permutations for order in orders)]
    found = solver.solve(specs[0], states, start=start, seed=seed)
    return [dict(states[0]), *(found.pairwise(0, k).apply(state) for k, state in enumerate(states[1:], start=1))]
