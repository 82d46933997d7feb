"""What REPAIR changes in a network: scale and shift of a layer's outputs, or the running statistics of a BatchNorm."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from graphalign.moments import ChannelStatistics
from graphalign.repairable import channel_axis

CONSTANT = 1e-6
"""A channel whose standard deviation is a smaller part of its mean and goal does not vary: there is nothing to divide by."""


class Correction(Protocol):
    """A change of one module, found while the network runs and made permanent at the end."""

    def set(self, found: ChannelStatistics, goal: ChannelStatistics) -> None:
        """Corrects a module whose uncorrected channels are distributed as `found` towards `goal`."""

    def act(self, activation: Tensor) -> Tensor | None:
        """The corrected output of the module, None if it stays as it is."""

    def error(self, found: ChannelStatistics, goal: ChannelStatistics) -> float:
        """How far corrected means and standard deviations are from the goal, at most, as a fraction of the goal's."""

    def finish(self, add_bias: bool) -> None:
        """Makes the correction a part of the module."""


class LayerCorrection:
    """scale * z + shift of the outputs of a linear or convolution module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.scale = self.shift = torch.zeros(0)

    def set(self, found: ChannelStatistics, goal: ChannelStatistics) -> None:
        """Takes scale = goal.std / found.std, 1 where the channel is constant, and the shift that gives the goal's mean."""
        self.scale = torch.where(_constant(found, goal), 1.0, goal.std / found.std)
        self.shift = goal.mean - self.scale * found.mean

    def act(self, activation: Tensor) -> Tensor:
        """The outputs scaled and shifted, in their dtype."""
        shape = [1] * activation.dim()
        shape[channel_axis(self.module)] = len(self.scale)
        scale, shift = (t.to(activation.dtype).to(activation.device).reshape(shape) for t in (self.scale, self.shift))
        return activation * scale + shift

    def error(self, found: ChannelStatistics, goal: ChannelStatistics) -> float:
        """Of the corrected outputs; channels that are constant count only with their mean."""
        unit = torch.where(goal.std > 0, goal.std, 1.0)
        mean = (self.scale * found.mean + self.shift - goal.mean).abs() / unit
        std = torch.where(_constant(found, goal), 0.0, (self.scale * found.std - goal.std).abs() / unit)
        return float(torch.maximum(mean, std).max())

    def finish(self, add_bias: bool) -> None:
        """Fuses scale and shift into weight and bias; a layer without bias gets one if `add_bias` is set."""
        weight, bias = cast(nn.Parameter, self.module.weight), cast("nn.Parameter | None", self.module.bias)
        wide = torch.promote_types(weight.dtype, torch.float32)
        scale, shift = (t.to(wide).to(weight.device) for t in (self.scale, self.shift))
        with torch.no_grad():
            weight.copy_(weight * self._over_weight(scale, weight))
            if bias is not None:
                bias.copy_(bias * scale + shift)
            elif add_bias:
                self.module.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)

    def _over_weight(self, scale: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.module, _ConvTransposeNd):  # (in, out / groups, *kernel), the rows of a group after those of the last
            groups = self.module.groups
            scale = scale.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, dim=0)
        return scale.reshape(*scale.shape, *[1] * (weight.dim() - scale.dim()))


class NormCorrection:
    """New running statistics of a BatchNorm, in effect at once."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = cast(_BatchNorm, norm)

    def set(self, found: ChannelStatistics, goal: ChannelStatistics) -> None:
        """Takes mean and (unbiased, as BatchNorm does) variance of the norm's input."""
        mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
        mean.copy_(found.mean.to(mean.dtype))
        variance.copy_((found.std.square() * (found.count / max(found.count - 1, 1))).to(variance.dtype))

    def act(self, activation: Tensor) -> None:
        """Nothing: the norm itself acts."""

    def error(self, found: ChannelStatistics, goal: ChannelStatistics) -> float:
        """Of the running statistics against those of the norm's input, as a fraction of its standard deviation."""
        mean, variance = (cast(Tensor, t).to("cpu", torch.float64) for t in (self.norm.running_mean, self.norm.running_var))
        unit = (found.std.square() + self.norm.eps).sqrt()
        errors = torch.maximum((mean - found.mean).abs(), ((variance + self.norm.eps).sqrt() - unit).abs()) / unit
        return float(errors.max())

    def finish(self, add_bias: bool) -> None:
        """Nothing is left to do."""


def correction(module: nn.Module) -> Correction:
    """The correction that fits a module of `find_repairable`."""
    return NormCorrection(module) if isinstance(module, _BatchNorm) else LayerCorrection(module)


def _constant(found: ChannelStatistics, goal: ChannelStatistics) -> Tensor:
    return found.std <= CONSTANT * (found.mean.abs() + goal.std)
