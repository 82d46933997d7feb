"""The result of optimal-transport fusion: how much of each unit of B goes to each unit of A, for networks of any widths."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.correspondence import correspond
from graphalign.errors import CorruptFile, InvalidInput, SpecMismatch
from graphalign.files import load_state, read_metadata, save_state
from graphalign.spec import NetworkSpec
from graphalign.spec_format import require_equal, spec_from_dict, spec_to_dict
from graphalign.tensors import copy_into
from graphalign.transport_maps import Axis, Maps, normalised

FORMAT = "graphalign-transport-plan-1"
BALANCE = 0.02
"""Difference, relative to the largest entry of a row, up to which the maps of averaging and of distributing units count as one."""


@dataclass(frozen=True)
class TransportPlan:
    """Plans that bring the units of B, in B's widths, to the units of A (Singh and Jaggi 2020, arXiv 1910.05653).

    A unit of A becomes an average of units of B: O = T / (row sums). Weights that read units of B are distributed over the units
    of A, I = T / (column sums), so that the sum of what is read is kept. W' = O W I^T for every weight.

    Attributes:
        spec_a: what may move in A, whose widths are the target.
        spec_b: the same of B: the same layers in other widths.
        plans: by cell of A, (U_A, U_B) float64 on the CPU, entries of at least 0; entry (i, j) is the mass that goes from unit j
            of B to unit i of A.
        contracted: (tensor, axis) pairs that a weight sums over.
        produced: (tensor, axis) pairs of weights that produce units.
        mass_preserving: distribute weights that read units, as above; otherwise average them with O, as published.
        method: name of the method that found the plans.
        seed: seed it ran with.
        seconds: time it took, tracing apart.
        template: a module of A's widths, copied when a module is transported; not saved to files.
    """

    spec_a: NetworkSpec
    spec_b: NetworkSpec
    plans: Mapping[str, Tensor]
    contracted: tuple[Axis, ...]
    produced: tuple[Axis, ...]
    mass_preserving: bool = True
    method: str = "transport"
    seed: int = 0
    seconds: float = field(default=float("nan"), compare=False)
    template: nn.Module | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        partners = correspond(self.spec_a, self.spec_b).cells
        object.__setattr__(self, "plans", {n: plan.detach().to("cpu", torch.float64) for n, plan in self.plans.items()})
        problems = list(self._problems(partners))
        if problems:
            raise InvalidInput("these plans do not belong to the two specs:\n" + "\n".join(f"  - {p}" for p in problems))
        if unbalanced := list(self._unbalanced(partners)):
            raise SpecMismatch(
                "B cannot be brought to the widths of A:\n" + "\n".join(f"  - {p}" for p in unbalanced)
                + "\nGive these units the same number in both networks, or pass mass_preserving=False to average them as published."
            )  # fmt: skip

    @cached_property
    def _maps(self) -> Maps:
        return Maps(correspond(self.spec_a, self.spec_b), self.plans, frozenset(self.contracted), self.mass_preserving)

    def _problems(self, partners: Mapping[str, str]) -> Iterator[str]:
        for name in self.plans.keys() - partners.keys():
            yield f"'{name}' is no cell of A; it has {list(partners)}"
        for name, partner in partners.items():
            shape = self.spec_a.by_name[name].units, self.spec_b.by_name[partner].units
            plan = self.plans.get(name)
            if plan is None:
                yield f"cell '{name}' has no plan; expected shape {shape}"
            elif tuple(plan.shape) != shape:
                yield f"cell '{name}': found a plan of shape {tuple(plan.shape)}, expected {shape}"
            elif not bool(torch.isfinite(plan).all()) or float(plan.min()) < 0:
                yield f"cell '{name}': found entries below 0 or not finite, expected masses"
            elif not bool((plan.sum(0) > 0).all()) or not bool((plan.sum(1) > 0).all()):
                yield f"cell '{name}': some unit gets or gives no mass at all"

    def _unbalanced(self, partners: Mapping[str, str]) -> Iterator[str]:
        """Units that are both averaged and distributed, or that nothing distributes, in a plan that tells the two apart."""
        if not self.mass_preserving:
            return
        contracted, produced = set(self.contracted), set(self.produced)
        for name, plan in self.plans.items():
            a, b = self.spec_a.by_name[name], self.spec_b.by_name[partners[name]]
            axes = [(layout.tensor, layout.axis) for layout in self.spec_a.axes_of_cell[name]]
            tied = [f"axis {axis} of '{tensor}'" for tensor, axis in axes if (tensor, axis) in contracted & produced]
            counts = f"{a.units} units in A and {b.units} in B"
            if tied and not _balanced(plan, 1, 1):
                yield f"cell '{name}' ({counts}) is both produced and read by {', '.join(tied)}, which cannot average and distribute at once"
            if not contracted & set(axes) and not _balanced(plan, a.blocks, b.blocks):
                sizes = f"{a.size} in A and {b.size} in B" if a.blocks > 1 else counts
                yield (
                    f"cell '{name}' ({sizes}) is read by no weight: its units are multiplied with each other, as queries and keys "
                    "are, or their weights are normalised before use, and no weights make up for another number of them"
                )

    @overload
    def apply(self, network: nn.Module, template: nn.Module | None = None) -> nn.Module: ...
    @overload
    def apply(self, network: Mapping[str, Tensor], template: None = None) -> dict[str, Tensor]: ...
    def apply(self, network: nn.Module | Mapping[str, Tensor], template: nn.Module | None = None) -> nn.Module | dict[str, Tensor]:
        """B in the widths of A.

        Args:
            network: B, or another network of its architecture; a module or a state dict. Left as it is.
            template: a module of A's widths to copy; the one that was aligned if None. For modules only.

        Returns:
            A copy of the template with the transported weights of a module, or a state dict with those of a state dict.

        Raises:
            SpecMismatch: the network does not have the tensors of `spec_b`, or the template those of `spec_a`.
            InvalidInput: a module without a template.
        """
        if not isinstance(network, nn.Module):
            return self._move(network)
        template = self.template if template is None else template
        if template is None:
            raise InvalidInput(
                "apply: found a module and no template of A's widths; pass template=, a module of A's architecture, or the state dict of B"
            )
        group.check_state(self.spec_a, group.all_tensors(template), "the template")
        result = copy.deepcopy(template)
        copy_into(result, self._move(group.all_tensors(network)))
        return result

    def _move(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        group.check_state(self.spec_b, state, "network B")
        moved = {n: self._maps.move(n, t.detach()) if n in self.spec_a.axes_of_tensor else t.detach() for n, t in state.items()}
        for alias, name in self.spec_a.aliases.items():
            if alias in moved and name in moved:
                moved[alias] = moved[name]
        return moved

    @property
    def is_permutation(self) -> bool:
        """Whether every plan sends each unit of B to one unit of A: equal widths, uniform masses, exact transport."""
        return all(len(plan) == len(plan.T) and _is_permutation(plan) for plan in self.plans.values())

    @property
    def permutations(self) -> dict[str, Tensor]:
        """By cell, LongTensor (U,): entry i is the unit of B that goes to slot i of A.

        Raises:
            InvalidInput: a plan is no permutation.
        """
        mixed = [
            f"cell '{name}': {len(plan)} units of A get parts of {plan.shape[1]} units of B"
            for name, plan in self.plans.items()
            if len(plan) != plan.shape[1] or not _is_permutation(plan)
        ]
        if mixed:
            raise InvalidInput(
                "the plan mixes units and has no permutations:\n" + "\n".join(f"  - {m}" for m in mixed)
                + "\nUse apply(); permutations come from equal widths, importance='uniform' and regularisation=None."
            )  # fmt: skip
        return {name: plan.argmax(1) for name, plan in self.plans.items()}

    def to_alignment(self) -> Alignment:
        """The same permutations as an `Alignment`.

        Raises:
            InvalidInput: a plan is no permutation.
            SpecMismatch: the two specs differ.
        """
        permutations = self.permutations
        require_equal(self.spec_a, self.spec_b)
        return Alignment(self.spec_a, permutations, self.method, self.seed, self.seconds)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes plans and specs to one .safetensors file, atomically; the template is not written.

        Raises:
            InvalidInput: the file exists and `force` is not set, or the folder cannot be written.
        """
        settings = {
            "mass_preserving": self.mass_preserving,
            "contracted": self.contracted,
            "produced": self.produced,
            "method": self.method,
            "seed": self.seed,
        }
        metadata = {
            "format": FORMAT,
            "convention": "entry (i, j) is the mass that goes from unit j of B to unit i of A",
            "settings": json.dumps(settings),
            "spec_a": json.dumps(spec_to_dict(self.spec_a)),
            "spec_b": json.dumps(spec_to_dict(self.spec_b)),
        }
        save_state(dict(self.plans), path, metadata=metadata, force=force)

    @classmethod
    def load(cls, path: str | Path) -> TransportPlan:
        """Reads what `save` wrote.

        Raises:
            CorruptFile: not such a file, or a damaged one.
        """
        plans = load_state(path)
        metadata = read_metadata(path)
        if metadata.get("format") != FORMAT:
            raise CorruptFile(
                f"{path}: found format {metadata.get('format')!r}, expected {FORMAT!r}; pass a file that TransportPlan.save wrote"
            )
        try:
            spec_a, spec_b = (spec_from_dict(json.loads(metadata[key])) for key in ("spec_a", "spec_b"))
            settings = json.loads(metadata["settings"])
            contracted, produced = (tuple((str(t), int(i)) for t, i in settings.pop(key)) for key in ("contracted", "produced"))
            return cls(spec_a, spec_b, plans, contracted, produced, **settings)
        except (KeyError, TypeError, ValueError, InvalidInput) as error:
            raise CorruptFile(
                f"{path}: the plan in it cannot be used ({error}); write it again with TransportPlan.save"
            ) from None

    def __repr__(self) -> str:
        units = [sum(sizes) for sizes in zip(*(plan.shape for plan in self.plans.values()), strict=True)] or [0, 0]
        kind = "a permutation" if self.is_permutation else "mass-preserving" if self.mass_preserving else "averaging"
        cells = f"{len(self.plans)} cell" + ("" if len(self.plans) == 1 else "s")
        return f"TransportPlan({cells}, {units[1]} units of B to {units[0]} of A, {kind})"


def _is_permutation(plan: Tensor) -> bool:
    """Whether one entry holds all the mass of every row, and of every column."""
    largest = plan.argmax(1)
    pure = plan.amax(1) >= plan.sum(1) * (1 - 1e-6)
    return bool(pure.all()) and len(largest.unique()) == len(largest)


def _balanced(plan: Tensor, blocks_a: int, blocks_b: int) -> bool:
    """Whether averaging and distributing are the same map, inside every pair of blocks."""
    pairs = plan.reshape(blocks_a, len(plan) // blocks_a, blocks_b, plan.shape[1] // blocks_b)
    average, distribution = normalised(pairs, 3), normalised(pairs, 1)
    return bool(((average - distribution).abs() <= BALANCE * average.amax(3, keepdim=True)).all())
