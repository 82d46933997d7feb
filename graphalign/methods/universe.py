"""Alignment of n networks of one architecture through a universe of slots that all of them are moved into.

Network k has an element of the group: the permutations that bring its units into the universe. The alignment of any network
into the order of any other goes through the universe, so that alignments composed around a cycle of networks cancel exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.assignment import assign_spec
from graphalign.errors import InvalidInput
from graphalign.files import check_weights
from graphalign.methods.frank_wolfe import frank_wolfe, soften
from graphalign.methods.joint_objective import joint_objective, place
from graphalign.methods.merge_many import merge_many
from graphalign.methods.problem import Problem, Solution
from graphalign.methods.weight import MAX_RESTARTS, Weight
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors

ALGORITHMS = ("merge_many", "frank_wolfe")
STARTS = ("weight", "identity", "random", "merge_many")

Element = Mapping[str, Tensor]


@dataclass(frozen=True)
class UniverseSolution:
    """Permutations of n networks into one universe.

    Attributes:
        spec: what may move.
        elements: one element of the group per network: `elements[k][cell][i]` is the unit of network k that goes to universe
            slot i.
        objective: sum over pairs of networks of the inner products of their weights in universe slots.
        objectives: the objective at the start and after every sweep or iteration; Frank-Wolfe counts softly placed weights
            until its matrices are rounded.
        seed: of everything random.
    """

    spec: NetworkSpec
    elements: tuple[dict[str, Tensor], ...]
    objective: float
    objectives: tuple[float, ...]
    seed: int = 0

    def pairwise(self, i: int, j: int) -> Alignment:
        """The alignment of network j into the order of network i: into the universe, and out of it again.

        `pairwise(i, j).compose(pairwise(h, i))` equals `pairwise(h, j)` exactly.

        Raises:
            InvalidInput: there is no such network.
        """
        count = len(self.elements)
        if not (0 <= i < count and 0 <= j < count):
            raise InvalidInput(f"pairwise: found networks {i} and {j}, expected numbers from 0 to {count - 1}")
        return Alignment(
            self.spec, group.compose(self.elements[j], group.inverse(self.elements[i])), "universe", self.seed
        )  # fmt: skip


@dataclass(frozen=True)
class Universe:
    """Two networks, or n by `universe`, aligned through a universe of slots.

    Attributes:
        algorithm: "merge_many": coordinate ascent (Ainsworth et al. 2023, arXiv 2209.04836); or "frank_wolfe": conditional
            gradient over doubly stochastic matrices (Crisostomi et al. 2024, arXiv 2405.17897), rounded and then improved by
            the former.
        start: "weight": every network matched to the reference by weight matching; "identity": networks as they are; "random":
            random elements; "merge_many": what MergeMany finds from weight matching, for Frank-Wolfe only.
        softness: for Frank-Wolfe: share of the mean of all permutations in the matrices it starts from, below 1. At 0 it starts
            from permutations, where it is stuck if no single cell can be improved.
        restarts: further runs, each with the next network as the reference and other random numbers; the best is returned. At most 10,000.
    """

    algorithm: str = "merge_many"
    start: str = "weight"
    softness: float = 0.5
    restarts: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.algorithm not in ALGORITHMS:
            problems.append(f"algorithm: found {self.algorithm!r}, expected one of {', '.join(ALGORITHMS)}")
        if self.start not in STARTS:
            problems.append(f"start: found {self.start!r}, expected one of {', '.join(STARTS)}")
        elif self.start == self.algorithm:
            problems.append("start: found 'merge_many', which is what runs; expected another start, or algorithm='frank_wolfe'")
        if not 0 <= self.softness < 1:
            problems.append(f"softness: found {self.softness}, expected at least 0 and less than 1")
        if not 0 <= self.restarts <= MAX_RESTARTS:
            problems.append(f"restarts: found {self.restarts}, expected 0 to {MAX_RESTARTS}")
        if problems:
            raise InvalidInput("universe cannot run with these settings:\n" + "\n".join(f"  - {p}" for p in problems))

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem: A and B as two networks, B's way into A's order."""
        start = None if problem.start is None else (group.identity(problem.spec), problem.start)
        found = self.solve(problem.spec, (problem.a, problem.b), start=start, seed=problem.seed)
        return Solution(
            dict(found.pairwise(0, 1).permutations), objective=found.objective, losses=found.objectives
        )  # fmt: skip

    def solve(
        self, spec: NetworkSpec, states: Sequence[Element], *, start: Sequence[Element] | None = None, reference: int = 0,
        seed: int = 0,
    ) -> UniverseSolution:  # fmt: skip
        """The best of `1 + restarts` runs; see `universe` for arguments and errors."""
        _check(spec, states, start, reference)
        weights = _weights(spec, states)
        generator = torch.Generator().manual_seed(seed)
        best: UniverseSolution | None = None
        for run in range(1 + self.restarts):
            first = self._start(spec, weights, (reference + run) % len(states), generator) if start is None else start
            found = self._run(spec, weights, first, generator, seed)
            if best is None or found.objective > best.objective:
                best = found
        assert best is not None
        return best

    def _start(
        self, spec: NetworkSpec, weights: Sequence[Element], reference: int, generator: torch.Generator
    ) -> Sequence[Element]:
        if self.start == "random":
            return [group.random_element(spec, generator) for _ in weights]
        elements: list[Element] = [group.identity(spec) for _ in weights]
        if self.start != "identity":
            for k, own in enumerate(weights):
                if k != reference:
                    seed = int(torch.randint(2**31, (), generator=generator))
                    elements[k] = Weight()(Problem(spec, weights[reference], own, seed)).permutations
        if self.start == "merge_many":
            return merge_many(spec, weights, elements, generator)[0]
        return elements

    def _run(
        self, spec: NetworkSpec, weights: Sequence[Element], start: Sequence[Element], generator: torch.Generator, seed: int
    ) -> UniverseSolution:
        objectives: list[float] = []
        if self.algorithm == "frank_wolfe" and len(weights) > 1 and weights[0]:
            like = next(iter(weights[0].values()))
            soft, objectives = frank_wolfe(spec, weights, [soften(spec, e, self.softness, like) for e in start])
            rounded = [assign_spec(spec, own) for own in soft]
            start = max(start, rounded, key=lambda elements: joint_objective(_placed(spec, elements, weights)))
        elements, swept = merge_many(spec, weights, start, generator)
        return UniverseSolution(spec, tuple(elements), swept[-1], (*objectives, *swept), seed)


def universe(
    spec: NetworkSpec, states: Sequence[Element], *, algorithm: str = "merge_many", start: str | Sequence[Element] = "weight",
    softness: float = 0.5, restarts: int = 0, reference: int = 0, seed: int = 0,
) -> UniverseSolution:  # fmt: skip
    """The permutations of n networks into one universe that maximise sum_{p<q} <U_p, U_q>.

    U_k are the parameters of network k with its units in universe slots; maximising the sum minimises the squared distances
    between all pairs. Running statistics move with their units and are not compared. The algorithms are described in
    `merge_many` and `frank_wolfe`, the settings in `Universe`.

    Args:
        spec: what may move.
        states: parameters and buffers of each network by state-dict key, in its own order; at least one network. Half
            precision is computed in float32.
        algorithm: "merge_many" or "frank_wolfe".
        start: "weight", "identity", "random" or "merge_many", or an element of the group per network.
        softness: of the matrices that Frank-Wolfe starts from.
        restarts: further runs.
        reference: the network that the others are first matched to.
        seed: of everything random.

    Raises:
        InvalidInput: no network, no such reference, unknown settings, weights that are not finite, elements that do not belong
            to the spec.
        SpecMismatch: a network does not have the tensors of the spec.
    """
    name = start if isinstance(start, str) else "identity"
    settings = Universe(algorithm, name, softness, restarts)
    return settings.solve(
        spec, states, start=None if isinstance(start, str) else start, reference=reference, seed=seed
    )  # fmt: skip


def _placed(spec: NetworkSpec, elements: Sequence[Element], weights: Sequence[Element]) -> list[dict[str, Tensor]]:
    return [place(spec, element, own) for element, own in zip(elements, weights, strict=True)]


def _weights(spec: NetworkSpec, states: Sequence[Element]) -> list[dict[str, Tensor]]:
    """The tensors to match, in float32 or float64, of the device and dtype of the first network."""
    first = {n: states[0][n].detach() for n in matched_tensors(spec)}
    first = {n: t if t.dtype == torch.float64 else t.float() for n, t in first.items()}
    return [{n: state[n].detach().to(t.device, t.dtype) for n, t in first.items()} for state in states]


def _check(spec: NetworkSpec, states: Sequence[Element], start: Sequence[Element] | None, reference: int) -> None:
    if not states:
        raise InvalidInput("universe: found no network, expected at least one")
    if not 0 <= reference < len(states):
        raise InvalidInput(f"universe: found reference={reference}, expected the number of a network, 0 to {len(states) - 1}")
    for k, state in enumerate(states):
        group.check_state(spec, state, f"network {k}")
        check_weights({n: t for n, t in state.items() if n in spec.shapes}, f"network {k}")
    if start is not None:
        if len(start) != len(states):
            found = f"{len(start)} elements to start from and {len(states)} networks"
            raise InvalidInput(f"universe: found {found}, expected one each")
        for element in start:
            group.check_element(spec, element)
