"""The result of an alignment: permutations of B's units into A's slots, and what can be done with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import ORDER, load_state, read_metadata, save_state
from graphalign.spec import NetworkSpec
from graphalign.spec_format import spec_from_dict, spec_to_dict
from graphalign.streamed import save_streamed

Module = TypeVar("Module", bound=nn.Module)
FORMAT = "graphalign-alignment-1"
ROWS_SHOWN = 40
"""Cells in the table of a notebook."""


@dataclass(frozen=True)
class Stage:
    """What one method did.

    Attributes:
        method: its name.
        seconds: time it took.
        objective: the value of what it optimised, of the permutations it returned; None if it has no objective.
        losses: the same after every step, of an iterative method.
    """

    method: str
    seconds: float
    objective: float | None = None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Alignment:
    """Permutations that bring the units of B into the order of A.

    Attributes:
        spec: what may move.
        permutations: by cell name, LongTensor (U,) on the CPU: `permutations[cell][i]` is the unit of B that goes to slot i.
        method: name of the method that found them; names of several that ran in turn are joined by "+".
        seed: seed it ran with.
        seconds: time it took, tracing apart.
        history: what each method did, in turn; not saved to files.
    """

    spec: NetworkSpec
    permutations: Mapping[str, Tensor]
    method: str = ""
    seed: int = 0
    seconds: float = field(default=float("nan"), compare=False)
    history: tuple[Stage, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "permutations", {name: perm.to("cpu") for name, perm in self.permutations.items()})
        group.check_element(self.spec, self.permutations)

    @overload
    def apply(self, network: Module) -> Module: ...
    @overload
    def apply(self, network: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, network: nn.Module | Mapping[str, Tensor]) -> nn.Module | dict[str, Tensor]:
        """A copy of B (module or state dict) with its units in A's order; its function is unchanged.

        Raises:
            SpecMismatch: the network does not have the tensors of the spec.
        """
        if isinstance(network, nn.Module):
            return group.apply_to_module(self.spec, self.permutations, network)
        return group.apply_to_state(self.spec, self.permutations, network)

    def apply_to_file(self, source: str | Path, target: str | Path, *, force: bool = False) -> None:
        """Writes a copy of the checkpoint of B with its units in A's order, with one tensor in memory at a time.

        Args:
            source: any checkpoint that `graphalign.load_state` reads; left as it is.
            target: ends in .safetensors; it appears complete or not at all.
            force: replace an existing file.

        Raises:
            SpecMismatch: the checkpoint does not have the tensors of the spec.
            InvalidInput: the target exists and `force` is not set, or cannot be written; or the source cannot be read.
            CorruptFile: the source is damaged.
        """
        state = load_state(source)
        group.check_state(self.spec, state, str(source))
        layouts = {name: self.spec.axes_of_tensor[self.spec.aliases.get(name, name)] for name in state if self._moves(name)}
        kept = {k: v for k, v in read_metadata(source).items() if k not in ("format", ORDER)}

        def moved(name: str) -> Tensor:
            return group.permute_tensor(self.spec, state[name], layouts[name], self.permutations) if name in layouts else state[name]

        save_streamed(state, moved, target, kept, force=force)

    def _moves(self, name: str) -> bool:
        return self.spec.aliases.get(name, name) in self.spec.axes_of_tensor

    def inverse(self) -> Alignment:
        """The alignment of A into B's order."""
        return replace(self, permutations=group.inverse(self.permutations), history=())

    def compose(self, then: Alignment) -> Alignment:
        """The alignment that acts as this one and afterwards as `then`.

        Raises:
            InvalidInput: the two belong to different specs.
        """
        return replace(
            self, permutations=group.compose(self.permutations, then.permutations), method=f"{self.method}+{then.method}",
            history=(),
        )  # fmt: skip

    @property
    def moved(self) -> float:
        """Share of units that change place."""
        total = sum(len(perm) for perm in self.permutations.values())
        return sum(int((perm != torch.arange(len(perm))).sum()) for perm in self.permutations.values()) / max(total, 1)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes permutations and spec to one .safetensors file, atomically.

        Raises:
            InvalidInput: the file exists and `force` is not set, or the folder cannot be written.
        """
        metadata = {
            "format": FORMAT,
            "method": self.method,
            "seed": str(self.seed),
            "convention": "perm[i] is the unit of B that goes to slot i",
            "spec": json.dumps(spec_to_dict(self.spec)),
        }
        save_state(dict(self.permutations), path, metadata=metadata, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Alignment:
        """Reads what `save` wrote.

        Raises:
            CorruptFile: not such a file, or a damaged one.
        """
        tensors = load_state(path)
        metadata = read_metadata(path)
        if metadata.get("format") != FORMAT:
            raise CorruptFile(
                f"{path}: found format {metadata.get('format')!r}, expected {FORMAT!r}; pass a file that Alignment.save wrote"
            )
        try:
            spec = spec_from_dict(json.loads(metadata["spec"]))
            return cls(spec, tensors, metadata.get("method", ""), int(metadata.get("seed", "0")))
        except (KeyError, ValueError, InvalidInput) as error:
            raise CorruptFile(
                f"{path}: the alignment in it cannot be used ({error}); write it again with Alignment.save"
            ) from None

    def __repr__(self) -> str:
        units = sum(len(perm) for perm in self.permutations.values())
        return f"Alignment(method={self.method!r}, {len(self.permutations)} cells, {units} units, {self.moved:.0%} moved)"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{len(perm)}</td><td>{int((perm != torch.arange(len(perm))).sum())}</td></tr>"
            for name, perm in list(self.permutations.items())[:ROWS_SHOWN]
        )
        more = f"<p>and {len(self.permutations) - ROWS_SHOWN} more cells</p>" if len(self.permutations) > ROWS_SHOWN else ""
        return f"<p>{escape(repr(self))}</p><table><tr><th>cell</th><th>units</th><th>moved</th></tr>{rows}</table>{more}"
