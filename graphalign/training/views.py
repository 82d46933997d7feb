"""What an aligner sees of a pair before anything learned acts: the codes and the agreement of the units under them, computed once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphalign.aligner import Aligner, common_type
from graphalign.encoder import Agreement, encode_pair
from graphalign.errors import GraphAlignError
from graphalign.files import load_state, save_state
from graphalign.program import Program
from graphalign.training.cases import Case

HELD = 2 << 30
"""Bytes of views held in memory; those used longest ago are read from disk again."""


@dataclass(frozen=True)
class View:
    """What is known of a pair on one set of inputs.

    Attributes:
        agreement: of the units' states, which no parameter of the aligner changes.
        inputs: codes by placeholder name (C, *shape).
    """

    agreement: Agreement
    inputs: dict[str, Tensor]

    def inputs_of_call(self) -> Tensor:
        """Real inputs as a batch."""
        (x,) = self.inputs.values()
        return x.flatten(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by a name that `from_tensors` reads."""
        found = {f"input.{name}": t for name, t in self.inputs.items()}
        for kind in ("forward", "backward"):
            found |= {f"{kind}.{name}": t for name, t in getattr(self.agreement, kind).items()}
        return found

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> View:
        """The view of `tensors`."""
        parts: dict[str, dict[str, Tensor]] = {"input": {}, "forward": {}, "backward": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = tensor
        return cls(Agreement(parts["forward"], parts["backward"]), parts["input"])


class Views:
    """The views of pairs under an aligner's codes or under real inputs, kept in memory and on disk.

    Args:
        aligner: whose codes are drawn; its prior and its configuration count, its parameters do not.
        folder: on disk, shared by runs; nothing is written if None.
        examples: real inputs of a view.
    """

    def __init__(self, aligner: Aligner, folder: Path | None, examples: int) -> None:
        self.aligner, self.folder, self.examples = aligner, folder, examples
        self.signature = _digest(aligner)
        self._held: OrderedDict[str, View] = OrderedDict()
        self._bytes = 0

    def get(self, case: Case, a: int, b: int, *, real: bool) -> View:
        """The view of networks a and b of a case.

        Args:
            case: the group.
            a: place of the network A.
            b: place of the network B; the view of (b, a) is that of (a, b) transposed.
            real: under real training inputs of the group, or under the aligner's own codes.
        """
        if a > b:
            view = self.get(case, b, a, real=real)
            swapped = ({n: t.mT for n, t in s.items()} for s in (view.agreement.forward, view.agreement.backward))
            return View(Agreement(*swapped), view.inputs)
        about: list[Any] = [case.group.sha256, a, b, self.examples if real else self.signature]
        key = hashlib.sha256(repr(about).encode()).hexdigest()[:32]
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        view = self._read(key, case) or self._make(key, case, a, b, real)
        self._held[key] = view
        self._bytes += _size(view)
        while self._bytes > HELD and len(self._held) > 1:
            self._bytes -= _size(self._held.popitem(last=False)[1])
        return view

    def _read(self, key: str, case: Case) -> View | None:
        file = None if self.folder is None else self.folder / f"{key}.safetensors"
        if file is None or not file.is_file():
            return None
        try:
            device = case.images.x.device
            return View.from_tensors({n: t.to(device) for n, t in load_state(file).items()})
        except GraphAlignError:  # a damaged file is made again
            return None

    def _make(self, key: str, case: Case, a: int, b: int, real: bool) -> View:
        first, second = common_type(case.states[a], case.states[b])
        seed = int(key[:8], 16)
        with torch.no_grad():
            if real:
                (name,) = Program(case.architecture).inputs
                x, _ = case.batch(self.examples, torch.Generator().manual_seed(seed))
                inputs = {name: x[:, None]}  # an example is a batch of one
            else:
                inputs = self.aligner.codes(case.architecture, first, second, seed=seed)
            view = View(encode_pair(case.architecture, first, second, inputs, seed=seed), inputs)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state({n: t.contiguous() for n, t in view.tensors().items()}, self.folder / f"{key}.safetensors", force=True)
        return view


def _size(view: View) -> int:
    return sum(t.numel() * t.element_size() for t in view.tensors().values())


def _digest(aligner: Aligner) -> str:
    config = asdict(aligner.config)
    found = hashlib.sha256(repr([config[n] for n in ("codes", "candidates", "made_up")]).encode())
    if aligner.prior is not None:
        for name, tensor in sorted(aligner.prior.state_dict().items()):
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
