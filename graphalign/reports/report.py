"""The report on an alignment or a merge, and how it is made."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import graphalign
from graphalign.alignment import Alignment
from graphalign.averaging import averaging_weights
from graphalign.converters.chain import chain_network
from graphalign.curve import save_figure
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss, Score, evaluate
from graphalign.files import AnyPath, atomic_write, load_state
from graphalign.pairwise import Network, weights_of
from graphalign.reports.figures import in_style, report_figures
from graphalign.reports.page import page
from graphalign.reports.pair import PairReport, has_targets, measure_pair
from graphalign.skeleton import with_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
MERGED = "merged"
"""What the result of a merge is called in its scores."""


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What was aligned, how far it succeeded, and what to know before relying on it.

    Attributes:
        title: heading.
        pairs: one per network that was aligned.
        scores: by network, loss and accuracy of the merged network and those it was made of; empty for an alignment or without labelled data.
        weights: by network, its share in the merged one; empty for an alignment.
    """

    title: str
    pairs: tuple[PairReport, ...]
    scores: Mapping[str, Score]
    weights: Mapping[str, float]

    def figures(self) -> dict[str, Figure]:
        """New matplotlib figures by name ("interpolation", "cells", "similarity", "distance"; of a merge with the number of the pair).

        Raises:
            InvalidInput: matplotlib is missing.
        """
        return report_figures(self.pairs)

    def save_figures(self, folder: AnyPath, kind: str = "pdf", force: bool = False) -> list[Path]:
        """Writes every figure to NAME.pdf (or .png, .svg) in an existing folder, each atomically, and returns the paths.

        Raises:
            InvalidInput: matplotlib is missing, another kind, a file that exists without `force`, or a folder that cannot be written.
        """
        if kind not in FORMATS:
            raise InvalidInput(f"save_figures: found kind={kind!r}, expected one of {', '.join(FORMATS)}")
        figures = {Path(folder) / f"{name}.{kind}": figure for name, figure in self.figures().items()}
        if not force and (there := [str(path) for path in figures if path.exists()]):
            raise InvalidInput(f"save_figures: {', '.join(there)} exist already; pass force=True to replace them, or another folder")
        with in_style():
            for path, figure in figures.items():
                save_figure(figure, path)
        return list(figures)

    def html(self) -> str:
        """The report as one HTML page that needs nothing else: pictures are embedded, nothing is fetched, nothing runs.

        Raises:
            InvalidInput: matplotlib is missing.
        """
        return page(self.title, self.pairs, self.scores, self.weights, versions(), self.figures())

    def save(self, path: AnyPath, force: bool = False) -> None:
        """Writes the page, which appears complete or not at all.

        Raises:
            InvalidInput: matplotlib is missing, the file exists and `force` is not set, or its folder cannot be written.
        """
        with atomic_write(path, force=force) as draft:
            # a name from a file may hold half a surrogate pair, which UTF-8 has no code for
            draft.write_bytes(self.html().encode("utf-8", "xmlcharrefreplace"))

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, with versions, method and seed, ready for JSON; numbers that are not finite are None."""
        return {
            "title": self.title,
            "versions": versions(),
            "pairs": [_pair_dict(pair) for pair in self.pairs],
            "scores": {name: {"loss": _finite(s.loss), "accuracy": s.accuracy} for name, s in self.scores.items()},
            "weights": dict(self.weights),
        }

    def __repr__(self) -> str:
        return f"Report({self.title!r}, {len(self.pairs)} {'pair' if len(self.pairs) == 1 else 'pairs'})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(' to '.join(reversed(pair.names)))}</th><th>{escape(name)}</th><td>{value:.4g}</td></tr>"
            for pair in self.pairs
            for name, value in pair.summary().items()
        )
        return f"<table><caption>{escape(self.title)}</caption>{rows}</table>"


def alignment_report(
    a: Network, b: Network, alignment: Alignment, *, data: Loader | None = None, example_input: Any = None,
    loss: Loss = "cross_entropy", points: int = 25, reset_batch_norm: Loader | None = None, module: nn.Module | None = None,
    compared: Mapping[str, Alignment] | None = None, names: tuple[str, str] | None = None, title: str | None = None,
    fixed: tuple[str, ...] = (), seed: int = 0,
) -> Report:  # fmt: skip
    """A report on an alignment of B to A.

    It holds loss and accuracy on the line between the networks before and after, the similarity of units (correlation of
    activations) and the distance of weights layer by layer, the change of the function of B in float64, and what could not move.

    Args:
        a: module, state dict or path, as in `graphalign.align`; left as it is.
        b: the same, its units as they are.
        alignment: what `graphalign.align` returned for the two.
        data: held-out batches: units are compared on their inputs, and curves are measured if they have labels. Without
            data units are compared on random inputs, and there are no curves.
        example_input: as in `graphalign.align`.
        loss: of the curves, as in `graphalign.barrier`.
        points: of the curves, as in `graphalign.barrier`.
        reset_batch_norm: training batches, as in `graphalign.barrier`.
        module: the network that two state dicts or files are weights of, as in `graphalign.align`.
        compared: other alignments of the same networks by name, such as those of other methods; rows shared with each are shown.
        names: of A and of B; file names, or "network A" and "network B", if None.
        title: of the report.
        fixed: what was passed to `align`.
        seed: of random inputs.

    Raises:
        SpecMismatch: an alignment belongs to another architecture than the networks.
        InvalidInput, UnsupportedNetwork, CorruptFile: as `graphalign.align` and `graphalign.barrier`.
    """
    called = names or (_name(a, "network A"), _name(b, "network B"))
    pair = measure_pair(
        a, b, alignment, names=called, data=data, loss=loss, points=points, reset_batch_norm=reset_batch_norm,
        example_input=example_input, module=module, fixed=fixed, compared=compared or {}, seed=seed,
    )  # fmt: skip
    return Report(title or f"Alignment of {called[1]} to {called[0]}", (pair,), {}, {})


def merge_report(
    models: Sequence[Network], alignments: Sequence[Alignment], merged: Network, *, reference: int = 0,
    weights: Sequence[float] | None = None, data: Loader | None = None, example_input: Any = None, loss: Loss = "cross_entropy",
    points: int = 25, reset_batch_norm: Loader | None = None, module: nn.Module | None = None, names: Sequence[str] | None = None,
    title: str | None = None, fixed: tuple[str, ...] = (), seed: int = 0,
) -> Report:  # fmt: skip
    """A report on the merge of n networks: one part per network that was aligned, and the scores of all of them and of the result.

    Args:
        models: what was merged, as in `graphalign.merge`.
        alignments: one for every model but the reference, in their order, as passed to `graphalign.merge(method=...)`.
        merged: what `merge` returned; loss and accuracy of it are measured if there are labelled data.
        reference: number of the model in whose order the result is.
        weights: of the models, as in `merge`; equal ones if None.
        data: as in `alignment_report`, and for the scores.
        example_input: as in `alignment_report`.
        loss: as in `alignment_report`.
        points: as in `alignment_report`.
        reset_batch_norm: as in `alignment_report`.
        module: as in `alignment_report`.
        names: of the models; file names or "network i" if None.
        title: of the report.
        fixed: what was passed to `merge`.
        seed: of random inputs.

    Raises:
        InvalidInput: numbers of models, alignments, names and weights that do not fit together; and as `alignment_report`.
        SpecMismatch, UnsupportedNetwork, CorruptFile: as `alignment_report`.
    """
    count = len(models)
    problems = []
    if len(alignments) != count - 1:
        problems.append(f"{len(alignments)} alignments for {count} models, expected one for each but the reference")
    if not 0 <= reference < count:
        problems.append(f"reference={reference}, expected the number of a model, 0 to {count - 1}")
    if names is not None and (len(names) != count or len({*names, MERGED}) <= count):
        problems.append(f"names {list(names)}, expected {count} different ones, none of them {MERGED!r}")
    if problems:
        raise InvalidInput("merge_report: found " + "; found ".join(problems))
    shares = averaging_weights(weights, count)
    called = list(names) if names is not None else [_name(model, f"network {i}") for i, model in enumerate(models)]
    if len(set(called)) < count:  # files of one name in several folders
        called = [f"{name} ({i})" for i, name in enumerate(called)]
    loaded = [load_state(model) if isinstance(model, (str, Path)) else model for model in models]
    orders = list(alignments)
    pairs = tuple(
        measure_pair(
            loaded[reference], loaded[i], orders.pop(0), names=(called[reference], called[i]), data=data, loss=loss, points=points,
            reset_batch_norm=reset_batch_norm, example_input=example_input, module=module, fixed=fixed, compared={}, seed=seed,
        )
        for i in range(count) if i != reference
    )  # fmt: skip
    scores = {}
    if data is not None and has_targets(data, loss):
        template = next((network for network in (merged, *loaded, module) if isinstance(network, nn.Module)), None)
        networks = dict(zip((*called, MERGED), (*loaded, load_state(merged) if isinstance(merged, (str, Path)) else merged), strict=True))
        scores = {name: evaluate(_runnable(network, template, name), data, loss) for name, network in networks.items()}
    return Report(title or f"Merge of {count} networks", pairs, scores, dict(zip(called, shares, strict=True)))


def versions() -> dict[str, str]:
    """Versions of what a report depends on."""
    return {"graphalign": graphalign.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _name(network: Network, otherwise: str) -> str:
    return Path(network).name if isinstance(network, (str, Path)) else otherwise


def _runnable(network: nn.Module | Mapping[str, Tensor], template: nn.Module | None, name: str) -> nn.Module:
    """A copy of a network in eval mode; a state dict becomes one of the template's kind."""
    state = weights_of(network, name)
    return with_tensors(chain_network(state)[0] if template is None else template, state, name)


def _pair_dict(pair: PairReport) -> dict[str, Any]:
    parts = {name: {"before": change.before, "after": change.after} for name, change in pair.distance.parts.items()}
    cells = {
        cell.name: {
            "units": cell.units,
            "correlation_before": float(cell.before.mean()),
            "correlation_after": float(cell.after.mean()),
            "most_similar": cell.nearest,
            "silent_a": cell.silent[0],
            "silent_b": cell.silent[1],
        }
        for cell in pair.cells
    }
    curves = {
        which: {"lambdas": c.lambdas.tolist(), "losses": [_finite(v) for v in c.losses.tolist()],
                "accuracies": None if c.accuracies is None else c.accuracies.tolist()}
        for which, c in zip(("before", "after"), pair.curves or (), strict=False)
    }  # fmt: skip
    return {
        "a": pair.names[0],
        "b": pair.names[1],
        "method": pair.alignment.method,
        "seed": pair.alignment.seed,
        "seconds": _finite(pair.alignment.seconds),
        "parameters": pair.parameters,
        "inputs": pair.inputs,
        "summary": {name: _finite(value) for name, value in pair.summary().items()},
        "distances": parts,
        "cells": cells,
        "curves": curves,
        "agreements": {name: {"total": found.total, **found.cells} for name, found in pair.agreements.items()},
        "fixed": [{"name": f.name, "count": f.count, "reason": f.reason} for f in pair.alignment.spec.fixed],
        "remarks": list(pair.remarks),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
