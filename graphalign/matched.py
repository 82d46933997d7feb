"""One network from several that were trained apart, also of different hidden widths: matched averaging in one shot."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.architecture import Architecture
from graphalign.converters.chain import chain_network
from graphalign.converters.export import evaluating, flatten_outputs, split_example
from graphalign.converters.trace import trace_architecture
from graphalign.correspondence import correspond
from graphalign.errors import InvalidInput, SpecMismatch, UnsupportedNetwork
from graphalign.files import check_weights, load_state
from graphalign.methods.matched_averaging import (
    MatchedAveraging,
    Prior,
    average_layers,
    global_state,
    layer_widths,
    match_layers,
    read_layers,
)  # fmt: skip
from graphalign.methods.plain_chain import Link, chain_steps, plain_chain
from graphalign.pairwise import Network, weights_of

SIZES = ("in_features", "out_features", "in_channels", "out_channels")


@dataclass(frozen=True)
class MatchedAverage:
    """A global network and how the units of the clients became its units.

    Attributes:
        state: parameters of the global network by state-dict key.
        assignments: one per client: by cell, LongTensor (U_client,), the global unit that each of its units became.
        sizes: number of global units by cell.
        converged: whether the last pass over the clients changed nothing, by cell.
        seed: of the order in which clients were matched.
    """

    state: Mapping[str, Tensor]
    assignments: tuple[Mapping[str, Tensor], ...]
    sizes: Mapping[str, int]
    converged: Mapping[str, bool]
    seed: int
    _network: nn.Module = field(repr=False, compare=False)

    def module(self) -> nn.Module:
        """The global network, ready to run, in eval mode; a new copy every time.

        Of clients that were modules it is a copy of the first one with wider layers. Of bare state dicts it is the chain that
        `graphalign.converters.chain.chain_network` makes of them: it has ReLU, and of a convolutional network not the strides,
        paddings and pooling that a state dict does not tell.
        """
        return copy.deepcopy(self._network)

    def shared(self, cell: str) -> float:
        """Share of the global units of a cell that more than one client holds.

        Raises:
            InvalidInput: no such cell.
        """
        if cell not in self.sizes:
            raise InvalidInput(f"shared: found {cell!r}, expected one of {', '.join(self.sizes)}")
        counts = torch.bincount(torch.cat([a[cell] for a in self.assignments]), minlength=self.sizes[cell])
        return float((counts > 1).double().mean())

    def __repr__(self) -> str:
        return f"MatchedAverage({len(self.assignments)} clients; {'; '.join(map(' '.join, self._rows()))})"

    def _repr_html_(self) -> str:
        rows = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row) + "</tr>" for row in self._rows())
        return f"<table><caption>MatchedAverage of {len(self.assignments)} clients</caption>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        return [
            (cell, f"{'+'.join(str(len(a[cell])) for a in self.assignments)} -> {units} units, {self.shared(cell):.0%} shared")
            for cell, units in self.sizes.items()
        ]


def matched_average(
    models: Sequence[Network], *, example_input: Any = None, samples: Sequence[float] | None = None,
    class_counts: Sequence[Sequence[float]] | Tensor | None = None, settings: MatchedAveraging | None = None, seed: int = 0,
) -> MatchedAverage:  # fmt: skip
    """The one-shot matched average of networks that were trained apart.

    Units of the clients are matched layer by layer under a Beta-Bernoulli process (PFNM, Yurochkin et al. 2019, arXiv 1905.12022;
    FedMA, Wang et al. 2020, arXiv 2002.06440) and averaged with their matches; a unit without a match becomes a unit of its
    own, so that layers may grow up to the sum of the clients'. Inputs and logits are never matched.

    Args:
        models: two or more clients: modules, state dicts, or paths of .safetensors or .pt files, of one architecture, plain
            chains of convolutions and linear layers. Hidden widths may differ.
        example_input: an input of the modules. State dicts among modules are weights for the first module.
        samples: number of training examples of each client, (J,): its weight in averages and in matching; equal if None.
        class_counts: examples of each class in each client, (J, classes): weights of the rows of the last layer, so that a client
            has no say in the logits of classes that it has not seen; rows without any are averaged by `samples`.
        settings: `MatchedAveraging()` if None.
        seed: of the order in which clients are matched.

    Raises:
        UnsupportedNetwork: a network that is no plain chain, or one whose code does not run with other widths.
        SpecMismatch: the clients differ in more than hidden widths.
        InvalidInput: fewer than two clients, a module without example input, weights or counts that cannot be used.
        CorruptFile: a file cannot be read safely.
    """
    if len(models) < 2:
        raise InvalidInput(f"matched_average: found {len(models)} network, expected two or more")
    settings = MatchedAveraging() if settings is None else settings
    weights = _client_weights(samples, len(models))
    networks = [load_state(m) if isinstance(m, (str, Path)) else m for m in models]
    states = [weights_of(network, str(client)) for client, network in enumerate(networks)]
    for client, state in enumerate(states):
        check_weights(state, f"client {client}")
    chains = _chains(networks, states, example_input)
    layers = read_layers(chains, states, weights)
    class_weights = _class_weights(class_counts, weights, len(layers.matrices[-1][0]))
    matchings = match_layers(layers, settings, seed)
    state = global_state(layers, average_layers(layers, matchings, settings, class_weights), states[0])
    names = [link.target for link in layers.links]
    found = {name: matching for name, matching in zip(names, matchings, strict=True) if name is not None}
    return MatchedAverage(
        state,
        tuple({name: matching.assignments[client] for name, matching in found.items()} for client in range(len(models))),
        layer_widths(layers, matchings),
        {name: matching.converged for name, matching in found.items()},
        seed,
        _runnable(networks, state, example_input),
    )


def _chains(
    networks: Sequence[nn.Module | Mapping[str, Tensor]], states: Sequence[Mapping[str, Tensor]], example_input: Any
) -> list[tuple[Link, ...]]:
    """The layers of every client; state dicts are traced once for each set of shapes."""
    first = _first_module(networks)
    if first is not None and example_input is None:
        raise InvalidInput("matched_average: found a module and no example_input; pass an input with which it can be called")
    known: dict[Any, tuple[Architecture, tuple[Link, ...]]] = {}
    chains, problems = [], []
    for client, (network, state) in enumerate(zip(networks, states, strict=True)):
        own = isinstance(network, nn.Module)
        key = client if own else tuple((name, tuple(t.shape)) for name, t in state.items())
        if key not in known:
            module, example = (network if own else first, example_input) if first is not None else chain_network(state)
            architecture = trace_architecture(module, example if example_input is None else example_input)  # type: ignore[arg-type]
            group.check_state(architecture.spec, state, f"client {client}")
            known[key] = architecture, plain_chain(architecture)
            problems += _differences(client, next(iter(known.values()))[0], architecture)
        chains.append(known[key][1])
    if problems:
        raise SpecMismatch(
            "the clients differ in more than the widths of their hidden layers (A is client 0, B the client named):\n"
            + "\n".join(f"  - {p}" for p in problems) + "\nPass clients with the same layers."
        )  # fmt: skip
    return chains


def _differences(client: int, first: Architecture, own: Architecture) -> list[str]:
    """How a client's chain differs from that of client 0 in more than widths."""
    steps, expected = chain_steps(own), chain_steps(first)
    if steps != expected:
        return [f"client {client} runs {', '.join(steps)}, client 0 {', '.join(expected)}"]
    try:
        correspond(first.spec, own.spec)
    except SpecMismatch as error:
        return [f"client {client}: {line.removeprefix('  - ')}" for line in str(error).splitlines() if line.startswith("  - ")]
    return []


def _first_module(networks: Sequence[Any]) -> nn.Module | None:
    return next((network for network in networks if isinstance(network, nn.Module)), None)


def _client_weights(samples: Sequence[float] | None, clients: int) -> Tensor:
    """Weights of the clients, mean 1; float64 (J,)."""
    if samples is None:
        return torch.ones(clients, dtype=torch.float64)
    weights = torch.as_tensor(samples, dtype=torch.float64)
    if weights.shape != (clients,) or not bool((weights.isfinite() & (weights > 0)).all()):
        raise InvalidInput(f"samples: found {weights.tolist()}, expected {clients} positive finite numbers, one for each client")
    return weights / weights.mean()


def _class_weights(counts: Sequence[Sequence[float]] | Tensor | None, weights: Tensor, outputs: int) -> Tensor | None:
    """Weights of the clients for each output, (J, outputs), or None."""
    if counts is None:
        return None
    table = torch.as_tensor(counts, dtype=torch.float64)
    if table.shape != (len(weights), outputs) or not bool((table.isfinite() & (table >= 0)).all()):
        raise InvalidInput(
            f"class_counts: found a table of shape {tuple(table.shape)}, expected ({len(weights)}, {outputs}): finite counts of 0 or "
            "more, one row for each client and one column for each output"
        )
    return torch.where(table.sum(0) > 0, table, weights[:, None])


def _runnable(networks: Sequence[Any], state: Mapping[str, Tensor], example_input: Any) -> nn.Module:
    """The global network in eval mode, tried on the example input where there is a module."""
    template = _first_module(networks)
    if template is None:
        return chain_network({name: tensor.clone() for name, tensor in state.items()})[0]
    network = copy.deepcopy(template).eval()
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        old = owner.get_parameter(leaf)
        owner.register_parameter(leaf, nn.Parameter(tensor.to(old), requires_grad=old.requires_grad))
    for module in network.modules():
        _resize(module)
    args, kwargs = split_example(example_input)
    with torch.no_grad(), evaluating(template):
        expected = [tuple(out.shape) for out in flatten_outputs(template(*args, **kwargs))]
        try:
            found = [tuple(out.shape) for out in flatten_outputs(network(*args, **kwargs))]
        except (RuntimeError, ValueError) as error:
            found = str(error).splitlines()[0]  # type: ignore[assignment]
    if found != expected:
        raise UnsupportedNetwork(
            f"{type(template).__name__} does not run with the widths of the global network: found {found}, expected outputs {expected}",
            remedy="let the code take its widths from its layers, for instance x.flatten(1) in place of x.view(-1, 400), or pass "
            "max_width=, the width of the clients, to keep it",
        )
    return network


def _resize(module: nn.Module) -> None:
    """Sets the sizes that a layer prints and checks to those of its weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not any(hasattr(module, name) for name in SIZES):
        return
    outputs, inputs = weight.shape[:2]
    if getattr(module, "transposed", False):
        outputs, inputs = inputs, outputs
    for name in SIZES:
        if hasattr(module, name):
            setattr(module, name, inputs if name.startswith("in_") else outputs)


__all__ = ["MatchedAverage", "MatchedAveraging", "Prior", "matched_average"]
