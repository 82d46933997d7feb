"""The linear-message encoder: states of all units under random codes, swept forward and backward through the network.

Every node's state holds one value per code and position. Forward, states travel through the weights and the network's own
nonlinearities; backward, codes of the outputs travel through the transposed weights. The codes are shared by the two networks
of a pair, so units that play the same part have correlated states, whatever the architecture. Nothing here is learned and
nothing depends on the number of layers, units, inputs or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphalign.architecture import Architecture
from graphalign.codes import input_codes
from graphalign.converted import sample_of
from graphalign.program import Program, sweep
from graphalign.spec import NetworkSpec

MAX_POSITIONS = 64
"""Positions of a feature map that are compared, per code; more are sampled."""
CHUNK_VALUES = 8_000_000
"""Activation entries held at once, over the codes of one chunk."""
MULTIPLY_BUDGET = 2e10
"""Multiplications of one forward sweep over all codes, from which the number of codes follows."""
FEWEST_CODES = 16
"""Codes of networks so large that the budget allows no more."""
MOST_CODES = 4096
MOST_IMAGES = 256
"""Most codes of a network whose units have feature maps: every position is a sample."""
Sweep = Callable[[Program, Mapping[str, Tensor], Mapping[str, Tensor], Sequence[Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""Forward and backward states by step, as `graphalign.program.sweep`."""


@dataclass(frozen=True)
class Tap:
    """Where the states of a cell are read.

    Attributes:
        step: the activation.
        cell: the cell.
        units: units of the cell that it carries, (V,).
        firsts: flat index of the first entry of each of them, (V,).
        offsets: of its entries from there, (R,) if they are the same for all units, (V, R) otherwise.
    """

    step: str
    cell: str
    units: Tensor
    firsts: Tensor
    offsets: Tensor

    @property
    def positions(self) -> Tensor:
        """Flat index of every entry of each of the units, (V, R)."""
        return self.firsts[:, None] + self.offsets


def find_taps(
    architecture: Architecture, generator: torch.Generator, max_positions: int | None = MAX_POSITIONS
) -> tuple[Tap, ...]:
    """Every activation that a weight reads, cell by cell; at most `max_positions` entries per unit, the same for all units.

    Args:
        architecture: whose activations are meant.
        generator: chooses positions where there are more.
        max_positions: entries per unit of one activation; all of them if None.
    """
    offsets = architecture.offsets
    taps = []
    for step, labels in architecture.reads.items():
        flat = labels.reshape(-1)
        distinct = labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.stride())].unique()
        for cell in architecture.spec.cells:
            first = offsets[cell.name]
            if not bool(((distinct >= first) & (distinct < first + cell.units)).any()):
                continue
            where = torch.nonzero((flat >= first) & (flat < first + cell.units)).flatten()
            if not len(where):
                continue
            units, order = torch.sort(flat[where] - first, stable=True)
            present, counts = torch.unique_consecutive(units, return_counts=True)
            if len(present) < 2 or int(counts.min()) != int(counts.max()):
                continue
            positions = where[order].reshape(len(present), -1)
            if max_positions is not None and positions.shape[1] > max_positions:
                chosen = torch.randperm(positions.shape[1], generator=generator)[:max_positions].sort().values
                positions = positions[:, chosen]
            apart = positions - positions[:, :1]
            same = bool((apart == apart[0]).all())
            # clones, for the storage of what was found is that of all entries
            taps.append(Tap(step, cell.name, present.clone(), positions[:, 0].clone(), apart[0].clone() if same else apart))
    return tuple(taps)


def forward_cost(architecture: Architecture) -> float:
    """Multiplications of one code's way through the network."""
    shapes = {layer.step: layer.shape for layer in architecture.layers}
    cost = 0.0
    for block in architecture.blocks:
        weights = 1
        for n in architecture.spec.shapes[block.tensor]:
            weights *= n
        outputs = 1
        for n in shapes.get(block.step, ()):
            outputs *= n
        cost += weights * max(outputs // max(len(block.target), 1), 1)
    return max(cost, 1.0)


def code_count(architecture: Architecture) -> int:
    """Number of codes that the multiplication budget allows; the same for every network of the architecture."""
    spatial = any(layer.cells and len(layer.shape) > 3 for layer in architecture.layers)
    return int(min(max(MULTIPLY_BUDGET / forward_cost(architecture), FEWEST_CODES), MOST_IMAGES if spatial else MOST_CODES))


@dataclass
class Moments:
    """Running sums of the products of states of A and B at one tap (Chan, Golub and LeVeque 1979); of P pairs with a first axis P.

    Attributes:
        samples: number of codes times positions.
        mean_a, mean_b: (V,) means.
        square_a, square_b: (V,) sums of squared deviations.
        product: (V, V) sum of products of deviations.
    """

    centred: bool
    samples: int = 0
    mean_a: Tensor = field(default_factory=lambda: torch.zeros(()))
    mean_b: Tensor = field(default_factory=lambda: torch.zeros(()))
    square_a: Tensor = field(default_factory=lambda: torch.zeros(()))
    square_b: Tensor = field(default_factory=lambda: torch.zeros(()))
    product: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, a: Tensor, b: Tensor) -> None:
        """Adds states of shape (V, samples), or (P, V, samples)."""
        count = a.shape[-1]
        mean_a, mean_b = (a.mean(-1), b.mean(-1)) if self.centred else (torch.zeros_like(a[..., 0]), torch.zeros_like(b[..., 0]))
        a, b = a - mean_a[..., None], b - mean_b[..., None]
        total = self.samples + count
        if not self.samples:
            self.mean_a, self.mean_b = mean_a, mean_b
            self.square_a, self.square_b, self.product = a.square().sum(-1), b.square().sum(-1), a @ b.mT
        else:
            shift_a, shift_b = mean_a - self.mean_a, mean_b - self.mean_b
            factor = self.samples * count / total
            self.square_a = self.square_a + a.square().sum(-1) + factor * shift_a.square()
            self.square_b = self.square_b + b.square().sum(-1) + factor * shift_b.square()
            add = self.product.addmm_ if self.product.dim() == 2 else self.product.baddbmm_
            add(torch.cat([a, factor * shift_a[..., None]], -1), torch.cat([b, shift_b[..., None]], -1).mT)
            self.mean_a = self.mean_a + shift_a * (count / total)
            self.mean_b = self.mean_b + shift_b * (count / total)
        self.samples = total

    def cosine(self) -> Tensor:
        """(V, V) correlations (cosines if not centred); rows and columns without variation are zero."""
        return self.product / _norm(self.square_a)[..., None] / _norm(self.square_b)[..., None, :]

    def into_cosine(self) -> Tensor:
        """`cosine` in the memory of the products, which are gone afterwards."""
        return self.product.div_(_norm(self.square_a)[..., None]).div_(_norm(self.square_b)[..., None, :])

    def covariance(self) -> Tensor:
        """(V, V) means of the products of deviations."""
        return self.product / max(self.samples, 1)

    def inner_product(self) -> Tensor:
        """(V, V) means of the products of the states themselves."""
        return self.covariance() + self.mean_a[:, None] * self.mean_b[None]


def _norm(squares: Tensor) -> Tensor:
    """Norms with a floor far below the layer's typical one, so that units which never react score zero."""
    return squares.sqrt() + 1e-6 * squares.mean(-1, keepdim=True).sqrt() + torch.finfo(squares.dtype).tiny


@dataclass(frozen=True)
class Agreement:
    """How alike the units of two networks are.

    Attributes:
        forward: by cell, (U, U) mean correlation of forward states; (P, U, U) of P pairs.
        backward: by cell, (U, U) mean cosine of backward states; (P, U, U) of P pairs.
    """

    forward: Mapping[str, Tensor]
    backward: Mapping[str, Tensor]


def encode_pair(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None, *,
    seed: int = 0, codes: int | None = None,
) -> Agreement:  # fmt: skip
    """Sweeps the same codes through two networks and compares the states of their units.

    Args:
        architecture: shared by the two.
        a: parameters and buffers of A, floating-point ones of one type.
        b: those of B, on the same device.
        inputs: codes by placeholder name, (C, *shape); drawn at random if None.
        seed: of codes and sampled positions.
        codes: number of codes drawn; from the multiplication budget if None.
    """
    generator = torch.Generator().manual_seed(seed)
    program, sample = Program(architecture), sample_of(a)
    taps = find_taps(architecture, generator)
    chunks = code_chunks(program, codes or code_count(architecture), sample, generator, inputs)
    return compare(program, taps, a, b, chunks, sample, sweep, rows_at)


def compare(
    program: Program, taps: Sequence[Tap], a: Mapping[str, Tensor], b: Mapping[str, Tensor],
    chunks: Iterable[tuple[dict[str, Tensor], list[Tensor]]], sample: Tensor, run: Sweep, rows: Callable[[Tap, Mapping[str, Tensor]], Tensor],
) -> Agreement:  # fmt: skip
    """The agreement of two networks, or of stacks of them.

    Args:
        program: that all run.
        taps: where states are read.
        a: tensors of A.
        b: those of B.
        chunks: codes of the inputs and of the outputs.
        sample: a tensor of the type and device of the result.
        run: makes the states.
        rows: reads them at a tap, (V, samples) or (P, V, samples).
    """
    moments = {(tap.step, tap.cell, kind): Moments(centred=kind == "forward") for tap in taps for kind in ("forward", "backward")}
    done = 0
    for values, cotangents in chunks:
        if not program.vectorised and done >= FEWEST_CODES:
            break  # one code at a time is slow: the fewest must do
        done += len(next(iter(values.values())))
        for kind, states_a, states_b in zip(
            ("forward", "backward"), run(program, a, values, cotangents), run(program, b, values, cotangents), strict=True
        ):
            for tap in taps:
                moments[(tap.step, tap.cell, kind)].add(rows(tap, states_a), rows(tap, states_b))
    cosines = ([moments[(tap.step, tap.cell, kind)].cosine() for tap in taps] for kind in ("forward", "backward"))
    return Agreement(*(mean_over_taps(program.architecture.spec, taps, values, sample) for values in cosines))


def rows_at(tap: Tap, activations: Mapping[str, Tensor]) -> Tensor:
    """States of the units of a tap, (V, codes * positions).

    Args:
        tap: where they are read.
        activations: (C, *shape) by step.
    """
    states = activations[tap.step]
    flat = states.reshape(states.shape[0], -1)
    positions = tap.positions
    chosen = flat[:, positions.flatten().to(flat.device, non_blocking=True)].reshape(flat.shape[0], *positions.shape)
    return chosen.transpose(0, 1).reshape(len(tap.units), -1)


def mean_over_taps(spec: NetworkSpec, taps: Sequence[Tap], values: Sequence[Tensor], sample: Tensor) -> dict[str, Tensor]:
    """Scores by cell, (U, U) or (P, U, U): of every pair of units the mean over the taps that carry both; zero where there is none.

    Args:
        spec: names the cells.
        taps: where the units are read.
        values: (V, V) for each tap, or (P, V, V).
        sample: a tensor of the type and device of the result.
    """
    stacks = values[0].shape[:-2] if values else ()
    scores = {cell.name: torch.zeros(*stacks, cell.units, cell.units, dtype=sample.dtype, device=sample.device) for cell in spec.cells}
    counts = {cell.name: torch.zeros(cell.units, cell.units, dtype=sample.dtype, device=sample.device) for cell in spec.cells}
    for tap, value in zip(taps, values, strict=True):
        units = tap.units.to(sample.device, non_blocking=True)
        rows, columns = units[:, None], units[None]
        scores[tap.cell][..., rows, columns] += value
        counts[tap.cell][rows, columns] += 1
    return {name: s / counts[name].clamp(min=1) for name, s in scores.items()}


def code_chunks(
    program: Program, count: int, sample: Tensor, generator: torch.Generator, given: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
    """Codes of all inputs, drawn or given, and of all floating-point outputs, in chunks that bound the memory of a sweep."""
    sizes = chunk_sizes(program.architecture, len(next(iter(given.values()))) if given else count)
    for index, number in enumerate(sizes):
        start = sum(sizes[:index])
        inputs = (
            {n: t[start : start + number] for n, t in given.items()} if given else random_inputs(program, number, sample, generator)
        )
        outputs = [out for out in program.outputs() if out.is_floating_point()]
        cotangents = [torch.randn(number, *(int(n) for n in out.shape), generator=generator).to(sample) for out in outputs]
        yield inputs, cotangents


def chunk_size(architecture: Architecture) -> int:
    """Most examples that are swept at once, which bounds the memory; at least 1."""
    held = sum(_numel(layer.shape) for layer in architecture.layers) or 1
    return max(1, CHUNK_VALUES // held)


def chunk_sizes(architecture: Architecture, count: int) -> list[int]:
    """`count` examples in parts of `chunk_size`; the last may be smaller, or larger by less than a quarter: few examples cost like many."""
    size = chunk_size(architecture)
    sizes = [min(size, count - start) for start in range(0, count, size)]
    return [*sizes[:-2], sum(sizes[-2:])] if len(sizes) > 1 and 4 * sizes[-1] < size else sizes


def random_inputs(
    program: Program, count: int, sample: Tensor, generator: torch.Generator,
    draw: Callable[[tuple[int, ...], int, torch.Generator], Tensor] = input_codes,
) -> dict[str, Tensor]:  # fmt: skip
    """Values for all inputs of a network, (C, *shape) by placeholder name: `draw` for floating-point ones, uniform for tokens.

    Args:
        program: the network.
        count: number of examples C.
        sample: a tensor of the type and device of the floating-point values.
        generator: source of randomness, on the CPU.
        draw: from the shape of an example input, the count and the generator to values.
    """
    inputs: dict[str, Tensor] = {}
    for name, example in program.inputs.items():
        shape = tuple(int(n) for n in example.shape)
        if example.is_floating_point():
            inputs[name] = draw(shape, count, generator).to(sample)
        elif name in program.vocabularies:
            inputs[name] = torch.randint(program.vocabularies[name], (count, *shape), generator=generator).to(sample.device)
        else:
            inputs[name] = torch.ones(count, *shape, dtype=example.dtype, device=sample.device)
    return inputs


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
