"""What a training run prints at its end."""

from __future__ import annotations

from pathlib import Path

from graphalign.training.run import Outcome
from graphalign.training.validation import MODES, ratio

TITLES = {"codes": "no data", "inputs": "unlabelled inputs"}


def report(outcome: Outcome, folder: Path) -> str:
    """A table of the mean barriers of validation networks, and where the aligner is."""
    columns = {"untrained": outcome.untrained, "before": outcome.first, "trained": outcome.best}
    names = list(outcome.untrained["codes"])
    width = max(map(len, ["validation networks", *names]))
    lines = [f"Mean loss barrier of hard permutations; best checkpoint at step {outcome.step} of {outcome.steps}, {outcome.seconds:.0f} s", ""]
    lines.append(f"{'validation networks':{width}}  " + "  ".join(f"{TITLES[m] + ': ' + c:>28}" for m in MODES for c in columns))
    lines += [
        f"{name:{width}}  " + "  ".join(f"{found[mode][name]:28.4f}" for mode in MODES for found in columns.values()) for name in names
    ]
    means = [sum(found[mode].values()) / len(names) for mode in MODES for found in columns.values()]
    lines.append(f"{'mean':{width}}  " + "  ".join(f"{value:28.4f}" for value in means))
    ratios = [ratio(found, outcome.untrained, mode) for mode in MODES for found in columns.values()]
    lines.append(f"{'ratio to untrained':{width}}  " + "  ".join(f"{value:28.4f}" for value in ratios))
    lines += ["", f"the aligner: {folder / 'best'} (graphalign.Aligner.from_pretrained); metrics: {folder / 'metrics'}, {folder / 'tensorboard'}"]
    return "\n".join(lines)
