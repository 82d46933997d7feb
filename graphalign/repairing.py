"""REPAIR: gives the layers of a merged network the activation statistics that its parents have."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphalign.averaging import averaging_weights
from graphalign.corrections import Correction, correction
from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, batches, call
from graphalign.moments import ChannelStatistics, Moments, channel_rows, interpolated
from graphalign.repairable import Observe, channel_axis, find_repairable, observed
from graphalign.tensors import copy_into, require_same_tensors, tensors_for

Module = TypeVar("Module", bound=nn.Module)


def repair(
    merged: Module, parents: Sequence[nn.Module | Mapping[str, Tensor]], loader: Loader, *,
    weights: Sequence[float] | None = None, closed_form: bool = False, last_layer: bool = False, add_bias: bool = True, tolerance: float = 1e-4, max_passes: int = 10,
) -> Module:  # fmt: skip
    """A copy of a merged network whose pre-activations have the means and standard deviations of its parents', in eval mode.

    Averaged units are less correlated than equal ones, so their outputs vary less than those of any parent, more so with every
    layer. For each channel of each linear and convolution module, with mean mu_i and standard deviation sd_i of its output in
    parent i over all samples (examples, positions, tokens), the merged output z becomes (Jordan et al. 2023, arXiv 2211.08403):

        z' = goal_sd * (z - mu) / sd + goal_mean,   goal_mean = sum_i w_i mu_i,   goal_sd = sum_i w_i sd_i

    (the standard deviation is interpolated, not the variance), which is fused into weight and bias. BatchNorm layers get new
    running statistics instead, and layers that feed a BatchNorm directly are left alone.

    Forward (default): mu and sd are measured in the merged network. All corrections act while the batches pass, so that each
    layer sees corrected inputs; passes are repeated until means and standard deviations over the whole loader are those wanted.
    A loader of one batch needs one pass; L layers need L passes at most, usually three or four.

    Closed form: z is taken to be the average of the parents' outputs, so mu = goal_mean and sd^2 = sum_ij w_i w_j cov_ij, with
    the covariances of matched channels over parents. The merged network is not run; the parents' outputs of one batch are kept
    in memory at the same time. The running variance of a BatchNorm is sd^2.

    Constant channels (a unit that is dead in the merged network) are shifted to the goal mean and not scaled. With one parent, or
    equal ones, nothing changes.

    Args:
        merged: the averaged network; left as it is.
        parents: the networks it was averaged from, aligned: modules or state dicts with its tensors; left as they are.
        loader: batches of training data, as in `graphalign.evaluation.evaluate`; targets are not used.
        weights: those of the average, none negative; equal ones if None.
        closed_form: see above.
        last_layer: correct the layer that makes the outputs too.
        add_bias: give a bias to layers without one (a new key in the state dict); if not set, these layers are only scaled.
        tolerance: forward: passes end when no mean is off by more than this fraction of the goal's standard deviation, and
            no standard deviation by this fraction.
        max_passes: forward: passes over the loader at most; data augmentation keeps the tolerance from being reached.

    Raises:
        InvalidInput: a negative weight, no parents, a network without such modules, activations that are not finite, or a loader
            that cannot be used.
        SpecMismatch: a parent has other tensors than the merged network.
    """
    states = [tensors_for(merged, parent) for parent in parents]
    shares = averaging_weights(weights, len(states)) if states else []
    problems = ["no parents, expected at least one"] if not states else []
    problems += [f"weights {shares}, expected none negative: a standard deviation is interpolated"] if min(shares, default=0) < 0 else []
    problems += [f"max_passes={max_passes}, expected at least 1"] if max_passes < 1 else []
    problems += [f"tolerance={tolerance}, expected a positive number"] if not tolerance > 0 else []
    if problems:
        raise InvalidInput("repair: found " + "; found ".join(problems))
    require_same_tensors({"the merged network": tensors_for(merged, merged), **{f"parent {i}": state for i, state in enumerate(states)}})
    result = copy.deepcopy(merged).eval()
    modules = find_repairable(result, next(iter(batches(result, loader))), last_layer)
    if not modules:
        raise InvalidInput(
            f"repair: found no layer to correct in {type(merged).__name__}, expected linear or convolution modules before the last "
            "one, or BatchNorm; pass last_layer=True to correct the last layer"
        )
    corrections = {name: correction(module) for name, module in modules.items()}
    if closed_form:
        _expect(result, corrections, states, shares, loader)
    else:
        _settle(result, corrections, states, shares, loader, tolerance, max_passes)
    for change in corrections.values():
        change.finish(add_bias)
    return result


def _expect(
    model: nn.Module, corrections: Mapping[str, Correction], states: Sequence[Mapping[str, Tensor]], shares: Sequence[float],
    loader: Loader,
) -> None:  # fmt: skip
    """Closed form: corrections from the covariances of the parents."""
    parent = copy.deepcopy(model)
    joint = {name: Moments() for name in corrections}
    for batch in batches(model, loader):
        seen = [_rows(parent, state, batch) for state in states]
        for name, moments in joint.items():
            moments.add(*(rows[name] for rows in seen))
    _require_finite({"a parent": joint})
    for name, moments in joint.items():
        corrections[name].set(moments.combined(shares), interpolated(moments.statistics, shares))


def _settle(
    model: nn.Module, corrections: Mapping[str, Correction], states: Sequence[Mapping[str, Tensor]], shares: Sequence[float],
    loader: Loader, tolerance: float, max_passes: int,
) -> None:  # fmt: skip
    """Forward: corrections under which the statistics of the merged network are the goals."""
    parent = copy.deepcopy(model)
    parents = {name: [Moments() for _ in states] for name in corrections}
    for number in range(max_passes):
        merged = {name: Moments() for name in corrections}

        def settle(name: str, merged: Mapping[str, Moments] = merged) -> None:
            corrections[name].set(merged[name].statistics[0], _goal(parents[name], shares))

        def correct(name: str, z: Tensor, first: bool = number == 0, merged: Mapping[str, Moments] = merged) -> Tensor | None:
            if name not in corrections:
                return None
            merged[name].add(channel_rows(z, channel_axis(model.get_submodule(name))))
            if first:  # nothing is known yet but the samples so far, which parents and merged network have in common
                settle(name)
            return corrections[name].act(z)

        count = 0
        for batch in batches(model, loader):
            count += 1
            for i, state in enumerate(states if number == 0 else ()):
                for name, rows in _rows(parent, state, batch).items():
                    if name in corrections:
                        parents[name][i].add(rows)
            _run(model, batch, correct)
        _require_finite({f"parent {i}": {name: parts[i] for name, parts in parents.items()} for i in range(len(states))})
        _require_finite({"the merged network": merged})
        errors = [corrections[name].error(merged[name].statistics[0], _goal(parents[name], shares)) for name in corrections]
        if max(errors) <= tolerance and (number > 0 or count == 1):  # in a first pass of several batches corrections change
            return
        for name in corrections:
            settle(name)


def _goal(parents: Sequence[Moments], shares: Sequence[float]) -> ChannelStatistics:
    return interpolated([part for moments in parents for part in moments.statistics], shares)


def _rows(parent: nn.Module, state: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
    """Samples (S, C) of every layer's outputs and every norm's inputs in one parent; those of several calls one after another."""
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str, z: Tensor) -> None:
        rows = channel_rows(z, channel_axis(parent.get_submodule(name)))
        kept.setdefault(name, []).append(rows.clone())  # an operation in place may follow

    copy_into(parent, state)
    _run(parent, batch, keep)
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _run(model: nn.Module, batch: Any, observe: Observe) -> None:
    with observed(model, observe), torch.no_grad():
        call(model, batch)


def _require_finite(networks: Mapping[str, Mapping[str, Moments]]) -> None:
    wrong = [
        f"'{name}' in {network}"
        for network, found in networks.items()
        for name, moments in found.items()
        if not bool(moments.products.isfinite().all())
    ]
    if wrong:
        raise InvalidInput(
            "repair: found activations that are not finite in\n" + "\n".join(f"  - {where}" for where in wrong)
            + "\nPass finite inputs, and networks that have not diverged; half precision may overflow, use float32."
        )  # fmt: skip
