"""Running statistics of BatchNorm, estimated again: an interpolated network needs its own."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, batches, call

Module = TypeVar("Module", bound=nn.Module)


def reset_statistics(model: Module, loader: Loader) -> Module:
    """A copy of a network whose BatchNorm layers hold the statistics of `loader`, in eval mode.

    Running mean and variance become the plain average over all batches (momentum None; Jordan et al. 2023, arXiv 2211.08403,
    "RESET"), of every layer at once, so that later layers see inputs that are normalised already. Batches count the same
    whatever their size. Every kind of BatchNorm is meant, 1d to 3d; layers without running statistics, and networks without
    BatchNorm, stay as they are. Dropout is off.

    Args:
        model: left as it is.
        loader: batches of training data, as in `graphalign.evaluation.evaluate`; targets are not used.

    Raises:
        InvalidInput: an empty or one-shot loader, or a batch too small to have a variance.
    """
    result = copy.deepcopy(model).eval()
    _estimate(result, loader)
    return result


def _estimate(model: nn.Module, loader: Loader) -> None:
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches(model, loader):
            try:
                call(model, batch)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InvalidInput(
                    "reset_batch_norm: found a batch with one value per channel, which has no variance; expected batches of two "
                    "examples or more; pass a DataLoader with drop_last=True"
                ) from None
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
