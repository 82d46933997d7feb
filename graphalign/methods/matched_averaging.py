"""Averaging of networks trained apart by matching their units layer by layer, with a global width that may grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.methods.beta_bernoulli import Matching, Prior, match_units
from graphalign.methods.plain_chain import Link

State = Mapping[str, Tensor]
ORDERS = ("forward", "backward")
ESTIMATES = ("mean", "posterior")


@dataclass(frozen=True)
class MatchedAveraging:
    """Settings of matched averaging: how units are matched and what a global unit is.

    Attributes:
        prior: the Beta-Bernoulli process of a layer's units, in units of the root mean square of the layer's weights if
            `standardise` is set, otherwise in those of the weights.
        standardise: whether the weights of a layer are divided by their root mean square before they are matched; the published
            implementations do not.
        order: "forward" matches the first layer first, by incoming weights and biases (FedMA; Wang et al. 2020, arXiv 2002.06440),
            "backward" the last one, by biases and outgoing weights (PFNM; Yurochkin et al. 2019, arXiv 1905.12022). Both use all
            weights whose other end is known, which those of inputs and logits always are.
        sweeps: passes over all clients of a layer after the first one at most.
        max_width: most units of a global layer; the sum over the clients if None. A layer in which a client is wider keeps that
            client's width as its limit.
        estimate: what a global unit is: "mean" of its copies, or their "posterior" mean, which is shrunk towards the prior's
            (published) and changes the function.
    """

    prior: Prior = field(default_factory=Prior)
    standardise: bool = True
    order: Literal["forward", "backward"] = "forward"
    sweeps: int = 5
    max_width: int | None = None
    estimate: Literal["mean", "posterior"] = "mean"

    def __post_init__(self) -> None:
        problems = []
        if self.order not in ORDERS:
            problems.append(f"order={self.order!r}, expected one of {', '.join(ORDERS)}")
        if self.estimate not in ESTIMATES:
            problems.append(f"estimate={self.estimate!r}, expected one of {', '.join(ESTIMATES)}")
        if self.sweeps < 0:
            problems.append(f"sweeps={self.sweeps}, expected 0 or more")
        if self.max_width is not None and self.max_width < 1:
            problems.append(f"max_width={self.max_width}, expected 1 or more, or None")
        if problems:
            raise InvalidInput("matched averaging: found " + "; found ".join(problems))


@dataclass(frozen=True)
class Layers:
    """The layers of all clients, ready to be matched.

    Attributes:
        links: of the first client; the others have the same but for widths.
        matrices: by link and client, (outputs, inputs, entries per pair).
        biases: by link and client, (outputs,); zeros where the layer has none.
        weights: weight of each client, mean 1, shape (J,).
    """

    links: tuple[Link, ...]
    matrices: tuple[tuple[Tensor, ...], ...]
    biases: tuple[tuple[Tensor, ...], ...]
    weights: Tensor

    @property
    def clients(self) -> int:
        """Number of clients J."""
        return len(self.weights)


def read_layers(chains: Sequence[tuple[Link, ...]], states: Sequence[State], weights: Tensor) -> Layers:
    """The layers of all clients.

    Args:
        chains: the chain of every client; they correspond but for the widths of hidden layers.
        states: its parameters.
        weights: its weight, (J,), mean 1.
    """
    links = chains[0]
    matrices = tuple(
        tuple(chain[k].matrix(state) for chain, state in zip(chains, states, strict=True)) for k in range(len(links))
    )
    biases = tuple(
        tuple(_bias(chain[k], state, len(m)) for chain, state, m in zip(chains, states, matrices[k], strict=True))
        for k in range(len(links))
    )
    return Layers(links, matrices, biases, weights)


def _bias(link: Link, state: State, outputs: int) -> Tensor:
    if link.bias is None:
        return torch.zeros(outputs, dtype=torch.float64)
    return state[link.bias].detach().to("cpu", torch.float64)


def match_layers(layers: Layers, settings: MatchedAveraging, seed: int) -> list[Matching]:
    """Global units of every layer, by link.

    Units that may not move (those of the logits) are their own global units in every client.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {k: _identity(layers, k) for k, link in enumerate(layers.links) if link.target is None}
    order = [k for k in range(len(layers.links)) if k not in found]
    for k in order if settings.order == "forward" else reversed(order):
        features = _features(layers, k, found)
        limit, scale = settings.max_width, _scale(layers, k, settings)
        found[k] = match_units(
            [f / scale for f in features], settings.prior, precisions=layers.weights.tolist(),
            sweeps=settings.sweeps, max_units=None if limit is None else max(limit, *(len(f) for f in features)),
            generator=generator,
        )  # fmt: skip
    return [found[k] for k in range(len(layers.links))]


def _identity(layers: Layers, k: int) -> Matching:
    units = len(layers.matrices[k][0])
    return Matching(tuple(torch.arange(units) for _ in range(layers.clients)), units, 0, True)


def _scale(layers: Layers, k: int, settings: MatchedAveraging) -> float:
    """Root mean square of a layer's weights over all clients; 1 where they are all zero or not to be standardised."""
    if not settings.standardise:
        return 1.0
    entries = torch.cat([m.flatten() for m in layers.matrices[k]])
    return float(entries.square().mean().sqrt()) or 1.0


def _features(layers: Layers, k: int, found: Mapping[int, Matching]) -> list[Tensor]:
    """What the units of layer k are compared by, for every client: (U_client, D).

    Its biases, and the incoming and outgoing weights whose other ends are global units or may not move.
    """
    features = []
    for client in range(layers.clients):
        parts = [layers.biases[k][client][:, None]]
        if k == 0 or k - 1 in found:
            parts.append(_placed(layers, k, client, found).flatten(1))
        if k + 1 in found:
            outgoing = layers.matrices[k + 1][client]
            placed = outgoing.new_zeros(found[k + 1].units, *outgoing.shape[1:])
            placed[found[k + 1].assignments[client]] = outgoing
            parts.append(placed.transpose(0, 1).flatten(1))
        features.append(torch.cat(parts, 1))
    return features


def _placed(layers: Layers, k: int, client: int, found: Mapping[int, Matching]) -> Tensor:
    """Incoming weights over the global units of the layer before, zero where the client has none; (U_client, L, entries)."""
    matrix = layers.matrices[k][client]
    if k == 0:
        return matrix
    before = found[k - 1]
    placed = matrix.new_zeros(matrix.shape[0], before.units, matrix.shape[2])
    placed[:, before.assignments[client]] = matrix
    return placed


def average_layers(
    layers: Layers, matchings: Sequence[Matching], settings: MatchedAveraging, class_weights: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Weight (L, L_before, entries) and bias (L,) of every global layer.

    A global unit is the weighted mean of its copies. A copy has weight zero for the global units that its client lacks, so
    units that only one client holds stay connected as they were there, and the logits are those of the weighted ensemble where
    no unit is shared and those of one client where all are alike.

    Args:
        layers: the clients.
        matchings: by link.
        settings: whether the mean is shrunk towards the prior's; the last layer's is not.
        class_weights: weights of the clients for each output of the last layer, (J, outputs); those of the clients if None.
    """
    found = dict(enumerate(matchings))
    result = []
    for k, matching in enumerate(matchings):
        last = k + 1 == len(matchings)
        total = torch.zeros(matching.units, *_placed(layers, k, 0, found).shape[1:], dtype=torch.float64)
        bias, weight = total.new_zeros(matching.units), total.new_zeros(matching.units)
        for client in range(layers.clients):
            rows = matching.assignments[client]
            share = class_weights[client] if last and class_weights is not None else layers.weights[client].expand(len(rows))
            total.index_add_(0, rows, share[:, None, None] * _placed(layers, k, client, found))
            bias.index_add_(0, rows, share * layers.biases[k][client])
            weight.index_add_(0, rows, share)
        extra, centre = 0.0, 0.0
        if settings.estimate == "posterior" and layers.links[k].target is not None:
            extra = settings.prior.sigma**2 * settings.prior.precision
            centre = extra * settings.prior.mean * _scale(layers, k, settings)
        result.append(((total + centre) / (weight + extra)[:, None, None], (bias + centre) / (weight + extra)))
    return result


def global_state(layers: Layers, averaged: Sequence[tuple[Tensor, Tensor]], reference: State) -> dict[str, Tensor]:
    """Parameters of the global network by state-dict key, in the order, dtypes and on the devices of the reference's."""
    state: dict[str, Tensor] = {}
    for link, (matrix, bias) in zip(layers.links, averaged, strict=True):
        own = reference[link.weight]
        state[link.weight] = link.weight_of(matrix, link.kernel(tuple(own.shape))).to(own)
        if link.bias is not None:
            state[link.bias] = bias.to(reference[link.bias])
    return {key: state[key] for key in reference if key in state}


def layer_widths(layers: Layers, matchings: Sequence[Matching]) -> dict[str, int]:
    """Global width by cell of the first client."""
    return {link.target: m.units for link, m in zip(layers.links, matchings, strict=True) if link.target is not None}


__all__ = ["Layers", "MatchedAveraging", "Prior", "average_layers", "global_state", "layer_widths", "match_layers", "read_layers"]
