"""Mean loss and accuracy of a network over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign.errors import InvalidInput, first_line
from graphalign.inputs import Inputs

Loader = Iterable[Any]
Loss = str | Callable[[Any, Any], Tensor]
LOSSES = ("cross_entropy", "mse")


@dataclass(frozen=True)
class Score:
    """What a network does on a data set.

    Attributes:
        loss: mean loss per example.
        accuracy: share of correct predictions, or None where there are no classes.
    """

    loss: float
    accuracy: float | None


def evaluate(model: nn.Module, loader: Loader, loss: Loss = "cross_entropy") -> Score:
    """Mean loss and accuracy of a network in the mode it is in, without gradients.

    Every example counts the same, whatever the batch it came in; sums are kept in float64. Of a network that returns more than a
    tensor the `logits` count.

    Args:
        model: called with the inputs of a batch, moved to its device, floating-point ones in its dtype.
        loader: batches (inputs, targets, ...), or inputs alone if `loss` is a callable that needs no more. Inputs are a tensor,
            a tuple of arguments or a dict of keyword arguments.
        loss: "cross_entropy" (logits (N, C, ...) and int64 classes (N, ...), -100 is ignored; or probabilities (N, C, ...)),
            "mse" (mean over all entries), or a callable of (outputs, batch) that returns the mean over the batch, shape (),
            or one loss per example, shape (N,).

    Raises:
        InvalidInput: an unknown loss, an empty or one-shot loader, batches or outputs that do not fit the loss.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise InvalidInput(f"loss: found {loss!r}, expected one of {', '.join(LOSSES)}, or a callable of (outputs, batch)")
    total = weight = correct = classified = 0.0
    with torch.no_grad():
        for batch in batches(model, loader):
            outputs = call(model, batch)
            batch_loss, batch_weight = _loss_of(outputs, batch, loss)
            total += float(batch_loss)
            weight += batch_weight
            right, labels = _correct(outputs, batch)
            correct += right
            classified += labels
    if weight == 0:
        raise InvalidInput("the loader holds no target that counts; pass targets other than -100")
    return Score(total / weight, correct / classified if classified else None)


def batches(model: nn.Module | Tensor, loader: Loader) -> Iterator[Any]:
    """The batches of a loader on the device of `model` (a network or one of its tensors), floating-point inputs in its dtype.

    Raises:
        InvalidInput: the loader is empty, can be read only once, or yields something without inputs.
    """
    if iter(loader) is loader:
        raise InvalidInput(
            f"loader: found {type(loader).__name__}, which can be read only once; pass a DataLoader or a list of batches"
        )
    parameters = [model] if isinstance(model, Tensor) else model.parameters()
    parameter = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
    seen = False
    for batch in loader:
        seen = True
        if isinstance(batch, (tuple, list)) and batch:
            first = _moved(batch[0], parameter.device, parameter.dtype)
            yield (first, *(_moved(part, parameter.device, None) for part in batch[1:]))
        elif isinstance(batch, (Tensor, Mapping, Inputs)):
            yield _moved(batch, parameter.device, parameter.dtype)
        else:
            raise InvalidInput(
                f"loader: found a batch of type {type(batch).__name__}, expected (inputs, targets, ...), a tensor of inputs "
                "or a dict of keyword arguments"
            )
    if not seen:
        raise InvalidInput("loader: found no batch, expected at least one; check the data set and drop_last")


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch: its first part if it is a tuple, otherwise the batch itself."""
    return batch[0] if isinstance(batch, tuple) else batch


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a batch as positional and keyword arguments: one argument, a tuple of them or a dict by keyword."""
    inputs = inputs_of(batch)
    if isinstance(inputs, Inputs):
        return inputs.args, dict(inputs.kwargs)
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def call(model: nn.Module, batch: Any) -> Any:
    """The outputs of a network for the inputs of a batch.

    Raises:
        InvalidInput: the network does not take them.
    """
    args, kwargs = arguments(batch)
    try:
        return model(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        shapes = ", ".join(str(tuple(a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in (*args, *kwargs.values()))
        raise InvalidInput(
            f"{type(model).__name__} does not run on a batch with inputs of shape {shapes}: {type(error).__name__}: {first_line(error)}; "
            "pass batches that it takes"
        ) from error


def logits(outputs: Any) -> Any:
    """What a network returns under the name `logits`, as models of transformers do, or else all that it returns."""
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return found if isinstance(found, Tensor) else outputs


def mean_loss(outputs: Any, batch: Any, loss: Loss) -> Tensor:
    """The mean loss of a batch, differentiable in the outputs; shape ().

    Raises:
        InvalidInput: as `evaluate`.
    """
    total, weight = _loss_of(outputs, batch, loss)
    return total / weight


def _moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, Mapping):
        return {key: _moved(part, device, dtype) for key, part in value.items()}
    if isinstance(value, Inputs):
        return Inputs(*_moved(value.args, device, dtype), **_moved(value.kwargs, device, dtype))
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(part, device, dtype) for part in value)
    return value


def _loss_of(outputs: Any, batch: Any, loss: Loss) -> tuple[Tensor, float]:
    """Summed loss of a batch and the number of examples (or of targets that count) it is summed over."""
    if isinstance(loss, str):
        return _built_in_loss(outputs, batch, loss)
    value = loss(outputs, batch)
    examples = examples_of(inputs_of(batch))
    if isinstance(value, Tensor) and value.dim() == 0:
        return value * examples, examples
    if isinstance(value, Tensor) and value.shape == (examples,):
        return value.double().sum(), examples
    found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InvalidInput(f"loss: the callable returned {found}, expected a mean of shape () or one loss per example, ({examples},)")


def _built_in_loss(outputs: Any, batch: Any, loss: str) -> tuple[Tensor, float]:
    if not isinstance(batch, tuple) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        raise InvalidInput(
            f"loss {loss!r}: found a batch without targets, expected (inputs, targets); or pass a callable of (outputs, batch)"
        )
    outputs = logits(outputs)
    if not isinstance(outputs, Tensor):
        raise InvalidInput(
            f"loss {loss!r}: the network returned {type(outputs).__name__}, expected a tensor; "
            "pass a callable of (outputs, batch), for instance lambda outputs, batch: cross_entropy(outputs[0], batch[1])"
        )
    targets = batch[1]
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    shapes = f"outputs of shape {tuple(outputs.shape)} and {targets.dtype} targets of shape {tuple(targets.shape)}"
    if loss == "mse":
        if outputs.shape != targets.shape:
            raise InvalidInput(f"loss 'mse': found {shapes}, expected equal shapes; pass targets shaped like the outputs")
        return (outputs - targets).double().square().mean() * len(targets), len(targets)
    classes = outputs.dim() >= 2 and targets.shape == (outputs.shape[0], *outputs.shape[2:]) and targets.dtype == torch.long
    probabilities = outputs.dim() >= 2 and targets.shape == outputs.shape and targets.is_floating_point()
    if not (classes or probabilities):
        raise InvalidInput(
            f"loss 'cross_entropy': found {shapes}, "
            "expected logits (N, C, ...) and int64 classes (N, ...) or probabilities (N, C, ...)"
        )
    if classes:
        _check_classes(targets, outputs.shape[1])
    value = F.cross_entropy(outputs, targets if classes else targets.to(outputs.dtype), reduction="none").double().sum()
    return value, float((targets != -100).sum()) if classes else float(targets.numel() / targets.shape[1])


def _check_classes(targets: Tensor, classes: int) -> None:
    counted = targets[targets != -100]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= classes):
        raise InvalidInput(
            f"loss 'cross_entropy': found classes {int(counted.min())} to {int(counted.max())}, expected 0 to {classes - 1}; "
            "number the classes as the network's outputs"
        )


def examples_of(inputs: Any) -> int:
    """Number of examples in the inputs of a batch: the length of the first axis of the first tensor.

    Raises:
        InvalidInput: the inputs hold no tensor with a first axis.
    """
    if isinstance(inputs, Tensor) and inputs.dim():
        return len(inputs)
    if isinstance(inputs, Inputs):
        inputs = (*inputs.args, *inputs.kwargs.values())
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.dim():
            return len(part)
    raise InvalidInput("loader: found a batch whose inputs hold no tensor with a batch axis; pass tensors of shape (N, ...)")


def _correct(outputs: Any, batch: Any) -> tuple[int, int]:
    """Number of correct predictions and of labels, both 0 where the batch has no classes."""
    outputs = logits(outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or not isinstance(batch, tuple) or len(batch) < 2:
        return 0, 0
    targets = batch[1]
    if not isinstance(targets, Tensor) or targets.dtype != torch.long or targets.shape != (outputs.shape[0], *outputs.shape[2:]):
        return 0, 0
    counted = targets != -100
    return int(((outputs.argmax(1) == targets) & counted).sum()), int(counted.sum())
