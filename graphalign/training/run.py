"""A training run: the loop, its checkpoints, its metrics and its end."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from graphalign.aligner import Aligner
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import atomic_write
from graphalign.training.cases import Cases
from graphalign.training.objective import Loss
from graphalign.training.processes import arguments, everywhere, in_turn
from graphalign.training.sampling import Draw, Sampler, in_turns, select
from graphalign.training.settings import BEST, Settings
from graphalign.training.start import starting_aligner
from graphalign.training.teachers import Teachers
from graphalign.training.validation import MODES, Barriers, Judge, ratio
from graphalign.training.views import Views
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo

STATE = "state.pt"
CONFIG = "config.json"
FREE = ("steps", "minutes", "engine")
"""Settings that may change when a run goes on."""
Progress = Callable[[int, int, str], None]
"""Is told how many steps are done, how many there are, and what is being done."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        untrained: barriers of `Aligner()`.
        first: barriers of the aligner before its first step.
        best: barriers of the best checkpoint.
        step: at which it was found.
        steps: that were made.
        seconds: of training, validation included.
    """

    untrained: Barriers
    first: Barriers
    best: Barriers
    step: int
    steps: int
    seconds: float


def train(
    settings: Settings, zoo: Zoo, out: Path, *, root: str | os.PathLike[str] | None = None, cache: Path | None = None,
    environment: Mapping[str, Any] | None = None, progress: Progress = lambda done, total, what: None,
) -> Outcome:  # fmt: skip
    """Trains an aligner, or goes on where a stopped run with the same settings is.

    In the folder: `best` and `last` (saved aligners), `config.json`, `state.pt` (to go on from), `metrics` (CSV), `tensorboard`. A
    run that was stopped and goes on ends as one that was not, bit by bit. N processes that share the draws of a step end as one that
    makes them all, up to the rounding of sums in another order.

    Args:
        settings: of the run.
        zoo: the population.
        out: folder of the run, which is made if needed.
        root: of data sets that are not embedded.
        cache: folder for what is computed once per pair, which runs may share; nothing is kept if None.
        environment: written to config.json beside the settings.
        progress: called before every step and at the end.

    Raises:
        InvalidInput: the folder holds a run with other settings, the population has no networks to train or to validate on, missing
            data.
        CorruptFile: a file that cannot be read.
    """
    loggers = [CSVLogger(root_dir=out, name="metrics", flush_logs_every_n_steps=1), TensorBoardLogger(root_dir=out, name="tensorboard", version="")]
    fabric = Fabric(**arguments(settings.engine), loggers=loggers)
    fabric.launch()
    return _Run(settings, zoo, out, root, cache, fabric, progress).run(environment or {})


class _Run:
    def __init__(
        self, settings: Settings, zoo: Zoo, out: Path, root: str | os.PathLike[str] | None, cache: Path | None, fabric: Fabric,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.settings, self.out, self.fabric = settings, out, fabric
        self.progress: Progress = progress if fabric.is_global_zero else lambda done, total, what: None
        if settings.draws % fabric.world_size:
            raise InvalidInput(
                f"draws: found {settings.draws} for {fabric.world_size} processes, expected a multiple of their number; a step "
                "divides its draws among them"
            )  # fmt: skip
        groups = select(zoo.select(split="train"), settings.exclude, settings.limit, settings.seed)
        validation = [g for g in zoo.select(split="validation") if settings.exclude.allows(g) and len(g.seeds) >= 2]
        if not validation:
            raise InvalidInput("training: found no validation group of two networks or more, expected some; generate them")
        beginning: Any = self._beginning(groups, root) if fabric.is_global_zero else None
        aligner, saved = fabric.broadcast(beginning)
        self.aligner: Aligner = aligner.to(fabric.device)
        cases = Cases(zoo, root, fabric.device)
        self.views = Views(aligner, cache, settings.validation.inputs)
        self.plain = Views(Aligner().to(fabric.device), cache, settings.validation.inputs)
        chosen = in_turns(validation, settings.validation.groups, settings.seed)
        self.judge = Judge([cases[g] for g in chosen], settings.validation.pairs, settings.validation.images)
        self.sampler = Sampler(groups, settings.families, settings.seed)
        loss = Loss(aligner, cases, settings.losses, settings.unrolled, settings.planted, self.views, Teachers(settings.teacher, self.views, cache))
        optimiser = torch.optim.AdamW(aligner.parameters(), lr=settings.optimiser.rate, weight_decay=settings.optimiser.weight_decay)
        self.loss, self.optimiser = fabric.setup(loss, optimiser)
        self.done, self.best, self.seconds = 0, math.inf, 0.0
        self.best_step = 0
        self.kept: dict[str, Barriers] = {}
        if saved is not None:
            aligner.load_state_dict(saved["aligner"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.done, self.best, self.best_step = saved["step"], saved["best"], saved["best_step"]
            self.kept, self.seconds = saved["barriers"], saved["seconds"]

    def _beginning(self, groups: Sequence[Group], root: str | os.PathLike[str] | None) -> tuple[Aligner, dict[str, Any] | None]:
        """The aligner before the next step, and what was saved beside it."""
        saved = _load(self.out / STATE)
        source = self.settings if saved is None else Settings(start=str(self.out / "last"))
        return starting_aligner(source, groups, root), saved

    def run(self, environment: Mapping[str, Any]) -> Outcome:
        settings, total = self.settings, self.settings.steps
        self._write_config(environment)
        begun = time.perf_counter() - self.seconds
        if not self.kept:
            self.progress(0, total, "measuring the untrained aligner")
            self.kept["untrained"] = self._judged(Aligner().to(self.fabric.device), self.plain)
            self.kept["first"] = self._validate(0)
            self._save(begun)
        while self.done < total and not self._late(begun):
            self.progress(self.done, total, f"training; best ratio {self.best:.3f}")
            self._step(self.done)
            self.done += 1
            if self.done % settings.validation.every == 0 or self.done == total:
                self._validate(self.done)
                self._save(begun)
        if self.done < total and self.done % settings.validation.every:  # out of time
            self._validate(self.done)
            self._save(begun)
        for logger in self.fabric.loggers:
            logger.finalize("success")
        self.progress(self.done, self.done, "done")
        return Outcome(self.kept["untrained"], self.kept["first"], self.kept["best"], self.best_step, self.done, time.perf_counter() - begun)

    def _step(self, step: int) -> None:
        settings = self.settings.optimiser
        rate = settings.rate
        if settings.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * step / self.settings.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        mine = range(self.fabric.global_rank, self.settings.draws, self.fabric.world_size)
        found = [self._gradient(self.sampler.draw(step, index), len(mine), last=index == mine[-1]) for index in mine]
        norm = self.fabric.clip_gradients(self.loss, self.optimiser, max_norm=settings.clip, error_if_nonfinite=False)
        assert norm is not None
        if bool(torch.isfinite(norm)):  # one pair of broken networks must not end a run
            self.optimiser.step()
        values = _means(in_turn(everywhere(self.fabric, found)))
        self.fabric.log_dict({"train/gradient": float(norm), "train/rate": rate, **values}, step=step)

    def _gradient(self, draw: Draw, share: int, *, last: bool) -> dict[str, float]:
        """Adds the gradient of one of `share` draws of this process; after its last one that of all processes is averaged."""
        with self.fabric.no_backward_sync(self.loss, enabled=not last):
            total, parts = self.loss(draw)
            self.fabric.backward(total / share)
        family = draw.group.design.family
        return {"train/loss": float(total.detach()), **{f"{family}/{n}": v for n, v in parts.items()}}

    def _judged(self, aligner: Aligner, views: Views) -> Barriers:
        """Barriers of the validation architectures, each measured by one of the processes."""
        mine = replace(self.judge, cases=self.judge.cases[self.fabric.global_rank :: self.fabric.world_size])
        found = everywhere(self.fabric, mine.barriers(aligner, views))
        return {mode: dict(in_turn([list(part[mode].items()) for part in found])) for mode in MODES}

    def _validate(self, step: int) -> Barriers:
        self.progress(step, self.settings.steps, "validating")
        found = self._judged(self.aligner, self.views)
        score = ratio(found, self.kept["untrained"])
        ratios = {f"validation/{mode}": ratio(found, self.kept["untrained"], mode) for mode in MODES}
        averages = {f"validation/barrier_{mode}": sum(v.values()) / len(v) for mode, v in found.items()}
        self.fabric.log_dict({"validation/ratio": score, **ratios, **averages}, step=step)
        if score < self.best:
            self.best, self.best_step, self.kept["best"] = score, step, found
            if self.fabric.is_global_zero:
                self.aligner.save_pretrained(self.out / BEST)
        return found

    def _late(self, begun: float) -> bool:
        late = self.settings.minutes is not None and time.perf_counter() - begun > 60 * self.settings.minutes
        return bool(self.fabric.broadcast(late))

    def _save(self, begun: float) -> None:
        if not self.fabric.is_global_zero:
            return
        self.aligner.save_pretrained(self.out / "last")
        state = {
            "aligner": self.aligner.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.done, "best": self.best,
            "best_step": self.best_step, "barriers": self.kept, "seconds": time.perf_counter() - begun,
        }  # fmt: skip
        with atomic_write(self.out / STATE, force=True) as draft:
            torch.save(state, draft)

    def _write_config(self, environment: Mapping[str, Any]) -> None:
        own = _as_read(self.settings)
        file = self.out / CONFIG
        if file.is_file() and self.done:
            found = _as_read(Settings()) | json.loads(file.read_text(encoding="utf-8")).get("settings", {})
            other = [f"{n}: found {found[n]} there, and {own[n]} now" for n in own if n not in FREE and own[n] != found[n]]
            if other:
                raise InvalidInput(
                    f"{self.out} holds a run with other settings:\n" + "\n".join(f"  - {line}" for line in other)
                    + "\nTrain into another folder, or undo the change to go on."
                )  # fmt: skip
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            with atomic_write(file, force=True) as draft:
                draft.write_text(json.dumps({"settings": own, "environment": dict(environment)}, indent=2) + "\n", encoding="utf-8")
        self.fabric.barrier()


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every value over the draws that have it."""
    names = dict.fromkeys(name for values in found for name in values)
    return {name: fmean(values[name] for values in found if name in values) for name in names}


def _as_read(settings: Settings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return content


def _load(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises whatever the broken bytes lead to
        raise CorruptFile(f"{file} cannot be read ({str(error).splitlines()[0]}); remove the folder and train again") from None
    return content
