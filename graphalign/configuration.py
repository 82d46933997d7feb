"""Configurations: named files of `graphalign.configs` or files of the user, with overrides, as plain dicts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import graphalign.configs
from graphalign.errors import InvalidInput
from graphalign.plain_yaml import load_plain

CONFIGS = Path(graphalign.configs.__file__).resolve().parent


def names(group: str) -> list[str]:
    """The configurations of a group, sorted."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def compose(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration as a plain dict, composed by Hydra.

    Args:
        group: folder of `graphalign.configs`, such as "zoo".
        name: of a file in it, without ending, or the path of a .yaml file anywhere.
        overrides: changes in Hydra's grammar: "key=value", "section.key=[1,2]", "+new=1", "~key".

    Raises:
        InvalidInput: no such configuration, YAML that cannot be read, or overrides that do not fit.
    """
    with initialised(group, name, overrides) as chosen:
        return plain(hydra_compose(chosen, overrides=list(overrides)))


def plain(composed: Any) -> dict[str, Any]:
    """A composed configuration as a plain dict, with its references resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))


@contextmanager
def initialised(group: str, name: str, overrides: Sequence[str]) -> Iterator[str]:
    """Hydra with the folder of a configuration on its search path, and the name by which it finds the configuration there.

    Args:
        group: see `compose`.
        name: see `compose`.
        overrides: what is composed, for messages.

    Raises:
        InvalidInput: see `compose`; in place of Hydra's errors.
    """
    if name.endswith((".yaml", ".yml")):
        file, folder, chosen = Path(name).resolve(), Path(name).resolve().parent, Path(name).stem
    else:
        file, folder, chosen = CONFIGS / group / f"{name}.yaml", CONFIGS, f"{group}/{name}"
    if not os.path.isfile(file):
        known = ", ".join(names(group)) or "none"
        raise InvalidInput(f"config: found {name!r}, expected one of {known} (of the group {group}), or the path of a .yaml file")
    _check_plain(file, name)
    try:
        with initialize_config_dir(str(folder), job_name=group, version_base="1.3"):
            yield chosen
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        given = f" with {' '.join(overrides)}" if overrides else ""
        remedy = "; launchers come with pip install 'graphalign[launch]'" if "hydra/launcher" in reason else ""
        raise InvalidInput(f"config {name}{given}: {reason}; expected overrides key=value of keys that are in {file}{remedy}") from None


def _check_plain(file: Path, name: str) -> None:
    """Returns nothing if a file holds entries in plain YAML: Hydra expands aliases without a bound."""
    try:
        content = load_plain(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"config {name}: {file} is no plain YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"config {name}: {file} holds {type(content).__name__}, expected entries key: value")
