"""Loss barriers between every two of several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from graphalign import group
from graphalign.connectivity import barrier
from graphalign.curve import Curve, new_figure, save_figure
from graphalign.curves import MeanCurve, mean_curve
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss
from graphalign.files import AnyPath
from graphalign.tensors import require_same_tensors

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class PairwiseBarriers:
    """The loss barriers between every two of n networks whose units have been aligned.

    Attributes:
        names: of the networks, n of them.
        curves: by pair (i, j), i < j: the curve with network i at lambda = 1 and network j at lambda = 0.
    """

    names: tuple[str, ...]
    curves: Mapping[tuple[int, int], Curve]

    @property
    def barriers(self) -> Matrix:
        """Loss barrier of every pair, symmetric with a zero diagonal, shape (n, n)."""
        return self._matrix([curve.barrier for curve in self.curves.values()])

    @property
    def accuracy_barriers(self) -> Matrix | None:
        """Accuracy barrier of every pair, shape (n, n), or None where there are no classes."""
        values = [v for curve in self.curves.values() if (v := curve.accuracy_barrier) is not None]
        return self._matrix(values) if len(values) == len(self.curves) else None

    @property
    def mean(self) -> float:
        """Mean loss barrier over the pairs."""
        return float(np.mean([curve.barrier for curve in self.curves.values()]))

    @property
    def max(self) -> float:
        """Largest loss barrier."""
        return float(np.max([curve.barrier for curve in self.curves.values()]))

    @property
    def worst(self) -> tuple[str, str]:
        """Names of the two networks with the largest loss barrier."""
        i, j = max(self.curves, key=lambda pair: self.curves[pair].barrier)
        return self.names[i], self.names[j]

    def mean_curve(self) -> MeanCurve:
        """Mean and spread of the curves of all pairs."""
        return mean_curve(list(self.curves.values()))

    def plot(self, path: AnyPath) -> None:
        """Draws the matrix of loss barriers to a PNG, SVG or PDF file, replacing it atomically.

        Raises:
            InvalidInput: matplotlib is missing, the ending is unknown, or the folder cannot be written.
        """
        figure = new_figure(1.5 + 0.5 * len(self.names), 1.0 + 0.5 * len(self.names))
        axes = figure.add_subplot()
        image = axes.imshow(self.barriers, vmin=0.0, cmap="viridis")
        axes.set_xticks(range(len(self.names)), self.names)
        axes.set_yticks(range(len(self.names)), self.names)
        axes.set_title(f"mean {self.mean:.3f}, largest {self.max:.3f}")
        figure.colorbar(image, label="loss barrier")
        save_figure(figure, path)

    def _matrix(self, values: Sequence[float]) -> Matrix:
        matrix = np.zeros((len(self.names), len(self.names)))
        for (i, j), value in zip(self.curves, values, strict=True):
            matrix[i, j] = matrix[j, i] = value
        return matrix

    def __repr__(self) -> str:
        first, second = self.worst
        return f"PairwiseBarriers({len(self.names)} networks, mean={self.mean:.4g}, max={self.max:.4g} ({first}, {second}))"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.names)
        rows = "".join(
            f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{value:.3f}</td>" for value in row) + "</tr>"
            for name, row in zip(self.names, self.barriers, strict=True)
        )
        return f"<table><caption>{escape(repr(self))}</caption><tr><th></th>{head}</tr>{rows}</table>"


def pairwise_barriers(
    models: Sequence[nn.Module], loader: Loader, loss: Loss = "cross_entropy", points: int = 25,
    reset_batch_norm: Loader | None = None, names: Sequence[str] | None = None,
) -> PairwiseBarriers:  # fmt: skip
    """Loss barriers between every two of n networks; see `graphalign.barrier`.

    Args:
        models: two or more networks of one architecture, aligned to one another (all to one reference, or in a universe).
        loader: held-out batches.
        loss: "cross_entropy", "mse" or a callable of (outputs, batch).
        points: values of lambda on every line.
        reset_batch_norm: training batches on which every network of every line gets new BatchNorm statistics.
        names: of the networks; their numbers if None.

    Raises:
        InvalidInput: fewer than two networks, names that do not fit them, or as `graphalign.barrier`.
        SpecMismatch: the networks differ in names or shapes; lists all differences.
    """
    if len(models) < 2:
        raise InvalidInput(f"pairwise_barriers: found {len(models)} network, expected two or more")
    labels = tuple(map(str, range(len(models)) if names is None else names))
    if len(labels) != len(models) or len(set(labels)) < len(labels):
        raise InvalidInput(f"pairwise_barriers: found names {list(labels)}, expected {len(models)} different ones")
    require_same_tensors({f"network {label}": group.all_tensors(model) for label, model in zip(labels, models, strict=True)})
    curves = {
        (i, j): barrier(models[i], models[j], loader, loss, points, reset_batch_norm)
        for i, j in combinations(range(len(models)), 2)
    }
    return PairwiseBarriers(labels, curves)
