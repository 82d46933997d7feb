"""Federated averaging: the networks of clients, weighted by their numbers of examples, aligned first where that is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from graphalign.errors import InvalidInput
from graphalign.merging import Method, merge
from graphalign.pairwise import Network

BatchNorms = Literal["average", "keep"]


def federated_average(
    states: Sequence[Network], samples: Sequence[float], *, align: Method = "weight", model: nn.Module | None = None,
    example_input: Any = None, reference: int | str | Network = 0, batch_norm: BatchNorms = "average", seed: int = 0, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """The state dict sum_k (n_k / n) theta_k of client networks (FedAvg, McMahan et al. 2017, arXiv 1602.05629).

    Clients that did not start from one initialisation have their units in different orders, and are aligned before they are
    averaged. After a common start plain FedAvg (`align=None`) is the usual choice.

    Args:
        states: what the clients send: state dicts, modules or paths, at least one; left as they are.
        samples: number of training examples n_k of each client, all positive.
        align: a method of `graphalign.merge`, by which clients are aligned; None for plain FedAvg.
        model: the network that state dicts are weights for, unless they are plain chains (MLP, CNN, VGG) or not to be aligned;
            left as it is.
        example_input: an input of `model`, or of clients that are modules.
        reference: what clients are aligned to: the number of a client, "universe" (see `merge`), or the global network of the
            last round, which takes no part in the average. Counters and other integer tensors are those of the reference.
        batch_norm: "average" averages weights and running statistics of BatchNorms like everything else; "keep" leaves all
            their tensors out of the result, so that `client.load_state_dict(result, strict=False)` keeps its own (FedBN, Li et al.
            2021, arXiv 2102.07623). That needs align=None: the client's own would stay in the client's own order.
        seed: of everything random.
        **options: further arguments of `merge` (data, refine, init, fixed) and settings of the method.

    Raises:
        InvalidInput: no clients, not one positive finite number of examples for each, or what `merge` refuses.
        SpecMismatch, UnsupportedNetwork, CorruptFile: as `merge`.
    """
    counts = _counts(states, samples)
    if batch_norm not in ("average", "keep"):
        raise InvalidInput(f"federated_average: found batch_norm={batch_norm!r}, expected 'average' or 'keep'")
    if batch_norm == "keep" and align not in (None, "naive"):
        raise InvalidInput(
            "federated_average: batch_norm='keep' needs align=None, for a client's own BatchNorms stay in its own order; expected "
            "batch_norm='average', or clients that are aligned already"
        )
    clients: list[Any] = list(states)
    weights = [count / sum(counts) for count in counts]
    if not isinstance(reference, int) and reference != "universe":
        clients, weights, reference = [reference, *clients], [0.0, *weights], 0
    if model is not None:  # without weight it only says what the state dicts are weights for
        clients, weights = [*clients, model], [*weights, 0.0]
    merged = merge(
        clients, example_input=example_input, method=align, reference=reference, weights=weights, seed=seed, **options
    )  # fmt: skip
    average = {name: tensor.detach() for name, tensor in (merged.state_dict() if isinstance(merged, nn.Module) else merged).items()}
    if batch_norm == "average":
        return average
    norms = {name.rpartition(".")[0] for name in average if name.rpartition(".")[2] == "running_mean"}
    return {name: tensor for name, tensor in average.items() if name.rpartition(".")[0] not in norms}


def _counts(states: Any, samples: Any) -> list[float]:
    """The numbers of examples as floats."""
    if isinstance(states, (nn.Module, Mapping, str, Path)):
        raise InvalidInput(f"federated_average: found one {type(states).__name__}, expected a list of networks; put it into one")
    counts = [float(count) for count in samples]
    problems = []
    if not len(states):
        problems.append("no clients, expected at least one")
    if len(counts) != len(states):
        problems.append(f"{len(counts)} numbers of examples for {len(states)} clients, expected one for each")
    problems += [
        f"{count:g} examples of client {k}, expected a positive finite number (leave out clients without any)"
        for k, count in enumerate(counts)
        if not (math.isfinite(count) and count > 0)
    ]
    if problems:
        raise InvalidInput("federated_average: found " + "; found ".join(problems))
    return counts
