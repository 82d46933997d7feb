"""Training many networks of one design at once; what comes out depends on a network's own seed alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from graphalign.errors import InvalidInput
from graphalign.zoo.augmentation import AUGMENTATIONS
from graphalign.zoo.design import Design
from graphalign.zoo.images import Images
from graphalign.zoo.initialisation import initialise
from graphalign.zoo.recipe import Recipe

State = dict[str, Tensor]
DENSE = ("mlp", "siren")
"""Families whose matrix products are batched over networks on a CPU too; convolutions are faster there one network after the other."""
AT_ONCE = {"cpu": 8, "cuda": 32}
"""Networks trained at once by type of device: more need more memory and are not faster."""
MOST_PARAMETERS = 10**9
"""Of one network: training holds them four times, in 32 bits."""


def fit_many(
    design: Design, recipe: Recipe, images: Images, seeds: Sequence[int], *,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> list[State]:  # fmt: skip
    """State dicts of independently trained networks of one design, one per seed, on the CPU.

    A seed gives the initialisation and the order of the images; it has the same meaning whatever is trained beside it.
    Classifiers descend the cross-entropy, sine networks the mean square error.

    Args:
        design: the architecture.
        recipe: how to train; its data and number of images are those of `images`.
        images: training images and their classes, or coordinates and values of a signal.
        seeds: whole numbers.
        device: where to train.
        dtype: floating-point type of images and weights.

    Raises:
        InvalidInput: design and recipe do not fit, the images are too small for the design or too few for a batch, or the design has
            more than MOST_PARAMETERS on such images.
    """
    if problems := misfits(design, recipe):
        raise InvalidInput("\n".join(problems))
    if recipe.batch > len(images.x):
        raise InvalidInput(f"recipe: batch: found {recipe.batch}, expected at most the {len(images.x)} training inputs; lower it")
    if (size := sum(p.numel() for p in _blank(design, images).parameters())) > MOST_PARAMETERS:
        raise InvalidInput(f"{design.name:.200}: found {size} parameters on images of {images.shape}, expected at most {MOST_PARAMETERS}; lower the widths")
    device = torch.device(device)
    together = AT_ONCE.get(device.type, 8) if device.type != "cpu" or design.family in DENSE else 1
    x, y = _place(images.x, device, dtype), _place(images.y, device, dtype)
    if together == 1:
        x = x.to(memory_format=torch.channels_last)
    states: list[State] = []
    for part in (seeds[i : i + together] for i in range(0, len(seeds), together)):
        generators = [Generator().manual_seed(seed) for seed in part]
        networks = [_drawn(design, recipe, images, generator).to(device, dtype) for generator in generators]
        stack: Stack | Single = Single(networks[0]) if together == 1 else Stack(networks)
        descend(stack, recipe, x, y, generators)
        states += stack.states()
    return states


def misfits(design: Design, recipe: Recipe) -> list[str]:
    """Why a design cannot be trained by a recipe; empty if it can."""
    sine = design.family == "siren"
    wrong = [
        f"{field}: found {getattr(recipe, field)!r}, expected {expected}"
        for field, right, expected in (
            ("signal", (recipe.signal is not None) == sine, "the number of a training image" if sine else "null"),
            ("initialisation", (recipe.initialisation == "siren") == sine, "'siren'" if sine else "one for classifiers, not 'siren'"),
            ("augmentation", recipe.augmentation == "none" or not sine, "'none'"),
        )
        if not right
    ]
    return [f"recipe {recipe.name} of {design.name}: {problem}" for problem in wrong]


class Stack:
    """Networks of one design as one function of stacked parameters (K, ...)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.skeleton = copy.deepcopy(networks[0]).to("meta").train()
        named = [dict(network.named_parameters()) for network in networks]
        self.parameters = {key: torch.stack([one[key].detach() for one in named]).requires_grad_() for key in named[0]}
        buffers = [dict(network.named_buffers()) for network in networks]
        self.buffers = {key: torch.stack([one[key] for one in buffers]) for key in buffers[0]}
        self.keys = list(networks[0].state_dict())

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (K, B, ...), another batch for every network, to outputs (K, B, O); running statistics are updated."""

        def run(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = functional_call(self.skeleton, ({**parameters, **buffers},), (x,))
            return result

        result: Tensor = vmap(run)(self.parameters, self.buffers, x)
        return result

    def states(self) -> list[State]:
        """One state dict per network, on the CPU."""
        stacked = {**self.parameters, **self.buffers}
        count = len(next(iter(self.parameters.values())))
        return [{key: stacked[key][i].detach().cpu().clone() for key in self.keys} for i in range(count)]


class Single:
    """One network with the interface of a `Stack` of one."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.parameters = dict(self.network.named_parameters())

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (1, B, ...) to outputs (1, B, O)."""
        result: Tensor = self.network(x[0])
        return result[None]

    def states(self) -> list[State]:
        """The state dict of the network, on the CPU."""
        return [{key: tensor.detach().cpu().contiguous().clone() for key, tensor in self.network.state_dict().items()}]


def descend(networks: Stack | Single, recipe: Recipe, x: Tensor, y: Tensor, generators: Sequence[Generator]) -> None:
    """Trains networks in place: the sum of their losses gives every one its own gradient, and the optimisers are elementwise.

    Args:
        networks: K networks.
        recipe: how to train.
        x: inputs (N, ...).
        y: classes (N,) int64, or values (N, O).
        generators: of every network's order and augmentations.
    """
    steps = len(x) // recipe.batch
    optimiser = _optimiser(recipe, list(networks.parameters.values()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps * recipe.epochs) if recipe.schedule == "cosine" else None
    augment = AUGMENTATIONS[recipe.augmentation]
    loss = _squares if y.is_floating_point() else _cross_entropy
    for _ in range(recipe.epochs):
        order = torch.stack([torch.randperm(len(x), generator=g) for g in generators]).to(x.device)
        for index in torch.split(order[:, : steps * recipe.batch], recipe.batch, 1):
            inputs = _gather(x, index)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss(networks(augment(inputs, generators) if augment else inputs), _gather(y, index)))
            optimiser.step()
            if schedule:
                schedule.step()


def _place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _drawn(design: Design, recipe: Recipe, images: Images, generator: Generator) -> nn.Module:
    network = _blank(design, images).to_empty(device="cpu")
    initialise(network, recipe.initialisation, generator)
    return network


def _blank(design: Design, images: Images) -> nn.Module:
    """The network without memory for its parameters."""
    with torch.device("meta"):
        return design.build(images.shape, images.classes)


def _gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows (K, B, ...) at an index (K, B); one network's rows keep their memory layout."""
    return tensor[index[0]][None] if len(index) == 1 else tensor[index]


def _cross_entropy(outputs: Tensor, classes: Tensor) -> Tensor:
    """Sum over networks of the mean over their batch."""
    return F.cross_entropy(outputs.flatten(0, 1), classes.flatten(), reduction="sum") / classes.shape[1]


def _squares(outputs: Tensor, values: Tensor) -> Tensor:
    return (outputs - values).square().mean((1, 2)).sum()


def _optimiser(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.weight_decay, "fused": True}
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, **settings),
        "adamw": lambda: torch.optim.AdamW(parameters, **settings),
        "sgd": lambda: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings),
    }
    return makers[recipe.optimiser]()
