"""The loss along the line between two networks, and the figures that summarise it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphalign.errors import NO_MATPLOTLIB, InvalidInput
from graphalign.files import AnyPath, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = NDArray[np.float64]
PICTURES = (".png", ".svg", ".pdf")
"""Endings of pictures."""
LINES = ({"color": "#d55e00", "linestyle": "--"}, {"color": "#009e73", "linestyle": "-."}, {"color": "#0072b2", "linestyle": "-"})
"""Lines of Okabe and Ito's colours that can be told apart without them; the last one for the last curve."""


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """Loss and accuracy of lambda A + (1 - lambda) B: network B is at lambda = 0, network A at lambda = 1.

    Attributes:
        lambdas: increasing, from 0 to 1, shape (P,).
        losses: mean loss at each lambda, shape (P,).
        accuracies: share of correct predictions at each lambda, shape (P,), or None where there are no classes.
        midpoint_loss: mean loss at lambda = 1/2.
        midpoint_accuracy: accuracy at lambda = 1/2, or None.
    """

    lambdas: Values
    losses: Values
    accuracies: Values | None
    midpoint_loss: float
    midpoint_accuracy: float | None

    @property
    def psi(self) -> Values:
        """Excess of the loss over the chord, shape (P,).

        psi(lambda) = L(lambda A + (1 - lambda) B) - [lambda L(A) + (1 - lambda) L(B)]
        """
        return self.losses - self._chord(self.losses)

    @property
    def barrier(self) -> float:
        """Largest excess loss, max psi (Frankle et al. 2020, arXiv 1912.05671); never negative, for psi is 0 at both ends."""
        return float(self.psi.max())

    @property
    def auc(self) -> float:
        """Integral of psi over [0, 1] by trapezoids; negative where the line runs below the chord."""
        return float(np.trapezoid(self.psi, self.lambdas))

    @property
    def auc_clipped(self) -> float:
        """Integral of max(psi, 0) over [0, 1] by trapezoids."""
        return float(np.trapezoid(self.psi.clip(min=0.0), self.lambdas))

    @property
    def accuracy_barrier(self) -> float | None:
        """Largest loss of accuracy against the chord, in [0, 1], or None where there are no classes."""
        if self.accuracies is None:
            return None
        return float((self._chord(self.accuracies) - self.accuracies).max())

    def _chord(self, values: Values) -> Values:
        # at lambda = 0 and 1 this is the end's own value to the last bit, so that psi is exactly 0 there
        chord: Values = self.lambdas * values[-1] + (1.0 - self.lambdas) * values[0]
        return chord

    def summary(self) -> dict[str, float]:
        """The scalar figures by name, ready for JSON; accuracies only where there are classes."""
        figures = {
            "barrier": self.barrier,
            "auc": self.auc,
            "auc_clipped": self.auc_clipped,
            "loss_a": float(self.losses[-1]),
            "loss_b": float(self.losses[0]),
            "midpoint_loss": self.midpoint_loss,
        }
        if self.accuracies is not None and self.midpoint_accuracy is not None and self.accuracy_barrier is not None:
            figures |= {
                "accuracy_a": float(self.accuracies[-1]),
                "accuracy_b": float(self.accuracies[0]),
                "midpoint_accuracy": self.midpoint_accuracy,
                "accuracy_barrier": self.accuracy_barrier,
            }
        return figures

    def draw(self, axes: Axes, label: str | None = None, **style: Any) -> None:
        """Adds the loss curve to matplotlib axes; `style` goes to `Axes.plot`."""
        axes.plot(self.lambdas, self.losses, label=label, **style)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel(r"$\lambda$   (0: network B, 1: network A)")
        axes.set_ylabel("loss")

    def plot(self, path: AnyPath) -> None:
        """Draws loss and, where there are classes, accuracy to a PNG, SVG or PDF file, replacing it atomically.

        Raises:
            InvalidInput: matplotlib is missing, the ending is unknown, or the folder cannot be written.
        """
        plot_curves({"": self}, path)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value:.4g}" for name, value in self.summary().items())
        return f"Curve({len(self.lambdas)} points, {figures})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{value:.4g}</td></tr>" for name, value in self.summary().items())
        return f"<table><caption>Curve, {len(self.lambdas)} points</caption>{rows}</table>{self._sketch()}"

    def _sketch(self) -> str:
        """The loss and its chord as a small picture for notebooks, which needs no matplotlib; empty if a loss is not finite."""
        if not np.isfinite(self.losses).all():
            return ""
        low, high = float(self.losses.min()), float(self.losses.max())
        heights = 75 - 70 * (self.losses - low) / (high - low if high > low else 1.0)
        points = " ".join(f"{5 + 230 * x:.1f},{y:.1f}" for x, y in zip(self.lambdas, heights, strict=True))
        return (
            '<svg width="240" height="96" role="img" aria-label="loss from B to A">'
            f'<line x1="5" y1="{heights[0]:.1f}" x2="235" y2="{heights[-1]:.1f}" stroke="#999" stroke-dasharray="3"/>'
            f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2"/>'
            '<text x="5" y="92" font-size="11">B</text><text x="226" y="92" font-size="11">A</text></svg>'
        )


def plot_curves(curves: Mapping[str, Curve], path: AnyPath) -> None:
    """Draws loss and, where there are classes, accuracy of curves to a PNG, SVG or PDF file, replacing it atomically.

    Args:
        curves: by name for the legend, of the same data.
        path: ends in .png, .svg or .pdf.

    Raises:
        InvalidInput: matplotlib is missing, the ending is unknown, or the folder cannot be written.
    """
    classes = all(curve.accuracies is not None for curve in curves.values())
    figure = new_figure(7.0 if classes else 4.0, 2.8 if len(curves) == 1 else 2.7 + 0.2 * len(curves))
    panels = figure.subplots(1, 2 if classes else 1, squeeze=False)[0]
    for i, (name, curve) in enumerate(curves.items()):
        style = LINES[-1 if i == len(curves) - 1 else i % (len(LINES) - 1)]
        curve.draw(panels[0], label=f"{name}: {_in_words(curve)}", **style)
        panels[0].plot(curve.lambdas, curve._chord(curve.losses), color="0.6", linestyle=":", linewidth=0.8)
        if classes and curve.accuracies is not None:
            panels[1].plot(curve.lambdas, 100 * curve.accuracies, **style)
    if classes:
        panels[1].set_xlim(0.0, 1.0)
        panels[1].set_xlabel(r"$\lambda$   (0: network B, 1: network A)")
        panels[1].set_ylabel("accuracy (%)")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=1, frameon=False)
    else:
        figure.suptitle(_in_words(next(iter(curves.values()))), fontsize="medium")
    save_figure(figure, path)


def _in_words(curve: Curve) -> str:
    accuracy = "" if curve.midpoint_accuracy is None else f", accuracy of the average {100 * curve.midpoint_accuracy:.1f} %"
    return f"barrier {curve.barrier:.3f}{accuracy}"


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of `width` x `height` inches that belongs to no window and no global state.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidInput(NO_MATPLOTLIB) from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: AnyPath) -> None:
    """Writes a matplotlib figure to a PNG, SVG or PDF file, replacing it atomically.

    Raises:
        InvalidInput: the ending is unknown, or the folder cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in PICTURES:
        raise InvalidInput(f"{path}: found the ending '{Path(path).suffix}', expected .png, .svg or .pdf; choose one of these")
    with atomic_write(path, force=True) as temporary:
        figure.savefig(temporary, format=ending[1:], dpi=150)
