"""The demonstration: pairs of four architectures, trained here, aligned by one and the same model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from graphalign.alignment import Alignment
from graphalign.batch_norm import reset_statistics
from graphalign.connectivity import barrier, interpolate
from graphalign.converters.graph import neuron_graph
from graphalign.data import digits, loader
from graphalign.demo_networks import NETWORKS
from graphalign.demo_report import LABELS, Measurement, Report, Result, write
from graphalign.drawing import draw_layers
from graphalign.evaluation import Loader
from graphalign.experiments.results import output_folder
from graphalign.experiments.training import fit, initialise
from graphalign.files import AnyPath, save_state
from graphalign.pairwise import align

Progress = Callable[[str], None]
STEPS = len(NETWORKS) * (len(LABELS) + 3)
"""How often a run reports progress: two trainings, the methods and the files of every architecture."""


@dataclass(frozen=True)
class Settings:
    """How long the demonstration trains and how finely it measures.

    Attributes:
        epochs: passes of each network over the training images.
        images: training images, at most 1,348.
        points: points of each interpolation curve.
        rate: learning rate of Adam.
        batch: images per training step.
    """

    epochs: int = 8
    images: int = 1348
    points: int = 25
    rate: float = 1e-3
    batch: int = 64


FULL = Settings()
QUICK = Settings(epochs=2, images=512, points=5)


def run(out: AnyPath, seed: int = 0, settings: Settings = FULL, progress: Progress = lambda _: None) -> Report:
    """Trains, aligns and compares a pair of networks of every architecture, and writes everything into a folder.

    Args:
        out: folder, created if it does not exist; files of an earlier run in it are replaced.
        seed: of the initialisations, the order of the training images and the aligner.
        settings: `FULL`, or `QUICK` for a first look.
        progress: told what comes next, `STEPS` times.

    Raises:
        InvalidInput: the folder cannot be written, or a package of the extra "demo" is missing.
    """
    folder = output_folder(out)
    with _one_thread():
        report = _run(folder, seed, settings, progress)
    write(report, folder)
    return report


def _run(folder: Path, seed: int, settings: Settings, progress: Progress) -> Report:
    start = time.perf_counter()
    train, test = TensorDataset(*digits("train")[: settings.images]), digits("test")
    results = []
    for name, (title, factory) in NETWORKS.items():
        progress(f"{title}: training network A")
        a = train_network(factory, train, 2 * seed, settings)
        progress(f"{title}: training network B")
        b = train_network(factory, train, 2 * seed + 1, settings)
        measurements = {}
        for method, label in LABELS.items():
            progress(f"{title}: {label}")
            alignment = align(a, b, example_input=train[:1][0], method=method, seed=seed)
            measurements[method] = measure(a, b, alignment, train, test, settings)
        progress(f"{title}: writing checkpoints and the layer graph")
        _write_networks(folder / name, a, b, alignment, loader(train))
        draw_layers(neuron_graph(a, train[:1][0]), folder / name / "layers.png")
        results.append(Result(name, title, sum(p.numel() for p in a.parameters()), measurements))
    return Report(tuple(results), seed, asdict(settings), time.perf_counter() - start)


def train_network(factory: Callable[[], nn.Module], train: TensorDataset, seed: int, settings: Settings) -> nn.Module:
    """A trained network in eval mode; `seed` decides its initialisation and the order of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = factory()
        initialise(network)
    x, y = train.tensors
    return fit(network, x, y, epochs=settings.epochs, batch=settings.batch, rate=settings.rate, seed=seed)


def measure(
    a: nn.Module, b: nn.Module, alignment: Alignment, train: TensorDataset, test: TensorDataset, settings: Settings
) -> Measurement:
    """The test loss between A and the aligned B; BatchNorm statistics are estimated again on the training images."""
    curve = barrier(a, alignment.apply(b), loader(test), points=settings.points, reset_batch_norm=loader(train))
    return Measurement(curve, 1000 * alignment.seconds)


def _write_networks(folder: Path, a: nn.Module, b: nn.Module, alignment: Alignment, train: Loader) -> None:
    folder.mkdir(exist_ok=True)
    aligned = alignment.apply(b)
    merged = reset_statistics(interpolate(a, aligned, 0.5), train)
    for name, network in (("a", a), ("b", b), ("b_aligned", aligned), ("merged", merged)):
        save_state(network.state_dict(), folder / f"{name}.safetensors", force=True)
    alignment.save(folder / "alignment.safetensors", force=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for networks this small: more gain nothing, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
