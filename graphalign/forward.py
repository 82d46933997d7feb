"""A network as a function of its tensors: one set of them, or many at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from graphalign.errors import InvalidInput
from graphalign.evaluation import arguments, logits
from graphalign.vectorising import vectorise


class Forward:
    """A network in eval mode that is called with tensors of your own.

    Args:
        module: left as it is; its tensors stand in for those that a call leaves out.
        batch_statistics: BatchNorm layers normalise with the mean and variance of the batch instead of their running ones, which
            do not fit networks between two others.
    """

    def __init__(self, module: nn.Module, *, batch_statistics: bool = False) -> None:
        shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
        self.module = copy.deepcopy(module, shared).eval()
        if batch_statistics:
            for layer in self.module.modules():
                if isinstance(layer, _BatchNorm):
                    layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        self.buffers = dict(self.module.named_buffers()).keys()
        self.names = dict(self.module.named_parameters()).keys() | self.buffers
        self._vectorised = True
        self._differentiated = False

    def __call__(self, tensors: Mapping[str, Tensor], batch: Any) -> Any:
        """Outputs of the network with these tensors for the inputs of a batch.

        Raises:
            InvalidInput: one value per channel, which has no variance, where the statistics are those of the batch.
        """
        args, kwargs = arguments(batch)
        known = {n: t.detach() if n in self.buffers else t for n, t in tensors.items() if n in self.names}  # no derivative by statistics
        try:
            return torch.func.functional_call(self.module, known, args, kwargs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InvalidInput(
                "BatchNorm layers: found a batch with one value per channel, which has no variance; expected batches of two examples or "
                "more; pass a DataLoader with drop_last=True"
            ) from None

    def many(self, function: Callable[..., Any], *stacked: Any) -> Any:
        """`function` for every entry of the first axis of all arguments (tensors, or dicts and lists of them), stacked.

        Vectorised where every operator of the network and its derivative allow it, one by one otherwise.
        """
        if self._vectorised:
            try:
                result = vectorise(function, *stacked)
                if torch.is_grad_enabled() and not self._differentiated:
                    _differentiate(result, stacked)
                    self._differentiated = True
            except (RuntimeError, NotImplementedError, ValueError):  # an operator that cannot be vectorised
                self._vectorised = False
            else:
                return result
        count = len(pytree.tree_leaves(stacked)[0])
        results = [function(*pytree.tree_map(lambda t, i=i: t[i], stacked)) for i in range(count)]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)


def _differentiate(result: Any, stacked: Any) -> None:
    """Takes the derivative once: that of operators which write in place may fail although they could be vectorised."""
    outputs = [t.sum() for t in pytree.tree_leaves(result) if t.requires_grad]
    inputs = [t for t in pytree.tree_leaves(stacked) if t.requires_grad]
    if outputs and inputs:
        torch.autograd.grad(outputs, inputs, retain_graph=True, allow_unused=True)


def prediction(outputs: Any) -> Tensor:
    """The tensor that a network predicts with: its output, `logits` if it has them, or its first floating-point tensor.

    Raises:
        InvalidInput: no floating-point tensor, which alone has a derivative.
    """
    found = logits(outputs)
    if isinstance(found, Tensor) and found.is_floating_point():
        return found
    tensors = [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor) and t.is_floating_point()]
    if not tensors:
        what = f"a tensor of {outputs.dtype}" if isinstance(outputs, Tensor) else f"{type(outputs).__name__} without a floating-point tensor"
        raise InvalidInput(f"the network returned {what}, expected predictions that have a derivative, such as logits")
    return tensors[0]
