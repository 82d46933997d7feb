"""Several processes of one training run, by Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from graphalign.training.settings import Engine

Value = TypeVar("Value")
UNUSED = "ddp_find_unused_parameters_true"
"""Distributed data parallel training in which a step need not use every parameter: which losses are on decides."""


def arguments(engine: Engine) -> dict[str, Any]:
    """Arguments of `Fabric`: those of the settings, or as many processes as torchrun has started.

    Args:
        engine: its strategies "auto" and "ddp" are made to allow for parameters that a step does not use.
    """
    given: dict[str, Any] = asdict(engine)
    nodes = 1
    if TorchElasticEnvironment.detect():
        given["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        given["num_nodes"] = nodes = int(os.environ["WORLD_SIZE"]) // given["devices"]
    several = nodes > 1 or given["devices"] not in (1, "1")
    if given["strategy"] == "ddp" or (given["strategy"] == "auto" and several):
        given["strategy"] = UNUSED
    return given


def everywhere(fabric: Fabric, value: Value) -> list[Value]:
    """The values of all processes, by rank."""
    return [fabric.broadcast(value, src=rank) for rank in range(fabric.world_size)]


def in_turn(parts: Sequence[Sequence[Value]]) -> list[Value]:
    """What was dealt out to several processes in turn, in its order again."""
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]
