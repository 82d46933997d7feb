"""The pictures of the page on concepts. Everything in them is computed: networks are traced, trained on digits and aligned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from graphalign.aligner import Aligner
from graphalign.alignment import Alignment
from graphalign.assignment import assign
from graphalign.connectivity import barrier
from graphalign.converters.graph import neuron_graph
from graphalign.curve import new_figure, save_figure
from graphalign.data import digits, loader
from graphalign.demo import FULL, train_network
from graphalign.demo_networks import CLASSES, BasicBlock
from graphalign.documentation.drawn import BLUE, ORANGE, UNITS, draw_network, heat_map, matrix
from graphalign.drawing import draw_layers
from graphalign.encoder import find_taps, rows_at
from graphalign.experiments.results import output_folder
from graphalign.group import apply_to_module
from graphalign.pairwise import Pair, align, prepare_pair
from graphalign.program import Program, activations
from graphalign.reports.figures import in_style

WIDTH = 7.0
CODES = 40
SHOWN_CODES = 9


def draw_pictures(folder: Path) -> list[Path]:
    """Draws every picture into a folder, which is made if it is missing, and returns the paths.

    Raises:
        InvalidInput: the folder cannot be written, or a package of the extra "demo" is missing.
    """
    folder = output_folder(folder)
    with in_style():
        for name, draw in (("symmetry", symmetry), ("neuron_graph", kernels), ("pass", one_pass), ("barrier", line)):
            draw(folder / f"{name}.png")
    draw_layers(neuron_graph(_residual(), torch.zeros(1, 1, 8, 8)), folder / "layers.png")
    return [folder / f"{name}.png" for name in ("symmetry", "neuron_graph", "pass", "barrier", "layers")]


def symmetry(path: Path) -> None:
    """A network and the same network with its hidden units in another order, as graphs and as matrices."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    perm = torch.tensor([2, 0, 3, 1])
    graph = neuron_graph(network, x)
    moved = apply_to_module(graph.spec, {graph.spec.cells[0].name: perm}, network)
    figure = new_figure(WIDTH, 1.8)
    panels = figure.subplots(1, 6, width_ratios=(3, 1, 1.2, 3, 1, 1.2))
    for start, net, order, title in ((0, network, torch.arange(4), "network"), (3, moved, perm, "the same network, units in another order")):
        state = net.state_dict()
        first, last = state["0.weight"], state["2.weight"]
        colours = [UNITS[int(i)] for i in order]
        draw_network(panels[start], [3, 4, 2], [first, last], [None, colours, None])
        panels[start].set_title(title, loc="left")
        matrix(panels[start + 1], first, "rows of $W_1$", row_colours=colours)
        matrix(panels[start + 2], last, "columns of $W_2$", column_colours=colours)
    save_figure(figure, path)


def kernels(path: Path) -> None:
    """The neuron graph of a tiny CNN: an edge carries a kernel, or the weights of all positions of a flatten."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).eval()
    graph = neuron_graph(network, torch.zeros(1, 1, 8, 8))
    conv, linear = graph.blocks
    filters = graph.weight(conv).detach().reshape(3, 1, 3, 3)
    positions = graph.weight(linear).detach().reshape(2, 3, 2, 2)
    figure = new_figure(WIDTH * 0.85, 2.6)
    axes = figure.add_subplot()
    weights = [filters.mean((2, 3)), positions.mean((2, 3))]
    draw_network(axes, [1, 3, 2], weights, [None, list(UNITS[:3]), None], tiles=[filters, positions])
    axes.set_xlim(-0.45, 2.45)
    for place, text in enumerate(("input\n1 channel", "convolution, ReLU, pooling\n3 channels, one cell", "linear\n2 outputs")):
        axes.text(place, 0.03, text, ha="center", va="top", fontsize=7.5)
    axes.text(0.5, 0.97, "a kernel per edge", ha="center", fontsize=7.5)
    axes.text(1.5, 0.97, "a weight per position and edge", ha="center", fontsize=7.5)
    save_figure(figure, path)


def one_pass(path: Path) -> None:
    """Codes, the states of the units of a layer in both networks, their scores, and the scores after the assignment."""
    pair, _ = _pair()
    aligner = Aligner.from_pretrained()
    codes = aligner.codes(pair.architecture, pair.a, pair.b)
    cell = pair.spec.cells[1]
    chosen = {name: values[:CODES] for name, values in codes.items()}
    states = [_states(pair, tensors, chosen, cell.name) for tensors in (pair.a, pair.b)]
    with torch.no_grad():
        scores = aligner.scores(pair.architecture, pair.a, pair.b, codes)[cell.name]
    perm = assign(scores)
    order = scores.gather(1, perm[:, None])[:, 0].argsort(descending=True)  # of A's units, which is free: the best matches come first
    scores, perm, states[0] = scores[order], perm[order], states[0][order]
    figure = new_figure(WIDTH, 2.0)
    panels = figure.subplots(1, 5, width_ratios=(1, 1.3, 1.3, 1, 1))
    images = next(iter(chosen.values()))[:SHOWN_CODES].reshape(3, 3, 8, 8)
    padded = nn.functional.pad(images, (0, 1, 0, 1), value=float("nan"))
    panels[0].imshow(padded.permute(0, 2, 1, 3).reshape(27, 27)[:-1, :-1].numpy(), cmap="gray")
    panels[0].set_title("1 codes", loc="left")
    for axes, rows, title in zip(panels[1:3], states, ("2 states in A", "2 states in B"), strict=True):
        heat_map(axes, _standardised(rows), 2.5, "auto")
        axes.set_title(title, loc="left")
        axes.set_xlabel("codes")
    panels[1].set_ylabel("units")
    bound = float(scores.abs().max())
    for axes, values, title, label in ((panels[3], scores, "3 scores", "units of B"), (panels[4], scores[:, perm], "4 assigned", "aligned B")):
        heat_map(axes, values, bound)
        axes.set_title(title, loc="left")
        axes.set_xlabel(label)
    panels[3].set_ylabel("units of A")
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(True)
    save_figure(figure, path)


def line(path: Path) -> None:
    """The loss on the line between two networks, before and after, and what the barrier is."""
    (a, b), (_, alignment) = _networks(), _pair()
    test = loader(digits("test"))
    before, after = barrier(a, b, test), barrier(a, alignment.apply(b), test)
    figure = new_figure(WIDTH * 0.6, 2.5)
    axes = figure.add_subplot()
    axes.plot(before.lambdas, before.losses, color=ORANGE, linestyle="--", label="B as it is")
    axes.plot(after.lambdas, after.losses, color=BLUE, label="B aligned")
    axes.plot([0, 1], [before.losses[0], before.losses[-1]], color="0.6", linestyle=":", label="chord")
    top = int(before.psi.argmax())
    chord = float(before.losses[top] - before.psi[top])
    axes.annotate(
        "", (before.lambdas[top], before.losses[top]), (before.lambdas[top], chord), arrowprops={"arrowstyle": "<->", "color": "0.3", "linewidth": 0.8}
    )
    axes.text(before.lambdas[top] + 0.02, (before.losses[top] + chord) / 2, "barrier", color="0.3", va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xticks([0, 0.5, 1], ["B", "average", "A"])
    axes.set_xlabel(r"$\lambda$, share of A")
    axes.set_ylabel("test loss")
    axes.legend(loc="upper left")
    save_figure(figure, path)


def _residual() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))
    return nn.Sequential(OrderedDict(stem=stem, block1=BasicBlock(16, 16, 1), block2=BasicBlock(16, 32, 2), head=head)).eval()


def _perceptron() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise((64, 24, 24)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(24, CLASSES))


@cache
def _networks() -> tuple[nn.Module, nn.Module]:
    train = digits("train")
    return train_network(_perceptron, train, 0, FULL), train_network(_perceptron, train, 1, FULL)


@cache
def _pair() -> tuple[Pair, Alignment]:
    a, b = _networks()
    x = digits("test")[:1][0]
    return prepare_pair(a, b, x), align(a, b, example_input=x)


def _states(pair: Pair, tensors: Mapping[str, Tensor], codes: Mapping[str, Tensor], cell: str) -> Tensor:
    """States of the units of a cell where they are read first, (U, codes)."""
    tap = next(tap for tap in find_taps(pair.architecture, torch.Generator().manual_seed(0)) if tap.cell == cell)
    return rows_at(tap, activations(Program(pair.architecture), tensors, codes))


def _standardised(rows: Tensor) -> Tensor:
    return (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True).clamp(min=1e-6)
