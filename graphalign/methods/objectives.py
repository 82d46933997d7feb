"""What a descent on soft permutations minimises: the distance of the weights, the loss on labels, the disagreement of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from graphalign.errors import InvalidInput
from graphalign.evaluation import Loader, Loss, batches, examples_of, inputs_of, mean_loss
from graphalign.forward import Forward, prediction
from graphalign.methods.descent import Tensors, between
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import matched_tensors

Predictions = Literal["classes", "values"]


class WeightDistance:
    """Mean squared difference of the parameters of A and the moved B; running statistics do not count."""

    batches = 1

    def __init__(self, spec: NetworkSpec) -> None:
        self.names = matched_tensors(spec)

    def __call__(self, a: Tensors, moved: Tensors, lam: Tensor, batch: int) -> Tensor:
        """Losses (P,)."""
        names = [n for n in self.names if n in a]
        total = torch.stack([(a[n] - moved[n]).flatten(1).square().sum(1) for n in names]).sum(0)
        return total / sum(a[n][0].numel() for n in names)


class LabelLoss:
    """Loss of the network between A and the moved B on labelled examples; each step takes several batches of the loader."""

    def __init__(self, forward: Forward, examples: Sequence[Sequence[Any]], loss: Loss) -> None:
        self.forward, self.examples, self.loss = forward, examples, loss

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.examples)

    def __call__(self, a: Tensors, moved: Tensors, lam: Tensor, batch: int) -> Tensor:
        """Losses (P,)."""

        def single(tensors: Mapping[str, Tensor]) -> Tensor:
            parts = [mean_loss(self.forward(tensors, part), part, self.loss) for part in self.examples[batch]]
            return torch.stack(parts).mean()

        losses: Tensor = self.forward.many(single, between(a, moved, lam))
        return losses


class Disagreement:
    """How far the network between A and the moved B is from the average prediction of A and B, on unlabelled examples.

    Classes: KL(p, q) with p the mean of the two softmax outputs and q that of the network between. Values: mean squared difference
    to the mean of the two outputs, over the variance of that mean.

    Args:
        forward: runs the network between.
        networks: runs A and B.
        a: tensors of A, (P, ...).
        b: those of B.
        examples: batches, each in parts.
        kind: of the outputs.
        own: where every pair has examples of its own, whose parts are dicts of tensors (P, ...): the batch of a call from those of one
            pair.
    """

    def __init__(
        self, forward: Forward, networks: Forward, a: Tensors, b: Tensors, examples: Sequence[Sequence[Any]], kind: Predictions,
        own: Callable[[dict[str, Tensor]], Any] | None = None,
    ) -> None:  # fmt: skip
        self.forward, self.examples, self.kind, self.own = forward, examples, kind, own
        with torch.no_grad():
            self.targets = [[self._target(networks, a, b, part) for part in parts] for parts in examples]

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.examples)

    def _target(self, networks: Forward, a: Tensors, b: Tensors, part: Any) -> Tensor:
        """The averaged prediction of every pair, (P, ...); probabilities with their classes first."""

        def single(tensors: Mapping[str, Tensor], own: dict[str, Tensor]) -> Tensor:
            outputs = prediction(networks(tensors, self.own(own) if self.own else part))
            return outputs if self.kind == "values" else classes_first(outputs).softmax(0)

        both: list[Tensor] = [networks.many(single, dict(state), part if self.own else {}) for state in (a, b)]
        target = 0.5 * (both[0] + both[1])
        if not bool(target.isfinite().all()):
            raise InvalidInput(
                "consensus: the predictions of the two networks contain NaN or infinity, expected finite ones; check the weights and the "
                "inputs of data="
            )
        return target

    def __call__(self, a: Tensors, moved: Tensors, lam: Tensor, batch: int) -> Tensor:
        """Losses (P,)."""
        examples = self.examples[batch]

        def single(tensors: Mapping[str, Tensor], targets: Sequence[Tensor], own: list[dict[str, Tensor]]) -> Tensor:
            parts = zip(map(self.own, own) if self.own else examples, targets, strict=True)
            return torch.stack([self._distance(prediction(self.forward(tensors, part)), target) for part, target in parts]).mean()

        losses: Tensor = self.forward.many(single, between(a, moved, lam), self.targets[batch], list(examples) if self.own else [])
        return losses

    def _distance(self, outputs: Tensor, target: Tensor) -> Tensor:
        if self.kind == "values":
            size = target.var() if target.numel() > 1 else target.square().mean()  # one number has no variance
            return (outputs - target).square().mean() / size.clamp(min=torch.finfo(target.dtype).tiny)
        return (torch.xlogy(target, target) - target * classes_first(outputs).log_softmax(0)).sum(0).mean()


def class_axis(outputs: Tensor) -> int:
    """The axis of classes in predictions: the last of (N, C) and of tokens (N, T, C), the second of images (N, C, H, W)."""
    return 1 if outputs.dim() >= 4 else -1


def classes_first(outputs: Tensor) -> Tensor:
    """Predictions with their axis of classes moved to the front: softmax over few entries that lie side by side is slow on a CPU."""
    return outputs.movedim(class_axis(outputs), 0).contiguous()


def read_batches(sample: Tensor, loader: Loader, most: int) -> list[Any]:
    """The first batches of a loader, on the device of `sample`, floating-point inputs in its dtype."""
    return list(islice(batches(sample, loader), most))


def read_examples(sample: Tensor, loader: Loader, most: int, each: int) -> list[list[Any]]:
    """The batches of a loader, as many to a step as hold `each` examples, for `most` steps or until the loader ends.

    They are moved to the device of `sample`, floating-point inputs to its dtype. What is left at the end makes a step only if
    there is no other.
    """
    found: list[list[Any]] = []
    parts: list[Any] = []
    count = 0
    for batch in batches(sample, loader):
        parts.append(batch)
        count += examples_of(inputs_of(batch))
        if count >= each:
            found.append(parts)
            parts, count = [], 0
            if len(found) == most:
                break
    return found or [parts]
