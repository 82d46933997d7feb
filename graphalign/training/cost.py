"""What an aligner cost: the networks it was trained on, and the training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphalign.errors import CorruptFile, InvalidInput
from graphalign.training.run import CONFIG, STATE
from graphalign.training.sampling import Share, select
from graphalign.training.settings import Settings, read_settings
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock of the machines that did the work.

    Attributes:
        networks: that were trained for the aligner: those it was trained on and those it was validated on.
        population: seconds that their training took.
        steps: of the aligner's training.
        training: seconds of that, validation included.
    """

    networks: int
    population: float
    steps: int
    training: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.population + self.training


def cost(zoo: Zoo, run: Path) -> Cost:
    """What the aligner of a run cost, from the seconds that the population and the run recorded.

    Args:
        zoo: the population of the run.
        run: its folder.

    Raises:
        InvalidInput: the folder holds no run, or the population has none of its networks.
        CorruptFile: a file of the run that cannot be read.
    """
    if missing := [name for name in (CONFIG, STATE) if not (run / name).is_file()]:
        raise InvalidInput(f"{run}: found no {' and no '.join(missing)}, expected the folder of a training run; train it with `graphalign train`")
    try:
        settings = read_settings(json.loads((run / CONFIG).read_text(encoding="utf-8"))["settings"])
        state: dict[str, Any] = torch.load(run / STATE, map_location="cpu", weights_only=True)
        steps, training = int(state["step"]), float(state["seconds"])
    except Exception as error:  # noqa: BLE001 - torch raises whatever the broken bytes lead to
        raise CorruptFile(f"{run}: the run cannot be read ({(str(error).splitlines() or [''])[0]}); train it again") from None
    used = trained_on(zoo, settings)
    return Cost(sum(len(g.seeds) for g in used), sum(g.seconds * len(g.seeds) for g in used), steps, training)


def trained_on(zoo: Zoo, settings: Settings) -> list[Group]:
    """The groups that a run with these settings draws from or validates on.

    Raises:
        InvalidInput: there are none.
    """
    drawn = [
        group for group in select(zoo.select(split="train"), settings.exclude, settings.limit, settings.seed)
        if settings.families.get(group.design.family, Share()).share > 0
    ]  # fmt: skip
    validation = [group for group in zoo.select(split="validation") if settings.exclude.allows(group) and len(group.seeds) >= 2]
    return [*drawn, *validation]
