"""Several loss curves as one: mean and spread over pairs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from graphalign.curve import Curve, Values, new_figure, save_figure
from graphalign.errors import InvalidInput
from graphalign.files import AnyPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class MeanCurve:
    """Mean and standard deviation of loss curves, one for each pair of networks (or seed).

    Standard deviations are those of a sample (n - 1), and 0 for a single curve.

    Attributes:
        curves: the curves, with the same lambdas.
    """

    curves: tuple[Curve, ...]

    @property
    def lambdas(self) -> Values:
        """Increasing, from 0 to 1, shape (P,)."""
        return self.curves[0].lambdas

    @property
    def losses(self) -> Values:
        """Mean loss at each lambda, shape (P,)."""
        return _mean([c.losses for c in self.curves])

    @property
    def losses_std(self) -> Values:
        """Standard deviation of the loss at each lambda, shape (P,)."""
        return _std([c.losses for c in self.curves])

    @property
    def psi(self) -> Values:
        """Mean excess of the loss over the chord, shape (P,)."""
        return _mean([c.psi for c in self.curves])

    @property
    def psi_std(self) -> Values:
        """Standard deviation of the excess, shape (P,)."""
        return _std([c.psi for c in self.curves])

    @property
    def accuracies(self) -> Values | None:
        """Mean accuracy at each lambda, shape (P,), or None where some curve has none."""
        found = [c.accuracies for c in self.curves if c.accuracies is not None]
        return _mean(found) if len(found) == len(self.curves) else None

    @property
    def accuracies_std(self) -> Values | None:
        """Standard deviation of the accuracy at each lambda, shape (P,), or None."""
        found = [c.accuracies for c in self.curves if c.accuracies is not None]
        return _std(found) if len(found) == len(self.curves) else None

    @property
    def barrier_of_mean(self) -> float:
        """Largest mean excess: never above the mean of the barriers, since the curves peak at different lambdas."""
        return float(self.psi.max())

    @property
    def mean(self) -> dict[str, float]:
        """Means of the figures of `Curve.summary` that all curves have; "barrier" is the mean of the pairs' barriers."""
        return {name: float(np.mean(values)) for name, values in self._figures().items()}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviations of the same figures."""
        return {name: float(_std([np.float64(v) for v in values])) for name, values in self._figures().items()}

    def _figures(self) -> dict[str, list[float]]:
        summaries = [c.summary() for c in self.curves]
        return {name: [s[name] for s in summaries] for name in summaries[0] if all(name in s for s in summaries)}

    def draw(self, axes: Axes, label: str | None = None, color: str = "C0") -> None:
        """Adds the mean loss and a band of one standard deviation to matplotlib axes."""
        _band(axes, self.lambdas, self.losses, self.losses_std, label, color)
        axes.set_ylabel("loss")

    def plot(self, path: AnyPath) -> None:
        """Draws mean loss and, where there are classes, mean accuracy to a PNG, SVG or PDF file, replacing it atomically.

        Raises:
            InvalidInput: matplotlib is missing, the ending is unknown, or the folder cannot be written.
        """
        panels = 1 if self.accuracies is None else 2
        figure = new_figure(4.0 if panels == 1 else 7.0, 2.8)
        loss = figure.add_subplot(1, panels, 1)
        self.draw(loss)
        loss.set_title(f"barrier {self.mean['barrier']:.3f} ± {self.std['barrier']:.3f}")
        if self.accuracies is not None and self.accuracies_std is not None:
            accuracy = figure.add_subplot(1, panels, 2)
            _band(accuracy, self.lambdas, 100 * self.accuracies, 100 * self.accuracies_std, None, "C0")
            accuracy.set_ylabel("accuracy (%)")
            accuracy.set_title(f"midpoint {100 * self.mean['midpoint_accuracy']:.1f} ± {100 * self.std['midpoint_accuracy']:.1f} %")
        save_figure(figure, path)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={self.mean[name]:.4g}±{self.std[name]:.2g}" for name in self.mean)
        return f"MeanCurve({len(self.curves)} curves of {len(self.lambdas)} points, {figures})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(n)}</th><td>{self.mean[n]:.4g}</td><td>± {self.std[n]:.2g}</td></tr>" for n in self.mean)
        return f"<table><caption>Mean of {len(self.curves)} curves</caption>{rows}</table>"


def mean_curve(curves: Sequence[Curve]) -> MeanCurve:
    """Mean and standard deviation of loss curves.

    Raises:
        InvalidInput: no curve, or curves with different lambdas.
    """
    if not curves:
        raise InvalidInput("mean_curve: found no curve, expected at least one; pass results of graphalign.barrier")
    different = [i for i, c in enumerate(curves) if not np.array_equal(c.lambdas, curves[0].lambdas)]
    if different:
        raise InvalidInput(
            f"mean_curve: found other lambdas in curves {different} than in curve 0; measure all of them with the same points="
        )
    return MeanCurve(tuple(curves))


def _mean(values: Sequence[Values]) -> Values:
    mean: Values = np.mean(values, axis=0)
    return mean


def _std(values: Sequence[Values | np.float64]) -> Values:
    spread: Values = np.std(values, axis=0, ddof=1 if len(values) > 1 else 0)
    return spread


def _band(axes: Axes, x: Values, mean: Values, std: Values, label: str | None, color: str) -> None:
    axes.plot(x, mean, label=label, color=color)
    axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel(r"$\lambda$   (0: network B, 1: network A)")
