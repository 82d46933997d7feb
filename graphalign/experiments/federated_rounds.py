"""Ten clients that did not start from one network: averaging as they are against averaging aligned, round after round.

    python -m graphalign.experiments.federated_rounds

trains on the digits that come with scikit-learn, split among clients so that each sees few of the classes, and draws
docs/images/federated.png. In every round each client trains on its own examples and the server averages. The clients of the
first setting go on from the average; those of the second keep their own networks, and the average is only measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.converters.chain import chain_spec
from graphalign.curve import new_figure, save_figure
from graphalign.data import IMAGES, digits, loader
from graphalign.evaluation import evaluate
from graphalign.experiments.results import Table, environment, publish
from graphalign.experiments.training import fit
from graphalign.federated import federated_average
from graphalign.methods.problem import Problem
from graphalign.methods.universe import Universe
from graphalign.methods.weight import Weight
from graphalign.spec import NetworkSpec
from graphalign.zoo.networks import mlp

State = Mapping[str, Tensor]
HIDDEN = (128,)
BATCH = 20
RATE = 3e-3


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        clients: number of clients K.
        rounds: rounds of training and averaging.
        epochs: passes of a client over its examples in one round.
        concentration: of the Dirichlet distribution by which the examples of a class are split; small values make clients differ.
        seeds: repetitions, each with another split and other initialisations.
    """

    clients: int = 10
    rounds: int = 8
    epochs: int = 5
    concentration: float = 0.3
    seeds: int = 3


@dataclass(frozen=True)
class Way:
    """How the server averages.

    Attributes:
        label: in tables and in the figure.
        color: of its line.
        linestyle: of its line.
        aligned: to the average of the last round, if clients went on from it, or else to one another.
        jointly: to one another by `graphalign.methods.universe`; otherwise to the first client by weight matching.
        common: all clients start from one network.
    """

    label: str
    color: str
    linestyle: str
    aligned: bool = False
    jointly: bool = False
    common: bool = False


WAYS = {
    "plain": Way("own initialisations, averaged as they are", "#d55e00", "--"),
    "weight": Way("own initialisations, aligned to one client", "#009e73", "-.", aligned=True),
    "joint": Way("own initialisations, aligned jointly", "#0072b2", "-", aligned=True, jointly=True),
    "common": Way("one initialisation for all, averaged as they are", "0.45", ":", common=True),
}
ADOPT, KEEP = "adopt", "keep"
SETTINGS = {ADOPT: "clients go on from the average", KEEP: "clients keep their own networks"}


def split_by_class(classes: Tensor, clients: int, concentration: float, seed: int, least: int = BATCH) -> list[Tensor]:
    """Indices of the examples of each client: those of a class are shared out by proportions from a Dirichlet distribution.

    The usual model of clients with different data (Hsu et al. 2019, arXiv 1909.06335); shares are drawn again until every client
    has `least` examples.

    Args:
        classes: class of every example, int64 (N,).
        clients: number of clients.
        concentration: of the symmetric Dirichlet distribution; small values give each client few classes.
        seed: of the draws.
        least: examples of the smallest client.
    """
    generator = np.random.default_rng(seed)
    while True:
        parts: list[list[Tensor]] = [[] for _ in range(clients)]
        for label in classes.unique().tolist():
            found = torch.nonzero(classes == label)[:, 0]
            found = found[torch.from_numpy(generator.permutation(len(found)))]
            ends = (np.cumsum(generator.dirichlet([concentration] * clients)) * len(found)).round().astype(int)[:-1]
            for part, chosen in zip(parts, torch.tensor_split(found, ends.tolist()), strict=True):
                part.append(chosen)
        joined = [torch.cat(part) for part in parts]
        if min(map(len, joined)) >= least:
            return joined


def initial(seed: int) -> nn.Sequential:
    """A network as PyTorch draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(HIDDEN, IMAGES["digits"].shape)


def orders(way: Way, spec: NetworkSpec, states: Sequence[State], average: State | None, seed: int) -> list[Alignment] | None:
    """What brings the clients into one order: all that of the average, or all but the first that of the first; None for none."""
    if not way.aligned:
        return None
    reference, others = (states[0], states[1:]) if average is None else (average, states)
    found = [Alignment(spec, Weight()(Problem(spec, reference, other, seed)).permutations, "weight", seed) for other in others]
    if average is not None or not way.jointly:
        return found
    joint = Universe().solve(spec, states, start=[group.identity(spec), *(order.permutations for order in found)], seed=seed)
    return [joint.pairwise(0, k) for k in range(1, len(states))]


def run_rounds(ways: Mapping[str, Way], adopt: bool, settings: Settings, seed: int) -> dict[str, list[dict[str, float]]]:
    """By way, the test accuracy and loss of the average and the mean accuracy of the clients, round by round.

    Args:
        ways: of averaging the same clients; if they go on from the average, one way only.
        adopt: clients go on from the average, or keep their own networks.
        settings: what is run.
        seed: of the split and of the initialisations.
    """
    x, y = digits("train").tensors
    test = loader(digits("test"), 512)
    parts = split_by_class(y, settings.clients, settings.concentration, seed)
    common = any(way.common for way in ways.values())
    networks = [initial(1000 * seed + (0 if common else k)) for k in range(settings.clients)]
    spec = chain_spec(networks[0].state_dict())
    average: State | None = None
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(settings.rounds):
        for k, part in enumerate(parts):
            fit(networks[k], x[part], y[part], epochs=settings.epochs, batch=BATCH, rate=RATE, seed=1000 * seed + 31 * number + k)
        states = [{name: t.clone() for name, t in network.state_dict().items()} for network in networks]
        clients = float(np.mean([evaluate(network, test).accuracy for network in networks]))
        for name, way in ways.items():
            align = orders(way, spec, states, average, seed)
            merged = federated_average(states, [len(p) for p in parts], align=align, reference=0 if average is None else average)
            networks[0].load_state_dict(merged)
            score = evaluate(networks[0], test)
            found[name].append({"accuracy": score.accuracy or 0.0, "loss": score.loss, "clients": clients})
            average = merged if adopt else None
        for network, state in zip(networks, states, strict=True):
            network.load_state_dict(state if average is None else average)
    return found


def measure(settings: Settings, command: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """The results of all ways, settings and seeds."""
    where = environment()
    rows: dict[str, dict[str, list[list[dict[str, float]]]]] = {kind: {name: [] for name in WAYS} for kind in SETTINGS}
    alone = [{name: way} for name, way in WAYS.items()]
    together = [{n: w for n, w in WAYS.items() if not w.common}, {n: w for n, w in WAYS.items() if w.common}]
    for seed in range(settings.seeds):
        for kind, parts in ((ADOPT, alone), (KEEP, together)):
            for ways in parts:
                for name, rounds in run_rounds(ways, kind == ADOPT, settings, seed).items():
                    rows[kind][name].append(rounds)
                    progress(f"seed {seed}, {SETTINGS[kind]}, {name}: accuracy {rounds[0]['accuracy']:.3f} after round 1, {rounds[-1]['accuracy']:.3f} at the end")
    return {"title": "Federated averaging of clients with initialisations of their own", "command": command, "seed": 0, "environment": where,
            "settings": asdict(settings), "rows": rows}  # fmt: skip


def tables(results: Mapping[str, Any]) -> list[Table]:
    """One table per setting: accuracy of the average after some of the rounds."""
    settings = results["settings"]
    shown = sorted({1, 2, 3, 5, 10, settings["rounds"]} & set(range(1, settings["rounds"] + 1)))
    note = (
        f"Digits, {settings['clients']} clients, examples of each class shared out by Dirichlet({settings['concentration']:g}), MLP with {HIDDEN[0]} hidden units, "
        f"{settings['epochs']} epochs per round. Test accuracy of the average in per cent, mean and standard deviation "
        f"over {settings['seeds']} seeds; last row: mean accuracy of the single clients before averaging."
    )
    found = []
    for kind, ways in results["rows"].items():
        columns = ["averaged", *(f"round {number}" for number in shown)]
        rows = [[WAYS[name].label, *(_cell(seeds, number - 1, "accuracy") for number in shown)] for name, seeds in ways.items()]
        rows.append(["single clients", *(_cell(ways["plain"], number - 1, "clients") for number in shown)])
        found.append(Table(SETTINGS[kind], columns, rows, [note]))
    return found


def _values(seeds: Sequence[Sequence[Mapping[str, float]]], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Per cent by seed and round."""
    return 100 * np.array([[entry[key] for entry in rounds] for rounds in seeds])


def _cell(seeds: Sequence[Sequence[Mapping[str, float]]], number: int, key: str) -> str:
    values = _values(seeds, key)[:, number]
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Test accuracy of the average by round, one panel per setting, bands of one standard deviation."""
    figure = new_figure(7.0, 3.2)
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for axes, (kind, title) in zip(panels, SETTINGS.items(), strict=True):
        for name, way in WAYS.items():
            values = _values(results["rows"][kind][name], "accuracy")
            rounds = np.arange(1, values.shape[1] + 1)
            mean, spread = values.mean(0), values.std(0, ddof=1 if len(values) > 1 else 0)
            axes.plot(rounds, mean, label=way.label, linewidth=1.8, color=way.color, linestyle=way.linestyle)
            axes.fill_between(rounds, mean - spread, mean + spread, color=way.color, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("round")
        axes.set_xlim(1, values.shape[1])
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy of the average (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.experiments.federated_rounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help=f"rounds, at least 1 (default {Settings.rounds})")
    parser.add_argument("--seeds", type=int, default=Settings.seeds, help=f"repetitions, at least 1 (default {Settings.seeds})")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where federated.json, .md and .png go (docs/results and docs/images)")
    parser.add_argument("--quick", action="store_true", help="4 clients, 2 rounds, one seed; writes only to --out")
    options = parser.parse_args(arguments)
    for name in ("rounds", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: found {getattr(options, name)}, expected at least 1")
    settings = replace(Settings(), rounds=options.rounds, seeds=options.seeds)
    command = f"python -m graphalign.experiments.federated_rounds --rounds {settings.rounds} --seeds {settings.seeds}"
    if options.quick:
        settings, command = replace(settings, clients=4, rounds=2, seeds=1), "python -m graphalign.experiments.federated_rounds --quick"
    results = measure(settings, command, lambda line: print(line, file=sys.stderr, flush=True))
    for table in tables(results):
        print(table)
    out = options.out or (None if options.quick else Path("docs/results"))
    if out:
        publish(out, "federated", results, tables(results))
        picture = (out if options.out else Path("docs/images")) / "federated.png"
        draw(results, picture)
        print(f"written: {out / 'federated.json'}, {out / 'federated.md'}, {picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
