"""Activations of two networks on the same inputs, compared unit by unit in one pass, whatever the architecture.

Activations are read where a weight or an attention product reads them: after the nonlinearity, and for a residual stream at every
place where the sum is read. Every example, every position of a feature map and every token is a sample. Statistics are kept
as running moments, so that memory does not grow with the data. The traced program computes what the network does in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from graphalign.architecture import Architecture
from graphalign.codes import input_codes
from graphalign.encoder import (
    Moments,
    Tap,
    chunk_size,
    chunk_sizes,
    code_count,
    find_taps,
    mean_over_taps,
    random_inputs,
    rows_at,
)
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader
from graphalign.example_batches import example_batches
from graphalign.program import Program, activations

Kind = Literal["correlation", "covariance", "inner_product"]
Synthetic = Literal["gaussian", "images"]


def correlations(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], loader: Loader | None = None, *,
    max_positions: int | None = None, samples: int | None = None, synthetic: Synthetic = "gaussian", seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Pearson correlation of every unit of A with every unit of B; see `scores`.

    Between A and an aligned B the diagonals are the correlations of matched units (for REPAIR in closed form and as a measure).
    """
    return scores(architecture, a, b, loader, max_positions=max_positions, samples=samples, synthetic=synthetic, seed=seed)


def scores(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], loader: Loader | None = None, *,
    kind: Kind = "correlation", max_positions: int | None = None, samples: int | None = None, synthetic: Synthetic = "gaussian",
    seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """How alike the activations of every unit of A and of B are; (U, U) by cell, rows are units of A, columns units of B.

    For activations x of a unit of A and y of one of B: the correlation cov(x, y) / (sd(x) sd(y)), the covariance, or the inner
    product E[x y]; the mean over all activations that carry both units. A unit that never reacts has correlation and covariance 0.

    Args:
        architecture: shared by the two networks.
        a: parameters and buffers of A by state-dict key.
        b: those of B; moved to the device of A. Both are computed with in float64 if one of them is, else in float32.
        loader: batches of inputs or of (inputs, labels), as in `graphalign.evaluation.evaluate`, shaped as the example input but
            for the number of examples: (N, ...) for an example (B, ...) or for an example without a batch axis. Inputs with
            exactly the example's shape count as one batch of it. If N is no multiple of B the last N mod B examples are left out.
            Without a loader inputs are drawn at random.
        kind: "correlation", "covariance" or "inner_product".
        max_positions: positions and tokens of one activation that are compared, per batch of the example's size; all if None.
        samples: number of random inputs; if None, as many as the encoder uses for this network.
        synthetic: random inputs: "gaussian", white noise; or "images", which differ from it only for images: half smooth noise of
            several scales, half dead leaves (see `graphalign.codes`). Tokens are uniform.
        seed: of random inputs and of sampled positions.

    Raises:
        InvalidInput: an unknown kind, inputs that do not fit the example input, activations that are not finite; and as
            `graphalign.evaluation.batches`.
    """
    check_settings(kind, max_positions, samples, synthetic)
    found = moments(architecture, a, b, loader, max_positions=max_positions, samples=samples, synthetic=synthetic, seed=seed)
    value = {"correlation": Moments.cosine, "covariance": Moments.covariance, "inner_product": Moments.inner_product}[kind]
    taps, values = [tap for tap, _ in found], [value(m) for _, m in found]
    sample = values[0] if values else next(t for t in a.values() if t.is_floating_point())
    return mean_over_taps(architecture.spec, taps, values, sample)


def moments(
    architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], loader: Loader | None = None, *,
    max_positions: int | None = None, samples: int | None = None, synthetic: Synthetic = "gaussian", seed: int = 0,
) -> list[tuple[Tap, Moments]]:  # fmt: skip
    """Means and products of the activations of both networks, at every place where they are read; arguments as for `scores`.

    Raises:
        InvalidInput: as `scores`.
    """
    check_settings("correlation", max_positions, samples, synthetic)
    generator = torch.Generator().manual_seed(seed)
    program = Program(architecture)
    states = _in_one_type(a, b)
    sample = next(t for t in states[0].values() if t.is_floating_point())
    found = [(tap, Moments(centred=True)) for tap in find_taps(architecture, generator, max_positions)]
    chunks: Iterator[dict[str, Tensor]]
    if loader is None:
        draw = {"gaussian": _gaussian, "images": input_codes}[synthetic]
        sizes = chunk_sizes(architecture, samples or code_count(architecture))
        chunks = (random_inputs(program, size, sample, generator, draw) for size in sizes)
    else:
        chunks = example_batches(program, loader, sample, chunk_size(architecture))
    for inputs in chunks:
        read_a, read_b = (activations(program, state, inputs) for state in states)
        for tap, moment in found:
            moment.add(rows_at(tap, read_a), rows_at(tap, read_b))
    _check_finite(architecture, found)
    return found


def check_settings(kind: str, max_positions: int | None, samples: int | None, synthetic: str) -> None:
    """Returns nothing if `scores` knows the settings.

    Raises:
        InvalidInput: lists those with an unknown value.
    """
    choices = {"kind": (kind, get_args(Kind)), "synthetic": (synthetic, get_args(Synthetic))}
    problems = [f"{n}={v!r}, expected one of {', '.join(c)}" for n, (v, c) in choices.items() if v not in c]
    counts = {"max_positions": max_positions, "samples": samples}
    problems += [f"{n}={v!r}, expected at least 1 or None" for n, v in counts.items() if v is not None and v < 1]
    if problems:
        raise InvalidInput("activations: found " + "; ".join(problems))


def _gaussian(shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, *shape, generator=generator)


def _in_one_type(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both networks on the device of A, floating-point tensors in float64 if there are any, else in float32."""
    wide = torch.float64 if any(t.dtype == torch.float64 for s in (a, b) for t in s.values()) else torch.float32
    device = next(t.device for t in a.values() if t.is_floating_point())
    first, second = ({n: t.detach().to(device, wide if t.is_floating_point() else t.dtype) for n, t in s.items()} for s in (a, b))
    return first, second


def _check_finite(architecture: Architecture, found: Sequence[tuple[Tap, Moments]]) -> None:
    """Sums of squares show every NaN and infinity that came by."""
    problems = []
    for name, squares in (("A", "square_a"), ("B", "square_b")):
        bad = [tap for tap, m in found if not bool(getattr(m, squares).isfinite().all())]
        if bad:
            later = f", and at {len(bad) - 1} later places" if len(bad) > 1 else ""
            problems.append(f"network {name}: at {_place(architecture, bad[0].step)}, in units of cell '{bad[0].cell}'{later}")
    if problems:
        raise InvalidInput(
            "activations: found NaN, infinity or values too large to be squared, expected finite activations:\n"
            + "\n".join(f"  - {p}" for p in problems) + "\nCheck the weights and the inputs, or pass networks in float64."
        )  # fmt: skip


def _place(architecture: Architecture, step: str) -> str:
    layer = next((layer for layer in architecture.layers if layer.step == step), None)
    return f"step '{step}'" + (f" (module '{layer.module}')" if layer is not None and layer.module else "")
