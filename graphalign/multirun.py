"""Commands whose work is a configuration: one job, or with --multirun one job for each combination of values, run by Hydra.

Hydra's sweeper lists the jobs and its launcher runs them: one after the other, on the cores of a machine
(`hydra/launcher=joblib`), or on the nodes of a SLURM cluster (`hydra/launcher=slurm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from graphalign.configuration import CONFIGS, compose, initialised, plain

STYLE = {"hydra/hydra_logging": "stderr", "hydra/job_logging": "none", "hydra.searchpath": f"[file://{CONFIGS}]"}
"""Hydra's settings where the user gives none: standard output is for results, and launchers of ours are found from any file."""


class Job(Protocol):
    """What a command does with a configuration: a function of a module, so that other processes find it."""

    def __call__(self, content: dict[str, Any], overrides: Sequence[str], folder: Path | None, quiet: bool) -> str:
        """Does the work and returns what is printed about it.

        Args:
            content: of the configuration.
            overrides: that it was composed with.
            folder: for results; that of the configuration if None.
            quiet: whether other jobs write to the terminal meanwhile.
        """
        ...


def run_jobs(
    group: str, name: str, overrides: Sequence[str], job: Job, *, multirun: bool, folder: Path | None, say: Callable[[str], object]
) -> None:
    """Runs one job, or with `multirun` one for each combination of the values in overrides such as "seed=0,1,2".

    Args:
        group: of the configuration, see `compose`.
        name: of the configuration, see `compose`.
        overrides: in Hydra's grammar, of the configuration and of Hydra itself.
        job: the work.
        multirun: whether values with commas are several jobs. Each gets a folder of its own, in `folder` or in `hydra.sweep.dir`.
        folder: for results; that of the configuration, or Hydra's `multirun/DATE/TIME`, if None.
        say: prints what a job returns.

    Raises:
        InvalidInput: see `compose`.
    """
    if not multirun:
        say(job(compose(group, name, overrides), overrides, folder, False))
        return
    style = STYLE if folder is None else {**STYLE, "hydra.sweep.dir": f"'{folder}'"}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    full = [*(f"{key}={value}" for key, value in style.items() if key not in given), *overrides]
    with initialised(group, name, overrides) as chosen:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        batches = hydra.multirun(chosen, partial(_one_of_many, job), [*full, "hydra.mode=MULTIRUN"])
    for done in _flat(batches):
        say(f"{' '.join(done.overrides)} -> {done.hydra_cfg.hydra.runtime.output_dir}\n{done.return_value}\n")


def swept(overrides: Sequence[str]) -> set[str]:
    """The keys that `overrides` give several values."""
    return {o.key_or_group for o in OverridesParser.create().parse_overrides(list(overrides)) if o.is_sweep_override()}


def _one_of_many(job: Job, content: DictConfig) -> str:
    settings = HydraConfig.get()
    together = not str(settings.launcher._target_).endswith("BasicLauncher")
    return job(plain(content), list(settings.overrides.task), Path(settings.runtime.output_dir), together)


def _flat(batches: Iterable[Iterable[Any]]) -> list[Any]:
    return [done for batch in batches for done in batch]
