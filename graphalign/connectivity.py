"""The line between two networks: interpolation, and the loss barrier along it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from graphalign.batch_norm import reset_statistics
from graphalign.curve import Curve
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.evaluation import Loader, Loss, Score, evaluate

__all__ = ["Curve", "barrier", "interpolate"]

Module = TypeVar("Module", bound=nn.Module)


@overload
def interpolate(a: Module, b: nn.Module, lam: float) -> Module: ...
@overload
def interpolate(a: Mapping[str, Tensor], b: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]: ...
def interpolate(a: Any, b: Any, lam: float) -> Any:
    """The network lambda A + (1 - lambda) B, entry by entry, on the device and in the dtype of A.

    Floating-point parameters and buffers are interpolated (half precision is computed in float32), integer and boolean ones are
    copied from A. At lambda = 1 and 0 the result equals A and B to the last bit. Running statistics of BatchNorm are interpolated
    like everything else, which does not make them those of the result: see `graphalign.batch_norm.reset_statistics`.

    Args:
        a: module or state dict; left as it is.
        b: the same kind with the same tensors, its units already in the order of A.
        lam: any finite number; 0 is B, 1 is A.

    Raises:
        SpecMismatch: names and shapes differ; lists all differences.
        InvalidInput: `lam` is not finite, or `a` and `b` are not two modules or two state dicts.
    """
    if not math.isfinite(lam):
        raise InvalidInput(f"interpolate: found lam={lam}, expected a finite number; 0 is B, 1 is A")
    tensors_a, tensors_b = _tensors_of_pair(a, b)
    mixed = _mix(tensors_a, tensors_b, lam)
    if isinstance(a, nn.Module):
        result = copy.deepcopy(a)
        _load(result, mixed)
        return result
    return mixed


def barrier(
    model_a: nn.Module, model_b: nn.Module, loader: Loader, loss: Loss = "cross_entropy", points: int = 25,
    reset_batch_norm: Loader | None = None,
) -> Curve:  # fmt: skip
    """Loss and accuracy on the line between two networks; `Curve.barrier` is the largest excess over the chord.

    psi(lambda) = L(lambda A + (1 - lambda) B) - [lambda L(A) + (1 - lambda) L(B)] (Frankle et al. 2020, arXiv 1912.05671).
    The networks are evaluated in eval mode on copies; they keep their weights, statistics and training flags.

    Args:
        model_a: the network at lambda = 1; its device and dtype are those of the computation.
        model_b: the network at lambda = 0, usually `alignment.apply(b)`.
        loader: held-out batches, as in `graphalign.evaluation.evaluate`.
        loss: "cross_entropy", "mse" or a callable of (outputs, batch), as in `graphalign.evaluation.evaluate`.
        points: values of lambda, evenly spaced, both ends included; at least 3.
        reset_batch_norm: training batches on which every network of the line gets new BatchNorm statistics, the two ends too: so
            that the chord and the line are measured in the same way. Do not shuffle it if the result has to be reproducible.

    Raises:
        SpecMismatch: the networks differ in names or shapes.
        InvalidInput: too few points, no finite loss at an end, or a loader or loss that cannot be used.
    """
    if points < 3:
        raise InvalidInput(f"barrier: found points={points}, expected at least 3: two ends and something between them")
    tensors_a, tensors_b = _tensors_of_pair(model_a, model_b)
    line = copy.deepcopy(model_a).eval()

    def score(lam: float) -> Score:
        _load(line, _mix(tensors_a, tensors_b, lam))
        network = line if reset_batch_norm is None else reset_statistics(line, reset_batch_norm)
        return evaluate(network, loader, loss)

    lambdas = np.linspace(0.0, 1.0, points)
    ends = {lam: score(lam) for lam in (0.0, 1.0)}
    diverged = [f"{ends[lam].loss} for {name}" for name, lam in (("A", 1.0), ("B", 0.0)) if not math.isfinite(ends[lam].loss)]
    if diverged:
        found = " and ".join(diverged)
        raise InvalidInput(f"barrier: found a loss of {found} on this data, expected a finite one; pass trained networks")
    scores = [ends[0.0], *(score(float(lam)) for lam in lambdas[1:-1]), ends[1.0]]
    middle = scores[points // 2] if points % 2 else score(0.5)
    accuracies = [s.accuracy for s in scores if s.accuracy is not None]
    return Curve(
        lambdas=lambdas,
        losses=np.array([s.loss for s in scores], dtype=np.float64),
        accuracies=np.array(accuracies, dtype=np.float64) if len(accuracies) == points else None,
        midpoint_loss=middle.loss,
        midpoint_accuracy=middle.accuracy,
    )


def _tensors_of_pair(a: Any, b: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for kind in (nn.Module, Mapping):
        if isinstance(a, kind) and isinstance(b, kind):
            pair = _tensors(a), _tensors(b)
            _check_same(*pair)
            return pair
    raise InvalidInput(
        f"found {type(a).__name__} and {type(b).__name__}, expected two modules or two state dicts; "
        "load the weights into a module first, or pass model.state_dict()"
    )


def _tensors(network: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers by every name they go by, so that tied weights and weights tied differently can be compared."""
    if isinstance(network, nn.Module):
        named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
        return {name: tensor.detach() for name, tensor in named}
    return {name: tensor.detach() for name, tensor in network.items()}


def _check_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    problems = [f"'{name}' is only in A" for name in a if name not in b]
    problems += [f"'{name}' is only in B" for name in b if name not in a]
    for name in a:
        if name in b and a[name].shape != b[name].shape:
            problems.append(f"'{name}' is {tuple(a[name].shape)} in A and {tuple(b[name].shape)} in B")
        elif name in b and _is_weight(a[name]) != _is_weight(b[name]):
            problems.append(f"'{name}' is {a[name].dtype} in A and {b[name].dtype} in B")
    if problems:
        raise SpecMismatch(
            "the two networks do not have the same tensors:\n" + "\n".join(f"  - {p}" for p in problems)
            + "\nPass two networks of the same architecture."
        )  # fmt: skip


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _mix(a: Mapping[str, Tensor], b: Mapping[str, Tensor], lam: float) -> dict[str, Tensor]:
    mixed = {}
    for name, end in a.items():
        if not _is_weight(end) or lam == 1.0:
            mixed[name] = end.clone()
            continue
        if lam == 0.0:  # not 0 * A + B, which is NaN where A is infinite
            mixed[name] = b[name].to(end.device, end.dtype, copy=True)
            continue
        wide = torch.promote_types(end.dtype, torch.float32)
        start = b[name].to(end.device, wide)
        mixed[name] = torch.lerp(start, end.to(wide), lam).to(end.dtype)
    return mixed


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in _tensors(module).items():
            tensor.copy_(tensors[name])
