"""Which units of several networks are the same one: MAP matching under a Beta-Bernoulli process, one layer at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from graphalign.errors import InvalidInput

TIE = 1e-9
"""A new assignment must gain more than this share of the largest score, so that units that are alike do not swap for ever."""


@dataclass(frozen=True)
class Prior:
    """The Beta-Bernoulli process that global units and their copies in the clients are drawn from.

    A global unit is drawn from N(mean, sigma0^2), each client holds a random subset of the global units, and the client's own
    unit is drawn from N(global unit, sigma^2). With entries of unit variance, two units are the same one rather than two
    if their correlation exceeds about sigma0^2 / (sigma0^2 + sigma^2).

    Attributes:
        gamma: mass of the process: the expected number of global units of one client. Larger values give
            wider networks.
        sigma: standard deviation of a client's unit around the global one.
        sigma0: standard deviation of global units around the mean.
        mean: mean of the entries of global units.
    """

    gamma: float = 1.0
    sigma: float = 1.0
    sigma0: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value}, expected a positive finite number"
            for name, value in (("gamma", self.gamma), ("sigma", self.sigma), ("sigma0", self.sigma0))
            if not (math.isfinite(value) and value > 0)
        ]
        problems += [] if math.isfinite(self.mean) else [f"mean={self.mean}, expected a finite number"]
        if problems:
            raise InvalidInput("Beta-Bernoulli matching: found " + "; found ".join(problems))

    @property
    def precision(self) -> float:
        """1 / sigma0^2."""
        return self.sigma0**-2


@dataclass(frozen=True)
class Matching:
    """The units of a layer of several clients as copies of global units.

    Attributes:
        assignments: one per client, LongTensor (U_client,): the global unit of every unit. No two units of a client share one.
        units: number of global units; numbered in the order in which they appear in the first client, the second one, ...
        sweeps: passes over all clients after the first one.
        converged: whether the last pass changed nothing.
    """

    assignments: tuple[Tensor, ...]
    units: int
    sweeps: int
    converged: bool


class _Atoms:
    """The global units as the clients matched so far define them.

    Attributes:
        sums: sum of precision times features over the copies, (L, D).
        precisions: sum of the precisions of the copies, (L,).
        holders: the clients that hold the unit, as bits of a number, L of them.
    """

    def __init__(self, dimensions: int) -> None:
        self.sums = torch.zeros(0, dimensions, dtype=torch.float64)
        self.precisions = torch.zeros(0, dtype=torch.float64)
        self.holders: list[int] = []

    def __len__(self) -> int:
        return len(self.holders)

    def joined(self, client: int, columns: Tensor) -> list[int]:
        """Holders of every atom once a client's units have joined; columns beyond the last atom are new atoms."""
        holders = self.holders + [0] * (int(columns.max()) + 1 - len(self))
        for column in columns.tolist():
            holders[column] |= 1 << client
        return holders

    def add(self, client: int, columns: Tensor, features: Tensor, precision: float) -> None:
        """Adds the units of a client; columns beyond the last atom are new atoms."""
        self.holders = self.joined(client, columns)
        grown = len(self) - len(self.sums)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(grown, self.sums.shape[1])])
        self.precisions = torch.cat([self.precisions, self.precisions.new_zeros(grown)])
        self.sums.index_add_(0, columns, features, alpha=precision)
        self.precisions.index_add_(0, columns, torch.full((len(columns),), precision, dtype=torch.float64))

    def remove(self, client: int, columns: Tensor, features: Tensor, precision: float) -> Tensor:
        """Takes the units of a client out and drops atoms without copies; returns the new number of every old atom, (L,).

        Dropped atoms are numbered after the remaining ones.
        """
        self.sums.index_add_(0, columns, features, alpha=-precision)
        self.precisions.index_add_(0, columns, torch.full((len(columns),), -precision, dtype=torch.float64))
        holders = [bits & ~(1 << client) for bits in self.holders]
        kept = torch.tensor([bits > 0 for bits in holders])
        self.sums, self.precisions = self.sums[kept], self.precisions[kept]
        self.holders = [bits for bits in holders if bits]
        return torch.argsort(torch.argsort((~kept).long(), stable=True))

    def scores(self, features: Tensor, precision: float, clients: int, prior: Prior, new: int) -> Tensor:
        """Twice the gain in log posterior of assigning each unit to each atom, (U, L + new); the last columns are new atoms.

        With s = precision and the sums G_i, S_i of the other clients' copies, the prior included, and count c_i of J clients:
        |s v + G_i|^2 / (s + S_i) - |G_i|^2 / S_i + 2 log(c_i / (J - c_i)) for an atom that others hold, and for the k-th new
        one the same with the prior alone and 2 log(gamma / J) - 2 log k. The client itself is not counted, so that c_i < J.
        """
        start = torch.full((1, features.shape[1]), prior.mean * prior.precision, dtype=torch.float64)
        own = precision * features
        held = _gain(own, precision, start + self.sums, prior.precision + self.precisions)
        counts = torch.tensor([bits.bit_count() for bits in self.holders], dtype=torch.float64)
        held += 2.0 * (counts.log() - (clients - counts).log())
        fresh = _gain(own, precision, start, torch.full((1,), prior.precision, dtype=torch.float64)).expand(-1, new)
        ranks = torch.arange(1, new + 1, dtype=torch.float64)
        return torch.cat([held, fresh + 2.0 * (math.log(prior.gamma / clients) - ranks.log())], 1)


def _gain(own: Tensor, precision: float, sums: Tensor, precisions: Tensor) -> Tensor:
    """|own + sums|^2 / (precision + precisions) - |sums|^2 / precisions for every pair; (U, L)."""
    squares = sums.square().sum(1)
    joint = own.square().sum(1, keepdim=True) + 2.0 * own @ sums.T + squares
    return joint / (precision + precisions) - squares / precisions


def match_units(
    clients: Sequence[Tensor], prior: Prior, *, precisions: Sequence[float], sweeps: int, max_units: int | None,
    generator: torch.Generator,
) -> Matching:  # fmt: skip
    """The units of one layer in several clients, matched to global units whose number is inferred.

    Probabilistic federated neural matching (Yurochkin et al. 2019, arXiv 1905.12022, Sec. 3): given the assignments of the
    other clients, those of one client are a rectangular assignment problem over the global units that others hold and new
    ones (see `_Atoms.scores`), solved exactly. The widest client comes first, ties in random order; then all are matched again,
    each against all others, in a new random order every sweep, until a sweep changes nothing. A change is kept only if it raises
    the posterior of all clients together, so that this ends.

    Args:
        clients: features of the units of each client, (U_client, D).
        prior: the process.
        precisions: weight of each client; its units are as precise as `precision / sigma^2`.
        sweeps: passes after the first one at most.
        max_units: most global units; the sum over the clients if None.
        generator: of the orders.

    Raises:
        InvalidInput: features of different length, or `max_units` below the units of a client.
    """
    features = [f.detach().to("cpu", torch.float64) for f in clients]
    lengths = sorted({f.shape[1] for f in features})
    if len(lengths) > 1:
        raise InvalidInput(f"match_units: found units with {lengths} features, expected one number; compare the same weights")
    widest = max(len(f) for f in features)
    limit = sum(len(f) for f in features) if max_units is None else max_units
    if limit < widest:
        raise InvalidInput(f"match_units: found max_units={limit}, expected at least the {widest} units of the widest client")
    scaled = [p / prior.sigma**2 for p in precisions]
    atoms = _Atoms(lengths[0])
    found: dict[int, Tensor] = {}

    def match(client: int) -> bool:
        """Whether the assignment of a client changes."""
        own, precision = features[client], scaled[client]
        previous = None
        if client in found:
            numbers = atoms.remove(client, found[client], own, precision)
            found.update({other: numbers[columns] for other, columns in found.items()})
            previous = found[client]
        new = min(len(own), limit - len(atoms))
        found[client] = _assign(atoms, client, atoms.scores(own, precision, len(features), prior, new), previous)
        atoms.add(client, found[client], own, precision)
        return previous is None or not torch.equal(found[client], previous)

    for client in sorted(_shuffled(len(features), generator), key=lambda c: -len(features[c])):
        match(client)
    done, changed = 0, len(features) > 1
    while changed and done < sweeps:
        changed = sum(match(client) for client in _shuffled(len(features), generator)) > 0
        done += 1
    assignments, units = _renumbered([found[client] for client in range(len(features))])
    return Matching(assignments, units, done, not changed)


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    return [int(i) for i in torch.randperm(count, generator=generator)]


def _assign(atoms: _Atoms, client: int, scores: Tensor, previous: Tensor | None) -> Tensor:
    """The column of every row that maximises the sum of scores, each used once, or the previous ones if they are no worse.

    They are compared by twice the log posterior of all clients together.
    """
    _, chosen = linear_sum_assignment(scores.numpy(), maximize=True)
    columns = torch.as_tensor(chosen, dtype=torch.long)
    if previous is None:
        return columns
    gain = _value(atoms, client, scores, columns) - _value(atoms, client, scores, previous)
    return columns if gain > TIE * float(scores.abs().max()) else previous


def _value(atoms: _Atoms, client: int, scores: Tensor, columns: Tensor) -> float:
    """Twice the log posterior but for a constant.

    The scores count 1 / k! for the k new atoms of the client. The process has 1 / K_h! for the K_h atoms of every set h of
    clients that holds some (Griffiths and Ghahramani 2011, JMLR 12), which a client that joins or leaves others changes too:
    by the scores alone, two clients may take turns in leaving each other.
    """
    alike = Counter(atoms.joined(client, columns)).values()
    new = int((columns >= len(atoms)).sum())
    total = float(scores[torch.arange(len(columns)), columns].sum())
    return total + 2.0 * (math.lgamma(new + 1) - sum(math.lgamma(count + 1) for count in alike))


def _renumbered(assignments: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], int]:
    """The same partition with global units numbered in order of appearance, and their number."""
    numbers: dict[int, int] = {}
    for columns in assignments:
        for column in columns.tolist():
            numbers.setdefault(column, len(numbers))
    return tuple(torch.tensor([numbers[c] for c in columns.tolist()], dtype=torch.long) for columns in assignments), len(numbers)
