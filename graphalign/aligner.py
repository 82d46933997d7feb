"""The aligner: encoder, product, log-domain Sinkhorn and linear assignment, as one model for every architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.allocator import give_back
from graphalign.architecture import Architecture
from graphalign.assignment import assign_group, assign_spec
from graphalign.cellwise import CellScores, compare_cells, is_large
from graphalign.codes import input_codes
from graphalign.converted import Converted, sample_of
from graphalign.encoder import FEWEST_CODES, Agreement, chunk_sizes, code_count, encode_pair, forward_cost, random_inputs
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import atomic_write, load_state, save_state
from graphalign.prior import ImagePrior, mixed_codes
from graphalign.program import Program
from graphalign.refiner import Refiner
from graphalign.selection import agreement, choose, class_probabilities
from graphalign.soft import SoftPermutation, soft_permutations
from graphalign.spec import Cell, NetworkSpec
from graphalign.vectorising import vectorise
from graphalign.weight_costs import similarity_cosine

CANDIDATE_BUDGET = 1e10
"""Multiplications of one network on all candidates, from which their number follows for large networks."""
MOST_CHOSEN = 512
"""Codes that are used of those among which is chosen."""
LEAST_CHOICE = 4
"""Candidates per code where the budget allows fewer than asked for: then fewer codes are used."""
SCORE_ENTRIES = 2**24
"""Most entries of the scores of all cells that are held at once."""
PRIOR = "prior."
SHIPPED = Path(__file__).parent / "pretrained"
"""The trained aligner that comes with the package."""


@dataclass(frozen=True)
class AlignerConfig:
    """Settings of an aligner that are not learned.

    Attributes:
        codes: number of codes per network; None lets the cost of the network decide.
        candidates: codes drawn for every one that is used; of networks whose outputs are classes those on which the two agree are
            chosen (see `graphalign.selection`). 1 takes codes as they come.
        made_up: share of random shapes and noise among the candidates where a prior of images gives the others.
        rounds: cross-network rounds, in which weights meet the permutations found so far.
        steps: of refinement (see `graphalign.methods.gnn`).
        sinkhorn_iterations: of `soft_permutations` and of every step.
    """

    codes: int | None = None
    candidates: int = 1
    made_up: float = 0.25
    rounds: int = 2
    steps: int = 10
    sinkhorn_iterations: int = 40

    def __post_init__(self) -> None:
        problems = [f"{name}={value!r}, expected at least 1" for name, value in self._counts() if value < 1]
        problems += [f"{n}={v!r}, expected at least 0" for n, v in (("rounds", self.rounds), ("steps", self.steps)) if v < 0]
        problems += [f"made_up={self.made_up!r}, expected a number from 0 to 1"] if not 0 <= self.made_up <= 1 else []
        if problems:
            raise InvalidInput("aligner: found " + "; ".join(problems))

    def _counts(self) -> list[tuple[str, int]]:
        given = [] if self.codes is None else [("codes", self.codes)]
        return [*given, ("candidates", self.candidates), ("sinkhorn_iterations", self.sinkhorn_iterations)]


class Aligner(nn.Module):
    """Predicts the permutations that align two networks of one architecture, in one pass.

    Scores of units i of A and j of B in a cell: S = forward * correlation of forward states + backward * cosine of backward
    states + kernel * cosine of the weights under the permutations of the neighbouring cells (one round after the other).
    The forward states answer to codes: inputs drawn from a learned prior of images, or random ones, among which those on which the
    two networks agree are used. No parameter depends on the architecture. As it is created nothing is learned: no prior, and scalars
    set by hand.

    Attributes:
        config: what is not learned.
        refiner: the step of refinement.
        prior: distribution of images; None draws random codes.
    """

    def __init__(self, config: AlignerConfig | None = None, prior: ImagePrior | None = None) -> None:
        super().__init__()
        self.config = config or AlignerConfig()
        self.forward_weight = nn.Parameter(torch.tensor(1.0))
        self.backward_weight = nn.Parameter(torch.tensor(0.3))
        self.kernel_weight = nn.Parameter(torch.tensor(0.5))
        self.temperature = nn.Parameter(torch.tensor(0.05))
        self.refiner = Refiner()
        self.prior = prior

    def codes(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0
    ) -> dict[str, Tensor]:
        """The inputs on which the two networks are compared, by placeholder name, (C, *shape).

        Args:
            architecture: shared by the two networks.
            a: parameters and buffers of A by state-dict key, floating-point ones of one type.
            b: those of B.
            seed: of the draw.
        """
        pool, count = self.pool(architecture, sample_of(a), seed=seed)
        if count is None:
            return pool
        return select(pool, count, *(self.opinions(architecture, tensors, pool) for tensors in (a, b)))

    def pool(self, architecture: Architecture, sample: Tensor, *, seed: int = 0) -> tuple[dict[str, Tensor], int | None]:
        """The inputs from which those of a pair are chosen, by placeholder name, and how many at most; None if all of them are used.

        Args:
            architecture: of the networks.
            sample: a tensor of their type and device.
            seed: of the draw.
        """
        generator = torch.Generator().manual_seed(seed)
        program = Program(architecture)
        count = self.config.codes or code_count(architecture)
        if self.config.candidates > 1:
            count = min(count, MOST_CHOSEN)
        most = max(count, int(CANDIDATE_BUDGET / forward_cost(architecture)))
        pool = random_inputs(program, min(self.config.candidates * count, most), sample, generator, self._draw)
        floating = any(example.is_floating_point() for example in program.inputs.values())
        drawn = len(next(iter(pool.values()))) if pool else 0
        all_used = self.config.candidates == 1 or not floating or chosen_of(drawn, count) >= drawn
        return pool, None if all_used else count

    def _draw(self, shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
        if self.prior is None:
            return input_codes(shape, count, generator)
        return mixed_codes(self.prior, self.config.made_up, shape, count, generator)

    def opinions(self, architecture: Architecture, tensors: Mapping[str, Tensor], pool: Mapping[str, Tensor]) -> Tensor | None:
        """What a network says of the inputs of a pool, (C, N, K); see `graphalign.selection.class_probabilities`."""
        program = Program(architecture)
        parts = []
        start = 0
        for size in chunk_sizes(program.architecture, len(next(iter(pool.values())))):
            part = class_probabilities(program, tensors, {n: values[start : start + size] for n, values in pool.items()})
            if part is None:
                return None
            parts.append(part)
            start += size
        return torch.cat(parts)

    def scores(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None, *, seed: int = 0,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Scores by cell, (U, U): rows are units of A, columns units of B.

        F(gA, hB) = g F(A, B) h^T for all g, h of the spec's group, and F(B, A) = F(A, B)^T.

        Args:
            architecture: shared by the two networks.
            a: parameters and buffers of A by state-dict key.
            b: those of B.
            inputs: on which the two are compared, by placeholder name, (C, *shape); `codes` if None.
            seed: of the codes.
        """
        a, b = common_type(a, b)
        inputs = self.codes(architecture, a, b, seed=seed) if inputs is None else inputs
        if is_large(architecture):
            found = dict(self._weighed(compare_cells(architecture, a, b, inputs, seed=seed)))
            give_back()
            return self._with_weights(architecture.spec, a, b, {cell.name: found.pop(cell.name) for cell in architecture.spec.cells})
        return self.combine(architecture.spec, a, b, encode_pair(architecture, a, b, inputs, seed=seed))

    def combine(
        self, spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], agreements: Agreement
    ) -> dict[str, Tensor]:
        """Scores by cell, (U, U), from how alike the states of the units are; differentiable by the parameters.

        Args:
            spec: what may move.
            a: parameters and buffers of A, without derivatives; of P pairs stacked, (P, ...).
            b: those of B.
            agreements: of `encode_pair`, which has no parameters; of P pairs those of `encode_pairs`, and the scores are (P, U, U).
        """
        states = {
            cell.name: self.forward_weight * agreements.forward[cell.name] + self.backward_weight * agreements.backward[cell.name]
            for cell in spec.cells
        }
        return self._with_weights(spec, a, b, states)

    def _with_weights(
        self, spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], states: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The scores of the states and of the weights, round by round."""
        scores = states
        before: dict[str, Tensor] | None = None
        for _ in range(self.config.rounds):
            element = assign_spec(spec, {name: s.detach() for name, s in scores.items()})
            if before is not None and group.same(element, before):
                break  # the next round would be the last one again
            before, scores = element, {}
            for cell in spec.cells:
                scores[cell.name] = torch.addcmul(states[cell.name], self.kernel_weight, self._kernels(spec, cell, a, b, element))
        return scores

    def _kernels(
        self, spec: NetworkSpec, cell: Cell, a: Mapping[str, Tensor], b: Mapping[str, Tensor], element: Mapping[str, Tensor]
    ) -> Tensor:
        if element[cell.name].dim() == 1:
            return similarity_cosine(spec, cell, a, b, element)
        found: Tensor = vectorise(lambda *pair: similarity_cosine(spec, cell, *pair), dict(a), dict(b), dict(element))
        return found

    def permutations(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0
    ) -> dict[str, Tensor]:
        """The permutations of B's units into A's slots that maximise the scores; LongTensor (U,) by cell."""
        return self.solve(architecture, a, b, seed=seed)[0]

    def solve(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None, *, seed: int = 0, whole: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:  # fmt: skip
        """The permutations of B's units into A's slots that maximise the scores, and the scores.

        Where the scores of all cells together would have more than `SCORE_ENTRIES` entries, each cell is assigned as soon as its
        states have been compared and its scores are dropped: the rounds, which need those of all cells at once, are left out, and None
        comes back in the place of the scores.

        Args:
            architecture: shared by the two networks.
            a: parameters and buffers of A by state-dict key.
            b: those of B.
            inputs: as for `scores`.
            seed: of the codes.
            whole: compute and return all scores however large they are.
        """
        with torch.no_grad():
            if whole or score_entries(architecture.spec) <= SCORE_ENTRIES:
                scores = self.scores(architecture, a, b, inputs, seed=seed)
                return assign_spec(architecture.spec, scores), scores
            a, b = common_type(a, b)
            inputs = self.codes(architecture, a, b, seed=seed) if inputs is None else inputs
            return self._assign_cells(architecture.spec, compare_cells(architecture, a, b, inputs, seed=seed)), None

    def _weighed(self, compared: Iterable[CellScores]) -> Iterator[tuple[str, Tensor]]:
        """Cells and the scores of their states, in the memory of what was compared."""
        weights = float(self.forward_weight), float(self.backward_weight)
        for name, forward, backward in compared:
            scores = forward.mul_(weights[0]).add_(backward, alpha=weights[1])
            del forward, backward
            yield name, scores
            del scores

    def _assign_cells(self, spec: NetworkSpec, compared: Iterable[CellScores]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        waiting: dict[str, Tensor] = {}
        for name, scores in self._weighed(compared):
            waiting[name] = scores
            del scores
            cells = spec.groups[spec.by_name[name].group or name]
            if all(cell.name in waiting for cell in cells):
                found.update(assign_group(cells, waiting))
                for cell in cells:
                    del waiting[cell.name]
        return {cell.name: found[cell.name] for cell in spec.cells}

    def soft_permutations(self, spec: NetworkSpec, scores: Mapping[str, Tensor]) -> dict[str, SoftPermutation]:
        """Doubly stochastic matrices by cell, by Sinkhorn of scores / temperature, for training."""
        soft = {name: s / self.temperature for name, s in scores.items()}
        return soft_permutations(spec, soft, self.config.sinkhorn_iterations)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into a folder, each atomically; existing ones are replaced."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_state({n: p.detach() for n, p in self.state_dict().items()}, folder / "model.safetensors", force=True)
        with atomic_write(folder / "config.json", force=True) as draft:
            draft.write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> Aligner:
        """The aligner saved in a folder; without one the trained aligner that comes with the package (graphalign/pretrained/README.md).

        Raises:
            InvalidInput: the folder has no config.json or model.safetensors.
            CorruptFile: the files cannot be read or belong to another model.
        """
        folder = SHIPPED if folder is None else Path(folder)
        missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if missing:
            raise InvalidInput(f"{folder}: found no {' and no '.join(missing)}; pass a folder that save_pretrained wrote")
        try:
            config = AlignerConfig(**json.loads((folder / "config.json").read_text()))
            state = load_state(folder / "model.safetensors")
            learned = {key.removeprefix(PRIOR): tensor for key, tensor in state.items() if key.startswith(PRIOR)}
            aligner = cls(config, ImagePrior.from_state(learned) if learned else None)
            aligner.load_state_dict(state)
        except (InvalidInput, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptFile(f"{folder}: the aligner in it cannot be read ({error})") from None
        return aligner


def common_type(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Converted, Converted]:
    """Two state dicts without derivatives, their floating-point tensors in float64 if A has any of that type, in float32 otherwise."""
    if isinstance(a, Converted) and isinstance(b, Converted):
        return a, b
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in a.values()) else torch.float32
    return Converted(a, dtype), Converted(b, dtype)


def select(pool: Mapping[str, Tensor], count: int, first: Tensor | None, second: Tensor | None) -> dict[str, Tensor]:
    """The inputs of a pool on which two networks agree most; the first ones if their outputs are no classes.

    Args:
        pool: by placeholder name, (C, *shape).
        count: most inputs.
        first: the `Aligner.opinions` of one network.
        second: those of the other.
    """
    if first is None or second is None:
        chosen = torch.arange(count)
    else:
        chosen = choose(*agreement(first, second), chosen_of(len(first), count))
    return {name: values[chosen.to(values.device)] for name, values in pool.items()}


def chosen_of(drawn: int, count: int) -> int:
    """How many inputs are chosen, at most `count`, of those drawn."""
    return max(FEWEST_CODES, min(count, drawn // LEAST_CHOICE))


def score_entries(spec: NetworkSpec) -> int:
    """Entries of the scores of all cells together."""
    return sum(cell.units**2 for cell in spec.cells)
